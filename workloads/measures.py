"""What can be said of a trace: sizes, tails, bursts, clients; the same figures for real and for generated
ones.

A trace is held in 16 bytes a row: gaps to the arrival before, prompt and output tokens, share of reasoning,
client.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]

LEVELS = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999)
SCALES_S = (1.0, 10.0, 60.0, 600.0)
_NO_SHARE = np.uint16(65535)
_SHARE_STEPS = 65534
_MOST_CLIENTS = 65535
_CHUNK = 1_000_000


@dataclass
class Held:
    """A trace in memory, 16 bytes a row; ``share`` is 65535 where the split of the output is not known."""

    gap: npt.NDArray[np.float32]
    prompt: npt.NDArray[np.int32]
    output: npt.NDArray[np.int32]
    share: npt.NDArray[np.uint16]
    client: npt.NDArray[np.uint16]
    names: tuple[str, ...]
    grouped_by: str

    def __len__(self) -> int:
        return len(self.gap)

    def first(self, rows: int) -> Held:
        """The first so many *rows*."""
        part = {name: getattr(self, name)[:rows] for name in ("gap", "prompt", "output", "share", "client")}
        return replace(self, **part)

    @property
    def arrived(self) -> FloatArray:
        """Arrival times in s, from the gaps; the error grows as a ten-millionth of the gaps, at random."""
        return np.cumsum(self.gap, dtype=np.float64)

    @property
    def split_known(self) -> bool:
        return bool(len(self.share)) and bool((self.share != _NO_SHARE).all())

    @property
    def reasoning(self) -> npt.NDArray[np.int32]:
        """Reasoning tokens, to within a few tokens in a hundred thousand; zeros where the split is not
        known."""
        return self.reasoning_at(slice(None))

    def reasoning_at(self, rows: Any) -> npt.NDArray[np.int32]:
        """Reasoning tokens of some *rows*, a part at a time."""
        output, share = self.output[rows], self.share[rows]
        result = np.empty(len(output), np.int32)
        for begin in range(0, len(output), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            known = np.where(share[part] == _NO_SHARE, 0, share[part]) / _SHARE_STEPS
            result[part] = np.rint(output[part] * known)
        return result

    @staticmethod
    def of(batches: Iterable[pa.RecordBatch]) -> Held:
        """Hold *batches*; rows are grouped by client where they name one, by category otherwise."""
        parts: dict[str, list[Any]] = {name: [] for name in ("gap", "prompt", "output", "share", "client")}
        codes: dict[Any, int] = {}
        last, grouped = 0.0, ""
        for batch in batches:
            names = batch.schema.names
            arrived = batch.column("arrived_at").to_numpy(zero_copy_only=False)
            parts["gap"].append(np.diff(arrived, prepend=last).astype(np.float32))
            last = float(arrived[-1]) if len(arrived) else last
            output = batch.column("num_decode_tokens").to_numpy(zero_copy_only=False)
            parts["prompt"].append(batch.column("num_prefill_tokens").to_numpy().astype(np.int32))
            parts["output"].append(output.astype(np.int32))
            if "num_reasoning_tokens" in names:
                thought = batch.column("num_reasoning_tokens").to_numpy(zero_copy_only=False)
                share = np.rint(thought / np.maximum(output, 1) * _SHARE_STEPS).astype(np.uint16)
            else:
                share = np.full(len(output), _NO_SHARE)
            parts["share"].append(share)
            grouped = grouped or next((name for name in ("client_id", "category") if name in names), "")
            parts["client"].append(_codes(batch, grouped, codes))
        joined: dict[str, Any] = {}
        for name in list(parts):
            joined[name] = np.concatenate(parts.pop(name)) if parts[name] else np.empty(0)
        return Held(
            **joined,
            names=tuple("none" if name is None else str(name) for name in codes) or ("all",),
            grouped_by=grouped or "nothing",
        )


def _codes(batch: pa.RecordBatch, name: str, codes: dict[Any, int]) -> npt.NDArray[np.uint16]:
    if not name or name not in batch.schema.names:
        codes.setdefault("all", len(codes)) if not codes else None
        return np.zeros(batch.num_rows, np.uint16)
    encoded = batch.column(name).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    place = [codes.setdefault(value, min(len(codes), _MOST_CLIENTS)) for value in values]
    index = encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    if encoded.null_count:
        place.append(codes.setdefault(None, min(len(codes), _MOST_CLIENTS)))
    return np.asarray(np.asarray(place, np.uint16)[index])


def off_grid(held: Held) -> tuple[Held, str | None]:
    """*held* with arrivals spread evenly inside the grid that its clock stands on, and a word about it.

    A coarse clock (3 s in a published trace of Mooncake, 1 s in others) makes bursts of what was none. A
    grid is seen where nearly every gap is a multiple of the most common one, and most gaps are zero. Others
    are returned as they are.
    """
    gap = held.gap.astype(np.float64)
    positive = gap[1:][gap[1:] > 0]
    if len(gap) < 100 or not len(positive) or len(positive) > 0.5 * len(gap):
        return held, None
    found, often = np.unique(np.round(positive, 3), return_counts=True)
    step = float(found[often.argmax()])
    cells = positive / max(step, 1e-9)
    on = np.abs(cells - np.rint(cells)) < 0.02
    if step < 1e-3 or on.mean() < 0.99 or len(positive) < 10:
        return held, None
    cell = np.rint((held.arrived - held.arrived[0]) / step)
    inside = Streams(0).uniforms("off_grid", np.arange(len(cell)))
    times = np.sort((cell + inside) * step)
    gaps = np.diff(times, prepend=0.0).astype(np.float32)
    return replace(held, gap=gaps), f"time stamps stand on a grid of {step:g} s: spread evenly inside it"


# -- figures ------------------------------------------------------------------------------------------------


def top_share(values: npt.NDArray[Any], share: float) -> float:
    """Share of the sum that the largest *share* of the values makes."""
    count = max(1, round(len(values) * share))
    whole = float(values.sum(dtype=np.float64))
    return float(np.partition(values, -count)[-count:].sum(dtype=np.float64)) / whole if whole else 0.0


def hill(values: npt.NDArray[Any], share: float = 0.05) -> float:
    """Hill's tail index of the largest *share* of the values: P(X > x) falls as x to the minus index."""
    count = max(2, round(len(values) * share))
    if len(values) <= count:
        return float("nan")
    largest = np.sort(np.partition(values, -count - 1)[-count - 1 :]).astype(np.float64)
    excess = np.log(np.maximum(largest[1:], 1e-9)) - np.log(max(largest[0], 1e-9))
    return float(1.0 / excess.mean()) if excess.mean() > 0 else float("inf")


