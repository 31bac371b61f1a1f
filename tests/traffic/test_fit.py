"""Fit: EM finds what was put in; a fitted generator draws traffic like the trace."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from workloads.conversations import FIRST, LATER
from workloads.fitting.em import Counted, find_atoms, fit_lengths, fit_shares
from workloads.fitting.fit import fit
from workloads.fitting.lengths import length_law
from workloads.fitting.nearness import follows
from workloads.formats import read
from workloads.held import Chunk, Held, off_grid
from workloads.measures import Comparison, compare, hill, top_share
from workloads.portrait import Portrait, portrait
from workloads.source import build
from workloads.spec import WorkloadSpec

SHARED = Path(__file__).parents[3] / "shared" / "external" / "traces"


def test_em_finds_two_lognormals():
    rng = np.random.default_rng(1)
    values = np.rint(
        np.exp(np.where(rng.random(20_000) < 0.8, rng.normal(6, 0.6, 20_000), rng.normal(8.3, 0.5, 20_000)))
    )
    parts = fit_lengths(values).components
    assert len(parts) == 2
    low, high = parts
    assert low.weight == pytest.approx(0.8, abs=0.02)
    assert np.log(low.median) == pytest.approx(6, abs=0.04)
    assert np.log(high.median) == pytest.approx(8.3, abs=0.05)
    assert (low.sigma, high.sigma) == (pytest.approx(0.6, abs=0.03), pytest.approx(0.5, abs=0.04))


def test_one_lognormal_is_not_split():
    values = np.exp(np.random.default_rng(2).normal(7, 0.9, 20_000))
    assert len(fit_lengths(values).components) == 1


def test_caps_and_habits_become_atoms():
    rng = np.random.default_rng(3)
    values = np.minimum(np.rint(rng.lognormal(7, 0.8, 20_000)), 1500)
    values[:1000] = 26
    at, share = find_atoms(Counted.of(values))
    assert 1500 in at
    assert 26 in at
    assert share[list(at).index(1500)] == pytest.approx((values == 1500).mean(), abs=0.01)
    assert follows(length_law(values), values)


def test_em_finds_two_betas():
    rng = np.random.default_rng(4)
    values = np.where(rng.random(30_000) < 0.22, rng.beta(16.5, 26.6, 30_000), rng.beta(4.62, 1.21, 30_000))
    law = fit_shares(values)
    assert follows(law, values, floor=0.01)
    assert len(law.components) >= 2


def test_what_no_mixture_follows_is_kept_by_quantiles():
    rng = np.random.default_rng(5)
    values = np.where(rng.random(30_000) < 0.5, rng.integers(900, 1100, 30_000), rng.integers(4000, 4100, 30_000))
    law = length_law(values)
    assert follows(law, values.astype(float))


def held_of(source):
    def batches():
        index = 0
        while (block := source.block(index)) is not None:
            index += 1
            yield pa.RecordBatch.from_pydict(
                {
                    "arrived_at": block.arrived_ps / 1e12,
                    "num_prefill_tokens": block.num_prefill_tokens,
                    "num_decode_tokens": block.num_decode_tokens,
                    "num_reasoning_tokens": block.num_reasoning_tokens,
                    "client_id": [source.clients[code] for code in block.client],
                }
            )

    return Held.of(batches())


def near(rows, *, quantile=0.05, output_mean=0.02, skip=()):
    """Assert the figures that a fit must keep."""
    found = {row.name: row for row in rows}
    for name, row in found.items():
        if name.startswith("output, p"):
            assert abs(row.distance) <= quantile, row
    assert abs(found["output, mean tokens"].distance) <= output_mean
    for share in ("1%", "10%"):
        assert abs(found[f"output, share of top {share}"].distance) <= 0.02
    assert abs(found["output, Hill index of top 5 %"].distance) <= 0.25
    assert abs(found["gaps of a client in a window, CV"].distance) <= 0.10
    assert found["output, KS distance"].generated <= 0.02
    assert abs(found["rate, 1/s"].distance) <= 0.01


def lengths(median, cap=None):
    output = {"law": "lognormal", "median": median, "sigma": 0.8} | ({"max": cap} if cap else {})
    share = {"law": "beta", "components": [{"weight": 1, "a": 5, "b": 2}]}
    return {
        "prompt": {"law": "lognormal", "median": 200, "sigma": 1},
        "output": output,
        "reasoning_share": share,
    }


def test_fit_then_sample_keeps_what_it_was_fitted_to():
    members = {
        "a": {"rates": [2, 4, 1, 0, 3, 5] * 3, "cvs": [2.5], "lengths": lengths(900, 1500)},
        "b": {"rates": [1] * 18, "cvs": [1.0], "lengths": lengths(4000)},
        "tiny": {"rates": [0.005] * 18, "cvs": [1.0], "lengths": lengths(50)},
    }
    spec = {"clients": {"window": "600 s", "members": members}, "queries": 34_000}
    real = held_of(build(WorkloadSpec.model_validate(spec), seed=1))
    fitted = fit(real)
    assert "b" not in fitted.workload["clients"]["members"]
    again = held_of(build(WorkloadSpec.model_validate(fitted.workload), seed=2))
    assert len(again) == len(real)
    near(compare(portrait(real), portrait(again)))


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured traces stand beside the checkout, if at all")
@pytest.mark.parametrize("name", ["azure2023_conv.csv", "servegen_r1_h00-12_scale0.1.csv"])
def test_fit_of_measured_traces(name):
    real = Held.of(read(SHARED / name))
    spec = WorkloadSpec.model_validate(fit(real).workload)
    near(compare(portrait(real), portrait(held_of(build(spec, seed=5)))))


def test_a_burst_is_fitted_as_one():
    held = Held.of(
        [
            pa.RecordBatch.from_pydict(
                {"arrived_at": [0.0] * 50, "num_prefill_tokens": [5] * 50, "num_decode_tokens": [9] * 50}
            )
        ]
    )
    fitted = fit(held)
    assert fitted.workload["arrivals"] == {"process": "burst", "size": 50}
    assert build(WorkloadSpec.model_validate(fitted.workload), seed=0).total == 50


@pytest.mark.parametrize(
    ("name", "real", "drawn", "absolute", "near"),
    [
        ("output, p99 tokens", 1000, 1049, False, True),
        ("output, p99 tokens", 1000, 1060, False, False),
        ("output, p10 tokens", 7, 8, False, True),
        ("output, mean tokens", 1000, 1030, False, False),
        ("output, Hill index of top 5 %", 2.0, 2.3, True, False),
        ("output, Hill index of top 5 %", 25.0, 60.0, True, None),
        ("gaps of a client in a window, CV", 2.0, 2.1, False, True),
        ("prompt, p99 tokens", 1000, 5000, False, None),
    ],
)
def test_what_a_generator_must_keep(name: str, real: float, drawn: float, absolute: bool, near: bool | None):
    assert Comparison(name, real, drawn, absolute).near is near


def test_measures_against_theory():
    rng = np.random.default_rng(7)
    values = (rng.pareto(2.1, 200_000) + 1) * 100
    assert hill(values) == pytest.approx(2.1, rel=0.05)
    # A Pareto law's top share p makes p ** (1 - 1 / alpha) of the whole.
    assert top_share(values, 0.1) == pytest.approx(0.1 ** (1 - 1 / 2.1), rel=0.1)
    one = Portrait(60, [], names=("all",), grouped_by="nothing", split_known=False)
    one.add(Chunk(np.zeros(1), np.array([2000]), np.array([200]), None, np.zeros(1, int)))
    assert one.resident_tokens == 2100


@pytest.mark.parametrize(("clients", "most"), [(2, 15), (300, 16)])
def test_sixteen_bytes_a_row(clients: int, most: int):
    batch = pa.RecordBatch.from_pydict(
        {
            "arrived_at": np.arange(1000.0),
            "num_prefill_tokens": np.arange(1, 1001) * 1_000_000,
            "num_decode_tokens": np.arange(1, 1001),
            "num_reasoning_tokens": np.arange(1000),
            "client_id": [str(number % clients) for number in range(1000)],
            "session_id": [str(number // 2) for number in range(1000)],
        }
    )
    held = Held.of([batch.slice(0, 501), batch.slice(501)])
    columns = [value for value in vars(held).values() if isinstance(value, np.ndarray)]
    assert sum(column.nbytes for column in columns) == most * 1000
    assert np.abs(held.reasoning_at(slice(None)) - np.arange(1000)).max() <= 1
    np.testing.assert_allclose(held.arrived, np.arange(1000.0))
    np.testing.assert_array_equal(held.prompt_at(slice(None)), np.arange(1, 1001) * 1_000_000)
    np.testing.assert_array_equal(held.turn_at(slice(None)), [FIRST, LATER] * 500)
    np.testing.assert_array_equal(held.client, np.arange(1000) % clients)


def test_a_coarse_clock_is_not_taken_for_bursts():
    rng = np.random.default_rng(8)
    times = np.cumsum(rng.exponential(0.3, 5000))
    columns = {"num_prefill_tokens": np.ones(5000, int), "num_decode_tokens": np.ones(5000, int)}
    fine = Held.of([pa.RecordBatch.from_pydict({"arrived_at": times} | columns)])
    coarse = Held.of([pa.RecordBatch.from_pydict({"arrived_at": np.floor(times / 3) * 3} | columns)])
    assert coarse.gap.std() / coarse.gap.mean() > 2.5
    spread, note = off_grid(coarse)
    assert "grid of 3 s" in note
    assert spread.gap.std() / spread.gap.mean() == pytest.approx(1, abs=0.05)
    assert (np.floor(spread.arrived / 3) == np.floor(times / 3) - np.floor(times[0] / 3)).mean() > 0.99
    assert off_grid(fine) == (fine, None)
