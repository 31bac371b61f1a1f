"""Generated workloads: rates and spreads, the same blocks in any order, common random numbers."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from sim.errors import ThinkcapError
from workloads.measures import client_cv, dispersion
from workloads.source import BLOCK, QuerySource, build
from workloads.spec import WorkloadSpec

LENGTHS = {
    "prompt": {"law": "lognormal", "median": 300, "sigma": 0.8, "min": 16, "max": 4000},
    "reasoning": {"law": "lognormal", "median": 1500, "sigma": 1.1, "max": 32768},
    "answer": {"law": "lognormal", "median": 280, "sigma": 0.5},
}
OPEN = {
    "poisson": "poisson",
    "gamma": {"process": "gamma", "cv": 2.3},
    "weibull": {"process": "weibull", "cv": 1.8},
    "constant": "constant",
    "mmpp": {"process": "mmpp", "states": [{"level": 1, "lasts": "60 s"}, {"level": 6, "lasts": "10 s"}]},
    "hawkes": {"process": "hawkes", "branching": 0.6, "decay": "5 s"},
    "profile": {"process": "poisson", "profile": {"levels": [1, 3, 2], "period": "1 h"}},
}
SESSIONS = {
    "turns": {"law": "lognormal", "median": 1.6, "sigma": 0.8, "max": 12},
    "think_time": {"law": "lognormal", "median": "30 s", "sigma": 1, "max": "1 h"},
}
PREFIX = {"groups": 8, "tokens": 700, "share": 0.5}
MEMBERS = {
    f"c{i}": {"rates": [0.2 * (i + 1), 0.1, 0], "cvs": [1 + i / 4], "weibull": [1], "lengths": LENGTHS}
    for i in range(8)
}


def make(seed=1, **spec):
    spec.setdefault("lengths", LENGTHS)
    return build(WorkloadSpec.model_validate(spec), seed=seed)


def every_kind():
    for name, arrivals in OPEN.items():
        yield name, {"arrivals": arrivals, "rate": "20/s"}
    yield "closed", {"arrivals": {"process": "closed", "in_flight": 9, "think_time": "2 s"}}
    yield "burst", {"arrivals": {"process": "burst", "size": 3000, "every": "1 min"}}
    yield "sessions", {"arrivals": "poisson", "rate": "20/s", "sessions": SESSIONS, "shared_prefix": PREFIX}
    yield "clients", {"clients": {"members": MEMBERS}, "lengths": None}
    yield "steady", {"clients": {"members": MEMBERS}, "lengths": None, "rate": "9/s"}
    yield (
        "categories",
        {
            "arrivals": "poisson",
            "rate": "4/s",
            "lengths": None,
            "categories": {"a": {"lengths": LENGTHS}, "b": {"weight": 3, "lengths": LENGTHS}},
        },
    )


KINDS = dict(every_kind())


def equal(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b), field.name


def column(source, name, blocks):
    return np.concatenate([getattr(source.block(i), name) for i in range(blocks)])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_keep_their_promises_in_any_order(kind):
    source, again = make(**KINDS[kind]), make(**KINDS[kind])
    assert isinstance(source, QuerySource)
    blocks = [source.block(i) for i in range(4)]
    for i in (3, 0, 2, 0, 1):
        equal(blocks[i], again.block(i))
    last = -1
    for i, block in enumerate(blocks):
        block._check()
        assert block.first == i * BLOCK
        if source.closed_loop is None:
            assert block.arrived_ps[0] >= last
            assert (np.diff(block.arrived_ps) >= 0).all()
            last = block.arrived_ps[-1]


@pytest.mark.parametrize("kind", ["gamma", "sessions", "clients", "hawkes"])
def test_a_block_far_back_is_made_again(kind):
    source = make(**KINDS[kind])
    first, second = source.block(0), source.block(1)
    source.block(70)
    equal(first, source.block(0))
    equal(second, source.block(1))


@pytest.mark.parametrize("kind", [kind for kind in OPEN if kind != "profile"])
def test_mean_rate(kind):
    source = make(arrivals=OPEN[kind], rate="20/s")
    last = source.block(24).arrived_ps[-1] / 1e12
    tolerance = {"mmpp": 0.08, "hawkes": 0.05}.get(kind, 0.025)
    assert 25 * BLOCK / last == pytest.approx(20, rel=tolerance)


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1), ("gamma", 2.3), ("weibull", 1.8), ("constant", 0)])
def test_spread_of_gaps(kind, cv):
    gaps = np.diff(column(make(arrivals=OPEN[kind], rate="20/s"), "arrived_ps", 25).astype(float))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.04 * cv + 1e-9)


def test_hawkes_dispersion_is_that_of_theory():
    """Over long intervals counts of a Hawkes process disperse by 1 / (1 - branching) ** 2."""
    arrived = column(make(arrivals=OPEN["hawkes"], rate="20/s"), "arrived_ps", 60) / 1e12
    assert dispersion(arrived, 60.0) == pytest.approx(1 / 0.4**2, rel=0.3)
    assert dispersion(arrived, 0.02) < 1.5


def test_burstiness_survives_another_rate():
    """In its own time a stretched process is the same process, gap by gap."""
    slow = column(make(arrivals=OPEN["gamma"], rate="5/s"), "arrived_ps", 3)
    fast = column(make(arrivals=OPEN["gamma"], rate="20/s"), "arrived_ps", 3)
    np.testing.assert_allclose(slow, 4 * fast, atol=4 * len(slow))


def test_levels_of_the_day_are_kept_exactly():
    source = make(arrivals=OPEN["profile"], rate="20/s")
    arrived = column(source, "arrived_ps", 60) / 1e12
    number = np.bincount((arrived / 1200).astype(int))[:9]
    np.testing.assert_allclose(number, 20 * 1200 * np.tile([0.5, 1.5, 1.0], 3), rtol=0.03)


def test_spikes_and_ramps_multiply():
    profile = {
        "spikes": [{"at": "10 min", "lasts": "1 min", "factor": 5}],
        "ramps": [{"begins": "20 min", "ends": "40 min", "start": 1, "end": 3}],
    }
    arrivals = {"process": "constant", "profile": profile}
    arrived = column(make(arrivals=arrivals, rate="10/s"), "arrived_ps", 20) / 1e12
    number = np.bincount((arrived / 60).astype(int))
    assert number[5] == pytest.approx(600, abs=2)
    assert number[10] == pytest.approx(3000, abs=2)
    assert number[30] == pytest.approx(10 * 60 * (1 + 2 * 10.5 / 20), abs=2)
    assert number[50] == pytest.approx(1800, abs=2)


def test_burst_and_closed_loop():
    burst = make(arrivals={"process": "burst", "size": 5000, "at": "3 s"})
    assert burst.total == 5000
    assert len(burst.block(1)) == 5000 - BLOCK
    assert burst.block(2) is None
    assert set(burst.block(0).arrived_ps) == {3 * 10**12}
    closed = make(arrivals={"process": "closed", "in_flight": 9, "think_time": "2 s"})
    assert closed.closed_loop == 9
    assert set(closed.block(0).arrived_ps) == {2 * 10**12}


def test_changing_the_rate_changes_no_other_draw():
    for kind in ("gamma", "steady", "sessions"):
        spec = dict(KINDS[kind])
        one, two = make(**spec).block(1), make(**(spec | {"rate": "31/s"})).block(1)
        if kind == "sessions":  # later turns overtake each other at another rate
            continue
        for name in ("num_prefill_tokens", "num_reasoning_tokens", "num_answer_tokens", "client"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), (kind, name)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 20), st.integers(0, 1000))
def test_adding_a_category_moves_no_query_between_the_others(weight, seed):
    base = {"a": {"lengths": LENGTHS}, "b": {"weight": 2, "lengths": LENGTHS | {"prompt": 50}}}
    more = base | {"new": {"weight": weight, "lengths": LENGTHS | {"prompt": 7}}}
    spec = {"arrivals": "poisson", "rate": "4/s", "lengths": None}
    one = make(seed, **spec, categories=base).block(0)
    two = make(seed, **spec, categories=more).block(0)
    kept = two.category != 2
    for name in ("arrived_ps", "num_prefill_tokens", "num_reasoning_tokens", "num_answer_tokens", "category"):
        assert np.array_equal(getattr(one, name)[kept], getattr(two, name)[kept]), name
    assert (~kept).mean() == pytest.approx(weight / (3 + weight), abs=0.04)


def test_samples_of_one_prompt_are_correlated_as_measured():
    """93 % of the variance of the log between prompts, sigma 0.3 within, at a total sigma of 1.1."""
    source = make(arrivals="poisson", rate="4/s")
    logs = np.log([[source.sample_lengths(q, s)[0] for s in range(8)] for q in range(2500)])
    within = logs.var(axis=1, ddof=1).mean()
    assert np.sqrt(within) == pytest.approx(0.30, abs=0.01)
    assert 1 - within / logs.var() == pytest.approx(0.926, abs=0.01)
    for s in range(8):
        assert logs[:, s].std() == pytest.approx(1.1, abs=0.06)


def test_sample_zero_is_the_blocks_own():
    source = make(arrivals="poisson", rate="4/s")
    block = source.block(1)
    for place in (0, 17, BLOCK - 1):
        expected = int(block.num_reasoning_tokens[place]), int(block.num_answer_tokens[place])
        assert source.sample_lengths(block.first + place, 0) == expected
    with pytest.raises(IndexError):
        make(arrivals={"process": "burst", "size": 5}).sample_lengths(5, 0)


def test_answers_stay_narrow_as_outputs_grow():
    lengths = {
        "prompt": 100,
        "output": {"law": "lognormal", "median": 1500, "sigma": 1.0},
        "reasoning_share": {"law": "beta", "components": [{"weight": 1, "a": 4.6, "b": 1.2}]},
    }
    narrow = column(make(arrivals="poisson", rate="4/s", lengths=lengths), "num_answer_tokens", 4)
    wide = column(
        make(arrivals="poisson", rate="4/s", lengths=lengths | {"share_correlation": 0}),
        "num_answer_tokens",
        4,
    )
    assert np.quantile(narrow, 0.99) < 0.5 * np.quantile(wide, 0.99)


def test_runaway_queries_think_to_the_limit():
    source = make(arrivals="poisson", rate="4/s", runaway={"share": 0.05, "tokens": 32768})
    thought = column(source, "num_reasoning_tokens", 5)
    assert (thought >= 32768).mean() == pytest.approx(0.05, abs=0.006)
    plain = column(make(arrivals="poisson", rate="4/s"), "num_reasoning_tokens", 5)
    assert np.array_equal(thought[thought < 32768], plain[thought < 32768])


def test_turns_of_a_session_grow_by_prompt_and_answer():
    source = make(arrivals="poisson", rate="5/s", sessions=SESSIONS)
    blocks = [source.block(i) for i in range(3)]
    first = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in ("session", "parent")}
    prompt = np.concatenate([b.num_prefill_tokens for b in blocks])
    answer = np.concatenate([b.num_answer_tokens for b in blocks])
    shared = np.concatenate([b.prefix_len for b in blocks])
    children = np.flatnonzero(first["parent"] >= 0)
    parents = first["parent"][children]
    assert len(children) > 1000
    assert (first["session"][children] == first["session"][parents]).all()
    assert (prompt[children] > prompt[parents] + answer[parents]).all()
    # Reasoning is not sent back: the parent's prompt is all that the two have in common.
    assert np.array_equal(shared[children], prompt[parents])
    assert 3 * BLOCK / (blocks[-1].arrived_ps[-1] / 1e12) == pytest.approx(5, rel=0.1)


def test_reasoning_that_is_kept_makes_later_prompts_longer_and_is_shared():
    dropped, kept = (
        make(arrivals="poisson", rate="5/s", sessions=SESSIONS | {"reasoning": word}).block(0)
        for word in ("dropped", "kept")
    )
    children = np.flatnonzero(kept.parent >= 0)
    parents = kept.parent[children]
    assert len(children) > 500
    held = kept.num_prefill_tokens + kept.num_reasoning_tokens + kept.num_answer_tokens
    assert np.array_equal(kept.prefix_len[children], held[parents])
    assert (kept.num_prefill_tokens[children] > held[parents]).all()
    # Each is longer than where it is dropped by the reasoning of all turns before it, and by nothing else.
    extra = kept.num_prefill_tokens - dropped.num_prefill_tokens
    assert np.array_equal(extra[children], extra[parents] + kept.num_reasoning_tokens[parents])
    assert (extra[kept.parent < 0] == 0).all()


def test_shared_prefixes():
    block = make(arrivals="poisson", rate="4/s", shared_prefix=PREFIX).block(0)
    has = block.prefix_group >= 0
    assert has.mean() == pytest.approx(0.5, abs=0.03)
    assert (block.prefix_len[has] == 700).all()
    assert (block.prefix_len[~has] == 0).all()
    assert (block.num_prefill_tokens[has] > 700).all()
    number = np.bincount(block.prefix_group[has])
    assert number[0] > 1.5 * number[1]


def test_client_mixture_keeps_rates_and_spread_by_window():
    lengths = {"prompt": 10, "answer": 10}
    members = {
        "smooth": {"rates": [2.0, 1.0], "cvs": [0.5], "lengths": lengths},
        "bursty": {"rates": [1.0, 3.0], "cvs": [4.0], "lengths": lengths},
        "weibull": {"rates": [2.0, 2.0], "cvs": [2.0], "weibull": [0, 1], "lengths": lengths},
    }
    source = make(lengths=None, clients={"window": "600 s", "members": members})
    arrived, client = column(source, "arrived_ps", 20) / 1e12, column(source, "client", 20)
    whole = int(arrived[-1] // 600)
    for code, (rates, cv) in enumerate([((2, 1), 0.5), ((1, 3), 4.0), ((2, 2), 2.0)]):
        mine = arrived[client == code]
        number = np.bincount((mine / 600).astype(int))[:whole]
        np.testing.assert_allclose(number, 600 * np.resize(rates, whole), atol=1)
        codes = np.zeros(len(mine), np.uint16)
        assert client_cv(mine, codes, 600.0) == pytest.approx(cv, rel=0.1)


def test_clients_may_be_asked_in_a_closed_loop():
    source = make(lengths=None, clients={"members": MEMBERS}, arrivals={"process": "closed", "in_flight": 4})
    assert source.closed_loop == 4
    share = np.bincount(column(source, "client", 5)) / (5 * BLOCK)
    rates = np.array([sum(m["rates"]) for m in MEMBERS.values()])
    np.testing.assert_allclose(share, rates / rates.sum(), atol=0.02)


def test_a_spec_is_the_same_after_writing_and_reading():
    for kind, spec in KINDS.items():
        first = WorkloadSpec.model_validate({"lengths": LENGTHS} | spec)
        again = WorkloadSpec.model_validate(first.model_dump(mode="json", exclude_none=True))
        assert again == first, kind


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "give a preset"),
        ({"preset": "article", "trace": "x.csv"}, "exclude each other"),
        ({"arrivals": "poisson", "lengths": LENGTHS}, "rate is missing"),
        ({"rate": "1/s", "lengths": LENGTHS}, "arrivals are missing"),
        ({"arrivals": "poisson", "rate": "0/s", "lengths": LENGTHS}, "greater than 0"),
        ({"arrivals": "poisson", "rate": 4, "lengths": LENGTHS}, "no unit"),
        ({"arrivals": "poison", "rate": "4/s", "lengths": LENGTHS}, "poisson"),
        ({"arrivals": {"process": "gamma"}, "rate": "4/s", "lengths": LENGTHS}, "cv"),
        (
            {"arrivals": {"process": "closed", "in_flight": 3}, "rate": "4/s", "lengths": LENGTHS},
            "rate does not go",
        ),
        ({"arrivals": "poisson", "rate": "4/s"}, "exactly one of"),
        ({"arrivals": "poisson", "rate": "4/s", "lengths": {"prompt": 5}}, "answer"),
        ({"arrivals": "poisson", "rate": "4/s", "lengths": {"prompt": 5, "reasoning": 5}}, "answer"),
        ({"trace": "x.csv", "lengths": LENGTHS}, "does not go with a trace"),
        ({"preset": "article", "lengths": LENGTHS}, "does not go with a preset"),
        ({"preset": "qwq", "mode": "standard"}, "article only"),
        ({"arrivals": "poisson", "rate": "4/s", "lengths": LENGTHS, "ratee": 1}, "ratee"),
        ({"arrivals": "poisson", "rate": "4/s", "lengths": LENGTHS, "max_tokens": "16K"}, "two ways"),
        (
            {
                "arrivals": {"process": "hawkes", "branching": 1, "decay": "1 s"},
                "rate": "4/s",
                "lengths": LENGTHS,
            },
            "1",
        ),
    ],
)
def test_bad_specs_are_refused(spec, said):
    with pytest.raises(ValidationError) as caught:
        WorkloadSpec.model_validate(spec)
    assert said in str(caught.value)


def test_traffic_of_more_days_than_tables_can_say_is_one_clear_error():
    lengths = {"prompt": 10, "answer": 10}
    spec = WorkloadSpec.model_validate(
        {"arrivals": "constant", "rate": "0.0001/s", "lengths": lengths, "queries": 1000}
    )
    source = build(spec, seed=1)
    with pytest.raises(ThinkcapError, match="than 100 days"):
        source.block(0)
