"""Prefill and decode on different replicas: both modes alike, the closed form over an idle link, contention, and losses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from small_source import ListSource, Q
from test_gateway import FirstOf, query_rows, rows

from calibration.step_cost import StepCost
from sim.cluster.cluster import Cluster, Outcome
from sim.cluster.failures import Failures, Outage, RollingRestart
from sim.cluster.gateway import GatewaySettings
from sim.cluster.handover import Link
from sim.cluster.window import Measure
from sim.engine.replica import Replica, make_replica
from sim.engine.settings import EngineSettings
from sim.metrics.alone import alone_ps
from sim.policies import registry
from sim.policies.reasoning import Strategy
from sim.policies.routing import ReplicaInfo
from sim.policies.strategies.single import Single
from sim.results.columns import Role, Status
from sim.results.sinks import SegmentSink
from sim.rng import Streams
from sim.validation.modes import Trace, TraceSink

BLOCK = 4
COST = StepCost(40, (0, 7), 7, kv_ps=1, half_pair_ps=1)


class Recorder(SegmentSink):
    """Also keeps every step, runs of like steps expanded."""

    def __init__(self, *, pool: int, replica: int, blocks: int) -> None:
        super().__init__(pool=pool, replica=replica, blocks=blocks)
        self.trace = Trace("")
        self.steps = TraceSink(self.trace, blocks)
        rows, patterns = self.write, self.write_pattern
        self.write = lambda row: (rows(row), self.steps.write(row))
        self.write_pattern = lambda pattern: (patterns(pattern), self.steps.write_pattern(pattern))

    def join(self, joined: Sequence[tuple[int, int]]) -> None:
        super().join(joined)
        self.steps.join(joined)

    def add(self, row: tuple[int, ...], takes: bytes = b"", at: int = 0) -> None:
        super().add(row, takes, at)
        self.steps.add(row, takes, at)


@dataclass
class Rig:
    """A small cluster of prefill and decode replicas; one KV block is *block_bytes* long."""

    queries: list[Q]
    prefill: int = 1
    decode: int = 1
    cost: StepCost = COST
    link: Link = field(default_factory=lambda: Link(1e30))
    options: dict[str, Any] = field(default_factory=dict)
    decode_options: dict[str, Any] = field(default_factory=dict)
    strategy: Strategy = field(default_factory=Single)
    router: str = "round_robin"
    measure: Measure | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    failures: Failures | None = None
    block_bytes: int = 100
    stepwise: bool = False

    def run(self) -> tuple[Outcome, list[Recorder], Cluster]:
        """Run it; every block has gone back by the end of a run that ends by itself."""
        roles = ["prefill"] * self.prefill + ["decode"] * self.decode
        blocks = [self._settings(role).usable_blocks for role in roles]
        sinks = [
            Recorder(pool=int(role == "decode"), replica=roles[:i].count(role), blocks=blocks[i])
            for i, role in enumerate(roles)
        ]
        makers = [partial(self._engine, role, sink) for role, sink in zip(roles, sinks, strict=True)]
        infos = [
            ReplicaInfo(
                index=i,
                pool=role,
                pool_index=int(role == "decode"),
                replica=roles[:i].count(role),
                role=role,
                model="m",
                max_num_seqs=8,
            )
            for i, role in enumerate(roles)
        ]
        cluster = Cluster(
            source=ListSource(self.queries),
            replicas=[(info, make()) for info, make in zip(infos, makers, strict=True)],
            strategy=self.strategy,
            router=registry("router").make(self.router),
            streams=Streams(1),
            measure=self.measure,
            settings=GatewaySettings(**self.settings),
            link=self.link,
            block_bytes=[self.block_bytes] * 2,
            makers=makers if self.failures else None,
            failures=self.failures,
            costs=lambda index, factor: self.cost if factor == 1 else _slower(self.cost, factor),
            lost=lambda index, now_ps: sinks[index].lose(now_ps),
        )
        return cluster.run(), sinks, cluster

    def _settings(self, role: str) -> EngineSettings:
        options: dict[str, Any] = {
            "num_gpu_blocks": 10_000,
            "block_size": BLOCK,
            "max_model_len": 1000,
            "async_scheduling": False,
            "enable_prefix_caching": False,
            **self.options,
            **(self.decode_options if role == "decode" else {}),
        }
        return EngineSettings(**options)

    def _engine(self, role: str, sink: SegmentSink) -> Replica:
        scheduler = registry("scheduler").make("vllm")
        return make_replica(self._settings(role), self.cost, scheduler, stepwise=self.stepwise, segments=sink)


def _slower(cost: StepCost, factor: float) -> StepCost:
    """*cost* of whole picoseconds, *factor* (whole) times as long."""
    times = round(factor)
    return StepCost(
        cost.host_ps * times,
        tuple(value * times for value in cost.linear_ps),
        cost.linear_slope_ps * times,
        kv_ps=cost.kv_ps * times,
        half_pair_ps=cost.half_pair_ps * times,
    )


def legs(outcome: Outcome, role: Role) -> list[dict[str, int]]:
    return [row for row in rows(outcome) if row["role"] == role]


@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_infinite_link_is_the_analytic_composition(stepwise: bool, asynchronous: bool) -> None:
    """Alone, a request takes its prefill, the copy (a picosecond), one step for the last prompt token, and its decodes:
    what one engine takes for the prompt, and one engine for the rest with the prompt but its last token in place."""
    for prompt, output in ((1, 1), (2, 5), (37, 1), (100, 40), (131, 7)):
        queries = [Q(5, prompt=prompt, reasoning=0, answer=output)]
        options = {"async_scheduling": asynchronous, "max_num_batched_tokens": 64, "max_num_seqs": 8}
        outcome, _, _ = Rig(queries, options=options, stepwise=stepwise).run()
        (first,), (second,) = legs(outcome, Role.PREFILL), legs(outcome, Role.GENERATE)
        prefill_ps = int(alone_ps(COST, prompt, 1, 64))  # type: ignore[arg-type]
        decode_ps = sum(COST.decode_ps(1, context) for context in range(prompt - 1, prompt - 1 + output))
        assert first["finished_ps"] == 5 + prefill_ps
        assert second["kv_arrived_ps"] == first["finished_ps"] + 1
        assert second["first_token_ps"] == second["kv_arrived_ps"] + COST.decode_ps(1, prompt - 1)
        assert second["finished_ps"] == second["kv_arrived_ps"] + decode_ps
        assert second["transferred_tokens"] == prompt - 1
        assert (first["generated"], second["generated"]) == (0, output)


def test_the_link_serves_first_come_first_served_and_takes_blocks_over_bandwidth() -> None:
    """Three prompts finish together; their copies leave one after the other, and each has its latency on top."""
    queries = [Q(0, prompt=8, answer=3) for _ in range(3)]
    byte_ps, latency_ps = 10, 123
    link = Link(1e12 / byte_ps, latency_ps)
    outcome, _, cluster = Rig(queries, link=link).run()
    first, second = legs(outcome, Role.PREFILL), legs(outcome, Role.GENERATE)
    ready = first[0]["finished_ps"]
    assert {row["finished_ps"] for row in first} == {ready}
    copy_ps = 2 * 100 * byte_ps
    assert [row["kv_arrived_ps"] for row in second] == [ready + n * copy_ps + latency_ps for n in (1, 2, 3)]
    handover = cluster.gateway.dispatch.handover
    assert handover is not None
    assert (handover.transfers, handover.bytes_moved) == (3, 600)


def test_two_receivers_share_one_sender_and_two_senders_one_receiver() -> None:
    link = Link(1e12 / 10)
    for prefill, decode in ((1, 2), (2, 1)):
        queries = [Q(0, prompt=8, answer=300) for _ in range(2)]
        outcome, _, _ = Rig(queries, prefill=prefill, decode=decode, link=link).run()
        one, two = sorted(row["kv_arrived_ps"] for row in legs(outcome, Role.GENERATE))
        assert two - one == 2000  # neither end can do both at once
    outcome, _, _ = Rig([Q(0, prompt=8, answer=9) for _ in range(2)], prefill=2, decode=2, link=link).run()
    assert len({row["kv_arrived_ps"] for row in legs(outcome, Role.GENERATE)}) == 1


@pytest.mark.parametrize("stepwise", [False, True])
def test_copies_to_a_lost_replica_end_with_it_and_hold_no_link(stepwise: bool) -> None:
    """Copies of 2,000 ps: of queries 0 and 2 to decode replica 0, then of query 1 to replica 1, which is lost during the first.
    Query 1 is computed again, and its copy follows those of the others at once: that of before has let go of its turn."""
    queries = [Q(0, prompt=8, answer=300) for _ in range(3)]
    link = Link(1e12 / 10)
    before, _, _ = Rig(queries, decode=2, link=link, stepwise=stepwise).run()
    ready = legs(before, Role.PREFILL)[0]["finished_ps"]
    came = {row["query"]: row["kv_arrived_ps"] - ready for row in legs(before, Role.GENERATE)}
    assert came == {0: 2000, 1: 6000, 2: 4000}
    failures = Failures(outages=(Outage(2, at_ps=ready + 500, for_ps=100),))
    outcome, _, _ = Rig(queries, decode=2, link=link, stepwise=stepwise, failures=failures).run()
    second = legs(outcome, Role.GENERATE)
    assert [row["query"] for row in second if row["status"] == Status.FAILED] == [1]
    came = {row["query"]: row["kv_arrived_ps"] - ready for row in second if row["status"] == Status.COMPLETED}
    assert came == {0: 2000, 1: 6000, 2: 4000}
    assert outcome.tally.retried == 1


def test_blocks_are_reserved_before_the_copy_and_kept_until_its_end() -> None:
    """The decode replica has room for one prompt at a time: the second copy is ordered only when the first request is done.
    The prefill replica, which has room for two prompts, keeps the second so long, and takes the fourth only then."""
    queries = [Q(at, prompt=20, answer=17, max_tokens=17) for at in range(4)]
    rig = Rig(queries, options={"num_gpu_blocks": 11}, decode_options={"num_gpu_blocks": 10})
    outcome, _, _ = rig.run()
    first, second = legs(outcome, Role.PREFILL), legs(outcome, Role.GENERATE)
    assert [row["status"] for row in second] == [Status.COMPLETED] * 4
    for earlier, later in pairwise(second):
        assert later["kv_arrived_ps"] == earlier["finished_ps"] + 1
    assert first[2]["finished_ps"] < second[0]["finished_ps"]
    assert first[3]["first_scheduled_ps"] == second[1]["kv_arrived_ps"]


def test_a_shared_prefix_that_the_decoder_holds_is_not_copied() -> None:
    queries = [Q(0, prompt=40, answer=5, group=1, prefix=32), Q(50_000, prompt=50, answer=5, group=1, prefix=32)]
    outcome, _, cluster = Rig(queries, options={"enable_prefix_caching": True}).run()
    later = legs(outcome, Role.GENERATE)[1]
    assert later["cached_tokens_first"] == 32
    assert later["transferred_tokens"] == 17
    assert legs(outcome, Role.PREFILL)[1]["cached_tokens_first"] == 32
    handover = cluster.gateway.dispatch.handover
    assert handover is not None
    assert handover.bytes_moved == (10 + 5) * 100


CASES = 80
BASE_SEED = 31_000


def case(seed: int) -> Rig:
    """A small random cluster under pressure of one kind or another."""
    rng = random.Random(seed)
    span_ps = rng.choice([100, 3_000, 9_000])
    queries = []
    for at in sorted(rng.randrange(span_ps) for _ in range(rng.randint(1, 25))):
        prompt = rng.randint(1, 40)
        group = rng.choice([-1, -1, 0])
        queries.append(
            Q(
                at,
                prompt=prompt,
                reasoning=rng.randint(0, 40),
                answer=rng.randint(1, 20),
                max_tokens=rng.choice([-1, 15]),
                group=group,
                prefix=min(prompt, 9) if group >= 0 else 0,
            )
        )
    prefill, decode = rng.randint(1, 2), rng.randint(1, 2)
    failures = None
    if rng.random() < 0.4:
        outages = tuple(
            Outage(
                rng.randrange(prefill + decode),
                rng.randrange(1, 6_000),
                rng.choice([700, 3_000]),
                rng.choice([0, 0, 500]),
            )
            for _ in range(rng.randint(1, 3))
        )
        restart = rng.choice([None, RollingRestart(rng.randrange(4_000), 300)])
        failures = Failures(outages=outages, restart=restart, max_retries=rng.choice([0, 5]))
    return Rig(
        queries,
        prefill=prefill,
        decode=decode,
        cost=StepCost(rng.randint(1, 40), (0,), rng.randint(0, 5), kv_ps=rng.randint(0, 2), half_pair_ps=1),
        link=Link(rng.choice([1e30, 1e12, 1e11, 2e10]), rng.choice([0, 1, 200])),
        options={
            "num_gpu_blocks": rng.choice([26, 40, 1000]),
            "max_num_seqs": rng.choice([2, 6]),
            "max_num_batched_tokens": 24,
            "max_model_len": 100,
            "async_scheduling": rng.random() < 0.5,
            "enable_prefix_caching": rng.random() < 0.5,
        },
        strategy=FirstOf(3) if rng.random() < 0.3 else Single(),
        router=rng.choice(["round_robin", "least_outstanding_requests", "least_outstanding_tokens", "least_kv"]),
        measure=rng.choice([None, None, Measure(duration_ps=4_000, max_drain_ps=rng.choice([0, 900]))]),
        settings={"timeout_ps": rng.choice([None, None, 2_000]), "refresh_ps": rng.choice([None, 300])},
        failures=failures,
        block_bytes=rng.choice([1, 100]),
    )


def test_step_by_step_equals_fast_forward_and_nothing_is_lost() -> None:
    """Rows are equal to the last bit; each query ends once; every block goes back; every kind of end occurred."""
    seen: dict[str, int] = {}
    for seed in range(BASE_SEED, BASE_SEED + CASES):
        rig = case(seed)
        outcomes = []
        for stepwise in (True, False):
            rig.stepwise = stepwise
            outcome, sinks, cluster = rig.run()
            traces = [
                sink.trace.segments
                for sink in sinks
                if rig.failures is None and rig.measure is None and not rig.settings["timeout_ps"]
            ]
            seen["traces"] = seen.get("traces", 0) + len(traces)
            seen["to fill"] = seen.get("to fill", 0) + sum(sink.trace.seen["unused blocks"] > 0 for sink in sinks)
            ends = [sorted(s for s in sink.stalls().tolist() if s[1] <= outcome.end_ps) for sink in sinks]
            outcomes.append((rows(outcome), query_rows(outcome), outcome.end_ps, ends, traces))
            if not cluster.gateway.open and rig.measure is None:
                for shell in cluster.shells:
                    engine: Any = shell.engine
                    if shell.on and not engine.running and not engine.standing:
                        engine.kv.check(0)
                        assert cluster.gateway.dispatch.outstanding[shell.info.index] == 0, f"seed {seed}"
        assert outcomes[0][0] == outcomes[1][0], f"seed {seed}"
        assert outcomes[0][1:4] == outcomes[1][1:4], f"seed {seed}"
        assert outcomes[0][4] == outcomes[1][4], f"seed {seed}"
        if rig.measure is None:
            assert [row["query"] for row in outcomes[0][1]] == list(range(len(rig.queries))), f"seed {seed}"
        for row in outcomes[0][0]:
            name = f"{Role(row['role']).name} {Status(row['status']).name}"
            seen[name] = seen.get(name, 0) + 1
            seen["preempted"] = seen.get("preempted", 0) + bool(row["preemptions"])
            seen["hits"] = seen.get("hits", 0) + bool(row["cached_tokens"] and row["transferred_tokens"])
            if row["role"] == Role.GENERATE and row["status"] == Status.COMPLETED and not row["preemptions"]:
                cached = row["cached_tokens"] + row["transferred_tokens"]
                needed = row["prompt_tokens"] + row["generated"] - 1 - cached
                assert row["scheduled_tokens"] - row["dropped_tokens"] == needed, f"seed {seed}"
    wanted = [f"GENERATE {end}" for end in ("COMPLETED", "TIMED_OUT", "CANCELLED", "FAILED", "UNFINISHED")]
    wanted += ["PREFILL COMPLETED", "PREFILL TIMED_OUT", "PREFILL FAILED", "preempted", "hits", "traces", "to fill"]
    assert all(seen.get(name, 0) > 3 for name in wanted), seen
