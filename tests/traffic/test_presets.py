"""Presets: each is whole and says its source; the production mix regenerates what it was fitted to."""

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from sim.errors import InputError
from workloads.measures import client_cv, hill, top_share
from workloads.presets import about, preset
from workloads.source import BLOCK, build
from workloads.spec import WorkloadSpec

SHARED = Path(__file__).parents[3] / "shared" / "external" / "traces"
QUANTILES = SHARED / "servegen_r1_client_quantiles_h00-12.json"
WINDOWS = SHARED / "servegen_r1_client_windows_h00-12.csv"
NAMES = [
    "deepseek-r1-production",
    "deepseek-r1-benchmark",
    "r1-distill",
    "qwq",
    "gpt-oss-low",
    "gpt-oss-medium",
    "gpt-oss-high",
    "article",
    "azure-chat",
    "azure-code",
    "mooncake-agent",
]
published = pytest.mark.skipif(not QUANTILES.exists(), reason="published client figures are not beside the checkout")


def make(seed=1, **spec):
    return build(WorkloadSpec.model_validate(spec), seed=seed)


def column(source, name, blocks):
    return np.concatenate([getattr(source.block(i), name) for i in range(blocks)])


@pytest.mark.parametrize("name", NAMES)
def test_preset_is_whole_and_says_its_source(name):
    source = make(preset=name)
    for index in range(2):
        source.block(index)._check()
    assert source.name == f"preset {name}"
    assert any(word in about(name) for word in ("Apache-2.0", "CC BY", "MLPerf", "article", "gpt-oss-low"))
    assert source.describe()["source"] == about(name)


def test_no_preset_is_without_a_test():
    assert sorted(preset.names()) == sorted(NAMES)


def test_article_ranges_are_the_middle_ninety_percent():
    source = make(preset="article")
    output, kind = column(source, "num_decode_tokens", 20), column(source, "category", 20)
    for name, (low, high) in {"simple_fact": (200, 500), "competition_math": (10_000, 50_000)}.items():
        mine = output[kind == source.categories.index(name)]
        assert np.quantile(mine, 0.05) == pytest.approx(low, rel=0.12)
        assert np.quantile(mine, 0.95) == pytest.approx(high, rel=0.12)
    standard = make(preset="article", mode="standard")
    assert column(standard, "num_reasoning_tokens", 2).max() == 0
    assert "proof" in source.categories


def test_benchmark_means_and_quantiles():
    source = make(preset="deepseek-r1-benchmark")
    output, kind = column(source, "num_decode_tokens", 20), column(source, "category", 20)
    output = np.minimum(output, 20_000)
    assert 3500 < output.mean() < 3900  # 17 submissions of MLPerf v5.1: 3,624 to 3,854
    for name, p50 in {"multiple_choice": 1184, "mathematics": 3629}.items():
        mine = output[kind == source.categories.index(name)]
        assert np.median(mine) == pytest.approx(p50, rel=0.07)
    answers = column(source, "num_answer_tokens", 20)
    assert 230 < np.median(answers) < 320


@pytest.mark.parametrize(("name", "prompt", "output"), [("azure-chat", 1020, 129), ("azure-code", 1469, 13)])
def test_azure_medians(name, prompt, output):
    source = make(preset=name)
    assert np.median(column(source, "num_prefill_tokens", 10)) == pytest.approx(prompt, rel=0.06)
    assert np.median(column(source, "num_answer_tokens", 10)) == pytest.approx(output, rel=0.1)


def test_a_rate_is_the_rate_and_moves_nothing_else():
    slow, fast = make(preset=NAMES[0], rate="4/s"), make(preset=NAMES[0], rate="8/s")
    last = slow.block(5).arrived_ps[-1] / 1e12
    assert 6 * BLOCK / last == pytest.approx(4, rel=0.02)
    for name in ("client", "num_prefill_tokens", "num_decode_tokens", "num_reasoning_tokens"):
        assert np.array_equal(getattr(slow.block(3), name), getattr(fast.block(3), name))


def test_answers_of_production_are_as_narrow_as_those_of_benchmarks():
    answer = column(make(preset=NAMES[0]), "num_answer_tokens", 40)
    # Bracket of the literature's data: comonotone 279 / p99 788, independent 394 / p99 2,828.
    assert 279 <= answer.mean() <= 400
    assert np.quantile(answer, 0.99) < 1300


