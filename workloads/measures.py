"""What can be said of a trace: sizes, tails, bursts, clients; the same figures for real and for generated
ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.bursts import CountMeter, GapMeter
from workloads.conversations import Structure
from workloads.portrait import Portrait
from workloads.tally import Tally

FloatArray = npt.NDArray[np.float64]

LEVELS = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 0.999)
COMPARED = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_AUTOCORRELATED_S = (1.0, 10.0, 60.0)


_CAPPED = 10.0
"""A steeper tail is a limit, whose index need not be kept."""
_BARS = {
    "output, p": 0.05,
    "output, mean": 0.02,
    "output, share of top": 0.02,
    "output, Hill": 0.2,
    "client and window, RMS": 1.0,
    "gaps of a client": 0.10,
}
"""How near a generator must come, by how the name of a figure begins."""


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


def dispersion(arrived: FloatArray, scale_s: float) -> float:
    """Index of dispersion of counts over *scale_s*: variance over mean, 1 for Poisson; NaN below 10
    intervals."""
    meter = CountMeter(scale_s)
    meter.add(arrived)
    return meter.dispersion()


def client_cv(arrived: FloatArray, client: npt.NDArray[np.integer], window_s: float) -> float:
    """CV of a client's gaps in a window, averaged over windows by their requests."""
    meter = GapMeter(window_s)
    meter.add(arrived, client)
    return meter.cv()


def describe(of: Portrait) -> dict[str, Any]:
    """All figures of a trace, as plain numbers: sizes, quantiles, tails, bursts, clients, resident KV."""
    largest = np.argsort(-of.sizes, kind="stable")
    output = of.output
    return {
        "queries": of.queries,
        "seconds": of.seconds,
        "rate_per_s": of.rate,
        "split_known": of.split_known,
        "lengths": {name: _sizes(tally) for name, tally in of.lengths.items()},
        "top_shares": {f"{share:g}": output.top_share(share) for share in (0.001, 0.01, 0.05, 0.10, 0.50)},
        "hill_output": output.hill(),
        "hill_prompt": of.prompt.hill(),
        "gap_cv": of.gaps.cv,
        "client_cv": of.by_client.cv(),
        "dispersion": {f"{scale:g}": meter.dispersion() for scale, meter in of.counts.items()},
        "autocorrelation": {f"{scale:g}": of.counts[scale].autocorrelation() for scale in _AUTOCORRELATED_S},
        "window_s": of.window_s,
        "rate_by_window": of.rates.tolist(),
        "rate_by_hour": None if of.hourly_rates is None else of.hourly_rates.tolist(),
        "grouped_by": of.grouped_by,
        "groups": [
            {
                "name": of.names[code],
                "queries": int(of.sizes[code]),
                "share": float(of.sizes[code] / max(of.queries, 1)),
                "output_share": float(of.tokens[code] / max(of.tokens.sum(), 1.0)),
                "mean_output": float(of.tokens[code] / max(of.sizes[code], 1)),
            }
            for code in largest[:20].tolist()
            if of.sizes[code]
        ],
        "group_count": int((of.sizes > 0).sum()),
        "resident_tokens": of.resident_tokens,
        "reasoning_share": of.reasoning.sum / max(output.sum, 1.0) if of.split_known else None,
    }


def describe_structure(of: Structure) -> dict[str, float]:
    """Figures of conversations, shared prefixes and recurring prompts, as far as there are any."""
    found: dict[str, float] = {}
    if of.conversations:
        turns = _turns(of)
        pauses = np.quantile(of.said[:, 1], (0.5, 0.9)).tolist()
        found |= {"sessions": turns.total, "sessions_of_one_turn": _share_of(turns, 1), "mean_turns": turns.mean}
        found |= {"p99_turns": float(turns.quantile(0.99)), "pause_p50_s": pauses[0], "pause_p90_s": pauses[1]}
    if of.shared_tokens:
        found["shared_prompt_tokens"] = of.shared_tokens / max(of.prompt_tokens, 1)
    if of.prompts.repeats:
        sigma, between, _ = of.prompts.within()
        found |= {"queries_per_prompt": _asked(of), "sigma_within_prompt": sigma, "variance_between_prompts": between}
    return found


def _sizes(tally: Tally) -> dict[str, float]:
    """Mean, maximum and quantiles."""
    found = tally.quantile(LEVELS).tolist()
    quantiles = {f"p{level * 100:g}": value for level, value in zip(LEVELS, found, strict=True)}
    return {"mean": tally.mean, "max": tally.max, **quantiles}


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

    @property
    def bar(self) -> float | None:
        """What a generator may be off by in this figure; None where nothing is asked of it."""
        if self.name.startswith("output, Hill") and not self.real < _CAPPED:
            return None
        return next((bar for name, bar in _BARS.items() if self.name.startswith(name)), None)

    @property
    def near(self) -> bool | None:
        """Whether it is near enough, a token counting as none; None where nothing is asked of it or it is not known."""
        if self.bar is None or not np.isfinite(self.distance):
            return None
        whole = self.name.startswith("output, p") and abs(self.generated - self.real) <= 1.0
        return bool(whole or abs(self.distance) <= self.bar)


