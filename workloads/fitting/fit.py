"""A trace turned into a spec: clients with their rates by window, their burstiness, and mixtures for their
lengths.

What is kept is fitted figures alone: names are replaced by numbers unless asked for, no row of the trace
survives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.fitting.em import by_quantiles, fit_lengths, fit_shares, follows
from workloads.laws import LawBase
from workloads.measures import Held, window_for

FloatArray = npt.NDArray[np.float64]

_LEAST_ROWS = 200
_MOST_MEMBERS = 120
_FIT_ROWS = 400_000
_MOST_WINDOWS = 288
_LEAST_CHECKED = 1000
"""A law for fewer rows than this is not checked: their own quantiles are no better known."""


@dataclass
class Fit:
    """The ``workload`` section as plain data, and what was assumed on the way."""

    workload: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def fit(held: Held, *, window_s: float | None = None, keep_names: bool = False) -> Fit:
    """A generator of traffic like *held*: as many queries, window by window, client by client.

    Clients (or categories, where the trace names no clients) with at least 200 rows are fitted each by
    itself, up to 120 of them; all others together. Windows last *window_s*, by default ten minutes in traces
    of two hours and more.
    """
    arrived = held.arrived
    origin = float(arrived[0])
    seconds = float(arrived[-1]) - origin
    notes: list[str] = []
    if seconds <= 0:
        return _burst(held, notes)
    groups = _groups(held, notes)
    if window_s is None:
        window_s = window_for(seconds)
        if len(groups) == 1:
            # One stream: shorter windows carry what bursts a single renewal process cannot have.
            window_s = min(window_s, max(seconds / min(_MOST_WINDOWS, max(len(held) / 50, 1)), 1.0))
    # Whole windows: a part of one at the end would be drawn out to its full length.
    window_s = seconds / max(1, round(seconds / window_s)) * (1 + 1e-9)
    window = np.minimum(((arrived - origin) / window_s).astype(np.int64), int(seconds / window_s))
    count = int(window[-1]) + 1
    members: dict[str, Any] = {}
    for number, (name, rows) in enumerate(groups):
        shown = name if keep_names else f"client-{number + 1}"
        members[shown] = _member(held, rows, arrived, window, count, window_s, seconds)
    if held.grouped_by == "category":
        for (name, _), member in zip(groups, members.values(), strict=True):
            member["category"] = name
    workload = {
        "queries": len(held),
        "profile": "day",
        "clients": {"window": f"{window_s:.9g} s", "members": members},
    }
    return Fit(workload, notes)


def _burst(held: Held, notes: list[str]) -> Fit:
    notes.append("all queries arrive at once: fitted as a burst")
    rows = np.arange(len(held))
    arrivals = {"process": "burst", "size": len(held)}
    return Fit({"arrivals": arrivals, "lengths": _lengths(held, rows)}, notes)


def _groups(held: Held, notes: list[str]) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """(name, rows) of each group that is fitted by itself, largest first, and of the others together."""
    sizes = np.bincount(held.client, minlength=len(held.names))
    large = [code for code in np.argsort(-sizes, kind="stable").tolist() if sizes[code] >= _LEAST_ROWS]
    large = large[:_MOST_MEMBERS]
    order = np.argsort(held.client, kind="stable")
    first = np.concatenate([[0], np.cumsum(sizes)])
    groups = [(held.names[code], order[first[code] : first[code + 1]]) for code in large]
    rest = [order[first[code] : first[code + 1]] for code in range(len(sizes)) if code not in large and sizes[code]]
    if rest:
        together = np.sort(np.concatenate(rest))
        groups.append(("others", together))
        if len(groups) > 1:
            notes.append(f"{len(rest)} small groups ({len(together):,} queries) are fitted together")
    return groups


def _member(
    held: Held,
    rows: npt.NDArray[np.int64],
    arrived: FloatArray,
    window: npt.NDArray[np.int64],
    count: int,
    window_s: float,
    seconds: float,
) -> dict[str, Any]:
    """Rates by window, spread of gaps and lengths of the queries *rows*."""
    sizes = np.bincount(window[rows], minlength=count)
    rates = sizes / window_s
    cvs, weibull = _spread(arrived[rows], window[rows], sizes)
    member: dict[str, Any] = {"rates": [_round(rate, 5) for rate in rates.tolist()], "cvs": [_round(cvs, 4)]}
    if weibull:
        member["weibull"] = list(range(count))
    return member | {"lengths": _lengths(held, rows)}


def _spread(times: FloatArray, window: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> tuple[float, bool]:
    """CV of gaps inside windows, weighted by requests, and whether Weibull suits them better than Gamma."""
    from scipy import special

    gaps = np.diff(times)
    inside = window[1:] == window[:-1]
    if inside.sum() < 10:
        return 1.0, False
    gaps, where = gaps[inside], window[1:][inside]
    number = np.bincount(where, minlength=len(sizes))
    total = np.bincount(where, gaps, len(sizes))
    square = np.bincount(where, gaps**2, len(sizes))
    good = (number >= 3) & (total > 0)
    if not good.any():
        return 1.0, False
    mean = total[good] / number[good]
    cv = np.sqrt(np.maximum(square[good] / number[good] - mean**2, 0.0)) / mean
    spread = float(np.clip(np.average(cv, weights=number[good]), 0.02, 50.0))
    busy = good[where]
    standard = np.maximum(gaps[busy] / (total[where[busy]] / number[where[busy]]), 1e-9)
    ordered = np.sort(standard)
    steps = (np.arange(len(ordered)) + 0.5) / len(ordered)
    from workloads.arrivals import weibull_shape

    shape = spread**-2
    by_gamma = special.gammainc(shape, ordered * shape)
    k = weibull_shape(min(spread, 40.0))
    by_weibull = -np.expm1(-((ordered * special.gamma(1 + 1 / k)) ** k))
    return spread, float(np.abs(by_weibull - steps).max()) < float(np.abs(by_gamma - steps).max())


def _lengths(held: Held, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Laws of prompt, output and share of reasoning of the queries *rows*, as a spec spells them."""
    if len(rows) > _FIT_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _FIT_ROWS).astype(np.int64)]
    output = held.output[rows]
    lengths: dict[str, Any] = {"prompt": plain(length_law(held.prompt[rows]))}
    tie = _normal_correlation(held.prompt[rows], output)
    # Below three standard errors it is as likely to be none.
    if abs(tie) > max(0.05, 3.0 / np.sqrt(len(rows))):
        lengths["prompt_correlation"] = _round(tie, 3)
    if not held.split_known:
        return lengths | {"answer": plain(length_law(output))}
    share = held.reasoning[rows] / np.maximum(output, 1)
    lengths["output"] = plain(length_law(output))
    law: LawBase = fit_shares(share)
    if len(rows) >= _LEAST_CHECKED and not follows(law, share, floor=0.01):
        law = by_quantiles(share)
    lengths["reasoning_share"] = plain(law)
    lengths["share_correlation"] = _round(_normal_correlation(output, share), 3)
    return lengths


def length_law(values: npt.NDArray[Any]) -> LawBase:
    """A mixture for *values* where one is near enough, their quantiles otherwise."""
    mixture = fit_lengths(values)
    if len(values) < _LEAST_CHECKED or follows(mixture, values.astype(np.float64)):
        return mixture
    return by_quantiles(values.astype(np.float64))


def _normal_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Correlation of the normal scores of two columns, from their rank correlation; 0 for constants."""
    from scipy import stats

    if len(one) < 10 or one.min() == one.max() or other.min() == other.max():
        return 0.0
    rank = np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1]
    return float(np.clip(2.0 * np.sin(np.pi / 6.0 * rank), -0.99, 0.99))


def plain(law: Any) -> dict[str, Any]:
    """A law as plain data, without what is left at its default."""
    data: dict[str, Any] = {"law": law.law, **law.model_dump(mode="json", exclude_none=True, exclude={"law"})}
    return {key: value for key, value in data.items() if value not in ([], ())}


def _round(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