@pytest.fixture(scope="module")
def half_day():
    """Twelve hours of the production preset as arrays."""
    source = make(3, preset=NAMES[0])
    parts, index = {}, 0
    while True:
        block = source.block(index)
        for name in ("arrived_ps", "num_decode_tokens", "num_reasoning_tokens", "client"):
            parts.setdefault(name, []).append(getattr(block, name))
        index += 1
        if block.arrived_ps[-1] > 43_200 * 10**12:
            break
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    inside = whole["arrived_ps"] < 43_200 * 10**12
    return {name: values[inside] for name, values in whole.items()}, source.clients


@pytest.fixture(scope="module")
def published_outputs():
    """(values, weights) of the published output distributions, hours 0-12, by client and block."""
    import pandas as pd

    tables, windows = json.loads(QUANTILES.read_text()), pd.read_csv(WINDOWS)
    levels = np.array(tables["quantile_levels"])
    u = (np.arange(4000) + 0.5) / 4000
    values, weights = [], []
    for client, blocks in tables["clients"].items():
        for start, fields in blocks.items():
            at = windows["window_start_s"]
            mine = (windows["client_id"] == int(client)) & (at >= float(start)) & (at < float(start) + 21600)
            count = windows[mine]["req_per_s"].sum() * 600
            heights = np.log(np.maximum(fields["output_tokens"], 1))
            values.append(np.exp(np.interp(u, levels, heights)))
            weights.append(np.full(len(u), count / len(u)))
    values, weights = np.concatenate(values), np.concatenate(weights)
    order = np.argsort(values)
    return values[order], weights[order] / weights.sum()


@published
@pytest.mark.slow
def test_production_outputs_follow_the_published_ones(half_day, published_outputs):
    """Quantiles p10-p99 within 5 %, mean within 2 %, token shares within 2 points, Hill index within 0.2."""
    output = half_day[0]["num_decode_tokens"]
    values, weights = published_outputs
    reached = np.cumsum(weights)
    for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99):
        real = values[np.searchsorted(reached, level)]
        assert np.quantile(output, level) == pytest.approx(real, rel=0.05), level
    assert output.mean() == pytest.approx((values * weights).sum(), rel=0.02)
    drawn = np.random.default_rng(0).choice(values, 500_000, p=weights)
    for share in (0.01, 0.1):
        assert top_share(output, share) == pytest.approx(top_share(drawn, share), abs=0.02)
    assert hill(output) == pytest.approx(hill(drawn), abs=0.2)


@published
@pytest.mark.slow
def test_production_windows_and_clients_follow_the_published_ones(half_day):
    """Rates of windows within their noise, request-weighted spread of clients' gaps within 10 %."""
    import pandas as pd

    data, names = half_day
    windows = pd.read_csv(WINDOWS)
    arrived = data["arrived_ps"] / 1e12
    number = np.bincount((arrived / 600).astype(int), minlength=72)
    expected = windows.groupby("window_start_s")["req_per_s"].sum().to_numpy() * 600
    assert np.abs((number - expected) / np.sqrt(expected)).max() < 3
    shares = np.bincount(data["client"], minlength=len(names)) / len(arrived)
    rates = windows.groupby("client_id")["req_per_s"].sum()
    for name, share in zip(names, shares, strict=True):
        assert share == pytest.approx(rates[int(name)] / rates.sum(), abs=2e-4)
    published_cv = np.average(windows["iat_cv"], weights=windows["req_per_s"])
    assert client_cv(arrived, data["client"].astype(np.uint16), 600.0) == pytest.approx(published_cv, rel=0.1)


@published
def test_other_windows_may_be_given():
    source = make(preset=NAMES[0], windows=str(WINDOWS))
    assert len(source.clients) == 46
    assert source.block(0).arrived_ps[-1] / 1e12 == pytest.approx(4096 / 15, rel=0.2)


