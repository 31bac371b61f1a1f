"""A generator fitted to traffic of known laws keeps its lengths, their joint law and its bursts."""

import numpy as np
import pyarrow as pa
import pytest

from workloads.fitting.fit import fit
from workloads.fitting.nearness import by_quantiles
from workloads.held import Held
from workloads.measures import compare
from workloads.portrait import portrait
from workloads.source import BLOCK, build
from workloads.spec import Lengths, WorkloadSpec


def held(arrived, prompt, output, reasoning=None):
    columns = {"arrived_at": arrived, "num_prefill_tokens": prompt, "num_decode_tokens": output}
    columns |= {} if reasoning is None else {"num_reasoning_tokens": reasoning}
    kinds = {name: values if name == "arrived_at" else values.astype(np.int64) for name, values in columns.items()}
    return Held.of([pa.RecordBatch.from_pydict(kinds)])


def drawn(workload, seed):
    source = build(WorkloadSpec.model_validate(workload), seed=seed)
    blocks = [source.block(index) for index in range(-(-source.total // BLOCK))]
    return held(
        np.concatenate([block.arrived_ps for block in blocks]) / 1e12,
        np.concatenate([block.num_prefill_tokens for block in blocks]),
        np.concatenate([block.num_decode_tokens for block in blocks]),
        np.concatenate([block.num_reasoning_tokens for block in blocks]) if blocks[0].reasoning_known else None,
    )


def mixture(rng, size, parts):
    weight = np.array([part[0] for part in parts])
    which = rng.choice(len(parts), size, p=weight / weight.sum())
    median, sigma = np.array([part[1] for part in parts]), np.array([part[2] for part in parts])
    return np.rint(median[which] * np.exp(sigma[which] * rng.normal(size=size)))


def code_completion(rng):
    """Short outputs with a heavy tail, in bursts with long silences: CV of gaps about 10."""
    size = 6000
    gaps = np.where(rng.random(size) < 0.985, rng.exponential(0.06, size), rng.exponential(22, size))
    output = np.clip(mixture(rng, size, [(0.66, 10.6, 0.38), (0.34, 36.6, 0.9)]), 1, 1899)
    return held(np.cumsum(gaps), np.clip(mixture(rng, size, [(0.3, 250, 1.3), (0.7, 2100, 0.7)]), 3, 7437), output)


def narrow_answers(rng):
    """Answers that know nothing of the reasoning before them; Weibull gaps."""
    size = 12_000
    answer = np.clip(mixture(rng, size, [(1, 280, 0.5)]), 1, 2000)
    reasoning = np.clip(mixture(rng, size, [(0.8, 400, 0.66), (0.2, 2800, 0.84)]), 1, 30_000)
    return held(np.cumsum(rng.weibull(0.5, size)), np.full(size, 50.0), answer + reasoning, reasoning)


def two_kinds_of_thinking(rng):
    """Long outputs are nearly all reasoning, short ones bimodal: no one correlation says so."""
    size = 12_000
    output = np.clip(mixture(rng, size, [(0.7, 500, 0.7), (0.3, 3000, 0.8)]), 2, 32_768)
    low = rng.random(size) < 0.7 / (1 + (output / 900) ** 2)
    share = np.where(low, rng.beta(16, 26, size), rng.beta(9, 1.5, size))
    return held(np.cumsum(rng.exponential(1, size)), output, output, np.rint(output * share))


def pareto_tail(rng):
    size = 12_000
    output = np.clip((rng.pareto(1.6, size) + 1) * 200, 1, 32_768)
    return held(np.cumsum(rng.gamma(0.1, 1, size)), np.full(size, 50.0), output)


def small_and_bimodal(rng):
    size = 400
    output = np.clip(mixture(rng, size, [(0.8, 400, 0.66), (0.2, 2800, 0.84)]), 1, 30_000)
    return held(np.cumsum(rng.exponential(2, size)), np.full(size, 50.0), output)


def thinking_to_a_limit(rng):
    """Limits of three kinds of clients; who thinks up to it does not come to an answer."""
    size = 1000
    natural = mixture(rng, size, [(0.6, 900, 0.8), (0.4, 4000, 0.9)])
    limit = rng.choice([2048, 8192, 20_000], size, p=[0.3, 0.4, 0.3])
    output = np.clip(natural, 2, limit)
    reasoning = np.where(output == limit, output, np.rint(output * rng.beta(8, 2, size)))
    return held(np.cumsum(rng.exponential(0.4, size)), np.full(size, 50.0), output, reasoning)


def test_limits_keep_what_thinks_up_to_them():
    real = thinking_to_a_limit(np.random.default_rng(7))
    made = drawn(fit(real).workload, seed=2)
    for limit in (2048, 8192):
        at = made.output == limit
        assert at.sum() == pytest.approx((real.output == limit).sum(), abs=2)
        # By chance an output ends there by itself.
        assert (made.reasoning_at(at) == limit).mean() > 0.95
    np.testing.assert_allclose(*(np.quantile(one.output, (0.1, 0.5, 0.9, 0.99)) for one in (made, real)), rtol=0.03)


def test_even_draws_of_quantiles_are_the_values_where_it_matters():
    values = np.sort(np.rint(np.random.default_rng(5).pareto(1.3, 1000) * 300 + 300))
    law = by_quantiles(values)
    made = law.quantile((np.arange(1000) + 0.5) / 1000)
    assert made[-1] == pytest.approx(values[-1], rel=1e-3)
    at = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    np.testing.assert_allclose(np.quantile(made, at), np.quantile(values, at), rtol=0.02)
    assert made.mean() == pytest.approx(values.mean(), rel=0.01)


@pytest.mark.parametrize(
    "traffic", [code_completion, narrow_answers, two_kinds_of_thinking, pareto_tail, small_and_bimodal]
)
def test_fit_then_sample(traffic):
    real = traffic(np.random.default_rng(3))
    rows = {row.name: row for row in compare(portrait(real), portrait(drawn(fit(real).workload, seed=2)))}
    for name, row in rows.items():
        if name.startswith("output, p"):
            assert abs(row.distance) <= 0.05 or abs(row.generated - row.real) <= 1, row
        if name.startswith(("reasoning, p", "answer, p")):
            assert abs(row.distance) <= 0.07 or abs(row.generated - row.real) <= 3, row
        if name == "output, mean tokens":
            assert abs(row.distance) <= 0.02, row
        if name.startswith("output, share of top"):
            assert abs(row.distance) <= 0.02, row
    # From the first arrival to the last: where silences are long, it matters where the first one falls.
    assert abs(rows["rate, 1/s"].distance) <= 0.05
    assert abs(rows["output, Hill index of top 5 %"].distance) <= 0.2
    assert abs(rows["gaps of a client in a window, CV"].distance) <= 0.10
    assert abs(rows["gaps, CV"].distance) <= 0.15


def test_a_long_trace_is_fitted_on_what_a_workload_can_last():
    arrived = np.linspace(0, 130 * 86_400, 2000)
    fitted = fit(held(arrived, np.full(2000, 9.0), np.full(2000, 5.0)))
    assert "first 100 days" in fitted.notes[0]
    assert drawn(fitted.workload, seed=0).arrived[-1] <= 100 * 86_400 + 1


def test_traffic_that_starts_late_keeps_its_clock_only_within_a_window():
    for start, first in ((100.0, 100.0), (90_000.0, 0.0)):
        arrived = start + np.arange(3000) * 6.0
        made = drawn(fit(held(arrived, np.full(3000, 9.0), np.full(3000, 5.0))).workload, seed=0)
        assert made.arrived[0] == pytest.approx(first, abs=600)


EVEN = {
    "arrivals": "poisson",
    "rate": "1/s",
    "lengths": {"prompt": 5, "answer": {"law": "pareto", "scale": 99, "alpha": 2}},
}


def test_even_draws_show_the_law_almost_without_noise():
    errors = {}
    for even in (False, True):
        spec = WorkloadSpec.model_validate(EVEN | {"even_draws": even, "queries": 3000})
        means = [build(spec, seed=seed).block(0).num_answer_tokens.mean() for seed in range(20)]
        errors[even] = np.std(means)
        assert np.mean(means) == pytest.approx(198, rel=0.05)
    assert errors[True] < 0.1 * errors[False]


def test_even_draws_keep_the_order_of_luck_and_every_promise_of_a_source():
    made = {
        even: build(WorkloadSpec.model_validate(EVEN | {"even_draws": even, "queries": 5000}), seed=1)
        for even in (False, True)
    }
    plain, even = (made[flag].block(0).num_answer_tokens for flag in (False, True))
    assert np.corrcoef(np.log(plain), np.log(even))[0, 1] > 0.99
    law = Lengths.model_validate({"prompt": 1, "answer": {"law": "pareto", "scale": 99, "alpha": 2}})
    assert made[True].lengths_under(4500, 0, law) == made[True].sample_lengths(4500, 0)


def test_bands_are_the_joint_law_of_output_and_share():
    lengths = {
        "prompt": 5,
        "output": {"law": "uniform", "low": 100, "high": 1100},
        "reasoning_share_by_output": [{"up_to": 600, "share": 0.25}, {"up_to": 1000, "share": 0.75}],
    }
    source = build(
        WorkloadSpec.model_validate({"arrivals": "poisson", "rate": "1/s", "queries": 4000, "lengths": lengths}), seed=0
    )
    block = source.block(0)
    output = block.num_decode_tokens
    np.testing.assert_array_equal(block.num_reasoning_tokens, np.rint(output * np.where(output <= 600, 0.25, 0.75)))
    with pytest.raises(ValueError, match="must rise"):
        Lengths.model_validate(lengths | {"reasoning_share_by_output": [{"up_to": 9, "share": 0.1}] * 2})
    with pytest.raises(ValueError, match="not both"):
        Lengths.model_validate(lengths | {"reasoning_share": 0.5})


def test_gaps_of_any_law():
    gaps = {"law": "empirical", "values": [0.1, 0.1, 0.1, 3.7]}
    member = {"rates": [2, 1], "gaps": gaps, "lengths": {"prompt": 1, "answer": 1}}
    spec = {"clients": {"window": "1000 s", "members": {"one": member}}, "queries": 3000}
    arrived = drawn(spec, seed=0).arrived
    assert np.histogram(arrived, [0, 1000, 2000])[0].tolist() == [2000, 1000]
    first = np.diff(arrived[arrived < 1000])
    assert np.unique(np.round(first / first.mean(), 1)).tolist() == pytest.approx([0.1, 3.7], abs=0.05)
