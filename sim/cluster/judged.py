"""The quality model within a run: how long each call's output is, what it answers, whether queries end right.

The strategies' driver asks it; the rules themselves are in `workloads.quality.judge`. What a strategy is
told of an answer is a label under a mask of the query's own: equal numbers are equal answers, and no number
says which answer is right.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.engine.request import Looks, Request
from sim.policies.reasoning import Classify, Confidence, Generate, Outcome, Probes, Verify
from sim.results.columns import Role, Status
from sim.results.sinks import IntArray
from workloads.quality.judge import NONE, RIGHT, Judge

if TYPE_CHECKING:
    from sim.policies.memory import KvPolicy
    from sim.policies.reasoning import Strategy
    from sim.rng import Streams
    from workloads.quality.spec import QualitySpec
    from workloads.source import QuerySource

MASK_BITS = 20
COMPLETED = int(Status.COMPLETED)


@dataclass
class Exits:
    """What probes did, over all generations of a run that were probed, as they were planned."""

    generations: int = 0
    probes: int = 0
    left: int = 0
    """Generations that a probe ended."""
    false: int = 0
    """Of these, those that had not settled."""
    wanted_tokens: int = 0
    """Reasoning without probes, budgets included."""
    thought_tokens: int = 0
    """Reasoning with them, what the probes themselves decoded left out."""

    def add(self, *, wanted: int, thought: int, probes: int, left: bool, settled: bool) -> None:
        """One generation more."""
        self.generations += 1
        self.probes += probes
        self.left += left
        self.false += left and not settled
        self.wanted_tokens += wanted
        self.thought_tokens += thought


class Judged:
    """Of one run; ``correct`` says of each query that ended with an answer whether it is right, ``prompts``
    which prompt it shares with others.
    """

    def __init__(self, judge: Judge, pools: Sequence[str], generating: Sequence[bool]) -> None:
        self.judge = judge
        self.correct: dict[int, bool] = {}
        self.prompts: dict[int, int] = {}
        self.exits = Exits()
        self.keeps_probes = [False] * len(pools)
        """By pool: its engine cannot roll back (KV compression, drafts)."""
        self._index: dict[str | None, int] = {name: place for place, name in enumerate(pools)}
        self._scales = [
            lengths.reasoning_scale != 1.0 or lengths.answer_scale != 1.0 or lengths.latent is not None
            for lengths in judge.lengths
        ]
        self.talks_alike = not any(self._scales)
        """Natural lengths hold for the models of all pools."""
        makers = [place for place, makes in enumerate(generating) if makes]
        self.only = makers[0] if len(makers) == 1 else None

    def pool(self, name: str | None) -> int | None:
        """Number of the pool that a call goes to; None: that is for the router to say."""
        return self.only if name is None else self._index[name]

    def coin(self, query: int) -> float:
        """A fair draw of the query's own."""
        return self.judge.own(query)[0]

    def scaled(self, pool: str | None, reasoning: int, answer: int) -> tuple[int, int]:
        """Natural lengths for the model of *pool*."""
        place = self.only if pool is None else self._index[pool]
        if place is None:
            return reasoning, answer
        if not self._scales[place]:
            return reasoning, answer if reasoning else max(answer, 1)
        lengths = self.judge.lengths[place]
        if lengths.reasoning_scale != 1.0:
            reasoning = round(reasoning * lengths.reasoning_scale)
        if lengths.answer_scale != 1.0:
            answer = round(answer * lengths.answer_scale)
        if lengths.latent is not None:
            reasoning = lengths.latent.steps(reasoning)
        return reasoning, answer if reasoning else max(answer, 1)

    def without_kv(self, pool: str | None, reasoning: int) -> Looks | None:
        """Which of *reasoning* steps leave no KV, where the model of *pool* reasons in latent steps at one position."""
        place = self.only if pool is None else self._index[pool]
        if place is None or not self._scales[place]:
            return None
        latent = self.judge.lengths[place].latent
        if latent is None or latent.keeps_kv or reasoning < 2:
            return None
        return Looks(first=1, every=0, tokens=1, count=reasoning - 1)

    def rolls_back(self, pool: str | None) -> bool:
        """Whether tokens of probes are rolled back where a call goes to; else they stay in the context."""
        place = self.pool(pool)
        return not any(self.keeps_probes) if place is None else not self.keeps_probes[place]

    def looks_hard(self, query: int, hard_share: float, sensitivity: float, specificity: float) -> bool:
        """Whether a classifier takes *query* for one of the hardest *hard_share*."""
        judge = self.judge
        hard = judge.easiness_of(query, self.prompts.get(query, -1)) < hard_share
        u = judge.uniform("classifier", query)
        return u < sensitivity if hard else u >= specificity

    def begin(self, row: tuple[int, ...]) -> QueryJudge:
        """What is known of the query in *row*."""
        if row[8] >= 0:
            self.prompts[row[0]] = row[8]
        return QueryJudge(self, row)


