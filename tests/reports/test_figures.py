"""Each figure: what it draws equals what the tables say, and the hard cases draw too."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.metrics.censored import Censored
from sim.report import exhibits, formats, html
from sim.report.figures import balance, ccdf, gantt, gpu_time, heavy, memory, phases, prefix_cache, slowdown, timeline

NAMES = ["normal", "overloaded", "single", "empty", "nothing", "one", "untidy", "hostile"]


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_of_every_kind_of_run(synthetic: Any, name: str) -> None:
    for section in exhibits.sections(synthetic(name)):
        for exhibit in section.exhibits:
            meta = exhibit.figure.layout.meta
            assert meta["title"], exhibit.key
            assert meta["alt"], exhibit.key
            assert html.points(exhibit.figure) <= html.MOST_POINTS
            assert len(exhibit.data) < html.MOST_POINTS
            assert "nan" not in meta["title"].lower().replace("hostile", "")


# ---------------------------------------------------------------------------------------------- waiting

times = st.lists(st.tuples(st.floats(0.01, 1e4), st.booleans()), min_size=1, max_size=60)


@given(times, st.floats(0.01, 1e4))
def test_the_curve_is_the_estimate_that_the_metrics_use(rows: list[tuple[float, bool]], at: float) -> None:
    value, event = (np.array(column) for column in zip(*rows, strict=True))
    observed = pd.DataFrame({"group": "x", "value": value, "event": event})
    reference = Censored(value[event], value[~event])
    assert ccdf.beyond(observed, at) == pytest.approx(1 - reference.below(at), abs=1e-9)


def test_beyond_the_target_is_what_the_table_says(synthetic: Any) -> None:
    results = synthetic("normal")
    queries = results.queries[results.queries["in_window"]]
    observed = ccdf.observations(results.queries, "tta", exhibits.end_s(results))
    assert len(observed) == len(queries)
    assert ccdf.beyond(observed, 60.0) == pytest.approx((queries["tta_s"] > 60).mean(), abs=1e-12)
    title = ccdf.figure(results.queries, "tta", slo=(99, 60.0)).layout.meta["title"]
    assert f"{100 * (queries['tta_s'] > 60).mean():.1f} %" in title
    assert "more than the 1 % allowed" in title


def test_open_queries_are_censored_and_rejected_ones_left_out(synthetic: Any) -> None:
    results = synthetic("untidy")
    queries = results.queries[results.queries["in_window"]]
    status = queries["status"].astype(str)
    observed = ccdf.observations(results.queries, "tta", exhibits.end_s(results))
    assert len(observed) == (status != "rejected").sum()
    assert (~observed["event"]).sum() == status.isin(["unfinished", "timed_out"]).sum() > 0
    open_ = queries[status == "unfinished"]
    waited = open_["replication"].map(exhibits.end_s(results)) - open_["arrived_s"]
    assert set(waited.round(6)) <= set(observed["value"][~observed["event"]].round(6))


def test_a_curve_of_many_keeps_its_tail(synthetic: Any) -> None:
    results = synthetic("normal")
    curve = ccdf.table(results.queries, "tta")
    whole = curve[curve["group"] == ccdf.ALL]
    tta = results.queries.loc[results.queries["in_window"], "tta_s"].sort_values()
    assert len(whole) <= ccdf.POINTS
    assert whole["value_s"].tail(60).tolist() == tta.tail(60).tolist()
    assert (whole["beyond"].diff().dropna() <= 0).all()
    for row in whole.itertuples():
        assert row.beyond == pytest.approx(max((tta > row.value_s).mean(), 1 / len(tta)), abs=1e-9)


# --------------------------------------------------------------------------------------------- time spent


@pytest.mark.parametrize("name", ["normal", "overloaded", "one"])
def test_phases_add_up_to_the_time_to_answer(synthetic: Any, name: str) -> None:
    results = synthetic(name)
    data = phases.table(results.queries, results.requests, results.stalls)
    queries = results.queries
    done = queries[queries["in_window"] & (queries["status"].astype(str) == "completed")]
    means = done.groupby(done["category"].astype(str))["tta_s"].mean()
    for category, mean in data.groupby("category")["mean_s"].sum().items():
        assert mean == pytest.approx(means[category], rel=1e-9)
    assert (data["mean_s"] >= 0).all()
    if name == "overloaded":
        assert data.loc[data["phase"] == "recompute", "mean_s"].sum() > 1


def _request(number: int, times: tuple[float, ...], **more: Any) -> dict[str, Any]:
    arrived, scheduled, first, answer, finished = times
    return {
        "replication": 0, "request": number, "query": 0, "role": "generate", "status": "completed",
        "category": "c", "arrived_s": arrived, "first_scheduled_s": scheduled, "first_token_s": first,
        "first_answer_s": answer, "finished_s": finished, **more,
    }  # fmt: skip


def test_the_critical_path_skips_what_ran_beside_it() -> None:
    """Two samples at once, the slower decides; then a verification, its wait for a place included."""
    queries = pd.DataFrame(
        [{"replication": 0, "query": 0, "category": "c", "arrived_s": 10.0, "finished_s": 40.0, "tta_s": 30.0,
          "status": "completed", "in_window": True}]
    )  # fmt: skip
    requests = pd.DataFrame(
        [
            _request(0, (10, 11, 12, 20, 25)),
            _request(1, (10, 13, 14, 20, 30)),
            _request(2, (30, 33, 35, 35, 40), role="verify"),
        ]
    )
    data = phases.table(queries, requests, None).set_index("phase")["mean_s"]
    assert data.to_dict() == {
        "queue": 3, "prefill": 1, "handover": 0, "thinking": 6, "answering": 10, "recompute": 0, "verification": 10
    }  # fmt: skip


def test_a_gap_is_taken_off_the_phase_that_it_lies_in() -> None:
    queries = pd.DataFrame(
        [{"replication": 0, "query": 0, "category": "c", "arrived_s": 0.0, "finished_s": 30.0, "tta_s": 30.0,
          "status": "completed", "in_window": True}]
    )  # fmt: skip
    requests = pd.DataFrame([_request(0, (0, 1, 2, 20, 30))])
    stalls = pd.DataFrame({"replication": [0, 0], "request": [0, 0], "at_s": [9.0, 24.0], "gap_s": [4.0, 8.0]})
    data = phases.table(queries, requests, stalls).set_index("phase")["mean_s"]
    # The second gap begins in thinking (16 to 20) and ends in the answer (20 to 24).
    assert data["thinking"] == 18 - 4 - 4
    assert data["answering"] == 10 - 4
    assert data["recompute"] == 12


# ---------------------------------------------------------------------------------------------- over time

rectangles = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20), st.integers(0, 9)), min_size=1, max_size=25)


@given(rectangles, st.integers(1, 12))
def test_mean_low_and_high_of_a_sum_of_rectangles(rows: list[tuple[int, int, int]], pieces: int) -> None:
    start, length, value = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    edges = np.linspace(0, 60, pieces + 1)
    mean, low, high = timeline.level(start, start + length, value, edges)
    fine = 60 * pieces
    middle = (np.arange(fine) + 0.5) * 60 / fine
    inside = (start[:, None] <= middle) & (middle < (start + length)[:, None])
    curve = (inside * value[:, None]).sum(axis=0).reshape(pieces, -1)
    exact = [
        sum(v * max(0.0, min(s + n, b) - max(s, a)) for s, n, v in rows) / (b - a) for a, b in itertools.pairwise(edges)
    ]
    assert mean == pytest.approx(exact, abs=1e-9)
    assert (low <= curve.min(axis=1) + 1e-9).all()
    assert (high >= curve.max(axis=1) - 1e-9).all()
    assert high.max() <= value.sum()


def test_the_timeline_agrees_with_the_segments(synthetic: Any) -> None:
    results = synthetic("overloaded")
    segments = results.segments[results.segments["replication"] == 0]
    data = timeline.table(segments, kv_blocks={"reasoning": 10_000})
    step = data["time_s"].diff().iloc[1]
    area = (segments["running"] * (segments["end_s"] - segments["start_s"])).sum()
    assert (data["running"] * step).sum() == pytest.approx(area, rel=1e-9)
    assert data["preempted"].sum() == segments["preempted"].sum() > 0
    assert data["waiting_high"].max() >= segments["waiting"].max()
    assert data["kv_use_high"].max() <= 1.01


def test_warm_up_and_drain_are_shaded(synthetic: Any) -> None:
    results = synthetic("normal")
    window = exhibits.window_s(results)
    segments = results.segments[results.segments["replication"] == 0]
    shapes = timeline.figure(segments, window_s=window).layout.shapes
    assert {(shape.x0, shape.x1) for shape in shapes} >= {(0.0, window[0])}
    assert any(shape.x0 == window[1] for shape in shapes)


# ------------------------------------------------------------------------------------------- who and what


def test_deciles_are_equal_groups_in_order_of_length(synthetic: Any) -> None:
    queries = synthetic("normal").queries
    data = slowdown.by_length(queries)
    done = queries[queries["in_window"]]
    assert len(data) == 10
    assert data["n"].sum() == len(done)
    assert data["n"].max() - data["n"].min() <= 1
    assert (data["tokens_high"].to_numpy()[:-1] <= data["tokens_low"].to_numpy()[1:]).all()
    tokens = done["reasoning_tokens"] + done["answer_tokens"]
    first = done.assign(tokens=tokens).sort_values(["tokens", "replication", "query"]).head(data["n"].iloc[0])
    assert data["p90"].iloc[0] == pytest.approx(np.quantile(first["slowdown"], 0.9))


def test_clients_beyond_the_largest_are_one_row(synthetic: Any) -> None:
    queries = synthetic("normal").queries
    data = slowdown.by_client(queries, most=4)
    assert data["rest"].tolist() == [False] * 4 + [True]
    assert data["n"].sum() == queries["in_window"].sum()
    assert data["p90"][:4].is_monotonic_decreasing


def test_the_gantt_holds_the_longest_and_the_most_starved(synthetic: Any) -> None:
    results = synthetic("overloaded")
    ends = exhibits.end_s(results)
    queries = results.queries[results.queries["in_window"]]
    data = gantt.table(results.queries, results.requests, results.stalls, end_s=ends)
    longest = data[data["kind"] == "longest"].drop_duplicates(["replication", "query"])
    waited = queries["tta_s"].fillna(queries["replication"].map(ends) - queries["arrived_s"])
    assert longest["time_s"].tolist() == pytest.approx(waited.nlargest(gantt.EACH).tolist())
    starved = data[data["kind"] == "starved"].drop_duplicates(["replication", "query"])
    assert starved["slowdown"].tolist() == sorted(starved["slowdown"], reverse=True)
    assert len(starved) == gantt.EACH
    assert (data["start_s"] >= -1e-9).all()
    assert (data["end_s"] <= data["time_s"] + 1e-6).all()


def test_gpu_time_is_the_summary_s(synthetic: Any) -> None:
    gpu = synthetic("normal").summary["gpu"]
    data = gpu_time.table(gpu)
    assert data["share"].sum() == pytest.approx(1)
    assert data["gpu_hours"].sum() == pytest.approx(gpu["gpu_hours"])
    del gpu["pools"]["reasoning"]["parts"]
    fallback = gpu_time.table(gpu)
    assert fallback["part"].tolist() == ["busy", "idle"]
    assert isinstance(gpu_time.figure(fallback), go.Figure)


def test_memory_adds_up_to_the_gpu(synthetic: Any) -> None:
    kv = synthetic("overloaded").summary["kv"]
    data = memory.table(kv, {"reasoning": 4}).set_index("part")["gigabytes"]
    assert data.sum() == pytest.approx(80)
    pool = kv["pools"]["reasoning"]
    size = pool["memory"]["kv_bytes"] / 1e9
    assert data["KV live"] + data["KV wasted"] == pytest.approx(size * pool["use_mean"])
    split = {**pool, "waste": {"reserved_unused": 0.004, "duplicate_prefixes": 0.1, "cached_unreferenced": 0.02}}
    parts = memory.table({"pools": {"reasoning": split}}, {"reasoning": 4}).set_index("part")["gigabytes"]
    assert parts.sum() == pytest.approx(80)
    assert parts["KV reserved"] == pytest.approx(0.004 * size)
    assert parts["KV copied"] + parts["KV live"] == pytest.approx(data["KV live"])
    assert parts["KV cached"] + parts["KV free"] == pytest.approx(data["KV free"])
    assert parts["KV cached"] == pytest.approx(0.02 * size)
    assert data["KV live"] == pytest.approx(size * pool["use_mean"] * pool["memory_efficiency"])


def test_what_the_prefix_cache_spares_by_where_it_was_found() -> None:
    asked = {"hit_tokens": 400, "hit_share": 0.4, "host_hit_tokens": 100, "host_hit_share": 0.1, "host_blocks": 50}
    nothing = {"hit_tokens": 0, "hit_share": 0.0, "host_hit_tokens": 0, "host_hit_share": 0.0, "host_blocks": 0}
    data = prefix_cache.table({"pools": {"a": {"prefix_cache": asked}, "b": {"prefix_cache": nothing}}})
    assert set(data["pool"]) == {"a"}
    assert dict(zip(data["part"], data["tokens"], strict=True)) == {
        "found on the GPU": 300,
        "loaded from the host": 100,
        "computed": 600,
    }
    assert data["share"].sum() == pytest.approx(1)
    assert prefix_cache.finding(data) == (
        f"The prefix cache spares {formats.percent(0.4, 2)} of the tokens to compute, "
        f"{formats.percent(0.1, 2)} from the host's memory"
    )
    bars = {bar.name: bar.x[0] for bar in prefix_cache.figure(data).data}
    assert bars == {"found on the GPU": 30, "loaded from the host": 10, "computed": 60}
    assert prefix_cache.table({"pools": {"b": {"prefix_cache": nothing}}}).empty


@settings(max_examples=40)
@given(st.lists(st.integers(1, 100_000), min_size=20, max_size=300))
def test_share_of_the_longest(lengths: list[int]) -> None:
    requests = pd.DataFrame({"in_window": True, "role": "generate", "reasoning_tokens": lengths, "answer_tokens": 0})
    data = heavy.table(requests)
    top = sorted(lengths, reverse=True)
    for row in data.itertuples():
        count = round(row.top * len(lengths))
        assert row.share == pytest.approx(sum(top[:count]) / sum(lengths))
        assert row.tokens == top[count - 1]
    assert data["share"].iloc[-1] == pytest.approx(1)


def test_balance_counts_what_replicas_computed(synthetic: Any) -> None:
    results = synthetic("normal")
    segments = results.segments[results.segments["replication"] == 0]
    run = replace(results.runs[0], window_start_ps=0, window_end_ps=round(float(segments["end_s"].max()) * 1e12))
    data = balance.table(segments, run)
    computed = segments["steps"] * segments["decodes"] + segments["chunk_tokens"]
    assert data["tokens"].sum() == pytest.approx(computed.sum())
    assert data["tokens_ratio"].mean() == pytest.approx(1)
    assert data["busy_s"].sum() == pytest.approx((segments["end_s"] - segments["start_s"]).sum())


def test_balance_shows_replicas_that_idle_and_knows_who_was_on(synthetic: Any) -> None:
    results = synthetic("normal")
    segments = results.segments[(results.segments["replication"] == 0) & (results.segments["replica"] == 0)]
    end_ps = round(float(segments["end_s"].max()) * 1e12)
    (pool,) = results.runs[0].pools
    assert pool.replicas == 2
    run = replace(results.runs[0], window_start_ps=0, window_end_ps=end_ps)
    data = balance.table(segments, run)
    assert data["replica"].tolist() == [0, 1]
    assert data["tokens_ratio"].tolist() == pytest.approx([2, 0])  # all the work against half of it
    assert balance.figure(segments, run).layout.meta["title"].startswith("The fullest replica holds 2 times")
    was_off = replace(run, pools=(replace(pool, served_ps=(0, 0, -1, 1, end_ps // 2, -1)),))
    first = float(segments["end_s"].max()) / 2
    late = segments[segments["start_s"] >= first]
    whole, half = balance.table(late, was_off)["tokens_ratio"]
    assert (whole, half) == (pytest.approx(2), 0)  # nothing was done before the other came
