"""Strategies driven by hand, without a cluster: what they ask for, and what they make of the outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sim.policies.reasoning import Classify, Confidence, Generate, Outcome, Parallel, QueryView, Verify
from sim.policies.strategies import strategy


def query(**changes: Any) -> QueryView:
    values = {"id": 0, "category": "coding", "client": "c", "prompt_tokens": 100, "max_tokens": -1, "priority": 0}
    return QueryView(**{**values, **changes})


class Hands:
    """Answers a strategy's calls: *score* says what a verifier or a confidence comes to, *label* what is answered."""

    def __init__(
        self,
        label: Callable[[Generate], int] = lambda call: 0,
        score: Callable[[Outcome], float] = lambda outcome: 0.0,
        hard: bool = False,
        failing: Callable[[Generate], bool] = lambda call: False,
    ) -> None:
        self.calls: list[Any] = []
        self.label, self.score, self.hard, self.failing = label, score, hard, failing
        self.rounds: list[list[Any]] = []
        self._number = 0

    def run(self, how: Any, asked: QueryView | None = None) -> Outcome | None:
        generator = how.run(asked or query())
        value: Any = None
        while True:
            try:
                call = generator.send(value)
            except StopIteration as stop:
                return stop.value.outcome
            if isinstance(call, Parallel):
                self.rounds.append(list(call.calls))
                value = [self._one(each) for each in call.calls]
            else:
                self.rounds.append([call])
                value = self._one(call)

    def _one(self, call: Any) -> Any:
        self.calls.append(call)
        if isinstance(call, Classify):
            return self.hard
        outcome = call.outcome if isinstance(call, Verify | Confidence) else None
        self._number += 1
        if outcome is not None:
            return Outcome(self._number, outcome.sample, "completed", 0, 1, False, 0.0, None, self.score(outcome))
        status = "failed" if self.failing(call) else "completed"
        return Outcome(self._number, call.sample, status, 10, 5, False, 0.0, self.label(call))

    def of(self, kind: type) -> list[Any]:
        return [call for call in self.calls if isinstance(call, kind)]


def make(name: str, **options: Any) -> Any:
    return strategy.make(name, options)


def test_a_budget_follows_load():
    how = make("effort", level=1.0, thinking_token_budget=8000, budget_at_full_load=2000)
    budgets = []
    for load in (0.0, 0.25, 0.5, 1.0, 3.0):
        hands = Hands()
        hands.run(how, query(load=load))
        budgets.append(hands.calls[0].thinking_token_budget)
    assert budgets == [8000, 6500, 5000, 2000, 2000]


def test_effort_levels_by_category():
    how = make("effort", level={"coding": "high", "default": "low"})
    lengths = []
    for category in ("coding", "proof"):
        hands = Hands()
        hands.run(how, query(category=category))
        lengths.append(hands.calls[0].effort)
    assert lengths == [1.79, 0.53]


def test_a_cascade_escalates_below_its_threshold_only():
    for confidence, pools in ((0.6, ["small"]), (0.4, ["small", "large"])):
        hands = Hands(score=lambda outcome, c=confidence: c)
        answer = hands.run(make("cascade", first_pool="small", then_pool="large", threshold=0.5))
        assert [call.pool for call in hands.of(Generate)] == pools
        assert answer is not None
        assert answer.sample == len(pools) - 1
    hands = Hands(failing=lambda call: call.pool == "large")
    answer = hands.run(make("cascade", first_pool="small", then_pool="large", threshold=9.0))
    assert answer is not None
    assert answer.sample == 0  # better than none


def test_routing_gives_each_its_pool_and_budget():
    how = {"easy_pool": "small", "hard_pool": "large", "easy_budget": 500, "hard_budget": 9000}
    for hard, wanted in ((False, ("small", 500)), (True, ("large", 9000))):
        hands = Hands(hard=hard)
        hands.run(make("difficulty_routing", **how))
        call = hands.of(Generate)[0]
        assert (call.pool, call.thinking_token_budget) == wanted


def test_best_of_n_takes_the_best_score_and_weighted_majority_adds_them():
    scores = {0: 1.0, 1: 0.9, 2: 0.9}
    labels = {0: 7, 1: 5, 2: 5}
    hands = Hands(lambda call: labels[call.sample], lambda outcome: scores[outcome.sample])
    best = hands.run(make("best_of_n", samples=3, verifier_pool="v", discrimination=0.5))
    added = hands.run(make("weighted_majority", samples=3, verifier_pool="v", discrimination=0.5))
    assert best is not None
    assert added is not None
    assert (best.answer, added.answer) == (7, 5)
    assert not any(call.with_reasoning for call in Hands().of(Verify))