def compare(real: Portrait, generated: Portrait) -> list[Comparison]:
    """Goodness of fit: distances of distributions, quantiles, tails, bursts, of *generated* from *real*."""
    rows = [
        Comparison("queries", real.queries, generated.queries),
        Comparison("rate, 1/s", real.rate, generated.rate),
    ]
    for name, one in real.lengths.items():
        two = generated.lengths.get(name)
        if two is None:
            continue
        rows.append(Comparison(f"{name}, KS distance", 0.0, one.distance(two), absolute=True))
        rows.append(Comparison(f"{name}, mean tokens", one.mean, two.mean))
        for level, a, b in zip(COMPARED, one.quantile(COMPARED), two.quantile(COMPARED), strict=True):
            rows.append(Comparison(f"{name}, p{level * 100:g} tokens", float(a), float(b)))
    for share in (0.01, 0.1):
        pair = real.output.top_share(share), generated.output.top_share(share)
        rows.append(Comparison(f"output, share of top {share:.0%}", *pair, absolute=True))
    rows.append(Comparison("output, Hill index of top 5 %", real.output.hill(), generated.output.hill(), absolute=True))
    rows += _windows(real, generated)
    rows.append(Comparison("gaps, CV", real.gaps.cv, generated.gaps.cv))
    rows.append(Comparison("gaps of a client in a window, CV", real.by_client.cv(), generated.by_client.cv()))
    for scale, meter in real.counts.items():
        pair = meter.dispersion(), generated.counts[scale].dispersion()
        rows.append(Comparison(f"counts over {scale:g} s, dispersion", *pair))
    for scale in _AUTOCORRELATED_S:
        pair = real.counts[scale].autocorrelation(), generated.counts[scale].autocorrelation()
        rows.append(Comparison(f"counts over {scale:g} s, autocorrelation", *pair, absolute=True))
    return rows


def compare_structure(real: Structure, generated: Structure) -> list[Comparison]:
    """Goodness of fit of conversations, shared prefixes and recurring prompts, as far as the *real* trace has them."""
    rows: list[Comparison] = []
    if real.conversations:
        one, two = _turns(real), _turns(generated)
        rows.append(Comparison("sessions, share with one turn", _share_of(one, 1), _share_of(two, 1), absolute=True))
        rows.append(Comparison("sessions, mean turns", one.mean, two.mean))
        for level in (0.9, 0.99):
            pair = float(one.quantile(level)), float(two.quantile(level)) if two.total else float("nan")
            rows.append(Comparison(f"sessions, p{level * 100:g} turns", *pair))
        a, b = real.said, generated.said
        for name, column in (("pause before a turn", 1), ("growth of a prompt", 2)):
            unit = "s" if column == 1 else "tokens"
            for level in (0.1, 0.5, 0.9):
                pair = (
                    float(np.quantile(a[:, column], level)),
                    float(np.quantile(b[:, column], level)) if len(b) else float("nan"),
                )
                rows.append(Comparison(f"{name}, p{level * 100:g} {unit}", *pair))
    if real.shared_tokens:
        pair = (
            real.shared_tokens / max(real.prompt_tokens, 1),
            generated.shared_tokens / max(generated.prompt_tokens, 1),
        )
        rows.append(Comparison("prompt tokens shared with earlier ones", *pair, absolute=True))
    if real.prompts.repeats:
        rows.append(Comparison("queries a prompt", _asked(real), _asked(generated)))
        for name, x, y in zip(
            (
                "reasoning within a prompt, sigma of the log",
                "reasoning, variance between prompts",
                "answers, variance between prompts",
            ),
            real.prompts.within(),
            generated.prompts.within(),
            strict=True,
        ):
            rows.append(Comparison(name, x, y, absolute=True))
    return rows


def _turns(of: Structure) -> Tally:
    tally = Tally()
    for (_, turns), count in of.all_turns().items():
        tally.add(np.full(count, turns))
    return tally


def _share_of(tally: Tally, value: int) -> float:
    return float(tally.share_above(value - 1) - tally.share_above(value)) if tally.total else float("nan")


def _asked(of: Structure) -> float:
    counts = of.prompts.counts
    return float(counts.mean()) if len(counts) else 1.0


def _windows(real: Portrait, generated: Portrait) -> list[Comparison]:
    """Goodness of fit of clients' rates over time, in standard errors of a Poisson count: luck alone gives an RMS of 1."""
    one, two = real.by_window_and_client, generated.by_window_and_client
    if not len(one) or len(one) != len(two):
        return []
    # The same clients in one order, from the same window on, as long as the real trace lasts but for its last part.
    two = two[[generated.known_as.index(name) for name in real.known_as]]
    begin = real.first_window - generated.first_window
    # A generator's time starts at its first query where the trace's started long before.
    begin = begin if abs(begin) < two.shape[1] else 0
    two = np.pad(two, ((0, 0), (max(-begin, 0), one.shape[1])))[:, max(begin, 0) :][:, : one.shape[1]]
    one, two = one[:, :-1], two[:, :-1]
    busy = (one > 0) | (two > 0)
    if not busy.any():
        return []
    off = ((two - one) / np.sqrt(np.maximum(one, 1.0)))[busy]
    return [
        Comparison("client and window, RMS of standard errors", 0.0, float(np.sqrt((off**2).mean())), absolute=True),
        Comparison("client and window, worst standard error", 0.0, float(np.abs(off).max()), absolute=True),
    ]
