"""What a reproduced table is made of: rows of article, published, ours, and a verdict by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sim.scenario.yaml_file import read_file

Value = float | tuple[float, float] | None
"""A figure, or from and to."""
Basis = Literal["computed", "simulated", "fitted", "predicted", "input", "not run"]
"""Where ours is from: arithmetic; runs; parameters fitted to this very row, or to other rows; put in; nowhere yet."""
Verdict = Literal[
    "agrees", "differs", "same direction", "opposite", "no clear effect", "fitted", "undecided", "no claim", "not run"
]

TOLERANCE = 0.05
"""How far ours may be from the article's figure, relative, and still agree."""
POINTS = 0.02
"""The same of shares, in points of one."""
WIDE, WIDE_POINTS = 0.3, 0.06
"""Half an interval so wide holds many claims: then nothing is decided."""


@cache
def claims() -> Mapping[str, Any]:
    """The article's figures, by table."""
    return read_file(Path(__file__).with_name("claims.yaml")).data


@dataclass(frozen=True)
class Row:
    """One figure. *unit* is ``share``, ``points``, ``s``, ``1/s``, ``tokens/s``, ``tokens``, ``x`` (a ratio), ``change``
    (relative), ``TFLOP``, ``bytes`` or ``requests``; *low* and *high* are a 95 % interval of *ours*."""

    what: str
    unit: str
    article: Value = None
    published: Value = None
    source: str = ""
    """Of *published*."""
    ours: Value = None
    low: float | None = None
    high: float | None = None
    basis: Basis = "computed"
    verdict: Verdict = "no claim"
    why: str = ""


@dataclass(frozen=True)
class Table:
    """A table of the article: what was found in a sentence, its rows, how to run it oneself."""

    name: str
    question: str
    finding: str
    rows: tuple[Row, ...]
    commands: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    section: str = field(default="")
    """Where in the article."""

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


def judge(
    article: Value, ours: float | None, low: float | None = None, high: float | None = None, unit: str = ""
) -> Verdict:
    """*agrees* when the article's figure lies within `TOLERANCE` (shares: `POINTS`) of ours or within its interval; a
    range agrees when it holds ours or touches the interval; *undecided* where it would, but the interval is wide."""
    if article is None:
        return "no claim"
    if ours is None:
        return "not run"
    first, last = article if isinstance(article, tuple) else (article, article)
    slack = POINTS if unit in ("share", "points") else TOLERANCE * abs(ours)
    wide = None if low is None or high is None else (high - low) / 2
    loose = WIDE_POINTS if unit in ("share", "points") else WIDE * abs(ours)
    bottom = min(ours - slack, ours if low is None else low)
    top = max(ours + slack, ours if high is None else high)
    if isinstance(article, tuple):
        bottom, top = ours if low is None else low, ours if high is None else high
    if not (bottom <= last and first <= top):
        return "differs"
    return "undecided" if wide is not None and wide > loose else "agrees"


def judge_change(article: float, ours: float | None, low: float | None, high: float | None) -> Verdict:
    """Of relative changes: *agrees* when the interval holds the article's (*undecided* when it is wide), else by direction;
    *no clear effect* when the interval holds zero."""
    if ours is None:
        return "not run"
    if low is not None and high is not None:
        if low <= article <= high:
            return "undecided" if (high - low) / 2 > WIDE else "agrees"
        if low <= 0 <= high:
            return "no clear effect"
    return "same direction" if ours * article > 0 else "opposite"


def pair(values: Sequence[float]) -> tuple[float, float]:
    """From and to."""
    first, last = values
    return float(first), float(last)
