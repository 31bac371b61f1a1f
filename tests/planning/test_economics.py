"""Training against inference, break-even volumes, and what a training step takes."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.architecture import architecture
from calibration.hardware import hardware
from sim.cli.main import main
from sim.errors import DoesNotFit, InputError
from sim.planning import economics as eco
from sim.planning import training

PRICES = eco.Prices(peak_flops=989.4e12, usd_per_gpu_hour=3.0)
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
sizes = st.floats(1e9, 500e9)


@given(sizes)
def test_with_nothing_to_answer_the_best_model_is_the_compute_optimal_one(parameters):
    target = eco.loss(parameters, eco.compute_optimal_tokens(parameters))
    best = eco.best_split(target, 0.0, PRICES)
    assert best.parameters == pytest.approx(parameters, rel=1e-3)
    assert eco.loss(best.parameters, best.training_tokens) == pytest.approx(target, rel=1e-9)


@given(sizes, st.floats(1e9, 1e15), st.floats(1.5, 50))
def test_the_more_is_asked_the_smaller_the_model_and_never_dearer_than_any_other(parameters, asked, more):
    target = eco.loss(parameters, eco.compute_optimal_tokens(parameters))
    few, many = (eco.best_split(target, tokens, PRICES) for tokens in (asked, asked * more))
    assert many.parameters <= few.parameters * (1 + 1e-4)
    assert many.training_tokens >= few.training_tokens * (1 - 1e-4)
    for factor in (0.8, 0.95, 1.05, 2.0):
        tokens = eco.tokens_to_reach(target, few.parameters * factor)
        if math.isfinite(tokens):
            assert few.total_usd <= eco.life(few.parameters * factor, tokens, asked, PRICES).total_usd * (1 + 1e-9)


def test_operations_are_those_of_the_literature():
    """GPT-3: 175 B parameters on 300 B tokens took 3.14e23 operations (Brown et al. 2020, table D.1)."""
    made = eco.life(175e9, 300e9, 1e6, PRICES)
    assert made.training_flops == pytest.approx(3.14e23, rel=0.01)
    assert made.inference_flops == 2 * 175e9 * 1e6
    assert made.training_usd == pytest.approx(made.training_flops / (989.4e12 * 0.4) / 3600 * 3.0)
    usd = PRICES.inference_usd(2 * 70e9 * 1e6)
    assert PRICES.utilization_of(usd, 70e9) == pytest.approx(PRICES.inference_utilization)


usd = st.floats(0, 1e7)
each = st.floats(1e-6, 1.0)


@given(usd, each, usd, each, st.floats(0.05, 1), st.floats(0.05, 1), st.sampled_from([(0.0, 0.0), (0.5, 0.1)]))
def test_at_the_break_even_both_come_to_the_same_and_change_places(train, query, train2, query2, a, b, worth):
    one, other = eco.Choice("one", train, query, a), eco.Choice("other", train2, query2, b)
    value, wrong = worth
    at = eco.break_even(one, other, value=value, wrong=wrong)

    def gain(choice, queries):
        return choice.worth(queries, value=value, wrong=wrong) if any(worth) else -choice.usd(queries)

    if at is None:
        order = {gain(one, q) >= gain(other, q) for q in (1e-3, 1e2, 1e5, 1e9, 1e13)}
        assert len(order) == 1 or train == train2 or abs(train - train2) < 1e-3
        return
    assert gain(one, at) == pytest.approx(gain(other, at), rel=1e-6, abs=1e-6 * max(train, train2, 1e-9))
    if 1e-3 < at < 1e13 and abs(train - train2) > 1:
        first = eco.cheapest([one, other], at / 2, value=value, wrong=wrong)
        later = eco.cheapest([one, other], at * 2, value=value, wrong=wrong)
        assert first is not later


def test_worth_counts_wrong_answers_and_training():
    choice = eco.Choice("m", 100.0, 0.02, 0.8)
    assert choice.per_correct(1000) == pytest.approx((100 + 20) / 1000 / 0.8)
    assert choice.worth(1000, value=1.0, wrong=0.5) == pytest.approx(800 - 100 - 120)
    assert eco.pays_from(choice, value=1.0, wrong=0.5) == pytest.approx(100 / (0.8 - 0.1 - 0.02))
    assert eco.pays_from(choice, value=0.01, wrong=0.0) is None


# -- a training step --------------------------------------------------------------------------------


def setting(method="grpo", model="r1-distill-qwen-7b", **changes):
    return training.Setting(method=method, model=architecture(model), **changes)


def test_what_is_held_is_sixteen_bytes_a_trained_parameter_and_two_of_the_others():
    count = architecture("r1-distill-qwen-7b").parameters
    held = {role: sum(m.bytes for m in setting(role).models()) for role in training.METHODS}
    assert held == {"sft": 16 * count, "grpo": 18 * count, "ppo": 34 * count}
    judged = setting("ppo", reward=architecture("qwen3-0.6b"), value=architecture("qwen3-4b"))
    assert [m.role for m in judged.models()] == ["policy", "reference", "reward", "value"]
    assert not any(m.role == "reference" for m in setting(reference=False).models())
    memory = training.memory(setting(), 8)
    assert 8 * sum(memory.states.values()) == pytest.approx(held["grpo"])


def test_operations_count_the_parameters_that_a_token_uses():
    """DeepSeek-R1 uses 37 of 671 billion: 0.074 TFLOP a token of a value pass, where all would take 1.3."""
    model = architecture("deepseek-r1")
    made = setting("ppo", "deepseek-r1", prompts=1, samples=1, prompt_tokens=1, response_tokens=1)
    value = next(p for p in training.passes(made) if p.role == "value" and p.what != "update")
    assert value.flops / 2 == pytest.approx(0.074e12, rel=0.03)
    assert 2 * model.parameters == pytest.approx(1.34e12, rel=0.01)
    assert value.forward == 1  # all positions of a trace at once


@given(st.integers(1, 64), st.integers(1, 32), st.integers(1, 3))
def test_operations_grow_with_samples_and_epochs(prompts, samples, epochs):
    made = {m: setting(m, prompts=prompts, samples=samples, epochs=epochs) for m in training.METHODS}
    flops = {m: sum(p.flops for p in training.passes(s)) for m, s in made.items()}
    used, tokens = architecture("r1-distill-qwen-7b").active_parameters, prompts * (512 + 8192)
    assert flops["sft"] == 6.0 * epochs * used * tokens
    assert flops["grpo"] == (6.0 * epochs + 4) * used * tokens * samples
    assert flops["ppo"] == (12.0 * epochs + 6) * used * tokens * samples


@pytest.mark.parametrize("method", training.METHODS)
@pytest.mark.parametrize("model", ["r1-distill-qwen-7b", "r1-distill-llama-70b"])
def test_the_fewest_gpus_hold_it_and_fewer_do_not(method, model):
    made, gpu = setting(method, model, longest_tokens=8192), hardware("h100-sxm")
    found = training.fewest_gpus(made, gpu)
    assert found.total <= 0.9 * gpu.memory_bytes
    smaller = found.gpus // 2 if found.gpus <= 8 else found.gpus - 8
    assert smaller == 0 or training.memory(made, smaller).total > 0.9 * gpu.memory_bytes


def test_a_sequence_that_no_number_of_gpus_holds_is_said_so():
    long = setting(longest_tokens=131_072, recompute="none")
    with pytest.raises(DoesNotFit, match="context parallel"):
        training.fewest_gpus(long, hardware("h100-sxm"))
    assert training.fewest_gpus(
        setting(longest_tokens=131_072, context_parallel=8), hardware("h100-sxm")
    ).gpus % 8 == 0  # fmt: skip
    with pytest.raises(InputError, match="at least 1"):
        setting(samples=0)


# -- from the command line --------------------------------------------------------------------------


def test_commands_say_what_the_functions_say(capsys, tmp_path):
    assert main(["economics", "split", "--parameters", "70e9", "--queries", "1e9", "--tokens", "5000", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["choices"]
    assert said["best for these queries"]["total_usd"] < said["as given"]["total_usd"]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "summary.json").write_text('{"cost": {"cost_per_query": 0.01}, "quality": {"accuracy": 0.9}}')
    argv = ["economics", "break-even", "big:train=1e6,query=0.001,accuracy=0.9", f"small:train=0,run={folder}"]
    assert main([*argv, "--value", "0.1", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["break_even"][0]["queries"] == pytest.approx(1e6 / 0.009)
    assert out["pays_from"]["small"] == 0
    assert (
        main(["economics", "training", "deepseek-r1", "--hardware", "h200", "--context-parallel", "8", "--json"]) == 0
    )
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert methods["sft"]["gpus"] <= methods["grpo"]["gpus"] < methods["ppo"]["gpus"]
    for argv in (["split", "--parameters", "7e9", "--queries", "1e6", "--tokens", "100"], ["training", "qwen3-8b"]):
        assert main(["economics", *argv]) == 0
    assert "GRPO" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["split", "--parameters", "0", "--queries", "1", "--tokens", "1"], "--parameters"),
        (["split", "--parameters", "1e9", "--queries", "1", "--tokens", "1", "--hardware", "h10"], "h100"),
        (["break-even", "a:trian=3,query=1"], "train"),
        (["break-even", "a:train=3"], "what a query costs"),
        (["break-even", "a:train=x,query=1"], "a number"),
        (["break-even", "a:train=1,run=/nowhere"], "no run's summary"),
        (["break-even", "a:train=1,query=1", "a:train=2,query=2"], "same name"),
        (["break-even", "a:train=1,query=1", "--value", "1"], "no accuracy"),
        (["training", "qwen3-9b"], "qwen3-8b"),
        (["training", "qwen3-8b", "--gpus", "0"], "--gpus"),
        (["training", "qwen3-8b", "--utilization", "2"], "--utilization"),
    ],
)
def test_bad_input_is_one_message(argv, words, capsys):
    assert main(["economics", *argv]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert not said.out
    assert "Traceback" not in said.err
