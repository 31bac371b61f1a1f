"""A solution grown step by step, its partial paths scored by a process reward model."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from sim.policies.reasoning import (
    Answer,
    Branch,
    Call,
    Generate,
    Outcome,
    Parallel,
    QueryView,
    Run,
    Samples,
    Strategy,
    Verify,
)
from sim.policies.strategies import strategy
from sim.scenario.policy import TokenCount

Search = Generator[Call, Any, Outcome | None]


@dataclass
class _Node:
    outcome: Outcome
    score: float
    depth: int
    parent: _Node | None = None
    visits: int = 1
    value: float = 0.0
    children: list[_Node] = field(default_factory=list)


@strategy("tree_search")
@dataclass(frozen=True)
class TreeSearch(Strategy):
    """Beam search, or Monte Carlo tree search by upper confidence bounds, over steps of *step_tokens*.

    A step keeps a right solution right with probability p^(1/depth), so that a single path is right as often
    as a single answer; each new partial path is read by the reward model of *verifier_pool*. Branches share
    the KV cache of what they go on from. ``beam`` keeps the best *beam* of *beam* times *width* paths at each
    of *depth* steps; ``mcts`` expands *rounds* nodes by *width* steps each, chosen by score + *exploration*
    sqrt(ln visits of the parent / visits).
    """

    verifier_pool: str
    method: Literal["beam", "mcts"] = "beam"
    width: Samples = 4
    beam: Samples = 4
    depth: Samples = 4
    step_tokens: TokenCount = 512
    rounds: Samples = 16
    exploration: float = 1.0
    discrimination: float = 0.8
    pool: str | None = None

    judged: ClassVar[bool] = True
    looks_at_load: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("width", "beam", "depth", "step_tokens", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")

    def run(self, query: QueryView) -> Run:
        best = yield from (self._beam() if self.method == "beam" else self._mcts())
        return Answer(best)

    def _grow(self, after: Outcome | None, depth: int, first: int, count: int) -> tuple[Generate, ...]:
        branch = Branch(self.step_tokens, 1 / self.depth, after, last=depth == self.depth)
        return tuple(Generate(first + number, self.pool, branch=branch) for number in range(count))

    def _read(self, outcomes: list[Outcome]) -> Parallel:
        return Parallel(
            tuple(
                Verify(outcome, self.verifier_pool, with_reasoning=True, discrimination=self.discrimination)
                for outcome in outcomes
            )
        )

    def _beam(self) -> Search:
        made = 0
        kept: list[Outcome | None] = [None]
        best: Outcome | None = None
        for depth in range(1, self.depth + 1):
            calls: list[Generate] = []
            each = self.width * self.beam if depth == 1 else self.width
            for path in kept:
                calls += self._grow(path, depth, made, each)
                made += each
            grown = [o for o in (yield Parallel(tuple(calls))) if o.ok]
            if not grown:
                return best
            verdicts = yield self._read(grown)
            ranked = sorted(zip(grown, verdicts, strict=True), key=lambda pair: -_score(pair[1]))
            kept = [outcome for outcome, _ in ranked[: self.beam]]
            best = ranked[0][0]
        return best

    def _mcts(self) -> Search:
        made = 0
        top: list[_Node] = []
        for root_visits in range(self.rounds):
            node = self._select(top, root_visits)
            depth = node.depth + 1 if node else 1
            calls = self._grow(node.outcome if node else None, depth, made, self.width)
            made += self.width
            grown = [o for o in (yield Parallel(calls)) if o.ok]
            if not grown:
                break
            verdicts = yield self._read(grown)
            fresh = [
                _Node(outcome, _score(verdict), depth, node, value=_score(verdict))
                for outcome, verdict in zip(grown, verdicts, strict=True)
            ]
            (node.children if node else top).extend(fresh)
            gain = max(leaf.score for leaf in fresh)
            while node is not None:
                node.visits += 1
                node.value = max(node.value, gain)
                node = node.parent
        leaves = [node for node in _walk(top) if node.depth == self.depth]
        leaves = leaves or list(_walk(top))
        return max(leaves, key=lambda leaf: leaf.score).outcome if leaves else None

    def _select(self, top: list[_Node], root_visits: int) -> _Node | None:
        """The node to expand: down the tree by upper confidence, to one without children; None: the prompt, where
        nothing is left below."""
        node, siblings, visits = None, top, max(root_visits, 1)
        while siblings:
            open_nodes = [each for each in siblings if self._open(each)]
            if not open_nodes:
                return None
            node = max(open_nodes, key=lambda each: self._bound(each, visits))
            siblings, visits = node.children, node.visits
        return node

    def _open(self, node: _Node) -> bool:
        """There is something to expand at or below *node*."""
        return node.depth < self.depth and (not node.children or any(self._open(child) for child in node.children))

    def _bound(self, node: _Node, visits: int) -> float:
        return node.value + self.exploration * math.sqrt(math.log(visits + 1) / node.visits)


def _score(verdict: Outcome) -> float:
    return verdict.score if verdict.ok and verdict.score is not None else -math.inf


def _walk(nodes: list[_Node]) -> list[_Node]:
    found = []
    for node in nodes:
        found += [node, *_walk(node.children)]
    return found