class QueryJudge:
    """Of one query: the requests made, and what each came to."""

    __slots__ = ("_asked", "_judge", "_labels", "_mask", "_plans", "_run", "coin", "made", "row")

    def __init__(self, run: Judged, row: tuple[int, ...]) -> None:
        self._run = run
        self._judge = run.judge
        self.row = row
        self.made: dict[int, Request] = {}
        self._labels: dict[int, int] = {}
        self._asked: dict[int, tuple[Generate, int, int]] = {}  # by paused request: call, natural and wanted reasoning
        self._plans: dict[int, tuple[int, int, bool]] = {}  # by call: thought, natural, answers
        self.coin, mask = run.judge.own(row[0])
        self._mask = int(mask * (1 << MASK_BITS))

    def lengths(
        self, call: Generate, reasoning: int, answer: int, misled: float = 1.0
    ) -> tuple[int, int, bool, int, Looks | None]:
        """(reasoning, answer, cut by a limit, further prompt tokens, tokens to be rolled back) of *call*, whose natural
        lengths these are; the tokens to be rolled back are reasoning too. Below 1 *misled* is the share of its chain
        after which the trace of another problem makes it answer.
        """
        run, row = self._run, self.row
        talks_alike = run.talks_alike and (call.pool is not None or run.only is not None)
        if not talks_alike:
            reasoning, answer = run.scaled(call.pool, reasoning, answer)
        elif not reasoning and answer < 1:
            answer = 1
        # NOTE: what follows, for a call without any of these options, in one for performance reasons
        if (
            call.thinking_token_budget is None
            and call.probes is None
            and call.branch is None
            and not call.reads
            and call.effort == misled == 1.0
        ):
            self._plans[id(call)] = (reasoning, reasoning, True)
            return reasoning, answer, False, 0, None if talks_alike else run.without_kv(call.pool, reasoning)
        if call.effort != 1.0:
            reasoning = round(reasoning * call.effort)
        natural = thought = reasoning
        if misled != 1.0:
            thought = round(natural * misled)
        read = sum(outcome.answer_tokens for outcome in call.reads)
        branch = call.branch
        if branch is not None:
            if branch.after is not None:
                before = self.made[branch.after.request]
                read += before.prompt_tokens + before.generated - row[2]
            self._plans[id(call)] = (branch.tokens, branch.tokens, True)
            return branch.tokens, answer if branch.last else 0, False, read, None
        budget = call.thinking_token_budget
        cut = budget is not None and thought > budget
        if cut and budget is not None:
            thought = budget
        brings = not cut or call.forced_answer
        cut = cut and not call.leaves
        looks: Looks | None = None
        probed = 0
        if call.probes is not None:
            wanted, (thought, taken, left) = thought, self._exit(call, natural, thought)
            cut, brings = cut and not left, brings or left
            every, tokens = call.probes.every_tokens, call.probes.probe_tokens
            if tokens and taken and run.rolls_back(call.pool):
                looks = Looks(first=every, every=every, tokens=tokens, count=taken)
            probed = int(taken) * tokens
            settled = thought >= natural * self._settles(call)
            run.exits.add(wanted=wanted, thought=thought, probes=taken, left=left, settled=settled)
        self._plans[id(call)] = (thought, natural, brings)
        if looks is None:
            looks = run.without_kv(call.pool, thought)
        reasoning = thought + probed
        return reasoning, answer if brings else 0, cut, read, looks

    def _exit(self, call: Generate, natural: int, thought: int) -> tuple[int, int, bool]:
        """(tokens thought, looks taken, left early) under the probes of *call*."""
        probes = call.probes
        assert probes is not None
        every, look = probes.every_tokens, self._look(probes, call, natural)
        if look * every < thought:
            return int(look * every), int(look), True
        return thought, max(thought - 1, 0) // every, False

    def _look(self, probes: Probes, call: Generate, natural: int) -> float:
        """Which look says that the chain has settled."""
        query = self.row[0]
        settled = max(1, math.ceil(self._settles(call) * natural / probes.every_tokens))
        wrong = 1 + _failures(self._judge.uniform("probe.false", query, call.sample), probes.false_exit)
        if wrong < settled:
            return wrong
        return settled + _failures(self._judge.uniform("probe.hit", query, call.sample), probes.hit)

    def _settles(self, call: Generate) -> float:
        """Share of its chain after which the generation has settled on its answer."""
        pool = self._run.pool(call.pool)
        return self._judge.settles_after(self.row[0], call.sample, 0 if pool is None else pool, self.row[5])

    def ended(self, request: Request, call: Generate | Verify, generated: int) -> tuple[int | None, float | None]:
        """(answer, score) of a request that has ended with so many tokens *generated*, as the strategy is told them."""
        if request.status != COMPLETED:
            return None, None
        judge, row = self._judge, self.row
        if isinstance(call, Verify):
            if call.settled is not None:
                return None, self._verdict(call, call.settled)
            label = self._labels.get(call.outcome.request, NONE)
            return None, judge.score(row[0], call.outcome.sample, label, call.discrimination)
        branch = call.branch
        if branch is not None:
            after = branch.after
            right = after is None or self._labels.get(after.request, NONE) == RIGHT
            whole = generated >= request.output_tokens
            natural = self._run.scaled(None, row[12], row[13])[0]
            label = (
                judge.step(
                    query=row[0],
                    sample=call.sample,
                    prompt=row[8],
                    category=row[5],
                    pool=request.pool,
                    share=branch.share,
                    right=right,
                    natural=natural,
                )
                if whole
                else NONE
            )
        else:
            thought, natural, brings = self._plans[id(call)]
            if call.pause_tokens is not None:
                self._asked[request.id] = call, natural, thought
            label = judge.answer(
                query=row[0],
                sample=call.sample,
                prompt=row[8],
                category=row[5],
                pool=request.pool,
                reasoning=thought,
                natural=natural,
                answered=brings and generated >= request.output_tokens,
                effort=call.effort,
            )
            if call.reads and label != NONE:
                label = self._merged(call, label)
        self._labels[request.id] = label
        return (label ^ self._mask if label != NONE else None), None

    def _verdict(self, call: Verify, probes: Probes) -> float:
        """1 where a verifier that has read the chain up to the end of that outcome says that it has settled, else 0."""
        request = self.made[call.outcome.request]
        if request.id not in self._asked:
            return 1.0  # its chain is over
        asked, natural, wanted = self._asked[request.id]
        thought = request.prompt_tokens - self.row[2] + request.generated
        look, taken = self._look(probes, asked, natural), thought // probes.every_tokens
        exits, leaves = self._run.exits, look * probes.every_tokens < wanted
        if taken == 1:
            exits.add(
                wanted=wanted,
                thought=int(look * probes.every_tokens) if leaves else wanted,
                probes=0,
                left=leaves,
                settled=not leaves or look * probes.every_tokens >= natural * self._settles(asked),
            )
        exits.probes += 1
        return float(taken >= look)

    def _merged(self, call: Generate, own: int) -> int:
        votes = Counter(self._labels.get(outcome.request, NONE) for outcome in call.reads)
        del votes[NONE]
        if not votes:
            return own
        most = max(votes.values())
        first = sorted(label for label, count in votes.items() if count == most)
        if own in first:
            return own
        return first[int(self._run.coin(self.row[0]) * len(first))]

    def tell(self, call: Confidence | Classify) -> Any:
        """What a call that takes no time comes to."""
        judge, query = self._judge, self.row[0]
        if isinstance(call, Classify):
            return self._run.looks_hard(query, call.hard_share, call.sensitivity, call.specificity)
        label = self._labels.get(call.outcome.request, NONE)
        noise = judge.normal("confidence", query, call.outcome.sample)
        score = -math.inf if label == NONE else noise + (call.discrimination if label == RIGHT else 0.0)
        of = call.outcome
        return tuple.__new__(Outcome, (*of[:8], score, of.paused))

    def right(self, outcome: Outcome) -> bool:
        """Is this the right answer?"""
        return self._labels.get(outcome.request, NONE) == RIGHT