@pytest.mark.parametrize(("reads", "with_reasoning"), [("orm", False), ("prm", True)])
def test_an_outcome_model_reads_the_answer_and_a_process_model_the_chain(reads, with_reasoning):
    hands = Hands()
    hands.run(make("best_of_n", samples=2, verifier_pool="v", reads=reads))
    assert [call.with_reasoning for call in hands.of(Verify)] == [with_reasoning] * 2


def test_a_beam_keeps_the_best_paths_and_grows_them():
    hands = Hands(score=lambda outcome: -float(outcome.sample % 7))
    how = make("tree_search", verifier_pool="v", width=2, beam=3, depth=3, step_tokens=64)
    hands.run(how)
    grown = [calls for calls in hands.rounds if isinstance(calls[0], Generate)]
    read = [calls for calls in hands.rounds if isinstance(calls[0], Verify)]
    assert [len(calls) for calls in grown] == [6, 6, 6] == [len(calls) for calls in read]
    for before, after in zip(read, grown[1:], strict=False):
        best = sorted((v.outcome for v in before), key=lambda o: o.sample % 7)[:3]
        assert {call.branch.after.request for call in after} == {outcome.request for outcome in best}
    assert [calls[0].branch.last for calls in grown] == [False, False, True]
    assert all(call.branch.share == pytest.approx(1 / 3) for calls in grown for call in calls)


def tree_of(hands: Hands) -> dict[int, int]:
    """How often each path (by request, 0: the prompt) was expanded."""
    expanded: dict[int, int] = {}
    for calls in hands.rounds:
        if isinstance(calls[0], Generate):
            after = calls[0].branch.after
            key = 0 if after is None else after.request
            expanded[key] = expanded.get(key, 0) + 1
    return expanded


def test_a_tree_search_explores_by_upper_confidence():
    """Greedy it goes down the best first step and stays there; with exploration all first steps are tried."""
    best_first = {0: 1.0, 1: 0.8, 2: 0.6}

    def score(outcome: Outcome) -> float:
        return best_first.get(outcome.sample, 0.9)

    firsts = {}
    for exploration in (0.0, 50.0):
        hands = Hands(score=score)
        how = make("tree_search", method="mcts", verifier_pool="v", width=3, depth=3, rounds=5, exploration=exploration)
        hands.run(how)
        after = [calls[0].branch.after for calls in hands.rounds if isinstance(calls[0], Generate)]
        firsts[exploration] = {o.sample for o in after if o is not None and o.sample in best_first}
    assert firsts[0.0] == {0}
    assert firsts[50.0] == {0, 1, 2}


def test_no_path_of_a_tree_is_expanded_twice_while_others_are_open():
    """2 + 4 inner nodes of a binary tree of depth 3 and the prompt: seven expansions, then the prompt again."""
    hands = Hands(score=lambda outcome: math.sin(outcome.sample))
    how = make("tree_search", method="mcts", verifier_pool="v", width=2, depth=3, rounds=8, exploration=1.0)
    hands.run(how)
    expanded = tree_of(hands)
    assert expanded[0] == 2
    assert sorted(count for key, count in expanded.items() if key) == [1] * 6


def test_a_tree_answers_with_its_best_complete_path():
    made = make("tree_search", method="mcts", verifier_pool="v", width=2, depth=2, rounds=3)
    hands = Hands(score=lambda outcome: float(outcome.sample))
    answer = hands.run(made)
    last = [call.sample for call in hands.of(Generate) if call.branch.last]
    assert answer is not None
    assert answer.sample == max(last)


def test_a_merge_reads_what_was_answered():
    hands = Hands(failing=lambda call: call.sample == 1)
    hands.run(make("parallel_merge", samples=3, effort=0.5, merge_effort=0.2))
    first, merge = hands.rounds
    assert [call.effort for call in first] == [0.5] * 3
    assert [outcome.sample for outcome in merge[0].reads] == [0, 2]
    assert merge[0].effort == 0.2


def test_a_group_pauses_and_goes_on_where_it_was():
    class Segments(Hands):
        def _one(self, call: Any) -> Any:
            from sim.policies.reasoning import NextStep

            self.calls.append(call)
            if isinstance(call, NextStep):
                return None
            left = 250 - call.made_tokens
            made = min(left, call.pause_tokens)
            return Outcome(1, call.sample, "completed", made, 0, made < left, 0.0, None, None, made < left)

    hands = Segments()
    hands.run(make("group", samples=2, segment_tokens=100))
    assert [[call.made_tokens for call in calls] for calls in hands.rounds if isinstance(calls[0], Generate)] == [
        [0, 0], [100, 100], [200, 200],
    ]  # fmt: skip
    assert np.sum([type(call).__name__ == "NextStep" for call in hands.calls]) == 2
