"""Conversations, shared prefixes and prompts asked again: found in a trace, written as a generator, drawn again."""

import numpy as np
import pyarrow as pa
import pytest

from sim.errors import InputError
from workloads.conversations import FIRST, LATER, SINGLE, Structure
from workloads.drawn import batches_of, drawn_portrait, drawn_structure
from workloads.fitting.fit import fit
from workloads.held import Held
from workloads.measures import compare, compare_structure
from workloads.portrait import portrait
from workloads.source import build
from workloads.spec import WorkloadSpec

CHAT = {
    "arrivals": "poisson",
    "rate": "4/s",
    "queries": 6000,
    "lengths": {
        "prompt": {"law": "lognormal", "median": 3000, "sigma": 0.8, "min": 700},
        "answer": {"law": "lognormal", "median": 300, "sigma": 0.8},
    },
    "sessions": {
        "turns": {"law": "empirical", "values": [1, 1, 1, 1, 1, 2, 2, 3, 4, 6]},
        "think_time": {"law": "lognormal", "median": "30 s", "sigma": 0.7},
        "new_tokens": {"law": "lognormal", "median": 400, "sigma": 1},
        "retries": 0.2,
    },
    "shared_prefix": {"groups": 2, "tokens": 512, "share": 0.6, "within_prompt": True},
}


def drawn(workload, seed=0):
    return build(WorkloadSpec.model_validate(workload), seed=seed)


def batch(**columns):
    size = len(next(iter(columns.values())))
    plain = {"arrived_at": np.arange(size) * 1.0, "num_prefill_tokens": [900] * size, "num_decode_tokens": [9] * size}
    return pa.RecordBatch.from_pydict(plain | columns)


def test_which_rows_are_turns_of_one_conversation():
    structure = Structure()
    kinds, marks = structure.watch(batch(session_id=["a", "b", "a", None]), np.zeros(4, int))
    assert kinds.tolist() == [FIRST, SINGLE, LATER, SINGLE]
    kinds, marks = structure.watch(batch(session_id=["b", "a"]), np.zeros(2, int))
    assert (kinds.tolist(), marks) == ([LATER, LATER], [1])
    assert structure.all_turns() == {(0, 3): 1, (0, 2): 1, (0, 1): 1}


def test_a_system_prompt_is_no_conversation():
    """Rows 1 to 3 share the first block with row 0; row 4 holds all of row 3's prompt."""
    structure = Structure()
    rows = batch(
        num_prefill_tokens=[900, 900, 900, 1800, 2400, 900],
        parent_id=[-1, 0, 1, 2, 3, 4],
        prefix_len=[0, 512, 512, 512, 1536, 512],
    )
    kinds, _ = structure.watch(rows, np.zeros(6, int))
    assert kinds.tolist() == [SINGLE, SINGLE, SINGLE, FIRST, LATER, SINGLE]
    assert list(structure.groups.values()) == [5]
    assert structure.group_tokens == [512]


@pytest.mark.slow
@pytest.mark.parametrize("by_hashes", [False, True])
def test_conversations_are_fitted_and_drawn_again(by_hashes, tmp_path):
    source = drawn(CHAT)
    batches = batches_of(source)
    if by_hashes:
        from workloads.formats import read
        from workloads.formats.write import write

        write(tmp_path / "trace.jsonl", batches, name="mooncake")
        batches = read(tmp_path / "trace.jsonl")
    held = Held.of(batches)
    workload = fit(held).workload
    again = drawn(workload, seed=3)
    real = portrait(held)
    rows = compare(real, drawn_portrait(again, beside=real)) + compare_structure(held.structure, drawn_structure(again))
    found = {row.name: row for row in rows}
    assert workload["clients"]["members"]["client-1, conversations"]["sessions"]["retries"] == pytest.approx(
        0.2, abs=0.03
    )
    for name, row in found.items():
        if name.startswith(("prompt, p", "output, p")):
            assert abs(row.distance) <= (0.12 if name.endswith("p99 tokens") else 0.06), row
        if name.startswith(("pause", "growth of a prompt, p50", "growth of a prompt, p90", "sessions, mean")):
            assert abs(row.distance) <= 0.10, row
    assert abs(found["rate, 1/s"].distance) <= 0.02
    assert abs(found["sessions, share with one turn"].distance) <= 0.02
    assert abs(found["prompt tokens shared with earlier ones"].distance) <= 0.05


