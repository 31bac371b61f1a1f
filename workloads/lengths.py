"""How long queries are: latent normals of prompts and samples, mapped through the laws of their kind.

Latents belong to (stream, query, sample); a kind (category or client) only says how they are mapped. So the
samples of one prompt share its effect, and another kind, law, rate or model leaves the luck of every query
as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from sim.rng import Streams
from workloads.laws import Law
from workloads.spec import Lengths

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Kind:
    """What queries of one category or client have in common."""

    category: int
    client: int
    lengths: Lengths
    max_tokens: int
    priority: int

    @cached_property
    def prompt_share(self) -> float:
        """Share of the variance of the reasoning latent that belongs to the prompt.

        Such that samples of one prompt spread by ``within_prompt_sigma`` in the log, whatever the law's own
        spread.
        """
        law = self.lengths.reasoning or self.lengths.output
        spread = law.log_sigma() if law is not None else 0.0
        if spread == 0.0:
            return 1.0
        return max(0.0, 1.0 - (self.lengths.within_prompt_sigma / spread) ** 2)


@dataclass(frozen=True)
class Latents:
    """Standard normals of some queries in one sample: of the query's prompt, and of the sample itself."""

    prompt_tokens: FloatArray
    effect: FloatArray
    own: FloatArray
    answer_effect: FloatArray
    answer_own: FloatArray
    even: float | None = None
    """Where between 0 and 1 the luck of these queries, which have one law, is spread evenly from; None: as drawn."""

    @staticmethod
    def draw(streams: Streams, query: Int64Array, prompt: Int64Array, sample: int) -> Latents:
        """Those of *sample* of each *query*; queries with the same *prompt* share the prompt's part."""
        return Latents(
            prompt_tokens=streams.normals("prompt_tokens", prompt),
            effect=streams.normals("reasoning.prompt", prompt),
            own=streams.normals("reasoning.sample", query, sample),
            answer_effect=streams.normals("answer.prompt", prompt),
            answer_own=streams.normals("answer.sample", query, sample),
        )

    def evened(self, code: npt.NDArray[np.integer], even: float) -> Latents:
        """The same luck spread evenly: the prompts' parts of each law (*code*) take as many equal shares.

        Who is long and who is short stays; but so many queries of a law show its quantiles, and sum up to its mean,
        almost without noise (stratified sampling). *even* is where in its share each stands.
        """
        changed: dict[str, Any] = {}
        for name in ("prompt_tokens", "effect", "answer_effect"):
            z = np.array(getattr(self, name))
            for _, where in by_kind(code):
                z[where] = evenly(z[where], even)
            changed[name] = z
        return replace(self, even=even, **changed)

    def spread(self, z: FloatArray) -> FloatArray:
        """*z* of all queries of one law, spread evenly where luck is."""
        return z if self.even is None else evenly(z, self.even)

    def at(self, index: Int64Array) -> Latents:
        names = ("prompt_tokens", "effect", "own", "answer_effect", "answer_own")
        parts: dict[str, Any] = {name: getattr(self, name)[index] for name in names}
        return replace(self, **parts)


def evenly(z: FloatArray, offset: float) -> FloatArray:
    """Normals in the order of *z*, one in each of as many equal shares of probability, *offset* (0 to 1) into it."""
    rank = np.empty(len(z))
    rank[np.argsort(z, kind="stable")] = np.arange(len(z))
    return np.asarray(special.ndtri((rank + min(max(offset, 0.02), 0.98)) / len(z)))


def mix(share: float, first: FloatArray, second: FloatArray) -> FloatArray:
    """A standard normal, *share* of whose variance is from *first* and the rest from *second*."""
    return np.asarray(np.sqrt(share) * first + np.sqrt(1.0 - share) * second)


def tokens(law: Law, z: FloatArray, at_least: int) -> Int64Array:
    """Draws of *law* at the latent normals *z*, in whole tokens."""
    return np.maximum(np.rint(np.minimum(law.from_normal(z), 2.0**53)).astype(np.int64), at_least)


def under(lengths: Lengths, latents: Latents) -> tuple[Int64Array, Int64Array]:
    """Natural (reasoning, answer) tokens of the same queries under other *lengths*: another model's."""
    return output_of_kind(Kind(0, 0, lengths, -1, 0), latents)