def _failures(u: float, chance: float) -> float:
    """Failures before the first success of that *chance*, at the quantile *u*."""
    if chance >= 1.0:
        return 0
    if chance <= 0.0:
        return math.inf
    return math.floor(math.log(u) / math.log1p(-chance))


def judge_plain(
    judged: Judged, source: QuerySource, rows: Mapping[str, IntArray], strategy: Strategy
) -> dict[int, bool]:
    """Which queries of a plain *strategy* were answered right, from the rows of their requests."""
    from workloads.source import BLOCK

    asked = rows["query"]
    natural = np.zeros(len(asked), np.int64)
    prompt = np.full(len(asked), -1, np.int64)
    for index in np.unique(asked // BLOCK):
        block = source.block(int(index))
        assert block is not None
        mine = asked // BLOCK == index
        natural[mine] = block.num_reasoning_tokens[asked[mine] - block.first]
        prompt[mine] = block.prompt[asked[mine] - block.first]
    shared = prompt >= 0
    judged.prompts.update(zip(asked[shared].tolist(), prompt[shared].tolist(), strict=True))
    done = (rows["status"] == Status.COMPLETED) & (rows["role"] == Role.GENERATE)
    rows = {name: column[done] for name, column in rows.items()}
    query, natural, prompt = rows["query"], natural[done], prompt[done]
    if judged.only is not None:
        lengths = judged.judge.lengths[judged.only]
        if lengths.reasoning_scale != 1.0:
            natural = np.rint(natural * lengths.reasoning_scale).astype(np.int64)
        if lengths.latent is not None:
            natural = np.ceil(natural / lengths.latent.tokens_per_step).astype(np.int64)
    forced, efforts = strategy.forces_answer(), [strategy.length(category) for category in source.categories]
    longer = np.array(efforts)[rows["category"]]
    if (longer != 1.0).any():
        natural = np.where(longer != 1.0, np.rint(natural * longer), natural).astype(np.int64)
    whole = rows["generated"] >= rows["output_tokens"]
    reasoning = np.minimum(rows["generated"], rows["reasoning_tokens"])
    labels = judged.judge.answers(
        query=query,
        sample=rows["sample"],
        prompt=prompt,
        pool=rows["pool"],
        category=rows["category"],
        reasoning=reasoning,
        natural=natural,
        answered=whole & (forced | (rows["reasoning_tokens"] >= natural)),
        efforts=efforts,
    )
    return dict(zip(query.tolist(), (labels == RIGHT).tolist(), strict=True))


def make(
    spec: QualitySpec,
    streams: Streams,
    pools: Sequence[tuple[str, str, str]],
    categories: Sequence[str],
    kv: Sequence[KvPolicy | None] = (),
) -> Judged:
    """From the scenario's section; *pools* are (name, model, role), *kv* how each keeps its KV memory."""
    generating = [role in ("generate", "decode") for _, _, role in pools]
    judge = Judge(
        spec,
        streams,
        pools=[(name, model) for name, model, _ in pools],
        categories=categories,
        generating=generating,
        kept=[policy.left_of_accuracy if policy is not None else None for policy in kv] or None,
    )
    for place, policy in enumerate(kv):
        if policy is not None and policy.lengthens != 1.0:
            lengths = judge.lengths[place]
            longer = lengths.reasoning_scale * policy.lengthens
            judge.lengths[place] = lengths.model_copy(update={"reasoning_scale": longer})
    return Judged(judge, [name for name, _, _ in pools], generating)