@pytest.mark.slow
def test_prompts_that_are_asked_again_keep_their_likeness():
    lengths = {
        "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8},
        "reasoning": {"law": "lognormal", "median": 1500, "sigma": 1.1},
        "answer": {"law": "lognormal", "median": 300, "sigma": 0.5},
        "within_prompt_sigma": 0.25,
    }
    spec = {
        "arrivals": "poisson",
        "rate": "1/s",
        "queries": 3000,
        "lengths": lengths,
        "recurrence": {"problems": 300, "share": 1, "skew": 0, "wording": "same"},
    }
    held = Held.of(batches_of(drawn(spec)))
    workload = fit(held).workload
    assert workload["recurrence"]["problems"] == pytest.approx(300, abs=2)
    real, generated = held.structure, drawn_structure(drawn(workload, seed=1))
    assert real.prompts.within()[0] == pytest.approx(0.25, rel=0.05)
    assert generated.prompts.within()[0] == pytest.approx(0.25, rel=0.15)
    assert generated.prompts.within()[1] == pytest.approx(real.prompts.within()[1], abs=0.03)


def test_clients_have_conversations_of_their_own_and_rates_count_turns():
    member = {"rates": [2.0], "lengths": CHAT["lengths"]}
    talk = member | {"sessions": {"turns": 4, "think_time": "5 s", "new_tokens": 10}}
    spec = {"clients": {"window": "1000 s", "members": {"api": member, "chat": talk}}, "queries": 3500}
    source = drawn(spec)
    structure = drawn_structure(source)
    held = Held.of(batches_of(source))
    chat = held.names.index("chat")
    assert (held.client == chat).sum() / held.last_s == pytest.approx(2.0, rel=0.1)
    assert (held.turn_at(held.client != chat) == SINGLE).all()
    assert structure.said[:, 1].mean() == pytest.approx(5.0, abs=1e-6)
    later = held.turn_at(slice(None)) == LATER
    assert later.sum() == pytest.approx(0.75 * (held.client == chat).sum(), rel=0.05)


@pytest.mark.slow
def test_a_drifting_client_keeps_its_day():
    rates = (2 + np.sin(np.arange(24) / 4)).round(3).tolist()
    members = {
        "a": {"rates": rates, "lengths": CHAT["lengths"]},
        "b": {"rates": rates[::-1], "cvs": [1.5], "lengths": CHAT["lengths"]},
    }
    held = Held.of(batches_of(drawn({"clients": {"window": "600 s", "members": members}, "queries": 50_000})))
    found = fit(held)
    real = portrait(held, known_as=found.clients)
    rows = {row.name: row for row in compare(real, drawn_portrait(drawn(found.workload, seed=2), beside=real))}
    assert rows["client and window, RMS of standard errors"].generated < 1.0


def test_fitted_clients_may_get_the_rates_of_other_hours(tmp_path):
    talk = {"rates": [3.0], "client": "a", "lengths": CHAT["lengths"], "sessions": {"turns": 2, "think_time": "1 s"}}
    members = {"a": {"rates": [1.0], "lengths": CHAT["lengths"]}, "a, conversations": talk}
    path = tmp_path / "windows.csv"
    path.write_text(
        "client_id,window_start_s,req_per_s,iat_cv,iat_family\na,600,8,1,Gamma\na,1200,2,1.5,Weibull\n",
        encoding="utf-8",
    )
    spec = {"clients": {"members": members}, "windows": "windows.csv", "queries": 6000, "profile": "day"}
    held = Held.of(batches_of(build(WorkloadSpec.model_validate(spec), seed=0, base=tmp_path)))
    counts = np.histogram(held.arrived, [0, 600, 1200])[0]
    assert counts == pytest.approx([4800, 1200], rel=0.05)
    assert (held.turn_at(slice(None)) != SINGLE).mean() == pytest.approx(0.75, abs=0.03)
    path.write_text(path.read_text().replace("a,", "b,", 1), encoding="utf-8")
    with pytest.raises(InputError, match="unknown client 'b'"):
        build(WorkloadSpec.model_validate(spec), seed=0, base=tmp_path)


@pytest.mark.parametrize("begins", [0.0, 1e6])
@pytest.mark.parametrize("gap", [0.0, 7.0, 3000.0])
def test_odd_traces_are_fitted_and_compared(gap, begins):
    """All at once, months after zero, over weeks: with sessions and prompts that may never come again."""
    size = 90
    rows = batch(
        arrived_at=begins + gap * np.arange(size),
        num_prefill_tokens=50 + np.arange(size) % 7,
        num_decode_tokens=9 + np.arange(size) % 5,
        session_id=[f"s{row // 3}" for row in range(size)],
        prompt_id=[f"p{row // 2}" for row in range(size)],
        client_id=[f"c{row % 2}" for row in range(size)],
    )
    held = Held.of([rows])
    found = fit(held)
    source = drawn(found.workload)
    real = portrait(held, known_as=found.clients)
    made = drawn_portrait(source, beside=real)
    compared = compare(real, made) + compare_structure(held.structure, drawn_structure(source))
    assert made.queries == size
    assert {row.name for row in compared} >= {"sessions, mean turns", "queries a prompt"}
