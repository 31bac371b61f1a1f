"""From a table of measured steps to a profile's figures, with the error on what was left out.

The form is linear in its coefficients, all of them at least 0 and ``linear`` never falling, so the fit is
non-negative least squares on relative errors, reweighted a few times towards the median so that single odd
rows do not steer it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from calibration.measurements import STEPS
from calibration.parts import HardwareCost
from calibration.parts import knots as dense_knots
from calibration.profile import Error
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

EXTRA = ("seq", "kv", "pair", "cached", "mixed")
"""Coefficients beside the table of ``linear``."""


MOST_TOKENS = 16_384
"""Tokens of the largest step that is fitted: engines schedule no larger ones, and kernel tables end here."""


@dataclass(frozen=True)
class Rows:
    """The regressors of measured steps and their times, one entry a row."""

    tokens: Array
    batch: Array
    context: Array
    """Context tokens read by all decodes of the step."""
    pairs: Array
    """Sum of n^2/2 + n c over the chunks."""
    cached: Array
    mixed: Array
    """Decodes beside a chunk."""
    time_s: Array
    each_context: Array
    """Context of one sequence."""

    def take(self, mask: npt.NDArray[np.bool_]) -> Rows:
        """The rows where *mask* is true."""
        return Rows(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def __len__(self) -> int:
        return len(self.time_s)

    @property
    def decode(self) -> npt.NDArray[np.bool_]:
        """Pure decode steps."""
        return np.asarray((self.tokens == self.batch) & (self.pairs == 0))

    @property
    def has_cached(self) -> npt.NDArray[np.bool_]:
        """Steps with a chunk on cached context."""
        return np.asarray(self.cached > 0)


def rows_of(frame: pd.DataFrame) -> Rows:
    """The whole steps of a checked measurement table, flagged rows left out."""
    frame = frame[frame["quantity"].isin(STEPS) & (frame["flag"] == "")]
    frame = frame[frame["decodes"] + frame["chunks"] * frame["chunk_tokens"] <= MOST_TOKENS]
    if "message_bytes" in frame:
        frame = frame[frame["message_bytes"] == 0]
    values = {name: frame[name].to_numpy(dtype=float) for name in _NEEDED}
    new, old, chunks = values["chunk_tokens"], values["chunk_cached"], values["chunks"]
    return Rows(
        tokens=values["decodes"] + chunks * new,
        batch=values["decodes"] + chunks,
        context=values["decodes"] * values["context"],
        pairs=chunks * (new**2 / 2 + new * old),
        cached=chunks * old,
        mixed=np.where(chunks > 0, values["decodes"], 0.0),
        time_s=values["time_ms"] * 1e-3,
        each_context=np.where(values["decodes"] > 0, values["context"], old),
    )


_NEEDED = ("decodes", "context", "chunks", "chunk_tokens", "chunk_cached", "time_ms")


@dataclass(frozen=True)
class Fit:
    """Coefficients found, with the surcharge of mixed steps apart (it belongs to the engine when measured
    there)."""

    cost: HardwareCost
    mixed_s: float = 0.0
    borrowed: dict[str, str] = field(default_factory=dict)

    def predict(self, rows: Rows) -> Array:
        """Seconds of each row."""
        return np.asarray(
            self.cost.linear(rows.tokens)
            + self.cost.seq_s * rows.batch
            + self.cost.kv_s * rows.context
            + self.cost.pair_s * rows.pairs
            + self.cost.cached_s * rows.cached
            + self.mixed_s * rows.mixed
        )


def choose_knots(tokens: Array, *, least_gap: float = 1.06) -> Array:
    """Knots of ``linear``: the numbers of tokens that were measured, thinned where they crowd.

    Neighbours across a tile edge (256 and 257) both stay.
    """
    found = np.unique(tokens)
    kept = [found[0]]
    for value in found[1:]:
        if value >= kept[-1] * least_gap or value == kept[-1] + 1:
            kept.append(value)
    if kept[-1] != found[-1]:
        kept[-1] = found[-1]
    return np.asarray(kept)


def fit_rows(
    rows: Rows,
    *,
    given: dict[str, float] | None = None,
    least: dict[str, float] | None = None,
    knots: Array | None = None,
    rounds: int = 6,
) -> Fit:
    """Fit every coefficient that the rows show, except those *given* (seconds, by name).

    *least* are lower bounds: what reading KV at peak bandwidth and attention at peak FLOPs take.
    """
    from scipy.optimize import nnls

    given = dict(given or {})
    at = choose_knots(rows.tokens) if knots is None else knots
    if len(at) < 2:
        at = np.asarray([at[0], at[0] * 2])
    table = _cumulative_hats(rows.tokens, at)
    regressors = {
        "seq": rows.batch,
        "kv": rows.context,
        "pair": rows.pairs,
        "cached": rows.cached,
        "mixed": rows.mixed,
    }
    target = rows.time_s.copy()
    names = []
    for name in EXTRA:
        if name in given:
            target = target - given[name] * regressors[name]
        elif regressors[name].any() and not (name == "seq" and _confounded(rows)):
            names.append(name)
    bounds = {name: value for name, value in (least or {}).items() if name in names}
    for name, value in bounds.items():
        target = target - value * regressors[name]
    target = np.maximum(target, 0.02 * rows.time_s)
    columns = np.column_stack([table, *(regressors[name] for name in names)])
    scale = np.abs(columns).max(axis=0)
    scale[scale == 0] = 1.0
    weight = 1.0 / rows.time_s
    solution = np.zeros(columns.shape[1])
    for _ in range(rounds):
        solution, _ = nnls(columns / scale * weight[:, None], target * weight, maxiter=50 * columns.shape[1])
        solution = solution / scale
        off = np.abs(columns @ solution - target) / rows.time_s
        weight = 1.0 / rows.time_s / np.sqrt(np.maximum(off, 0.004))
    found = dict(zip(names, solution[len(at) :].tolist(), strict=True)) | given
    for name, value in bounds.items():
        found[name] += value
    cost = HardwareCost(
        tokens=tuple(int(value) for value in at),
        linear_s=tuple(np.cumsum(solution[: len(at)]).tolist()),
        kv_s=found.get("kv", 0.0),
        pair_s=found.get("pair", 0.0),
        cached_s=found.get("cached", 0.0),
        seq_s=found.get("seq", 0.0),
    )
    return Fit(cost=cost, mixed_s=found.get("mixed", 0.0))


def _fit_pure_first(rows: Rows, *, given: dict[str, float], least: dict[str, float] | None, rounds: int = 6) -> Fit:
    """`fit_rows`, but what steps of one kind show is taken from them alone, not from mixed ones.

    One kernel serves the prompt and the decodes of a mixed step, often worse than each would be served alone, and tables
    may hold ten mixed steps for each pure one: reading KV would cost what it costs beside a prompt.
    """
    pure = rows.take(rows.mixed == 0)
    if len(pure) == len(rows) or not pure.decode.any():
        return fit_rows(rows, given=given, least=least, rounds=rounds)
    alone = fit_rows(pure, given=given, least=least, rounds=rounds).cost
    shown = {
        "seq": not _confounded(pure),
        "kv": True,
        "pair": pure.pairs.any(),
        "cached": pure.cached.any(),
    }
    found = {name: getattr(alone, f"{name}_s") for name, there in shown.items() if there}
    return fit_rows(rows, given=found | given, least=least, rounds=rounds)


def refine(cost: HardwareCost, shape: HardwareCost | None) -> HardwareCost:
    """*cost* with more knots, between its own following the curve of *shape* (the roofline of the same
    model).

    Measured batches lie octaves apart; between them time bends where compute begins to bind and, in a mixture
    of experts, where all experts are touched. The roofline knows where; what was measured says how high.
    """
    if shape is None:
        return cost
    own = np.asarray(cost.tokens, float)
    dense = np.asarray(dense_knots(cost.tokens[-1]), float)
    at = np.unique(np.concatenate([own, dense[(dense > own[0]) & (dense < own[-1])]]))
    ratio = np.asarray(cost.linear_s) / shape.linear(own)
    bent = shape.linear(at) * np.exp(np.interp(np.log(at), np.log(own), np.log(ratio)))
    low = np.asarray(cost.linear_s)[np.maximum(0, np.searchsorted(own, at, side="right") - 1)]
    high = np.asarray(cost.linear_s)[np.minimum(len(own) - 1, np.searchsorted(own, at))]
    times = np.maximum.accumulate(np.clip(bent, low, high))
    return replace(cost, tokens=tuple(int(value) for value in at), linear_s=tuple(times.tolist()))


def _cumulative_hats(tokens: Array, knots: Array) -> Array:
    """Basis of a never-falling piecewise-linear function: column j is 0 below knot j-1 and 1 from knot j
    on."""
    out = np.empty((len(tokens), len(knots)))
    out[:, 0] = 1.0
    for j in range(1, len(knots)):
        span = knots[j] - knots[j - 1]
        rise = (tokens - knots[j - 1]) / span
        top = np.inf if j == len(knots) - 1 else 1.0
        out[:, j] = np.clip(rise, 0.0, top)
    return out


def _confounded(rows: Rows) -> bool:
    """True when rows of one sequence a token are all there is: then ``seq`` and ``linear`` are the same
    thing."""
    return bool(np.all(rows.batch == rows.tokens))


@dataclass(frozen=True)
class Validated:
    """A fit with what it predicts of rows it did and did not see."""

    fit: Fit
    error: dict[str, Error]
    rows: Rows = field(repr=False)


def fit(
    frame: pd.DataFrame,
    *,
    prior: HardwareCost | None = None,
    least: dict[str, float] | None = None,
    source: str = "measurements",
) -> Validated:
    """Fit a checked measurement table and measure its error, also on contexts and batches left out.

    *least* are lower bounds; *prior* bends ``linear`` between its knots and supplies ``pair`` and ``cached``
    where the table cannot identify them. Raise an InputError when the table holds too little: fewer than two
    batch sizes or two contexts of decodes.
    """
    rows = rows_of(frame)
    _enough(rows, source)
    given, borrowed = _unidentified(rows, prior)
    best = _fit_pure_first(rows, given=given, least=least)
    best = Fit(refine(best.cost, prior), best.mixed_s, borrowed)
    return Validated(best, {**_errors(best, rows), **_left_out(rows, given, prior, least)}, rows)


def _enough(rows: Rows, source: str) -> None:
    problems = []
    decode = rows.take(rows.decode) if len(rows) else rows
    if not len(rows):
        problems.append(Problem("no whole steps without a flag", source=source, expected=", ".join(STEPS)))
    else:
        batches, contexts = np.unique(decode.batch), np.unique(decode.each_context)
        if len(batches) < 2:
            problems.append(
                Problem(
                    f"decodes of {len(batches)} batch size{'s' if len(batches) != 1 else ''} only",
                    source=source,
                    key="decodes",
                    expected="at least two batch sizes, to tell a step from a sequence",
                )
            )
        if len(contexts) < 2:
            problems.append(
                Problem(
                    f"decodes at {len(contexts)} context{'s' if len(contexts) != 1 else ''} only",
                    source=source,
                    key="context",
                    expected="at least two contexts, to see the cost of reading KV",
                )
            )
    if problems:
        raise InputError(problems)


def _unidentified(rows: Rows, prior: HardwareCost | None) -> tuple[dict[str, float], dict[str, str]]:
    """Coefficients to take from *prior*: ``pair`` is not identifiable on short prompts, where it hides in
    ``linear``."""
    if prior is None:
        return {}, {}
    given, borrowed = {}, {}
    longest = float(np.max(np.where(rows.pairs > 0, rows.pairs / np.maximum(rows.tokens, 1), 0.0)))
    if longest < 2048:  # pairs a token: a lone chunk of 4096, or a short one on 2048 cached tokens
        given["pair"] = prior.pair_s
        borrowed["pair"] = "roofline prior: no prompt or cached context measured is long enough to show it"
    if not rows.cached.any():
        given["cached"] = prior.cached_s
        borrowed["cached"] = "roofline prior (KV read once): no chunk on cached context was measured"
    return given, borrowed


def error_of(predicted: Array, measured: Array) -> Error:
    """Absolute relative error of *predicted*."""
    off = predicted / measured - 1.0
    return Error(float(np.median(np.abs(off))), float(np.quantile(np.abs(off), 0.95)), len(off), float(np.median(off)))


def _errors(best: Fit, rows: Rows) -> dict[str, Error]:
    off = best.predict(rows)
    decode, cached = rows.decode, rows.has_cached
    mixed = rows.mixed > 0
    kinds = {
        "decode": decode,
        "prefill": ~decode & ~cached & ~mixed,
        "cached": cached & ~mixed,
        "mixed": mixed,
    }
    return {name: error_of(off[mask], rows.time_s[mask]) for name, mask in kinds.items() if np.count_nonzero(mask)}


def _left_out(
    rows: Rows, given: dict[str, float], prior: HardwareCost | None, least: dict[str, float] | None
) -> dict[str, Error]:
    """Decode errors when one context, or one batch size, is left out at a time: neither the least nor the
    most."""
    out = {}
    decode = rows.decode
    for key, values in (("decode_unseen_contexts", rows.each_context), ("decode_unseen_batches", rows.batch)):
        inner = np.unique(values[decode])[1:-1]
        predicted, measured = [], []
        for value in inner:
            gone = decode & (values == value)
            # a prefill of as many tokens knows linear(T) as well as a decode batch does, so it goes too
            hidden = gone if key.endswith("contexts") else gone | (rows.tokens == value)
            part = _fit_pure_first(rows.take(~hidden), given=given, least=least, rounds=4)
            part = replace(part, cost=refine(part.cost, prior))
            predicted.append(part.predict(rows.take(gone)))
            measured.append(rows.time_s[gone])
        if predicted:
            out[key] = error_of(np.concatenate(predicted), np.concatenate(measured))
    return out
