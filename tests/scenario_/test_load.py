"""From YAML to a scenario: defaults, resolution, extends, overrides, Python data."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from sim import load
from sim.errors import DoesNotFit, InputError
from sim.scenario.load import load_with_notes, shipped
from sim.scenario.yaml_file import read_text
from sim.units import PS_PER_S


def test_reads_what_the_file_says(file, good):
    scenario = load(file(good))
    pool = scenario.pools["reasoning"]
    assert (scenario.name, scenario.seed) == ("good", 7)
    assert scenario.workload.rate == 2.0
    assert (pool.tensor_parallel_size, pool.replicas) == (4, 2)
    assert pool.engine.max_num_batched_tokens == 8192
    assert scenario.strategy.options["thinking_token_budget"] == 16_000
    assert scenario.measure.warmup_ps == 600 * PS_PER_S
    assert scenario.measure.duration_ps == 7200 * PS_PER_S
    assert scenario.slo.targets() == [("tta", 99.0, 120.0), ("ttft", 95.0, 2.0), ("slowdown", 50.0, 4.0)]


@pytest.mark.parametrize(
    ("hardware", "parallel", "seqs", "tokens"),
    [("h100-sxm", 4, 1024, 8192), ("a100", 4, 256, 2048), ("b200", 4, 1024, 16384), ("h200", 4, 1024, 8192)],
)
def test_engine_defaults_are_vllms_for_the_gpu(data, hardware, parallel, seqs, tokens):
    pool = data["pools"]["reasoning"]
    pool.update(hardware=hardware, tensor_parallel_size=parallel)
    del pool["engine"]
    engine = load(data).pools["reasoning"].engine
    assert (engine.max_num_seqs, engine.max_num_batched_tokens) == (seqs, tokens)
    assert engine.max_model_len is not None
    assert engine.async_scheduling is True


def test_max_model_len_is_what_the_pool_holds(data):
    data["pools"]["reasoning"]["engine"]["num_gpu_blocks_override"] = 1001
    engine = load(data).pools["reasoning"].engine
    assert engine.max_model_len is not None
    assert engine.max_model_len <= 1001 * 16


def test_without_chunked_prefill_a_step_takes_the_longest_prompt(data):
    data["pools"]["reasoning"]["engine"] = {"enable_chunked_prefill": False, "max_model_len": 20000}
    engine = load(data).pools["reasoning"].engine
    assert engine.max_num_batched_tokens == 20000


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_resolved_scenario_reads_back_as_equal(name):
    scenario = load(name)
    again = load(read_text(scenario.to_yaml(), "resolved").data)
    assert again == scenario
    assert again.to_yaml() == scenario.to_yaml()
    assert load(scenario.resolved()) == scenario


def test_every_default_is_stated(data):
    resolved = load(data).resolved()
    assert resolved["schema_version"] == 1
    engine = resolved["pools"]["reasoning"]["engine"]
    assert engine["enable_prefix_caching"] is True
    assert engine["scheduler"] == "vllm" or engine["scheduler"]["name"] == "vllm"
    assert resolved["measure"]["max_drain"] == "1 h"


def test_order_of_keys_does_not_matter(data):
    assert load(dict(reversed(data.items()))) == load(data)


def test_scenarios_differ_when_they_say_different_things(data):
    other = copy.deepcopy(data)
    other["workload"]["rate"] = "2.5/s"
    assert load(other) != load(data)


def test_a_scenario_does_not_change(data):
    scenario = load(data)
    with pytest.raises(ValidationError):
        scenario.seed = 8
    with pytest.raises(TypeError):
        scenario.pools["more"] = scenario.pools["reasoning"]
    with pytest.raises(TypeError):
        del scenario.slo.tta["p99"]
    assert pickle.loads(pickle.dumps(scenario)) == scenario
    assert copy.deepcopy(scenario) == scenario


def test_loading_leaves_the_data_alone(data):
    before = copy.deepcopy(data)
    load(data, ["workload.rate=9/s", "pools.reasoning.replicas=3"])
    assert data == before


def test_the_name_defaults_to_the_files(file, good):
    assert load(file(good.replace("name: good\n", ""), "peak hour.yaml")).name == "peak hour"


# -- extends --


def test_extends_merges_maps_and_replaces_the_rest(file, good):
    file(good, "base.yaml")
    top = file(
        "extends: base.yaml\nname: top\npools: {reasoning: {replicas: 5}}\n"
        "slo: {tta: {p50: 60 s}, ttft: null}\nmeasure: {warmup: null}\n",
        "top.yaml",
    )
    scenario = load(top)
    assert scenario.name == "top"
    assert scenario.pools["reasoning"].replicas == 5
    assert scenario.pools["reasoning"].model == "r1-distill-llama-70b"
    assert [target[:2] for target in scenario.slo.targets()] == [
        ("tta", 99.0),
        ("tta", 50.0),
        ("slowdown", 50.0),
    ]
    assert scenario.measure.warmup_ps == 0


def test_extends_a_policy_of_another_name_drops_its_options(file, good):
    file(good, "base.yaml")
    fresh = load(file("extends: base.yaml\nstrategy: single\n", "a.yaml"))
    assert "thinking_token_budget" not in fresh.strategy.options
    kept = load(file("extends: base.yaml\nstrategy: {name: single}\n", "b.yaml"))
    assert kept.strategy.options["thinking_token_budget"] == 16_000


def test_extends_a_shipped_scenario_and_a_chain(file):
    file("extends: quickstart\nseed: 1\n", "one.yaml")
    scenario = load(file("extends: one.yaml\nmeasure: {replications: 2}\n", "two.yaml"))
    assert (scenario.seed, scenario.measure.replications, scenario.name) == (1, 2, "two")


def test_errors_name_the_file_that_is_wrong(file, good):
    file(good.replace("replicas: 2", "replicas: -2"), "base.yaml")
    top = file("extends: base.yaml\nseed: minus\n", "top.yaml")
    with pytest.raises(InputError) as caught:
        load(top)
    found = {(Path(problem.source or "").name, problem.line, problem.key) for problem in caught.value.problems}
    assert found == {("base.yaml", 11, "pools.reasoning.replicas"), ("top.yaml", 2, "seed")}


def test_extends_in_a_circle(file):
    file("extends: b.yaml\n", "a.yaml")
    file("extends: c.yaml\n", "b.yaml")
    with pytest.raises(InputError, match=r"circle: a.yaml → b.yaml → c.yaml → a.yaml"):
        load(file("extends: a.yaml\n", "c.yaml").with_name("a.yaml"))


# -- overrides --


def test_overrides_come_last_and_in_order(file, good):
    scenario = load(file(good), ["seed=1", "workload.rate=120/min", "seed=2", "slo.tta={p90: 30 s}"])
    assert scenario.seed == 2
    assert scenario.workload.rate == 2.0
    assert ("tta", 90.0, 30.0) in scenario.slo.targets()


def test_the_last_of_two_ways_to_say_the_same_has_the_word(file, good):
    path = file(good)
    by_queries = load(path, ["measure.queries=50", "measure.warmup_queries=5"]).measure
    assert (by_queries.queries, by_queries.duration_ps) == (50, None)
    assert (by_queries.warmup_queries, by_queries.warmup_ps) == (5, 0)
    child = file(f"extends: {path.name}\nmeasure: {{queries: 7}}\n", "child.yaml")
    assert load(child).measure.queries == 7
    assert load(child, ["measure.duration=1 h"]).measure.queries is None


def test_an_override_is_named_where_it_is_wrong(file, good):
    with pytest.raises(InputError) as caught:
        load(file(good), ["pools.reasoning.engine.max_num_seq=4", "workload.rat=3/s"])
    said = [(problem.source, problem.key, problem.nearest) for problem in caught.value.problems]
    assert said == [
        ("--set pools.reasoning.engine.max_num_seq", "pools.reasoning.engine.max_num_seq", "max_num_seqs"),
        ("--set workload.rat", "workload.rat", "rate"),
    ]


TRACE = "arrived_at,num_prefill_tokens,num_decode_tokens\n0,10,20\n1.5,30,40\n"


def test_a_trace_turns_any_scenario_into_its_replay(file, good):
    trace = file(TRACE, "trace.csv")
    for text in (
        good,
        good.replace("preset: deepseek-r1-production", "arrivals: poisson\n  lengths: {prompt: 5, output: 9}"),
    ):
        scenario, notes = load_with_notes(file(text), [f"workload.trace={trace}"])
        assert scenario.workload.trace == str(trace)
        assert scenario.workload.preset is None
        assert scenario.workload.rate is None
        assert scenario.measure.duration_ps is None
        assert scenario.measure.warmup_ps == 600 * PS_PER_S
        assert "workload.rate" in notes[0]
        assert "measure.duration" in notes[0]
        assert load(scenario.resolved()) == scenario


def test_what_is_set_beside_the_trace_stays(file, good):
    trace = file(TRACE, "trace.csv")
    overrides = [f"workload.trace={trace}", "workload.rate=3/s", "measure.duration=1 h"]
    scenario = load(file(good), overrides)
    assert scenario.workload.rate == 3.0
    assert scenario.measure.duration_ps == 3600 * PS_PER_S
    assert load(file(good), overrides[::-1]) == scenario


def test_a_trace_replaces_a_trace_and_keeps_its_settings(file, good):
    first, second = file(TRACE, "a.csv"), file(TRACE, "b.csv")
    text = good.replace("preset: deepseek-r1-production", f"trace: {first}")
    scenario, notes = load_with_notes(file(text), [f"workload.trace={second}"])
    assert scenario.workload.trace == str(second)
    assert scenario.workload.rate == 2.0
    assert notes == ()


def test_a_preset_replaces_a_trace(file, good):
    trace = file(TRACE, "a.csv")
    text = good.replace("preset: deepseek-r1-production", f"trace: {trace}")
    scenario = load(file(text), ["workload.preset=deepseek-r1-production"])
    assert scenario.workload.trace is None


def test_files_are_looked_for_beside_the_scenario_then_here(file, good, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "trace.csv").write_text(TRACE)
    text = good.replace("preset: deepseek-r1-production", "trace: trace.csv")
    path = tmp_path / "sub" / "s.yaml"
    path.write_text(text)
    assert load(path).workload.trace == str(tmp_path / "sub" / "trace.csv")
    file(TRACE, "here.csv")
    monkeypatch.chdir(tmp_path)
    assert load(path, ["workload.trace=here.csv"]).workload.trace == str(tmp_path / "here.csv")


# -- policies --

OWN = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Mine:
    wait_s: float = 1.0
    choices: int = 2
    budget: int | dict[str, int] | None = None
"""


