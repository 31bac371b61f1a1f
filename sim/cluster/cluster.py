"""One replication: a source of queries, replicas in pools, a gateway before them, and a clock around them
all.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sim.cluster.clock import Clock
from sim.cluster.dispatch import Predictor
from sim.cluster.failures import Failures, Mishaps
from sim.cluster.fleet import Fleet
from sim.cluster.gateway import Gateway, GatewaySettings, Tally
from sim.cluster.handover import DecodeShell, Handover, Link
from sim.cluster.judged import Judged
from sim.cluster.plain import PlainQueries
from sim.cluster.rollout import RolloutSettings
from sim.cluster.scaling import Controller, Scaling
from sim.cluster.shell import Engine, Shell
from sim.cluster.trace_cache import TraceCache
from sim.cluster.window import Measure, Window
from sim.policies.overload import Admission
from sim.policies.reasoning import Strategy
from sim.policies.routing import ReplicaInfo, Router
from sim.results.sinks import RequestSink, RowSink
from sim.rng import Streams
from workloads.source import QuerySource

if TYPE_CHECKING:
    from calibration.step_cost import StepCost


@dataclass(frozen=True)
class Outcome:
    """What one replication leaves behind, times in picoseconds from its start."""

    window_start_ps: int
    window_end_ps: int
    end_ps: int
    drained: bool
    """Every measured query has ended."""
    requests: RequestSink
    queries: RowSink
    tally: Tally
    on_ps: list[int]
    """Time that each replica's GPUs were paid for within the window."""
    on_run_ps: list[int]
    """The same over the whole run."""
    crashes: int
    fleet: Fleet | None = None
    """Who came and went; None: nobody could."""


