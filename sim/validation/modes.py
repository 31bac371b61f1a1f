"""Does the fast mode of the engine give what stepping gives? Runs one case in both, and names what differs.

A case is settings, a step cost and a script: requests, cancels and probes, each some time after the one
before, or exactly when a step ends. The stepwise run turns the script into a timeline of fixed instants; the
fast run gets that timeline. Compared are every request's row, the requests' ends in order, every step with
its decisions, every segment expanded to steps, every stall, and what an outsider sees at each probe. A
policy that says it holds for longer than it does is found out here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from calibration.step_cost import StepCost
from sim.engine.replica import NoProgress, Replica, make_replica
from sim.engine.request import FAR_FUTURE, Looks, Request
from sim.engine.settings import EngineSettings
from sim.engine.step import Scheduler
from sim.engine.step_log import StepLog
from sim.results.columns import Status
from sim.results.growth import WIDTH, Run
from sim.results.sinks import REQUEST_ROW, SEGMENT_ROW, unpack_segment

ARRIVE, CANCEL, PROBE = "arrive", "cancel", "probe"


@dataclass(frozen=True)
class Cue:
    """One thing of a script: it happens *after_ps* later than the one before, or, *at_step_end*, when the
    first step ends from then on (at once when the engine is idle)."""

    after_ps: int
    kind: str
    request: int = -1
    at_step_end: bool = False


@dataclass(frozen=True)
class Case:
    """What to run: *requests* are keyword arguments of :class:`Request`, ``parent`` as an index, ``looks`` as those of
    :class:`Looks`."""

    settings: EngineSettings
    cost: StepCost
    requests: tuple[dict[str, Any], ...]
    script: tuple[Cue, ...]

    def make_requests(self) -> list[Request]:
        """Fresh request objects."""
        made: list[Request] = []
        for index, options in enumerate(self.requests):
            options = dict(options)
            if options.get("parent") is not None:
                options["parent"] = made[options["parent"]]
            looks = options.pop("looks", None)
            made.append(Request(index, arrived_ps=0, **options))
            if looks is not None:
                made[-1].looks = Looks(**looks)
        return made


Timeline = list[tuple[int, str, int]]
"""Things in order of time: (instant in ps, kind, request)."""


@dataclass
class Trace:
    """What one run left behind."""

    mode: str
    timeline: Timeline = field(default_factory=list)
    requests: list[tuple[Any, ...]] = field(default_factory=list)
    ends: list[tuple[int, int]] = field(default_factory=list)
    steps: list[tuple[Any, ...]] = field(default_factory=list)
    segments: list[tuple[int, ...]] = field(default_factory=list)
    stalls: list[tuple[int, int, int]] = field(default_factory=list)
    probes: list[tuple[Any, ...]] = field(default_factory=list)
    rows: int = 0
    """Segments written: far fewer than steps in the fast mode."""
    refused: int = 0
    seen: Counter[str] = field(default_factory=Counter)
    """How often each thing occurred that a test may want to be sure of."""
    endless: bool = False


class TraceSink:
    """Keeps segments, expanded to single steps, and stalls."""

    def __init__(self, trace: Trace, blocks: int) -> None:
        self.trace = trace
        self.blocks = blocks
        self.pattern = b""
        self.joined: list[tuple[int, int]] = []

    def join(self, joined: Sequence[tuple[int, int]]) -> None:
        """Keep who joins the queue behind the row that follows."""
        self.joined = list(joined)

    def write_pattern(self, pattern: Any) -> None:
        """Keep what the row that follows grows by."""
        self.pattern = bytes(pattern)

    def write(self, packed: bytes) -> None:
        """A packed run of like steps."""
        *row, at, length = unpack_segment(packed)
        takes, self.pattern = self.pattern, b""
        assert len(takes) == length * WIDTH
        self.add(tuple(row), takes, at)

    def add(
        self, row: tuple[int, ...], takes: bytes = b"", at: int = 0, unused: bytes = b"", window: bytes = b""
    ) -> None:
        """A run of like steps becomes single steps."""
        trace = self.trace
        trace.rows += 1
        named = dict(zip(SEGMENT_ROW, row, strict=True))
        # what is cached without a reference has a place beside what is held
        assert named["reserved_blocks"] + named["cached_blocks"] <= self.blocks, named
        steps, run = named["steps"], Run(takes, at, unused, window)
        joined, self.joined = self.joined, []
        waiting = named["waiting"]
        for index in range(steps):
            while joined and joined[0][0] <= index:
                waiting = joined.pop(0)[1]
            one = run.part(row, index, index + 1, self.blocks, waiting)
            trace.segments.append(one)
        part = dict(zip(SEGMENT_ROW, one, strict=True))
        assert part["reserved_blocks_last"] == named["reserved_blocks_last"]
        if steps > 1:
            trace.seen["runs"] += 1
            trace.seen["steps in runs"] += steps
        trace.seen["duplicate blocks"] += named["duplicate_blocks"]
        trace.seen["unused blocks"] += named["unused_blocks"]
        trace.seen["window blocks"] += named["window_blocks"]
        trace.seen["cached blocks"] += named["cached_blocks"]
        trace.seen["cached blocks evicted in runs"] += named["cached_blocks"] > part["cached_blocks"]

    add_reserved = add

    def stall(self, request: int, at_ps: int, gap_ps: int) -> None:
        """Keep the stall."""
        self.trace.stalls.append((request, at_ps, gap_ps))


def run(
    case: Case,
    scheduler: Callable[[], Scheduler],
    *,
    stepwise: bool,
    timeline: Timeline | None = None,
    most_steps: int = 200_000,
    watch: Callable[[Replica, Trace], None] | None = None,
    alone: bool = False,
) -> Trace:
    """Run *case* in one mode, after its script or, when given, a fixed *timeline*.

    *watch* is called after each instant. With *alone*, which needs a timeline, the engine is told how long nothing
    comes, and goes on alone; then no log of steps is kept, which would slow it down to them. A run that goes past
    *most_steps* is cut off and marked ``endless``.
    """
    trace = Trace("stepwise" if stepwise else "fast-forward")
    log = StepLog() if not alone else None
    sink = TraceSink(trace, case.settings.usable_blocks)
    replica = make_replica(case.settings, case.cost, scheduler(), stepwise=stepwise, segments=sink, log=log)
    requests = case.make_requests()
    player: _Script | _Fixed = _Script(case.script) if timeline is None else _Fixed(timeline)
    while True:
        end = replica.next_end_ps
        now = player.next_instant(end)
        if now is None:
            break
        touched = False
        while replica.next_end_ps == now:
            trace.ends += [(now, request.id) for request in replica.complete(now)]
            touched = True
        for kind, index in player.due(now, end == now):
            trace.timeline.append((now, kind, index))
            if kind == PROBE:
                trace.probes.append((now, replica.snapshot(now)))
                continue
            request = requests[index]
            trace.seen[f"{kind} at a step end"] += end == now
            touched = True
            if kind == CANCEL:
                if request.status == Status.UNFINISHED and request.owner is not None:
                    trace.seen[CANCEL] += 1
                    replica.cancel(request, now, Status.CANCELLED)
                continue
            request.arrived_ps = now
            if replica.never_fits(request) is None:
                replica.submit(request, now)
            else:
                trace.refused += 1
        if touched:
            try:
                replica.plan(now, player.quiet_until() if alone else 0)
            except NoProgress:
                trace.endless = True
                break
        if watch is not None:
            watch(replica, trace)
        if replica.batches > most_steps:
            trace.endless = True
            break
    _conclude(trace, log, requests)
    return trace


def _conclude(trace: Trace, log: StepLog | None, requests: list[Request]) -> None:
    read = attrgetter(*REQUEST_ROW)
    trace.requests = [(*read(request),) for request in requests]
    rows = log.rows if log is not None else []
    trace.steps = [tuple(value for name, value in vars(row).items() if name != "given_back") for row in rows]
    trace.segments.sort()
    trace.stalls.sort()
    seen = trace.seen
    for request in requests:
        seen["preemptions"] += request.preemptions
        seen["compressed requests"] += request.evicted > 0
        seen["truncated"] += request.truncated and request.status == Status.COMPLETED
        seen["dropped tokens"] += request.dropped_tokens
        seen["cached tokens"] += request.cached_tokens
        seen["host tokens"] += request.host_tokens
        seen["recomputed tokens"] += request.recomputed_tokens
        seen["completed"] += request.status == Status.COMPLETED
        seen["cancelled"] += request.status == Status.CANCELLED
        seen["unfinished"] += request.status == Status.UNFINISHED
        seen["answers begun"] += request.first_answer_ps >= 0 < request.reasoning_tokens
    yielded: Counter[int] = Counter()
    for row in rows:
        seen["preempting steps"] += bool(row.preempted)
        seen["several victims in a step"] += len(row.preempted) > 1
        for request_id, new in row.scheduled:
            if new > 1:
                yielded[request_id] += 1
        seen["mixed steps"] += row.n_tokens > len(row.scheduled) > 1
    seen["prompts in several chunks"] += sum(count > 1 for count in yielded.values())
    seen["stalls"] += len(trace.stalls)


class _Script:
    """Plays cues, resolving those that wait for the end of a step."""

    def __init__(self, script: Iterable[Cue]) -> None:
        self._cues = list(script)
        self._at = 0
        self._earliest = self._cues[0].after_ps if self._cues else 0

    def quiet_until(self) -> int:
        return 0  # some cues wait for a step to end, whichever comes first

    def next_instant(self, end_ps: int | None) -> int | None:
        if self._at == len(self._cues):
            return end_ps
        if end_ps is None:
            return self._earliest
        if self._cues[self._at].at_step_end:
            return end_ps
        return min(end_ps, self._earliest)

    def due(self, now_ps: int, step_ended: bool) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while self._at < len(self._cues) and self._earliest <= now_ps:
            cue = self._cues[self._at]
            found.append((cue.kind, cue.request))
            self._at += 1
            if self._at < len(self._cues):
                self._earliest = now_ps + self._cues[self._at].after_ps
                if self._cues[self._at].at_step_end and not step_ended:
                    self._earliest = max(self._earliest, now_ps + 1)  # one instant is played in one go
        return _in_order(found)


class _Fixed:
    """Plays a timeline."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._at = 0

    def quiet_until(self) -> int:
        return self._timeline[self._at][0] if self._at < len(self._timeline) else FAR_FUTURE

    def next_instant(self, end_ps: int | None) -> int | None:
        if self._at == len(self._timeline):
            return end_ps
        now = self._timeline[self._at][0]
        return now if end_ps is None or now < end_ps else end_ps

    def due(self, now_ps: int, step_ended: bool) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        while self._at < len(self._timeline) and self._timeline[self._at][0] == now_ps:
            found.append(self._timeline[self._at][1:])
            self._at += 1
        return found


