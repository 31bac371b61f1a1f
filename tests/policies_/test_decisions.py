"""What each scheduler decides, in cases small enough for paper: who enters next, who yields, what shares a step."""

from __future__ import annotations

from typing import Any

import pytest
from policy_cases import STARVATION_FREE

from calibration.step_cost import StepCost
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.engine.step_log import StepLog, StepRow
from sim.policies.schedulers import scheduler

STEP = 1000
"""Picoseconds of every step."""


def _play(
    policy: str, requests: list[dict[str, Any]], options: dict[str, Any] | None = None, **own: Any
) -> list[StepRow]:
    """The steps of *requests*, each at its ``at`` (in steps, by default 0), the same in both modes; blocks of 4, no prefix
    cache, synchronous."""
    chosen = {"num_gpu_blocks": 1001, "block_size": 4, "async_scheduling": False, "enable_prefix_caching": False} | own
    logs = []
    for stepwise in (True, False):
        log, cost = StepLog(), StepCost(host_ps=STEP, linear_ps=(0,), linear_slope_ps=0)
        made = scheduler.make(policy, options or {})
        replica = make_replica(EngineSettings(**chosen), cost, made, stepwise=stepwise, log=log)
        coming = []
        for number, each in enumerate(requests):
            each = dict(each)
            at, extra = (
                each.pop("at", 0),
                {name: each.pop(name) for name in ("predicted_tokens", "deadline_ps") if name in each},
            )
            request = Request(number, arrived_ps=at * STEP, **{"max_tokens": each["output_tokens"], **each})
            for name, value in extra.items():
                setattr(request, name, value)
            coming.append(request)
        coming.sort(key=lambda request: request.arrived_ps)
        while coming or replica.next_end_ps is not None:
            moments = [coming[0].arrived_ps] if coming else []
            now = min(moments + ([] if replica.next_end_ps is None else [replica.next_end_ps]))
            if replica.next_end_ps == now:
                replica.complete(now)
            while coming and coming[0].arrived_ps == now:
                replica.submit(coming.pop(0), now)
            replica.plan(now)
        logs.append(log.rows)
    assert logs[0] == logs[1]
    return logs[0]


def _admitted(rows: list[StepRow]) -> list[int]:
    return [request for row in rows for request, _ in row.admitted]


def _preempted(rows: list[StepRow]) -> list[int]:
    return [request for row in rows for request in row.preempted]


def _one(output: int = 3, prompt: int = 4, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "output_tokens": output, **more}


LATER = [
    _one(8, predicted_tokens=8, deadline_ps=9_000),
    _one(6, predicted_tokens=6, deadline_ps=40_000, at=1),
    _one(2, predicted_tokens=2, deadline_ps=30_000, at=2),
    _one(4, predicted_tokens=4, deadline_ps=20_000, at=3),
]
"""One runs; three come meanwhile, the longest first and the most urgent last."""


@pytest.mark.parametrize(
    ("policy", "order"),
    [
        ("vllm", [0, 1, 2, 3]),
        ("sarathi", [0, 1, 2, 3]),
        ("orca", [0, 1, 2, 3]),
        ("static", [0, 1, 2, 3]),
        ("sglang", [0, 1, 2, 3]),
        ("sjf", [0, 2, 3, 1]),
        ("srpt", [0, 2, 3, 0, 1]),  # number 2 has 2 tokens to go when number 0 has 6, and takes its place; then 3 has 4
        ("edf", [0, 3, 2, 1]),
    ],
)
def test_who_enters_the_only_seat_next(policy: str, order: list[int]) -> None:
    assert _admitted(_play(policy, LATER, max_num_seqs=1)) == order


TIGHT = [
    _one(20, predicted_tokens=30, deadline_ps=90_000),
    _one(20, predicted_tokens=10, deadline_ps=70_000),
    _one(20, predicted_tokens=20, deadline_ps=50_000),
]
"""Three of 4 + 20 tokens, each 6 blocks in the end, for a pool of 11."""


@pytest.mark.parametrize(
    ("policy", "victim"), [("vllm", 2), ("sarathi", 2), ("vtc", 2), ("pascal", 2), ("sjf", 0), ("srpt", 0), ("edf", 0)]
)
def test_who_yields_first_when_memory_is_short(policy: str, victim: int) -> None:
    """After 9 steps each holds 12 tokens, 3 blocks; the 10th step needs 3 more, and 2 are free."""
    rows = _play(policy, TIGHT, num_gpu_blocks=12)
    first = next(number for number, row in enumerate(rows) if row.preempted)
    assert (first, rows[first].preempted) == (9, [victim])


@pytest.mark.parametrize(("to_go", "enters"), [(19, True), (20, False)])
def test_srpt_takes_the_place_of_who_has_twice_as_much_to_go(to_go: int, enters: bool) -> None:
    """Number 0 has 39 of its 40 tokens to go when the other comes, after one step: 39 > 2 · 19, but not 2 · 20."""
    rows = _play("srpt", [_one(40, predicted_tokens=40), _one(5, predicted_tokens=to_go, at=1)], max_num_seqs=1)
    assert (_preempted(rows) == [0]) == enters


