"""How long the queries of one kind are: laws of prompt, output and share of reasoning, and how they hang together.

Output and share are drawn as one correlation of normal scores has them where that gives reasoning and answers
as measured. Where it does not, the share has a law of its own in each range of outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.fitting.em import Counted, find_atoms, fit_lengths, fit_shares
from workloads.fitting.nearness import CHECKED, by_quantiles, follows, quantile_errors
from workloads.fitting.plain import digits, plain
from workloads.laws import LawBase
from workloads.lengths import Kind, Latents, output_of_kind
from workloads.spec import Lengths

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

FIT_ROWS = 400_000
"""Rows that laws are fitted to; of more of them so many are taken, evenly."""
_BANDS = 10
_BAND_ROWS = 40
_DRAWN = 40_000
_NEAR = 0.02
"""What a quantile or mean of reasoning and answer may be off by, or half a token, or a part of a standard error."""
_LUCK = 0.25
_FAR = 10.0
_OUTPUT = 1.5


@dataclass(frozen=True)
class Sample:
    """Tokens of some queries; *reasoning* is None where the split of the output is not known.

    Prompts count where a query is the *first* of its conversation, as later ones grow out of those before.
    """

    prompt: Int64Array
    output: Int64Array
    reasoning: Int64Array | None
    first: npt.NDArray[np.bool_]


def lengths_of(of: Sample) -> dict[str, Any]:
    """Laws of prompt, output and share of reasoning, as a spec spells them."""
    lengths: dict[str, Any] = {"prompt": plain(length_law(of.prompt[of.first]))}
    tie = normal_correlation(of.prompt[of.first], of.output[of.first])
    # Below three standard errors it is as likely to be none.
    if abs(tie) > max(0.05, 3.0 / np.sqrt(len(of.output))):
        lengths["prompt_correlation"] = digits(tie, 3)
    if of.reasoning is None:
        return lengths | {"answer": plain(length_law(of.output))}
    return lengths | _joint(plain(length_law(of.output)), of.output, of.reasoning)


def length_law(values: npt.NDArray[Any]) -> LawBase:
    """A mixture for *values* where one is near enough, their quantiles otherwise."""
    mixture = fit_lengths(values)
    plain_values = values.astype(np.float64)
    return mixture if follows(mixture, plain_values) else by_quantiles(plain_values)


def _joint(law: dict[str, Any], output: Int64Array, reasoning: Int64Array) -> dict[str, Any]:
    """The keys that say how much of an output is reasoning: the plainest that follows *reasoning* and answers."""
    query = np.arange(min(_DRAWN, len(output)))
    latents = Latents.draw(Streams(0), query, query, 0).evened(np.zeros_like(query), 0.5)
    targets = [_Target(reasoning), _Target(output - reasoning), _Target(output)]
    best, least = None, np.inf
    for keys in _ways(law, output, reasoning):
        lengths = Lengths.model_validate({"prompt": 1, **keys})
        thought, said = output_of_kind(Kind(0, 0, lengths, -1, 0), latents)
        made = (thought, said, thought + said)
        off = np.concatenate([target.distances(values) for target, values in zip(targets, made, strict=True)])
        # Where none is near enough everywhere, the one that is near in most places.
        # Outputs come first: what they are off by is not made up for by their parts.
        whole = max(off[2 * len(off) // 3 :].max() - _OUTPUT, 0.0)
        distance = float(np.sqrt((np.minimum(off, _FAR) ** 2).mean())) + _FAR * whole
        if distance < least:
            best, least = keys, distance
        if off.max() <= 1.0:
            break
    assert best is not None
    return best


class _Target:
    """Quantiles and mean to be met, and how far off each may be."""

    def __init__(self, values: Int64Array) -> None:
        ordered = np.sort(values)
        at = np.array(CHECKED)
        self.quantiles = np.quantile(ordered, at)
        self.mean = float(values.mean())
        errors = quantile_errors(ordered, at)
        self.near = np.maximum(np.maximum(_NEAR * self.quantiles, 0.5), _LUCK * errors)
        self.near_mean = max(_NEAR * self.mean, 0.5, _LUCK * float(values.std()) / len(values) ** 0.5)

    def distances(self, made: Int64Array) -> FloatArray:
        """How far off each quantile and the mean of *made* are; up to 1 is near enough."""
        off = np.abs(np.quantile(made, CHECKED) - self.quantiles) / self.near
        return np.append(off, abs(made.mean() - self.mean) / self.near_mean)


def _ways(law: dict[str, Any], output: Int64Array, reasoning: Int64Array) -> Iterator[dict[str, Any]]:
    """Ways to give output (of the given *law*), reasoning and answer together, the plainest first."""
    whole = {"output": law}
    share = reasoning / np.maximum(output, 1)
    tie = digits(normal_correlation(output, share), 3)
    betas, points = fit_shares(share), by_quantiles(share)
    if follows(betas, share, floor=0.01):
        yield whole | {"reasoning_share": plain(betas), "share_correlation": tie}
    yield whole | {"reasoning_share": plain(points), "share_correlation": tie}
    answer = output - reasoning
    if reasoning.min() > 0 and answer.min() > 0:
        yield {
            "reasoning": plain(length_law(reasoning)),
            "answer": plain(length_law(answer)),
            "answer_correlation": digits(normal_correlation(reasoning, answer), 3),
        }
    # Values that many outputs have, such as a limit: what thinks up to it may not come to its answer.
    caps = find_atoms(Counted.of(output))[0]
    for most, make in (
        *(((1, _betas_or_quantiles),) if len(caps) else ()),
        (_BANDS, _betas_or_quantiles),
        *((_BANDS * more, by_quantiles) for more in (1, 2, 4)),
    ):
        count = min(most, len(output) // _BAND_ROWS)
        if count < 2 and not len(caps):
            return
        edges = _edges(output, count, caps)
        band = np.searchsorted(edges, output)
        yield whole | {
            "reasoning_share_by_output": [
                {"up_to": float(end), "share": plain(make(share[band == index]))}
                for index, end in enumerate([*edges.tolist(), output.max() + 1])
                if (band == index).any()
            ]
        }


def _edges(output: Int64Array, count: int, caps: FloatArray) -> FloatArray:
    """Ends of about *count* ranges of outputs with as many rows each, the longest apart, and of each of *caps* alone."""
    levels = np.arange(1, count) / count
    if count > 1 and 0.03 * len(output) >= _BAND_ROWS:
        levels = np.append(levels, 0.97)
    alone = np.concatenate([caps - 0.5, caps])
    edges = np.unique(np.concatenate([np.quantile(output, levels, method="higher"), alone]))
    while True:
        rows = np.bincount(np.searchsorted(edges, output), minlength=len(edges) + 1)
        # A range of few goes together with the next one.
        thin = np.flatnonzero((rows[:-1] < _BAND_ROWS / 2) & ~np.isin(edges, alone))
        if not len(thin):
            return np.asarray(edges)
        edges = np.delete(edges, thin[0])


def _betas_or_quantiles(share: FloatArray) -> LawBase:
    law = fit_shares(share, most=2)
    return law if follows(law, share, floor=0.01) else by_quantiles(share)


def normal_correlation(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Correlation of the normal scores of two columns, from their rank correlation; 0 for constants."""
    if len(one) < 10 or one.min() == one.max() or other.min() == other.max():
        return 0.0
    rank = np.corrcoef(_ranks(one), _ranks(other))[0, 1]
    return float(np.clip(2.0 * np.sin(np.pi / 6.0 * rank), -0.99, 0.99))


def _ranks(values: npt.NDArray[Any]) -> FloatArray:
    """Rank of each value; equal ones share the mean of theirs. (``scipy.stats`` takes seconds to import.)"""
    _, place, often = np.unique(values, return_inverse=True, return_counts=True)
    after = np.cumsum(often)
    return np.asarray((after - (often - 1) / 2)[place])