def laws_of(kinds: list[Kind]) -> Int64Array:
    """A number for each kind, the same for those whose lengths have the same laws."""
    known: dict[str, int] = {}
    return np.array([known.setdefault(kind.lengths.model_dump_json(), len(known)) for kind in kinds], np.int64)


def output_of_kind(kind: Kind, latents: Latents) -> tuple[Int64Array, Int64Array]:
    """Natural (reasoning, answer) tokens of queries of one kind; together at least one."""
    lengths = kind.lengths
    z = latents.spread(mix(kind.prompt_share, latents.effect, latents.own))
    beside = mix(lengths.answer_prompt_share, latents.answer_effect, latents.answer_own)
    if lengths.output is not None:
        output = tokens(lengths.output, z, 1)
        if not lengths.split_known:
            return np.zeros_like(output), output
        share = np.clip(_shares(lengths, output, z, beside, latents), 0.0, 1.0)
        reasoning = np.minimum(np.rint(output * share).astype(np.int64), output)
        return reasoning, output - reasoning
    assert lengths.answer is not None
    if lengths.reasoning is None:
        answer = tokens(lengths.answer, z, 1)
        return np.zeros_like(answer), answer
    reasoning = tokens(lengths.reasoning, z, 0)
    answer = tokens(lengths.answer, latents.spread(_correlated(lengths.answer_correlation, z, beside)), 0)
    return reasoning, np.maximum(answer, np.where(reasoning == 0, 1, 0))


def _shares(lengths: Lengths, output: Int64Array, z: FloatArray, beside: FloatArray, latents: Latents) -> FloatArray:
    """Shares of reasoning of *output*, drawn at the latent normals *z*; *beside* is what the share has of its own."""
    if lengths.reasoning_share is not None:
        return lengths.reasoning_share.from_normal(latents.spread(_correlated(lengths.share_correlation, z, beside)))
    bands = lengths.reasoning_share_by_output
    band = np.searchsorted([band.up_to for band in bands[:-1]], output)
    share = np.empty(len(output))
    for index, where in by_kind(band):
        share[where] = bands[index].share.from_normal(latents.spread(beside[where]))
    return share


def _correlated(correlation: float, z: FloatArray, other: FloatArray) -> FloatArray:
    return np.asarray(correlation * z + np.sqrt(1.0 - correlation**2) * other)


def by_kind(code: npt.NDArray[np.integer]) -> list[tuple[int, Int64Array]]:
    """(code, positions) for each code that occurs, in the order of the codes."""
    order = np.argsort(code, kind="stable")
    found, first = np.unique(code[order], return_index=True)
    return [(int(c), part) for c, part in zip(found, np.split(order, first[1:]), strict=True)]


def outputs(kinds: list[Kind], code: npt.NDArray[np.integer], latents: Latents) -> tuple[Int64Array, Int64Array]:
    """Natural (reasoning, answer) tokens of queries whose kind is *kinds[code]*, which have one kind for each law."""
    reasoning = np.zeros(len(code), np.int64)
    answer = np.zeros(len(code), np.int64)
    for index, where in by_kind(code):
        reasoning[where], answer[where] = output_of_kind(kinds[index], latents.at(where))
    return reasoning, answer


def prompts(kinds: list[Kind], code: npt.NDArray[np.integer], latents: Latents) -> Int64Array:
    """Prompt tokens of queries whose kind is *kinds[code]*, which have one kind for each law; at least one."""
    result = np.zeros(len(code), np.int64)
    for index, where in by_kind(code):
        result[where] = prompt_of_kind(kinds[index], latents.at(where))
    return result


def prompt_of_kind(kind: Kind, latents: Latents) -> Int64Array:
    """Prompt tokens of queries of one kind; at least one."""
    z, correlation = latents.prompt_tokens, kind.lengths.prompt_correlation
    if correlation != 0.0:
        # Only the prompt's own part can be tied to it: samples of one prompt have one prompt length. Where
        # that part is small, the tie is as close as it allows.
        reach = max(np.sqrt(kind.prompt_share), 1e-9)
        tie = float(np.clip(correlation / reach, -1.0, 1.0))
        z = _correlated(tie, latents.effect, z)
    return tokens(kind.lengths.prompt, latents.spread(z), 1)