def _in_order(found: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Within an instant: who looks, then cancels, then arrivals."""
    return sorted(found, key=lambda each: (PROBE, CANCEL, ARRIVE).index(each[0]))


def differences(a: Trace, b: Trace, *, most: int = 5, steps: bool = True) -> list[str]:
    """What differs between two runs of one case, in words; empty when they are equal. Without *steps* their logs of steps
    are left out, not what each step did as a row of the segments.
    """
    found: list[str] = []
    for name in ("steps", "requests", "ends", "segments", "stalls", "probes"):
        mine, yours = getattr(a, name), getattr(b, name)
        if mine == yours or (name == "steps" and not steps):
            continue
        for index in range(max(len(mine), len(yours))):
            x = mine[index] if index < len(mine) else None
            y = yours[index] if index < len(yours) else None
            if x != y:
                found.append(f"{name}[{index}]\n  {a.mode}: {x}\n  {b.mode}: {y}")
                break
    return found[:most]


def compare(
    case: Case,
    scheduler: Callable[[], Scheduler],
    *,
    most_steps: int = 200_000,
    watch: Callable[[Replica, Trace], None] | None = None,
) -> tuple[Trace, Trace, list[str]]:
    """Both runs of *case* and what differs; an endless case is not run in the fast mode.

    The fast mode is run twice: called at every end of a step or run, and left alone between arrivals and ends.
    """
    stepwise = run(case, scheduler, stepwise=True, most_steps=most_steps, watch=watch)
    if stepwise.endless:
        return stepwise, stepwise, []
    timeline = stepwise.timeline
    fast = run(case, scheduler, stepwise=False, timeline=timeline, most_steps=most_steps + 1, watch=watch)
    found = differences(stepwise, fast)
    if not found:
        alone = run(case, scheduler, stepwise=False, timeline=timeline, most_steps=most_steps + 1, alone=True)
        alone.mode = "fast-forward, left alone"
        found = differences(stepwise, alone, steps=False)
    return stepwise, fast, found