def counts(arrived: FloatArray, scale_s: float) -> npt.NDArray[np.int64]:
    """Arrivals in each whole interval of *scale_s* from the first to the last."""
    if not len(arrived):
        return np.empty(0, np.int64)
    place = ((arrived - arrived[0]) / scale_s).astype(np.int64)
    whole = int(place[-1])
    return np.bincount(place, minlength=whole + 1)[:whole]


def dispersion(arrived: FloatArray, scale_s: float) -> float:
    """Index of dispersion of counts over *scale_s*: variance over mean, 1 for Poisson; NaN below 10
    intervals."""
    number = counts(arrived, scale_s)
    return float(number.var() / number.mean()) if len(number) >= 10 and number.mean() > 0 else float("nan")


def autocorrelation(arrived: FloatArray, scale_s: float, lag: int = 1) -> float:
    """Autocorrelation of counts over *scale_s* at *lag* intervals; NaN below 20 intervals."""
    number = counts(arrived, scale_s).astype(np.float64)
    if len(number) < 20 or number.std() == 0:
        return float("nan")
    centred = number - number.mean()
    return float((centred[:-lag] * centred[lag:]).mean() / centred.var())


def client_cv(arrived: FloatArray, client: npt.NDArray[np.uint16], window_s: float) -> float:
    """Coefficient of variation of a client's gaps in a window, averaged over windows weighted by their
    requests.

    Windows in which a client has fewer than three requests do not count.
    """
    weighted, number = 0.0, 0
    begin = 0
    while begin < len(arrived):
        # Whole windows, a million rows or so at a time.
        end = min(begin + _CHUNK, len(arrived))
        if end < len(arrived):
            next_window = (np.floor(arrived[end - 1] / window_s) + 1) * window_s
            end = max(end, int(np.searchsorted(arrived, next_window)))
        cv, size = _cv_by_window(arrived[begin:end], client[begin:end], window_s)
        weighted += float((cv * size).sum())
        number += int(size.sum())
        begin = end
    return weighted / number if number else float("nan")