class Cluster:
    """Everything of one replication; `run` it once.

    *replicas* come in the order of their ``info.index``, pool after pool. *progress* is called now and then
    with the present time in picoseconds and the number of queries done. *link* is needed where pools prefill
    for others, with the bytes of a KV block of each pool.
    """

    def __init__(
        self,
        *,
        source: QuerySource,
        replicas: Sequence[tuple[ReplicaInfo, Engine]],
        strategy: Strategy,
        router: Router,
        streams: Streams,
        measure: Measure | None = None,
        settings: GatewaySettings | None = None,
        predictor: Predictor | None = None,
        admission: Admission | None = None,
        progress: Callable[[int, int], None] | None = None,
        makers: Sequence[Callable[[], Engine]] | None = None,
        off: Sequence[int] = (),
        failures: Failures | None = None,
        scalings: Sequence[Scaling] = (),
        lost: Callable[[int, int], None] | None = None,
        judged: Judged | None = None,
        traces: TraceCache | None = None,
        rollout: RolloutSettings | None = None,
        costs: Callable[[int, float], StepCost] | None = None,
        link: Link | None = None,
        block_bytes: Sequence[int] = (),
    ) -> None:
        self._progress = progress
        self.measure = measure or Measure()
        self.predicts = predictor is not None
        self.clock = Clock(self._pulse if progress is not None else None)
        self.gateway = Gateway(
            self.clock,
            source,
            strategy=strategy,
            router=router,
            window=Window(self.measure),
            streams=streams,
            settings=settings,
            predictor=predictor,
            admission=admission,
            judged=judged,
            traces=traces,
            rollout=rollout,
        )
        handover = None
        if link is not None:
            handover = self.gateway.dispatch.handover = Handover(
                self.clock,
                self.gateway,
                link=link,
                block_bytes=block_bytes,
                choose=router.begin(streams.generator("router.decode")),
            )
        self.shells = [self._shell(info, engine, handover) for info, engine in replicas]
        assert [shell.info.index for shell in self.shells] == list(range(len(self.shells)))
        self._streams = streams
        self._makers = makers
        self._off = off
        self._failures = failures
        self._scalings = scalings
        self._costs = costs
        self._lost = lost
        self.fleet: Fleet | None = None
        self.controllers: list[Controller] = []

    def _shell(self, info: ReplicaInfo, engine: Engine, handover: Handover | None) -> Shell:
        if handover is not None and info.role == "decode":
            shell = DecodeShell(self.clock, engine, info, self.gateway.ended)
            shell.handover = handover
            return shell
        if handover is not None and info.role == "prefill":
            return Shell(self.clock, engine, info, handover.leg_ended)
        return Shell(self.clock, engine, info, self.gateway.ended)

    def _govern(self) -> None:
        """Let replicas come and go, where something makes them."""
        if self._makers is None:
            assert self._failures is None, "engines that can be lost need makers"
            assert not self._scalings, "engines that come and go need makers"
            return
        fleet = self.fleet = Fleet(self.clock, self.gateway, self.shells, self._makers, self._off)
        fleet.lost = self._lost
        self.gateway.dispatch.membership_changed()
        if self._failures is not None:
            self.gateway.retries.max_retries = self._failures.max_retries
            Mishaps(self.clock, fleet, self._failures, self._streams, self._costs).start()
        for number, scaling in enumerate(self._scalings):
            controller = Controller(self.clock, self.gateway, fleet, scaling, number)
            self.controllers.append(controller)
            controller.start()

    def run(self) -> Outcome:
        """Run to the end of the window and its drain, or until nothing comes any more."""
        self.gateway.start(self.shells)
        self._govern()
        self._run()
        self.gateway.finish()
        if self.fleet is not None:
            self.fleet.finish()
        return self.outcome(self.clock.now_ps, drained=self.gateway.window.open == 0)

    def run_with_others(self, meet: Callable[[int, int], int]) -> tuple[int, bool, bool]:
        """The same beside others: *meet* is told when this share was over, as `Gateway.own_end` says it, and returns when the
        whole run is. Return what `Gateway.came` says in the end."""
        gateway = self.gateway
        gateway.start(self.shells)
        self._run()
        gateway.go_on_to(meet(*gateway.own_end()))
        self._run()
        came = gateway.came()
        gateway.finish()
        return came

    def _run(self) -> None:
        thresholds = gc.get_threshold()
        gc.set_threshold(500_000, *thresholds[1:])  # requests that wait are no garbage: look for it rarely
        try:
            self.clock.run()
        finally:
            gc.set_threshold(*thresholds)

    def outcome(self, end_ps: int, *, drained: bool) -> Outcome:
        """What there is, now that the run is over since *end_ps*."""
        gateway = self.gateway
        window = gateway.window
        queries = gateway.queries
        if queries is None:
            queries = PlainQueries(gateway.requests, gateway.patience.given_up_ps)
        return Outcome(
            window_start_ps=window.start_ps,
            window_end_ps=window.end_ps,
            end_ps=end_ps,
            drained=drained,
            requests=gateway.requests,
            queries=queries,
            tally=gateway.tally,
            on_ps=[self._on_ps(shell, window.start_ps, window.end_ps) for shell in self.shells],
            on_run_ps=[self._on_ps(shell, 0, end_ps) for shell in self.shells],
            crashes=self.fleet.crashes if self.fleet is not None else 0,
            fleet=self.fleet,
        )

    @property
    def comes_and_goes(self) -> bool:
        """Whether replicas may come and go."""
        return self._makers is not None

    def on_progress(self, progress: Callable[[int, int], None]) -> None:
        """Call *progress* from now on, as the class says."""
        self._progress = progress
        self.clock.pulse(self._pulse)

    def report(self, now_ps: int, queries_done: int) -> None:
        """Somebody else, who runs this cluster's replicas, has come so far."""
        if self._progress is not None:
            self._progress(now_ps, queries_done)

    def _on_ps(self, shell: Shell, start_ps: int, end_ps: int) -> int:
        if self.fleet is None:
            return end_ps - start_ps
        return self.fleet.on_ps(shell.info.index, start_ps, end_ps)

    def _pulse(self) -> None:
        assert self._progress is not None
        self._progress(self.clock.now_ps, self.gateway.tally.queries_done)
