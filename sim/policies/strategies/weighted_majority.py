"""Several answers, each read by a verifier; equal answers add up their weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.policies.reasoning import Answer, QueryView, Run
from sim.policies.strategies import strategy
from sim.policies.strategies.best_of_n import BestOfN, scores
from sim.policies.strategies.majority_vote import plurality


@strategy("weighted_majority")
@dataclass(frozen=True)
class WeightedMajority(BestOfN):
    """As ``best_of_n``, but the answer with the largest sum of exp(score * discrimination) wins.

    That is the likelihood ratio of a right against a wrong answer, up to a constant: with a useless verifier
    it is majority voting, with an ideal one best of N.
    """

    def run(self, query: QueryView) -> Run:
        scored = yield from scores(self, query)
        if math.isinf(self.discrimination):
            best = max(scored, key=lambda pair: pair[1], default=(None, 0.0))
            return Answer(best[0])
        known = [score for _, score in scored if math.isfinite(score)]
        top = max(known, default=0.0)
        weights = [math.exp(self.discrimination * (s - top)) if math.isfinite(s) else 0.0 for _, s in scored]
        return Answer(plurality([outcome for outcome, _ in scored], query.coin, weights))
