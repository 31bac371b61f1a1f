"""Requests from queries: their numbers, whose words they share, and once more when one is sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sim.cluster.clock import Clock
from sim.engine.request import Request
from workloads.source import QuerySource, words_recur

if TYPE_CHECKING:
    from sim.cluster.dispatch import Predictor
    from sim.cluster.gateway import Tally


class RequestMaker:
    """Makes the requests of one run; *tally* counts them, and their numbers follow from it.

    *deadlines_ps* has the time-to-answer target by category code, None where nobody looks at deadlines.
    """

    def __init__(
        self,
        clock: Clock,
        source: QuerySource,
        tally: Tally,
        predict: Predictor | None,
        deadlines_ps: Sequence[int | None] | None,
    ) -> None:
        self._clock = clock
        self._tally = tally
        self._predict = predict
        self._deadlines_ps = deadlines_ps
        self._shares_words = words_recur(source)
        self._parents: dict[int, Request] = {}
        self.prompts: dict[int, int] | None = None
        """By query, which prompt it shares with others; None: nobody asks."""
        self.turns: dict[int, int] = {}
        """Request of the turn before, by request of a later turn."""

    def key(self, prompt: int, group: int) -> Any:
        """Key of the words that a query of *prompt* and prefix *group* shares with others; None: it shares none."""
        if prompt >= 0 and self._shares_words:
            return "prompt", prompt
        return group if group >= 0 else None

    def make(
        self, row: tuple[int, ...], sample: int, reasoning: int, answer: int, max_tokens: int, role: int = 0
    ) -> Request:
        """A request of the query in *row*, whose output would be *reasoning* + *answer* tokens."""
        (
            query,
            _,
            prompt_tokens,
            _,
            priority,
            category,
            client,
            session,
            prompt,
            group,
            prefix_len,
            parent,
            _,
            _,
        ) = row
        key = self.key(prompt, group)
        if prompt >= 0 and self.prompts is not None:
            self.prompts[query] = prompt
        if prompt >= 0 and self._shares_words:
            prefix_len = prompt_tokens
        number = self._tally.requests
        self._tally.requests = number + 1
        request = Request(
            number,
            arrived_ps=self._clock.now_ps,
            prompt_tokens=prompt_tokens,
            output_tokens=reasoning + answer,
            reasoning_tokens=reasoning,
            max_tokens=max_tokens,
            query=query,
            sample=sample,
            role=role,
            priority=priority,
            category=category,
            client=client,
            session=session,
            prefix_group=key,
            prefix_len=prefix_len,
        )
        if parent >= 0:
            before = request.parent = self._parents.get(parent)
            if before is not None:
                self.turns[number] = before.id
                if before.session == session >= 0:
                    del self._parents[parent]  # the next turn goes on from this one
        if session >= 0 or parent >= 0:
            self._parents[query] = request
        deadlines_ps = self._deadlines_ps
        if deadlines_ps is not None and (target_ps := deadlines_ps[category]) is not None:
            request.deadline_ps = request.arrived_ps + target_ps
        if self._predict is not None:
            request.predicted_tokens = self._predict(request)
        return request

    def copy(self, request: Request) -> Request:
        """*request* once more, with a number of its own; for the client it has arrived when the first one
        did.
        """
        number = self._tally.requests
        self._tally.requests = number + 1
        again = Request(
            number,
            arrived_ps=request.arrived_ps,
            prompt_tokens=request.prompt_tokens,
            output_tokens=request.output_tokens,
            reasoning_tokens=request.reasoning_tokens,
            max_tokens=request.max_tokens,
            query=request.query,
            sample=request.sample,
            role=request.role,
            priority=request.priority,
            category=request.category,
            client=request.client,
            session=request.session,
            prefix_group=request.prefix_group,
            prefix_len=request.prefix_len,
        )
        if request.looks is not None:
            again.looks = request.looks.again()
            left_out = (again.looks.count - request.looks.granted) * again.looks.tokens
            again.output_tokens += left_out
            again.reasoning_tokens += left_out
        again.deadline_ps = request.deadline_ps
        again.predicted_tokens = request.predicted_tokens
        return again
