"""Fairness between clients by virtual token counters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import ceil, floor
from operator import attrgetter
from typing import ClassVar

from sim.engine.request import Request
from sim.engine.step import FOREVER, Step
from sim.engine.waiting import ClientQueue
from sim.policies.schedulers import scheduler

_client_of = attrgetter("client")


@dataclass
class _Books:
    """What each client was served, in whole tokens: so what it is charged does not depend on when that was summed up."""

    prompts: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, int] = field(default_factory=dict)
    """Of requests that do not run."""
    lifts: dict[int, float] = field(default_factory=dict)
    ran: dict[Request, None] = field(default_factory=dict)
    """Who ran when the clients were charged last, or was admitted since."""
    ran_of: dict[int, dict[Request, None]] | None = None
    """The same by client; None until somebody asks."""
    left: dict[Request, int] = field(default_factory=dict)
    """Output counted of those that were preempted and wait."""
    last: int | None = None
    """The client that left the queue last."""


@scheduler("vtc")
@dataclass(frozen=True)
class Vtc:
    """Virtual token counter (Sheng et al., OSDI 2024): each client is charged for the tokens served to it,
    prompts when they enter, outputs as they come, and the next request admitted is the first of the client
    charged least. A client that comes back is lifted to the least counter of those that wait, so that idling
    saves up nothing. Clients that always have work are served alike within a bound; nobody is preempted for
    it."""

    prompt_weight: float = 1.0
    output_weight: float = 2.0
    queues_by_client: ClassVar[bool] = True
    serves_all_when_nobody_waits: ClassVar[bool] = True
    serves_all_then_admits_firsts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.prompt_weight < 0 or self.output_weight < 0:
            raise ValueError("prompt_weight and output_weight must be at least 0")

    def schedule(self, step: Step) -> None:
        books: _Books = step.memory.get("books") or step.memory.setdefault("books", _Books())
        step.serve_running()
        waiting = step.waiting
        if not waiting:
            step.hold = FOREVER
            return
        assert isinstance(waiting, ClientQueue)
        if waiting.come_back:
            self._lift(step, books, waiting)
        if step.preempted:
            return
        firsts = step.firsts()
        # where only one client waits nobody asks who was charged what
        counters = self._charge(step, books) if len(firsts) > 1 else defaultdict(float)
        while firsts and step.budget > 0 and step.seats > 0:
            if len(firsts) > 1:
                client = min([(counters[each], each) for each in firsts])[1]
            else:
                (client,) = firsts
            request = firsts[client]
            if not step.admit(request):
                if len(firsts) > 1:
                    self._hold(step, counters, client, firsts)
                elif step.stays_refused(request):
                    step.hold = FOREVER
                # who joins behind others of his client changes nothing, unless none of them can be looked at yet
                step.wake_on_arrival = len(firsts) < len(waiting.clients())
                return
            self._note(books, client, request)
            if counters:
                counters[client] += self.prompt_weight * request.prompt_tokens
            following = step.first_of(client)
            if following is None:
                del firsts[client]
                books.last = client
            else:
                firsts[client] = following
        if not firsts or step.seats <= 0:
            step.hold = FOREVER

    def note_admission(self, step: Step, request: Request) -> None:
        """*request*, the only one that waits, is about to be admitted unasked, all others have been served."""
        books: _Books = step.memory.get("books") or step.memory.setdefault("books", _Books())
        waiting = step.waiting
        assert isinstance(waiting, ClientQueue)
        if len(books.ran) > 2 * len(step.running) + 16:
            self._settle(step, books)
        if waiting.come_back:
            self._lift(step, books, waiting)
        self._note(books, request.client, request)
        books.last = request.client

    @staticmethod
    def _note(books: _Books, client: int, request: Request) -> None:
        if client not in books.prompts:
            books.prompts[client] = books.outputs[client] = 0
        books.prompts[client] += request.prompt_tokens
        books.outputs[client] -= books.left.pop(request, 0)
        books.ran[request] = None
        if books.ran_of is not None:
            books.ran_of.setdefault(client, {})[request] = None

    @staticmethod
    def _settle(step: Step, books: _Books) -> None:
        """Take note of the output of those that do not run any more."""
        totals = books.outputs
        for request in books.ran:
            if request.finished_ps >= 0:
                totals[request.client] += request.known - request.prompt_tokens + request.probe_tokens
            elif not request.running:
                books.left[request] = generated = step.generated(request)
                totals[request.client] += generated
        books.ran = dict.fromkeys(step.running)
        books.ran_of = None

    def _charge(self, step: Step, books: _Books, to_come: Mapping[int, int] | None = None) -> defaultdict[int, float]:
        """What each client is charged by now, and for tokens *to_come*."""
        if books.ran.keys() != step.running:
            self._settle(step, books)
        totals, running_now = books.outputs, step.generated_by_client()
        for client, tokens in (to_come or {}).items():
            running_now[client] += tokens
        by_prompt, by_output = self.prompt_weight, self.output_weight
        counters: defaultdict[int, float] = defaultdict(float, books.lifts)
        for client, prompts in books.prompts.items():
            counters[client] += by_prompt * prompts + by_output * (totals[client] + running_now.get(client, 0))
        return counters

    def _lift(self, step: Step, books: _Books, waiting: ClientQueue) -> None:
        """Clients that have come back are lifted: to the least counter of those that have waited, or where nobody has, to that
        of the client that left the queue last."""
        back = waiting.come_back
        if len(back) < len(waiting.clients()):
            counters = self._charge(step, books)
            least = min([counters[client] for client in waiting.clients() if client not in back])
        elif books.last is None:
            counters, least = defaultdict(float), 0.0
        else:
            counters = self._charge_some(step, books, {*back, books.last})
            least = counters[books.last]
        for client in back:
            missing = least - counters[client]
            if missing > 0:
                books.lifts[client] = books.lifts.get(client, 0.0) + missing
        back.clear()

    def _charge_some(self, step: Step, books: _Books, clients: set[int]) -> defaultdict[int, float]:
        """What `_charge` says of *clients*."""
        # NOTE: without looking at the requests of others, for performance reasons: asked when a request comes to an empty queue
        generated = step.generated
        if (ran_of := books.ran_of) is None:
            ran_of = books.ran_of = {}
            for request in books.ran:
                ran_of.setdefault(request.client, {})[request] = None
        counters: defaultdict[int, float] = defaultdict(float)
        for client in clients:
            tokens = 0
            for request in ran_of.get(client, ()):
                if request.finished_ps >= 0:
                    tokens += request.known - request.prompt_tokens + request.probe_tokens
                else:
                    tokens += generated(request)
            if client in books.prompts:
                counters[client] = books.lifts.get(client, 0.0) + (
                    self.prompt_weight * books.prompts[client] + self.output_weight * (books.outputs[client] + tokens)
                )
            elif client in books.lifts:
                counters[client] = books.lifts[client]
        return counters

    def say_who_is_next(self, step: Step) -> int:
        """All that run are about to decode: say for how long which client is the one charged least after it; return for how many
        steps it surely is while all merely decode, 0 when nobody can be looked at."""
        firsts = step.firsts()
        if not firsts:
            return 0
        rate, books = Counter(map(_client_of, step.running)), step.memory["books"]
        counters = self._charge(step, books, rate)
        client = min([(counters[each], each) for each in firsts])[1]
        self._promise(step, counters, rate, client)
        return self._until_passed(counters, rate, client, firsts)

    def _promise(self, step: Step, counters: dict[int, float], rate: Counter[int], client: int) -> None:
        # Whatever becomes of the others, they are not charged less than now, but for a token of each in flight that may be
        # dropped; and this one is charged for a token a step of each at most, and one more for a prefill.
        mine, weight = rate[client], self.output_weight
        flying = weight if step.settings.async_scheduling else 0.0
        assert isinstance(step.waiting, ClientQueue)
        queued = step.waiting.clients()
        others = [
            charged - flying * rate[other]
            for other, charged in counters.items()
            if other != client and (other in rate or other in queued)
        ]
        gap = min(others, default=0.0) - counters[client] - (weight * mine if step.work else 0.0)
        step.next_client = client
        if gap <= 0:
            step.next_until = -1
        else:  # a hair less, since weights need not be whole
            step.next_until = step.number + ceil(gap / (weight * mine) - 1e-6) - 1 if weight * mine > 0 else FOREVER

    def _until_passed(self, counters: dict[int, float], rate: Counter[int], client: int, firsts: Iterable[int]) -> int:
        """For how many steps *client* stays the one charged least, while all that run decode."""
        weight, own, mine = self.output_weight, counters[client], rate[client]
        if weight <= 0:
            return FOREVER
        gaps = [(counters[other] - own) / (weight * (mine - rate[other])) for other in firsts if rate[other] < mine]
        return max(1, floor(min(gaps))) if gaps else FOREVER

    def _hold(self, step: Step, counters: dict[int, float], client: int, firsts: dict[int, Request]) -> None:
        """The first of *client* was refused: say for how many steps that client stays the one charged least."""
        rate = Counter(map(_client_of, step.running))
        if not step.settings.speculation:
            self._promise(step, counters, rate, client)
        if not step.work and step.stays_refused(firsts[client]):
            # Those whose first would be refused as well do not matter.
            able = [
                other for other, request in firsts.items() if rate[other] < rate[client] and not step.stays_out(request)
            ]
            step.hold = self._until_passed(counters, rate, client, able)