def _cv_by_window(
    arrived: FloatArray, client: npt.NDArray[np.uint16], window_s: float
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """(CV of the gaps, requests) of each client and window with at least three requests."""
    window = (arrived / window_s).astype(np.int64)
    window -= window[0]
    key = client.astype(np.int64) * (int(window[-1]) + 1) + window
    order = np.argsort(key, kind="stable")
    key, times = key[order], arrived[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    size = np.diff(np.append(first, len(key)))
    gaps = np.diff(times, prepend=0.0)
    gaps[first] = 0.0
    number = np.maximum(size - 1, 1)
    mean = np.add.reduceat(gaps, first) / number
    square = np.add.reduceat(gaps**2, first) / number
    with np.errstate(divide="ignore", invalid="ignore"):
        cv = np.sqrt(np.maximum(square - mean**2, 0.0)) / mean
    good = (size >= 3) & np.isfinite(cv)
    return cv[good], size[good]


def resident_tokens(prompt: npt.NDArray[Any], output: npt.NDArray[Any]) -> float:
    """KV tokens of a request in the mean over its decoding, weighted by how long that takes.

    By Little's law, rate times mean output tokens times time per output token is how many requests are
    resident, and this is what each of them holds: sum(o (p + o / 2)) / sum(o).
    """
    held = whole = 0.0
    for begin in range(0, len(output), _CHUNK):
        o = output[begin : begin + _CHUNK].astype(np.float64)
        held += float((o * (prompt[begin : begin + _CHUNK] + o / 2)).sum())
        whole += float(o.sum())
    return held / whole if whole else float("nan")


def window_for(seconds: float) -> float:
    """A length of window in s that suits a trace of *seconds*: ten minutes, less for short and more for long
    ones."""
    if seconds < 7200:
        return float(np.clip(seconds / 12, 1.0, 600.0))
    return 600.0 * max(1, int(np.ceil(seconds / 600 / 288)))


def describe(held: Held) -> dict[str, Any]:
    """All figures of a trace, as plain numbers: sizes, quantiles, tails, bursts, clients, resident KV."""
    arrived = held.arrived
    seconds = float(arrived[-1] - arrived[0]) if len(held) else 0.0
    window_s = window_for(seconds)
    sizes = np.bincount(held.client, minlength=len(held.names))
    tokens = np.zeros(len(held.names))
    for begin in range(0, len(held), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        tokens += np.bincount(held.client[part], weights=held.output[part], minlength=len(held.names))
    largest = np.argsort(-sizes, kind="stable")
    lengths = {"prompt": _sizes(held.prompt), "output": _sizes(held.output)}
    reasoning_share = None
    if held.split_known:
        reasoning = held.reasoning
        lengths["reasoning"] = _sizes(reasoning)
        reasoning_share = float(reasoning.sum(dtype=np.int64) / max(held.output.sum(dtype=np.int64), 1))
        lengths["answer"] = _sizes(held.output - reasoning)
        del reasoning
    gap_mean = float(held.gap[1:].mean(dtype=np.float64)) if len(held) > 1 else 0.0
    gap_sd = float(held.gap[1:].std(dtype=np.float64)) if len(held) > 1 else 0.0
    return {
        "queries": len(held),
        "seconds": seconds,
        "rate_per_s": (len(held) - 1) / seconds if seconds > 0 else float("inf"),
        "split_known": held.split_known,
        "lengths": lengths,
        "top_shares": {f"{share:g}": top_share(held.output, share) for share in (0.001, 0.01, 0.05, 0.10, 0.50)},
        "hill_output": hill(held.output),
        "hill_prompt": hill(held.prompt),
        "gap_cv": gap_sd / gap_mean if gap_mean > 0 else float("nan"),
        "client_cv": client_cv(arrived, held.client, window_s),
        "dispersion": {f"{scale:g}": dispersion(arrived, scale) for scale in SCALES_S},
        "autocorrelation": {f"{scale:g}": autocorrelation(arrived, scale) for scale in (1.0, 10.0, 60.0)},
        "window_s": window_s,
        "rate_by_window": _by_window(arrived, window_s),
        "grouped_by": held.grouped_by,
        "groups": [
            {
                "name": held.names[code],
                "queries": int(sizes[code]),
                "share": float(sizes[code] / max(len(held), 1)),
                "output_share": float(tokens[code] / max(tokens.sum(), 1.0)),
                "mean_output": float(tokens[code] / max(sizes[code], 1)),
            }
            for code in largest[:20].tolist()
            if sizes[code]
        ],
        "group_count": int((sizes > 0).sum()),
        "resident_tokens": resident_tokens(held.prompt, held.output),
        "reasoning_share": reasoning_share,
    }


def _sizes(values: npt.NDArray[Any]) -> dict[str, float]:
    """Mean, maximum and quantiles."""
    found = np.quantile(values, LEVELS).tolist()
    quantiles = {f"p{level * 100:g}": value for level, value in zip(LEVELS, found, strict=True)}
    return {"mean": float(values.mean()), "max": int(values.max()), **quantiles}


def _by_window(arrived: FloatArray, window_s: float) -> list[float]:
    if not len(arrived):
        return []
    rates: list[float] = (np.bincount((arrived / window_s).astype(np.int64)) / window_s).tolist()
    return rates


def ks(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Kolmogorov-Smirnov distance of two samples; of large ones to within 1e-5."""
    a, b = np.sort(one), np.sort(other)
    # The distance is largest at a value that occurs; in between it grows by a step of one in so many.
    at = np.concatenate([values[:: max(1, len(values) // 100_000)] for values in (a, b)])
    gap = np.searchsorted(a, at, side="right") / len(a) - np.searchsorted(b, at, side="right") / len(b)
    return float(np.abs(gap).max())


@dataclass(frozen=True)
class Comparison:
    """One figure of a real and of a generated trace; *distance* is relative unless *absolute*."""

    name: str
    real: float
    generated: float
    absolute: bool = False

    @property
    def distance(self) -> float:
        if self.absolute:
            return self.generated - self.real
        return (self.generated / self.real - 1.0) if self.real else float("nan")


def compare(real: Held, generated: Held) -> list[Comparison]:
    """Goodness of fit: distances of distributions, quantiles, tails, bursts, of *generated* from *real*."""
    one, two = describe(real), describe(generated)
    rows = [
        Comparison("queries", len(real), len(generated)),
        Comparison("rate, 1/s", one["rate_per_s"], two["rate_per_s"]),
    ]
    pairs: list[tuple[str, Any, Any]] = [
        ("prompt", real.prompt, generated.prompt),
        ("output", real.output, generated.output),
    ]
    if real.split_known and generated.split_known:
        pairs.append(("reasoning", real.reasoning, generated.reasoning))
        answers = real.output - real.reasoning, generated.output - generated.reasoning
        pairs.append(("answer", *answers))
    for name, a, b in pairs:
        rows.append(Comparison(f"{name}, KS distance", 0.0, ks(a, b), absolute=True))
        rows.append(Comparison(f"{name}, mean tokens", float(a.mean()), float(b.mean())))
        for level in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
            text = f"{name}, p{level * 100:g} tokens"
            rows.append(Comparison(text, float(np.quantile(a, level)), float(np.quantile(b, level))))
    for share in ("0.01", "0.1"):
        text = f"output, share of top {float(share):.0%}"
        rows.append(Comparison(text, one["top_shares"][share], two["top_shares"][share], absolute=True))
    rows.append(Comparison("output, Hill index of top 5 %", one["hill_output"], two["hill_output"], absolute=True))
    rows.append(Comparison("gaps, CV", one["gap_cv"], two["gap_cv"]))
    rows.append(Comparison("gaps of a client in a window, CV", one["client_cv"], two["client_cv"]))
    for scale in one["dispersion"]:
        text = f"counts over {scale} s, dispersion"
        rows.append(Comparison(text, one["dispersion"][scale], two["dispersion"][scale]))
    for scale in one["autocorrelation"]:
        text = f"counts over {scale} s, autocorrelation"
        values = one["autocorrelation"][scale], two["autocorrelation"][scale]
        rows.append(Comparison(text, *values, absolute=True))
    return rows