def test_orca_reserves_all_that_may_come() -> None:
    """4 + 17 - 1 tokens are 5 blocks each: of 14 two fit, though they use 2 of their tokens; nobody is preempted."""
    rows = _play("orca", [_one(2, max_tokens=17)] * 5, num_gpu_blocks=15)
    assert [len(row.admitted) for row in rows] == [2, 0, 2, 0, 1, 0]
    assert {row.free_after_schedule for row in rows} == {4, 9}


def test_static_lets_nobody_join_before_the_last_is_done() -> None:
    rows = _play("static", [_one(2), _one(6), _one(2), _one(2)], max_num_seqs=2)
    assert [[request for request, _ in row.admitted] for row in rows] == [[0, 1], [], [], [], [], [], [2, 3], []]


def test_sarathi_fills_the_step_beside_all_decodes() -> None:
    """Three decode; a prompt of 12 comes and gets 8 - 3 tokens a step."""
    rows = _play("sarathi", [_one(30)] * 2 + [_one(30, prompt=3)] + [_one(5, 12, at=6)], {"chunk_size": 8})
    meanwhile = [row.scheduled for row in rows if any(request == 3 and new > 1 for request, new in row.scheduled)]
    decodes = [(0, 1), (1, 1), (2, 1)]
    assert meanwhile == [[*decodes, (3, 5)], [*decodes, (3, 5)], [*decodes, (3, 2)]]


def test_sglang_computes_prompts_by_themselves() -> None:
    rows = _play("sglang", [_one(9), _one(9, 30, at=4)], max_num_batched_tokens=16)
    sizes = [sorted(new for _, new in row.scheduled) for row in rows]
    assert sizes[:4] == [[4], [1], [1], [1]]
    assert sizes[4:7] == [[16], [14], [1, 1]]  # in two chunks, and number 0 stands still meanwhile


def test_sglang_takes_the_longest_cached_prefix_first() -> None:
    shared = {"prefix_group": "a"}
    rows = _play(
        "sglang",
        [
            _one(3, 16, prefix_len=16, **shared),
            _one(3, 16, at=1),
            _one(3, 16, prefix_len=5, at=1, **shared),
            _one(3, 16, prefix_len=13, at=1, **shared),
        ],
        max_num_seqs=1,
        enable_prefix_caching=True,
    )
    assert [each for row in rows for each in row.admitted] == [(0, 0), (3, 12), (2, 4), (1, 0)]


def test_sglang_retracts_who_has_written_least() -> None:
    """The second comes later, so it has written less when memory runs out; by room for 20 more tokens each it goes alone."""
    rows = _play("sglang", [_one(30), _one(30, at=3)], {"new_token_ratio": 0.02}, num_gpu_blocks=12)
    assert _preempted(rows)[:1] == [1]


@pytest.mark.parametrize(
    ("first", "order"),
    [
        (
            0,
            [0, 2, 1, 3, 4, 5],
        ),  # 4 + 2 · 3 tokens are charged to each request: the clients take turns until client 1 is done
        (1, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_vtc_serves_clients_in_turn(first: int, order: list[int]) -> None:
    """Requests 0, 1, 4, 5 are of client 0 (or, *first* = 1, 0, 2, 4, 5), the others of client 1; one seat."""
    clients = [0, 0, 1, 1, 0, 0] if first == 0 else [0, 1, 0, 1, 0, 0]
    assert _admitted(_play("vtc", [_one(client=client) for client in clients], max_num_seqs=1)) == order


def test_vtc_charges_outputs_twice_and_prompts_once() -> None:
    """Client 0 is charged 40 + 2 · 2 for its first request, client 1 4 + 2 · 21 for its first: so client 0 is next."""
    requests = [_one(2, 40, client=0), _one(21, client=1), _one(2, client=1), _one(2, client=0)]
    assert _admitted(_play("vtc", requests, max_num_seqs=1)) == [0, 1, 3, 2]


def test_vtc_lifts_who_comes_back() -> None:
    """Client 1 comes when client 0 has been charged 30; it does not make up for that: they take turns from there."""
    requests = [_one(client=0) for _ in range(6)] + [_one(client=1, at=7) for _ in range(3)]
    assert _admitted(_play("vtc", requests, max_num_seqs=1)) == [0, 1, 2, 6, 3, 7, 4, 8, 5]


PHASES = [_one(20, reasoning_tokens=1), _one(20, reasoning_tokens=20), _one(20, reasoning_tokens=1)]
"""After the first step numbers 0 and 2 answer, number 1 reasons to its end; memory is short in the 10th step."""


@pytest.mark.parametrize(("first", "victim"), [("answering", 1), ("reasoning", 2)])
def test_pascal_spares_one_phase(first: str, victim: int) -> None:
    rows = _play("pascal", PHASES, {"first": first}, num_gpu_blocks=12)
    assert next((number, row.preempted) for number, row in enumerate(rows) if row.preempted) == (9, [victim])


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"first": "answering"}, [0, 1]),
        ({"first": "reasoning"}, [0, 1, 0]),  # its reader is still at the first tokens
        ({"first": "reasoning", "reading_tokens_per_s": 1e12}, [0, 1]),  # it has caught up: a thousand tokens a step
    ],
)
def test_pascal_interrupts_an_answer_for_reasoning_while_its_reader_is_behind(
    options: dict[str, Any], order: list[int]
) -> None:
    """Number 0 answers from its second token on; number 1 comes after 5 steps and reasons; one seat."""
    requests = [_one(30, reasoning_tokens=1), _one(3, reasoning_tokens=2, at=5)]
    assert _admitted(_play("pascal", requests, options, max_num_seqs=1)) == order


