"""One run in several processes: each serves some of the replicas, and the results are those of one process, byte for byte.

That needs a router that looks at nothing of the replicas, and nobody else who does (`hindrance`). Then the replicas do not know
of each other: every process goes through all arrivals, asks the router about each, and serves those that go to its own replicas.
Only the end is shared: a run ends when its last measured query is answered, wherever that is. So each process runs to its own
end, says when that was, and goes on to the latest of these moments, as its replicas would have beside the others.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from sim.cluster.arrivals import Arrival, arrivals
from sim.cluster.cluster import Cluster, Outcome
from sim.cluster.window import FOREVER, Measure, Window
from sim.engine.request import Request
from sim.errors import InputError, Problem
from sim.results.sinks import SegmentSink
from workloads.source import has_turns

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

    from sim.policies.routing import RoutedRequest, View

PROGRESS_EVERY_S = 0.25


def available() -> bool:
    """Whether processes can be forked here."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def hindrance(cluster: Cluster) -> str | None:
    """Why *cluster* cannot be split over processes; None: it can."""
    gateway, settings = cluster.gateway, cluster.gateway.settings
    dispatch = gateway.dispatch
    reasons = {
        "processes cannot be forked on this system": not available(),
        "there is one replica": len(cluster.shells) < 2,
        "its router looks at the replicas": dispatch.router.needs() != "nothing",
        "its strategy reacts to answers": not gateway.strategy.plain,
        "answers are kept in a trace cache": gateway.traces is not None,
        "a quality model is asked": gateway.judged is not None,
        "a length predictor is asked": cluster.predicts,
        "turns of conversations wait for answers": has_turns(gateway.source),
        "arrivals wait for answers": gateway.rollout is not None or gateway.source.closed_loop is not None,
        "admission control looks at the replicas": dispatch.admits,
        "clients come again": settings.backoff is not None,
        "prefill and decode are apart": dispatch.handover is not None,
        "replicas come and go": cluster.comes_and_goes,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def run(cluster: Cluster, sinks: Sequence[SegmentSink], workers: int) -> Outcome:
    """What ``cluster.run()`` does, in *workers* processes at most; *sinks* are those of its replicas.

    Raise an InputError where it cannot be split.
    """
    reason = hindrance(cluster)
    if reason is not None:
        raise InputError(
            Problem(
                f"this run cannot be split over processes: {reason}",
                key="--workers",
                expected="no --workers, or several replicas and a router that looks at nothing (round_robin, random …)",
            )
        )
    measure = _known(cluster.measure, cluster)
    cluster.gateway.window = Window(measure)
    team = [_Member(cluster, sinks, number, min(workers, len(sinks))) for number in range(min(workers, len(sinks)))]
    try:
        for member in team:
            member.start(team)
        ends = _collect(team, cluster)
        over_ps = max(end.over_ps for end in ends)
        end_ps = over_ps if over_ps < FOREVER else max(end.done_ps for end in ends)
        for member in team:
            member.pipe.send(end_ps)
        parts = _collect(team, cluster)
    finally:
        for member in team:
            member.end()
    return _merged(cluster, sinks, parts, end_ps)


def _known(measure: Measure, cluster: Cluster) -> Measure:
    """*measure* in times: where it counts queries, these are counted now."""
    if measure.warmup_queries is None and measure.queries is None:
        return measure
    window = Window(measure)
    for row in arrivals(cluster.gateway.source):
        window.arrived(row[1])
        if window.start_ps < FOREVER and (measure.queries is None or window.end_ps < FOREVER):
            break
    duration_ps = window.end_ps - window.start_ps if window.end_ps < FOREVER else None
    return replace(measure, warmup_ps=window.start_ps, warmup_queries=None, duration_ps=duration_ps, queries=None)


@dataclass
class _End:
    """When a process came to the end of its own share, in picoseconds; ``FOREVER``: not before the others allow it."""

    over_ps: int
    """All its queries have come and are answered, before the window closed."""
    done_ps: int
    """The window is closed, and all its measured queries are answered."""


@dataclass
class _Part:
    """What one process leaves behind."""

    requests: bytearray
    sinks: dict[int, Any]
    queries: int
    queries_done: int
    rejections: dict[int, str]
    given_up_ps: dict[int, int]
    last_arrival_ps: int
    closed: bool
    all_came: bool
    drained: bool


@dataclass
class _Share:
    """Which arrivals are whose: every *of*-th replica is this process's own, from *number* on."""

    cluster: Cluster
    number: int
    of: int
    going: dict[int, int] = field(default_factory=dict)
    """Replica by query, until it is sent there."""

    def mine(self, index: int) -> bool:
        """Whether replica *index* is served here."""
        return index % self.of == self.number

    def rows(self) -> Iterator[tuple[int, ...]]:
        """The arrivals of this process; the router is asked about all."""
        gateway = self.cluster.gateway
        choose = gateway.dispatch.take_over(self._foreseen)
        tally, before = gateway.tally, 0
        for row in arrivals(gateway.source):
            index = self._routed(row, choose)
            if self.mine(index):
                self.going[row[0]] = index
                # The next row is asked for while the one before is served: as in one process, its request has its query's number
                tally.requests = before
                before = row[0]
                yield row
        tally.requests = before

    def _foreseen(self, view: View, request: RoutedRequest) -> int:
        return self.going.pop(request.query)

    def _routed(self, row: tuple[int, ...], choose: Any) -> int:
        arrival = Arrival(*row)
        assert arrival.parent < 0, "the source must say that it has turns"
        gateway = self.cluster.gateway
        request = Request(
            arrival.query,
            arrived_ps=arrival.arrived_ps,
            prompt_tokens=arrival.prompt_tokens,
            output_tokens=arrival.reasoning_tokens + arrival.answer_tokens,
            reasoning_tokens=arrival.reasoning_tokens,
            max_tokens=arrival.max_tokens,
            query=arrival.query,
            priority=arrival.priority,
            category=arrival.category,
            client=arrival.client,
            session=arrival.session,
            prefix_group=gateway.maker.key(arrival.prompt, arrival.prefix_group),
        )
        view = gateway.dispatch.live
        view.candidates = candidates = gateway.dispatch.candidates
        index: int = choose(view, request)
        shells = self.cluster.shells
        if shells[index].engine.never_fits(request) is not None:
            fits = tuple(other for other in candidates if shells[other].engine.never_fits(request) is None)
            if fits:
                view.candidates = fits
                index = choose(view, request)
        return index


class _Member:
    """One process, and its pipe."""

    process: ForkProcess

    def __init__(self, cluster: Cluster, sinks: Sequence[SegmentSink], number: int, of: int) -> None:
        self._share = _Share(cluster, number, of)
        self._sinks = sinks
        self.pipe, self._theirs = multiprocessing.Pipe()

    def start(self, team: Sequence[_Member]) -> None:
        """Fork it."""
        context = multiprocessing.get_context("fork")
        others = [member.pipe for member in team]
        self.process = context.Process(
            target=_serve, args=(self._share, self._sinks, self._theirs, others), daemon=True
        )
        with warnings.catch_warnings():
            # Python 3.12 warns of every fork beside threads: those of numpy and pyarrow know how to begin anew
            warnings.simplefilter("ignore", DeprecationWarning)
            self.process.start()
        self._theirs.close()

    def end(self) -> None:
        """Now; what it was at is lost."""
        self.pipe.close()
        if self.__dict__.get("process") is not None:
            self.process.terminate()
            self.process.join()


def _collect(team: Sequence[_Member], cluster: Cluster) -> list[Any]:
    """One answer of each; meanwhile progress is passed on."""
    answers: dict[Connection, Any] = {}
    progress = {member.pipe: (0, 0) for member in team}
    while len(answers) < len(team):
        for pipe in wait([member.pipe for member in team if member.pipe not in answers]):
            assert isinstance(pipe, Connection)
            try:
                said = pipe.recv()
            except EOFError:
                raise RuntimeError("a process that served some of the replicas was ended from outside") from None
            if isinstance(said, BaseException):
                raise said
            if isinstance(said, tuple):
                progress[pipe] = said
                cluster.report(
                    min(now_ps for now_ps, _ in progress.values()), sum(done for _, done in progress.values())
                )
            else:
                answers[pipe] = said
    return [answers[member.pipe] for member in team]


def _serve(share: _Share, sinks: Sequence[SegmentSink], pipe: Connection, others: Sequence[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that asked decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # inherited; while they are open here, the pipes would not close with the process that asked
        other.close()
    try:
        pipe.send(_part(share, sinks, pipe))
    except (EOFError, BrokenPipeError):
        return  # nobody waits any more
    except Exception as error:
        pipe.send(error)


def _part(share: _Share, sinks: Sequence[SegmentSink], pipe: Connection) -> _Part:
    cluster, told_s = share.cluster, [0.0]

    def report(now_ps: int, queries_done: int) -> None:
        now_s = time.monotonic()
        if now_s >= told_s[0]:
            told_s[0] = now_s + PROGRESS_EVERY_S
            pipe.send((now_ps, queries_done))

    def meet(over_ps: int, done_ps: int) -> int:
        pipe.send(_End(over_ps, done_ps))
        end_ps: int = pipe.recv()
        return end_ps

    cluster.on_progress(report)
    gateway = cluster.gateway
    gateway.serve(share.rows())
    last_ps, closed, all_came = cluster.run_with_others(meet)
    return _Part(
        requests=gateway.requests.packed(),
        sinks={place: sink.packed() for place, sink in enumerate(sinks) if share.mine(place)},
        queries=gateway.tally.queries,
        queries_done=gateway.tally.queries_done,
        rejections=gateway.tally.rejections,
        given_up_ps=gateway.patience.given_up_ps,
        last_arrival_ps=last_ps,
        closed=closed,
        all_came=all_came,
        drained=gateway.window.open == 0,
    )


def _merged(cluster: Cluster, sinks: Sequence[SegmentSink], parts: Sequence[_Part], end_ps: int) -> Outcome:
    """What *parts* are together, written into *cluster* and *sinks* as if they had run here."""
    gateway = cluster.gateway
    tally = gateway.tally
    for part in parts:
        gateway.requests.add_packed(part.requests)
        for place, packed in part.sinks.items():
            sinks[place].restore(packed)
        tally.queries += part.queries
        tally.queries_done += part.queries_done
        tally.rejections |= part.rejections
        gateway.patience.given_up_ps |= part.given_up_ps
    tally.requests = tally.queries
    tally.rejections = dict(sorted(tally.rejections.items())[:5])
    gateway.trim_window(
        max(part.last_arrival_ps for part in parts),
        closed=parts[0].closed,
        all_came=all(part.all_came for part in parts),
    )
    return cluster.outcome(end_ps, drained=all(part.drained for part in parts))