@published
@pytest.mark.slow
@pytest.mark.parametrize("begin", [0, 21_600])
def test_production_follows_the_published_figures_of_any_six_hours(begin, tmp_path):
    """Given the clients' rates of some hours, the outputs and bursts of these hours; clients change over the day."""
    import pandas as pd

    windows = pd.read_csv(WINDOWS)
    windows = windows[(windows["window_start_s"] >= begin) & (windows["window_start_s"] < begin + 21_600)]
    path = tmp_path / "windows.csv"
    windows.to_csv(path, index=False)
    source = make(3, preset=NAMES[0], windows=str(path))
    blocks = [source.block(index) for index in range(-(-int(windows["req_per_s"].sum() * 600) // BLOCK))]
    arrived = np.concatenate([block.arrived_ps for block in blocks]) / 1e12
    inside = arrived < 21_600
    arrived = arrived[inside]
    output = np.concatenate([block.num_decode_tokens for block in blocks])[inside]
    client = np.concatenate([block.client for block in blocks])[inside]
    tables = json.loads(QUANTILES.read_text())
    u = (np.arange(4000) + 0.5) / 4000
    values, weights = [], []
    for name, fields in tables["clients"].items():
        count = windows[windows["client_id"] == int(name)]["req_per_s"].sum() * 600
        if str(begin) in fields and count:
            heights = np.log(np.maximum(fields[str(begin)]["output_tokens"], 1))
            values.append(np.exp(np.interp(u, tables["quantile_levels"], heights)))
            weights.append(np.full(len(u), count / len(u)))
    values, weights = np.concatenate(values), np.concatenate(weights)
    order = np.argsort(values)
    values, weights = values[order], weights[order] / weights.sum()
    for level in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99):
        real = values[np.searchsorted(np.cumsum(weights), level)]
        assert np.quantile(output, level) == pytest.approx(real, rel=0.05), level
    assert output.mean() == pytest.approx((values * weights).sum(), rel=0.02)
    drawn = np.random.default_rng(0).choice(values, 300_000, p=weights)
    for share in (0.01, 0.1):
        assert top_share(output, share) == pytest.approx(top_share(drawn, share), abs=0.02)
    assert hill(output) == pytest.approx(hill(drawn), abs=0.2)
    number = np.bincount((arrived / 600).astype(int), minlength=36)
    expected = windows.groupby("window_start_s")["req_per_s"].sum().to_numpy() * 600
    assert np.abs((number - expected) / np.sqrt(expected)).max() < 3
    published_cv = np.average(windows["iat_cv"], weights=windows["req_per_s"])
    assert client_cv(arrived, client.astype(np.uint16), 600.0) == pytest.approx(published_cv, rel=0.1)


@published
def test_hours_without_figures_of_their_own_have_those_of_the_client(tmp_path):
    path = tmp_path / "windows.csv"
    path.write_text(
        "client_id,window_start_s,req_per_s,iat_cv,iat_family\n"
        "35,21000,2,2,Weibull\n35,21600,2,2,Weibull\n35,79200,2,2,Weibull\n999,79200,1,1,Gamma\n"
    )
    source = make(preset=NAMES[0], windows=str(path))
    assert source.clients == ("35", "999")
    block = source.block(0)
    first, second = block.arrived_ps < 600e12, (block.arrived_ps >= 600e12) & (block.arrived_ps < 1200e12)
    assert np.median(block.num_decode_tokens[second]) > 1.3 * np.median(block.num_decode_tokens[first])
    block._check()
    assert source.sample_lengths(7, 1) == make(preset=NAMES[0], windows=str(path)).sample_lengths(7, 1)


def test_windows_that_are_wrong(tmp_path):
    path = tmp_path / "w.csv"
    path.write_text("client_id,window_start_s,req_per_s,iat_cv,iat_family\n1,0,-1,1,Gamma\n")
    with pytest.raises(InputError, match="req_per_s"):
        make(preset=NAMES[0], windows=str(path))
    path.write_text("client_id,window_start_s,req_per_s\n1,0,1\n")
    with pytest.raises(InputError, match="iat_cv"):
        make(preset=NAMES[0], windows=str(path))


@pytest.mark.slow
def test_a_million_queries_in_ten_seconds_and_half_a_gigabyte():
    source = make(preset=NAMES[0])
    source.block(0)
    begun = time.process_time()
    for index in range(1, 246):
        source.block(index)
    assert time.process_time() - begun < 10
    tracemalloc.start()
    for index in range(246, 280):
        source.block(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