def test_a_policy_from_a_file_with_typed_options(file, good, tmp_path):
    file(OWN, "own.py")
    text = good.replace(
        "router: round_robin",
        "router: {name: 'own.py:Mine', wait_s: 250 ms, budget: {coding: 4K tokens}}",
    )
    scenario = load(file(text))
    mine = scenario.router.make("router")
    assert (mine.wait_s, mine.choices, mine.budget) == (0.25, 2, {"coding": 4000})
    assert scenario.router.options["choices"] == 2
    assert load(scenario.resolved()) == scenario


@pytest.mark.parametrize(
    ("option", "key", "message"),
    [
        ("choises: 2", "router.choises", "no such option"),
        ("choices: many", "router.choices", "not a number of tokens"),
        ("choices: 2.5", "router.choices", "2.5"),
        ("choices: true", "router.choices", "not a number"),
        ("wait_s: 5 GB", "router.wait_s", "not a unit"),
        ("wait_s: .nan", "router.wait_s", "not finite"),
        ("budget: 16K", "router.budget", "two ways"),
    ],
)
def test_policy_options_are_checked(file, good, option, key, message):
    file(OWN, "own.py")
    text = good.replace("router: round_robin", f"router:\n  name: own.py:Mine\n  {option}")
    with pytest.raises(InputError) as caught:
        load(file(text))
    [problem] = caught.value.problems
    assert problem.key == key
    assert message in problem.message
    assert problem.line == 15


def test_weights_larger_than_the_gpu(data):
    data["pools"]["reasoning"].update(hardware="l4", tensor_parallel_size=1)
    with pytest.raises((DoesNotFit, InputError), match=r"GiB|GB"):
        load(data)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = (", "own.py:Mine", "SyntaxError"),
        ("import no_such_module_anywhere", "own.py:Mine", "no_such_module_anywhere"),
        ("raise RuntimeError('mine')", "own.py:Mine", "RuntimeError: mine"),
        ("x = 1", "own.py:Mine", "has no class 'Mine'"),
        ("x = 1", "other.py:Mine", "does not exist"),
    ],
)
def test_a_policy_file_that_is_wrong(file, good, text, name, message):
    file(text, "own.py")
    with pytest.raises(InputError, match=message):
        load(file(good.replace("router: round_robin", f"router: '{name}'")))


def test_a_policy_file_is_executed_once(file, good, tmp_path):
    count = tmp_path / "count"
    file(OWN + f"with open({str(count)!r}, 'a') as out:\n    out.write('x')\n", "own.py")
    scenario = load(file(good.replace("router: round_robin", "router: own.py:Mine")))
    assert type(scenario.router.make("router")) is type(scenario.router.make("router"))
    assert count.read_text() == "x"