def test_mlfq_lets_a_newcomer_pass_who_has_used_his_quantum() -> None:
    """Quantum 4: number 0 falls after 4 tokens, number 1, which came meanwhile, runs its 3, then number 0 goes on."""
    options = {"quantum_tokens": 4, "prompt_tokens_per_token": 64}
    rows = _play("mlfq", [_one(10), _one(3, at=1)], options, max_num_seqs=1)
    assert [row.scheduled[0][0] for row in rows] == [0] * 4 + [1] * 3 + [0] * 6
    assert _preempted(rows) == []  # it pauses, and keeps its blocks


def test_mlfq_sends_a_long_prompt_to_the_level_of_its_quantum() -> None:
    """A prompt of 12 counts as 12 tokens here: it joins at the level of 16, below number 1, which came later."""
    options = {"quantum_tokens": 4, "prompt_tokens_per_token": 1}
    rows = _play("mlfq", [_one(3), _one(3, 12, at=1), _one(3, at=2)], options, max_num_seqs=1)
    assert _admitted(rows) == [0, 2, 1]


def test_mlfq_lifts_who_starves() -> None:
    """Newcomers come without end; number 0 has fallen, and goes on 6 steps after it ran last."""
    options = {"quantum_tokens": 2, "starvation_s": 6 * STEP * 1e-12}
    rows = _play("mlfq", [_one(4)] + [_one(2, at=at) for at in range(1, 30, 2)], options, max_num_seqs=1)
    mine = [number for number, row in enumerate(rows) if row.scheduled[0][0] == 0]
    assert mine == [0, 1, 8, 9]


def test_chunked_reasoning_yields_after_its_quantum_and_answers_are_not_interrupted() -> None:
    requests = [_one(12, reasoning_tokens=9), _one(3, at=2)]
    rows = _play("chunked_reasoning", requests, {"quantum_tokens": 4}, max_num_seqs=1)
    assert [row.scheduled[0][0] for row in rows] == [0] * 4 + [1] * 3 + [0] * 8
    requests = [_one(12, reasoning_tokens=3), _one(3, at=2)]
    rows = _play("chunked_reasoning", requests, {"quantum_tokens": 4}, max_num_seqs=1)
    assert [row.scheduled[0][0] for row in rows] == [0] * 12 + [1] * 3


LONG = 10
"""Number of the long one among short ones without end: as much work comes as two seats can do, and ten wait already."""


def _steps_until_the_long_one_ends(policy: str, options: dict[str, Any]) -> tuple[int, int]:
    short = {"predicted_tokens": 2, "deadline_ps": 10**9}
    stream = [_one(2, at=at, reasoning_tokens=1, **short) for at in [0] * LONG + list(range(1, 200))]
    long = _one(20, at=1, reasoning_tokens=20, predicted_tokens=20, deadline_ps=10**8, client=1)
    rows = _play(policy, [*stream[:LONG], long, *stream[LONG:]], options, max_num_seqs=2)
    return next(number for number, row in enumerate(rows) if LONG in row.finished), len(rows)


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        *((name, {}) for name in STARVATION_FREE if name != "mlfq"),
        ("mlfq", {"quantum_tokens": 2, "starvation_s": 20 * STEP * 1e-12}),
        ("chunked_reasoning", {"quantum_tokens": 4, "newcomers_first": False}),
    ],
)
def test_nobody_starves_where_the_policy_promises_it(policy: str, options: dict[str, Any]) -> None:
    end, steps = _steps_until_the_long_one_ends(policy, options)
    assert end < steps - 40


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("sjf", {}),
        ("srpt", {}),
        ("mlfq", {"quantum_tokens": 2, "starvation_s": 1.0}),
        ("chunked_reasoning", {"quantum_tokens": 4}),
    ],
)
def test_the_long_one_starves_where_nothing_is_promised(policy: str, options: dict[str, Any]) -> None:
    end, steps = _steps_until_the_long_one_ends(policy, options)
    assert end >= steps - 25
