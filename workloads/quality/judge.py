"""Decides what each generation answers and what a verifier thinks of it.

Every draw belongs to (stream, query, sample), never to an order of calls: two strategies, pools or engines
face the same luck, in bulk or one by one. Labels: 0 is the right answer, 1 … K the wrong ones, -1 none. The
difficulty of a query is one quantile for all models: what is hard for one is hard for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from sim.rng import QueryDraws, Streams
from workloads.quality.published import law
from workloads.quality.spec import AnswerLaw, PoolLengths, QualitySpec, beta_quantile

NONE, RIGHT = -1, 0
QUERIES = 512
"""Draws are made for so many neighbours at once, and kept while they are in use."""
CHUNKS = 512
OWN_PROMPT = 1 << 40
NO_PROMPT = -1

K = TypeVar("K")
V = TypeVar("V")

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Draws:
    """Latent uniforms of some generations."""

    answer: FloatArray
    wrong: FloatArray
    guess: FloatArray
    convergence: FloatArray


class Judge:
    """Of one replication. *pools* are (name, model) in their order, *categories* the workload's."""

    def __init__(
        self,
        spec: QualitySpec,
        streams: Streams,
        *,
        pools: Sequence[tuple[str, str]],
        categories: Sequence[str],
        generating: Sequence[bool] | None = None,
        kept: Sequence[Callable[[float], float] | None] | None = None,
    ) -> None:
        """*kept* says by pool what share of its right answers stays right under KV compression, by natural length."""
        self.spec = spec
        self._kept = kept or [None] * len(pools)
        self._streams = streams
        self._laws = [
            [self._law(pool, model, category) if makes else None for category in categories]
            for (pool, model), makes in zip(pools, generating or [True] * len(pools), strict=True)
        ]
        self.lengths = [spec.pools.get(pool, PoolLengths()) for pool, _ in pools]
        self._pairs: dict[tuple[int, int], list[tuple[float, float]]] = {}
        self._shares: dict[tuple[int, int, int], list[float]] = {}
        self._own: dict[int, list[tuple[float, float]]] = {}
        self._easiness: dict[tuple[bool, int], list[float]] = {}
        self._uniforms, self._normals = QueryDraws(streams.uniforms), QueryDraws(streams.normals)
        self._chances: dict[tuple[int, float, bool, int], list[float]] = {}

    def _law(self, pool: str, model: str, category: str) -> AnswerLaw:
        spec = self.spec
        own = spec.pools.get(pool)
        benchmark = spec.categories.get(category, spec.benchmark)
        if own is not None and own.benchmark is not None:
            benchmark = own.benchmark
        return law(model, benchmark or "", spec.models)

    def law(self, pool: int, category: int) -> AnswerLaw:
        """What holds in that pool for that category."""
        found = self._laws[pool][category]
        assert found is not None, "a verifier's pool answers nothing"
        return found

    # ------------------------------------------------------------------ draws

    def easiness(self, query: Int64Array, prompt: Int64Array) -> FloatArray:
        """Quantile of each query's difficulty, 1 the easiest; queries of one *prompt* (-1: own) share it."""
        from scipy.special import ndtr

        key = np.where(prompt >= 0, prompt, query + OWN_PROMPT)
        z = self._streams.normals("quality.difficulty", key)
        rho = self.spec.length_correlation
        if rho:
            # the same latent that the workload makes the length of this prompt from
            longer = self._streams.normals("reasoning.prompt", np.where(prompt >= 0, prompt, query))
            z = math.sqrt(1 - rho * rho) * z - rho * longer
        return np.asarray(ndtr(z), dtype=np.float64)

    def draws(self, query: Int64Array, sample: Int64Array) -> Draws:
        """Latents of generations."""
        uniforms = self._streams.uniforms
        return Draws(
            *(uniforms(f"quality.{name}", query, sample) for name in ("answer", "wrong", "guess", "convergence"))
        )

    def _pair(self, query: int, sample: int) -> tuple[float, float]:
        """(answer, wrong) of the `draws` of one generation."""
        key = (sample, query // QUERIES)
        chunk = self._pairs.get(key)
        if chunk is None:
            numbers = np.arange(QUERIES) + key[1] * QUERIES
            parts = (
                self._streams.uniforms(f"quality.{name}", numbers, sample).tolist() for name in ("answer", "wrong")
            )
            chunk = _keep(self._pairs, key, list(zip(*parts, strict=True)))
        return chunk[query % QUERIES]

    def easiness_of(self, query: int, prompt: int) -> float:
        """`easiness` of one query."""
        own = prompt < 0
        which = query if own else prompt
        key = (own, which // QUERIES)
        chunk = self._easiness.get(key)
        if chunk is None:
            numbers = np.arange(QUERIES) + key[1] * QUERIES
            found = self.easiness(numbers, np.full(QUERIES, NO_PROMPT) if own else numbers)
            chunk = _keep(self._easiness, key, found.tolist())
        return chunk[which % QUERIES]

    # ------------------------------------------------------------------ answers

    def answers(
        self,
        *,
        query: Int64Array,
        sample: Int64Array,
        prompt: Int64Array,
        pool: Int64Array,
        category: Int64Array,
        reasoning: Int64Array,
        natural: Int64Array,
        answered: npt.NDArray[np.bool_],
        efforts: Sequence[float] | None = None,
    ) -> Int64Array:
        """Labels of many generations at once: *reasoning* tokens were generated of *natural* ones, and
        *answered* says whether an answer came to its end; *efforts* are lengths by category over the natural ones.
        """
        labels = np.full(len(query), NONE, np.int64)
        keys = pool * 65536 + category
        for key in np.unique(keys[answered]):
            rows = np.flatnonzero(answered & (keys == key))
            known = self.law(int(key) // 65536, int(key) % 65536)
            found = self.draws(query[rows], sample[rows])
            effort = efforts[int(key) % 65536] if efforts is not None else 1.0
            chance = known.chance(self.easiness(query[rows], prompt[rows]), effort)
            kept = self._kept[int(key) // 65536]
            if kept is not None:
                chance = chance * np.array([kept(tokens) for tokens in natural[rows].tolist()])
            settled = reasoning[rows] >= np.where(
                reasoning[rows] < natural[rows],
                beta_quantile(known.convergence, known.convergence_concentration, found.convergence) * natural[rows],
                0.0,
            )
            right = np.where(settled, found.answer < chance, found.guess < known.guess)
            wrong = 1 + np.floor(found.wrong * known.wrong_answers).astype(np.int64)
            labels[rows] = np.where(right, RIGHT, wrong)
        return labels

    def answer(
        self,
        *,
        query: int,
        sample: int,
        prompt: int,
        pool: int,
        category: int,
        reasoning: int,
        natural: int,
        answered: bool = True,
        effort: float = 1.0,
    ) -> int:
        """`answers` of one generation; *effort* is its length over the natural one."""
        if not answered:
            return NONE
        known = self.law(pool, category)
        answer, wrong = self._pair(query, sample)
        guess: float | None = None
        if reasoning < natural and reasoning < natural * self._settles(
            known, query, sample
        ):  # cut before it had settled
            guess = self._uniforms.of("quality.guess", query, sample)
        if guess is None:
            kept = self._kept[pool]
            left = kept(natural) if kept is not None else 1.0
            right = answer < self._chance(known, query, prompt, effort) * left
        else:
            right = guess < known.guess
        return RIGHT if right else 1 + int(wrong * known.wrong_answers)

    def step(
        self,
        *,
        query: int,
        sample: int,
        prompt: int,
        pool: int,
        category: int,
        share: float,
        right: bool,
        natural: int = 0,
    ) -> int:
        """Label of a solution that was *right* so far and goes on by a *share* of its whole, *natural* tokens.

        A step keeps a right solution right with probability p^share, so that a whole path is right with p;
        what has gone wrong stays wrong.
        """
        known = self.law(pool, category)
        answer, wrong = self._pair(query, sample)
        kept = self._kept[pool]
        left = kept(natural) if kept is not None else 1.0
        if right and answer < (self._chance(known, query, prompt, 1.0) * left) ** share:
            return RIGHT
        return 1 + int(wrong * known.wrong_answers)

    def settles_after(self, query: int, sample: int, pool: int, category: int) -> float:
        """Share of its chain after which a generation has settled on its answer."""
        return self._settles(self.law(pool, category), query, sample)

    def score(self, query: int, sample: int, label: int, discrimination: float) -> float:
        """What a verifier says: standard normal, *discrimination* higher where the answer is right."""
        if label == NONE:
            return -math.inf
        z = self._normals.of("quality.score", query, sample)
        return z + (discrimination if label == RIGHT else 0.0)

    def alternatives(self, pool: int, category: int) -> int:
        """Number of labels, the right one included."""
        return self.law(pool, category).wrong_answers + 1

    def own(self, query: int) -> tuple[float, float]:
        """(coin, mask): two uniforms that every query has, for ties and to hide which answer is right."""
        chunk = self._own.get(query // QUERIES)
        if chunk is None:
            numbers = np.arange(QUERIES) + query // QUERIES * QUERIES
            coin, mask = (self._streams.uniforms(f"quality.{name}", numbers).tolist() for name in ("coin", "mask"))
            chunk = _keep(self._own, query // QUERIES, list(zip(coin, mask, strict=True)))
        return chunk[query % QUERIES]

    def uniform(self, name: str, query: int, step: int = 0) -> float:
        """A draw for a decision about a query: a classifier's, a probe's."""
        return self._uniforms.of(f"quality.{name}", query, 0, step)

    def normal(self, name: str, query: int, step: int = 0) -> float:
        """`uniform` through the normal quantiles."""
        return self._normals.of(f"quality.{name}", query, 0, step)

    def _settles(self, known: AnswerLaw, query: int, sample: int) -> float:
        key = (id(known), sample, query // QUERIES)
        chunk = self._shares.get(key)
        if chunk is None:
            numbers = np.arange(QUERIES) + key[2] * QUERIES
            found = self._streams.uniforms("quality.convergence", numbers, sample)
            shares = beta_quantile(known.convergence, known.convergence_concentration, found)
            chunk = _keep(self._shares, key, shares.tolist())
        return chunk[query % QUERIES]

    def _chance(self, known: AnswerLaw, query: int, prompt: int, effort: float) -> float:
        if known.concentration is None:
            return known.mean(effort)
        own = prompt < 0
        which = query if own else prompt
        key = (id(known), effort, own, which // QUERIES)
        chunk = self._chances.get(key)
        if chunk is None:
            self.easiness_of(query, prompt)
            found = known.chance(np.array(self._easiness[own, which // QUERIES]), effort)
            chunk = _keep(self._chances, key, found.tolist())
        return chunk[which % QUERIES]


def _keep(chunks: dict[K, V], key: K, chunk: V) -> V:
    """Put *chunk* among the kept ones; the oldest goes when there are too many."""
    if len(chunks) >= CHUNKS:
        del chunks[next(iter(chunks))]
    chunks[key] = chunk
    return chunk


def check(spec: QualitySpec, pools: Mapping[str, str], verifiers: Sequence[str], categories: Sequence[str]) -> None:
    """Raise an InputError when a figure is missing: *pools* says the model of each."""
    Judge(
        spec,
        Streams(0),
        pools=list(pools.items()),
        categories=categories,
        generating=[name not in verifiers for name in pools],
    )
