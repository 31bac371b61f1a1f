"""Results: from rows to tables, to a directory and back; the same bytes each time, and clear words for what
is broken."""

from __future__ import annotations

import hashlib
import json
import struct
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from sim.errors import InputError
from sim.results import (
    QUERY_ROW,
    REQUEST_ROW,
    SEGMENT_ROW,
    TABLES,
    PoolInfo,
    RequestSink,
    Results,
    Role,
    RowSink,
    RunInfo,
    SegmentSink,
    SloTarget,
    Status,
    build,
    replace_directory,
)
from sim.results.results import FILES, to_json
from sim.results.sinks import columns_of, pack_segment

S = 10**12


def info(replication: int = 0, **changes) -> RunInfo:
    pools = tuple(
        PoolInfo(
            name=name,
            model="m",
            hardware="h",
            replicas=2,
            gpus_per_replica=4,
            gpu_hours=1.0,
            gpu_hours_run=2.0,
            price_usd_per_gpu_hour=2.5,
            max_num_seqs=256,
            max_num_batched_tokens=8192,
            block_size=16,
            num_gpu_blocks=1000,
            kv_bytes_per_token=1024,
            front_end_ps=front_end,
            memory={"weights_bytes": 1e9, "lines": ["a", "b"]},
            fidelity={"kind": "prior"},
            out_of_range=("batch 300",),
            deployment=object(),
        )
        for name, front_end in (("standard", 0), ("reasoning", S // 100))
    )
    options = {
        "replication": replication,
        "window_start_ps": 2 * S,
        "window_end_ps": 8 * S,
        "end_ps": 20 * S,
        "pools": pools,
        "categories": ("coding", "proof"),
        "clients": ("x", "ü <b>"),
        "slo": (SloTarget("tta", 99.0, 30.0),),
        "warm_up": {"kind": "duration", "value": "2 s"},
        "not_modelled": ("the network",),
    }
    return RunInfo(**(options | changes))


def request(i: int, **changes) -> SimpleNamespace:
    values = dict.fromkeys(REQUEST_ROW, 0) | {
        "id": i,
        "query": i,
        "role": Role.GENERATE,
        "pool": 1,
        "arrived_ps": i * S,
        "first_scheduled_ps": i * S + 1,
        "first_token_ps": i * S + S // 4,
        "first_answer_ps": i * S + S // 2,
        "finished_ps": i * S + S,
        "status": Status.COMPLETED,
        "prompt_tokens": 100,
        "max_tokens": -1,
        "reasoning_tokens": 10,
        "generated": 16,
        "output_tokens": 16,
        "truncated": False,
    }
    return SimpleNamespace(**(values | changes))


def query(r: SimpleNamespace) -> tuple[int, ...]:
    reasoning = min(r.generated, r.reasoning_tokens)
    return (
        r.query, r.category, r.client, r.arrived_ps, r.finished_ps, r.first_answer_ps, r.status, 1, 0, r.pool,
        r.prompt_tokens, reasoning, r.generated - reasoning, 0, r.truncated,
    )  # fmt: skip


def tables(requests, run: RunInfo | None = None, sinks=()):
    request_sink, queries = RequestSink(), RowSink(QUERY_ROW)
    request_sink.take_all(requests)
    for r in requests:
        queries.add(query(r))
    return build(run or info(), queries=queries, requests=request_sink, segments=sinks)


def some_results(replications: int = 2) -> Results:
    runs = []
    for replication in range(replications):
        sink, other = SegmentSink(1, 1), SegmentSink(0, 0)
        sink.add((5 * S, 10, 1000, 3, 2, 1, 0, 40, 0, 0, 0, 0, 5, 6, 50, 2, 1, 0, 0, 0, 0, 0))
        sink.add((6 * S, 1, 9000, 0, 1, 0, 0, 40, 1, 100, 10_000, 0, 5, 5, 50, 2, 0, 1, 0, 0, 0, 0))
        sink.stall(3, 7 * S, S)
        other.add((S, 1, 7, 0, 1, 1, 0, 4, 0, 0, 0, 0, 1, 1, 4, 1, 0, 0, 0, 0, 0, 0))
        requests = [
            request(0, pool=-1, replica=-1, status=Status.REJECTED, first_scheduled_ps=-1, first_token_ps=-1,
                    first_answer_ps=-1, finished_ps=0, generated=0, category=-1, cached_tokens_first=-1),
            request(3, client=1), request(1, category=1),
            request(2, status=Status.UNFINISHED, finished_ps=-1, first_answer_ps=-1, generated=4),
            request(9, generated=1, reasoning_tokens=0),
        ]  # fmt: skip
        run = info(replication)
        runs.append((run, tables(requests, run, [sink, other])))
    summary = {"schema_version": 1, "value": float("nan"), "runs": [run.to_dict() for run, _ in runs]}
    return Results(scenario="name: x\npools: {}\n", runs=runs, provenance={"wall_s": 1.5}, summary=summary)


def test_rows_become_tables_in_order_with_every_declared_column():
    results = some_results()
    for name, columns in TABLES.items():
        frame = getattr(results, name)
        assert list(frame.columns) == [column.name for column in columns]
        for column in columns:
            kind = str(frame[column.name].dtype)
            assert kind == column.dtype, (name, column.name)
    assert results.requests.request.tolist() == [0, 1, 2, 3, 9] * 2
    assert results.queries["query"].tolist() == [0, 1, 2, 3, 9] * 2
    assert results.queries.replication.tolist() == [0] * 5 + [1] * 5
    assert list(zip(results.segments.pool, results.segments.replica, strict=True))[:3] == [
        ("standard", 0), ("reasoning", 1), ("reasoning", 1),
    ]  # fmt: skip


def test_times_and_figures_of_a_request_by_hand():
    row = some_results().requests.loc[3]
    assert (row.arrived_s, row.finished_s, row.first_token_s) == (3.0, 4.0, 3.25)
    assert row.ttft_s == 0.26  # with the front end's 10 ms
    assert row.ttfo_s == 0.51
    assert row.e2e_s == 1.01
    assert row.queue_s == 1e-12
    assert row.tpot_s == 0.75 / 15
    assert row.answer_tpot_s == 0.5 / 5
    assert (row.reasoning_tokens, row.answer_tokens, row.natural_tokens) == (10, 6, 16)
    assert row.client == "ü <b>"
    assert row.in_window


def test_what_does_not_exist_is_missing():
    results = some_results()
    rejected, unfinished, short = (results.requests.loc[i] for i in (0, 2, 4))
    assert rejected.status == "rejected"
    assert pd.isna(rejected.pool)
    assert pd.isna(rejected.category)
    assert rejected.replica == -1
    assert rejected.cached_tokens_first == 0
    assert np.isnan([rejected.ttft_s, rejected.e2e_s, rejected.queue_s]).all()
    assert rejected.finished_s == 0.0
    assert not rejected.in_window
    assert np.isnan([unfinished.e2e_s, unfinished.tpot_s, unfinished.ttfo_s, unfinished.finished_s]).all()
    assert (unfinished.reasoning_tokens, unfinished.answer_tokens) == (4, 0)
    assert unfinished.ttft_s == 0.26
    assert np.isnan(short.tpot_s)
    assert np.isnan(results.queries.tta_s[2])
    assert results.queries.tta_s[3] == 1.01


def test_what_was_to_start_after_the_end_has_not_happened():
    late = request(
        5,
        status=Status.UNFINISHED,
        first_scheduled_ps=20 * S + 1,
        first_token_ps=-1,
        first_answer_ps=-1,
        finished_ps=-1,
    )
    row = tables([late])["requests"].frame().loc[0]
    assert np.isnan([row.first_scheduled_s, row.queue_s]).all()


def test_segments_end_where_their_steps_end():
    frame = some_results(1).segments
    assert frame.kind.tolist() == ["decode", "decode", "mixed"]
    assert frame.end_s[1] == (5 * S + 10 * 1000 + 3 * 45) / 1e12
    assert frame.step_growth_s[1] == 3e-12


def test_codes_and_orders_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"queries\.category holds a code outside"):
        tables([request(0, category=2)])
    with pytest.raises(ValueError, match="same query"):
        tables([request(0), request(0)])
    request_sink, queries = RequestSink(), RowSink(QUERY_ROW)
    request_sink.take(request(5))
    queries.add(query(request(4)))
    with pytest.raises(ValueError, match="has no row"):
        build(info(), queries=queries, requests=request_sink, segments=[])
    with pytest.raises(struct.error):
        SegmentSink(0, 0).add((1, 2, 3))
    with pytest.raises(struct.error):
        SegmentSink(0, 0).add((2**63, *[0] * (len(SEGMENT_ROW) - 1)))


def test_an_empty_run_has_empty_tables(tmp_path):
    results = Results(
        scenario="name: x\n",
        runs=[(info(), tables([]))],
        summary={"schema_version": 1, "runs": [info().to_dict()]},
    )
    results.save(tmp_path)
    loaded = Results.load(tmp_path)
    assert all(len(table) == 0 for table in loaded.tables.values())
    assert loaded.requests.dtypes.status == results.requests.dtypes.status


def test_saved_and_loaded_is_the_same(tmp_path):
    results = some_results()
    results.save(tmp_path / "run")
    loaded = Results.load(tmp_path / "run")
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(results, name))
    assert loaded.runs == results.runs
    assert loaded.scenario == {"name": "x", "pools": {}}
    assert loaded.provenance == {"wall_s": 1.5}
    assert loaded.summary["value"] is None
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(FILES)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        some_results().save(tmp_path / name)
    digests = [
        {file: hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in FILES}
        for name in ("a", "b")
    ]
    assert digests[0] == digests[1]


def test_units_and_meanings_travel_with_the_parquet_files(tmp_path):
    some_results().save(tmp_path)
    field = pq.read_schema(tmp_path / "requests.parquet").field("ttft_s")
    assert field.metadata[b"unit"] == b"s"
    assert b"first_token_s" in field.metadata[b"meaning"]
    # readable by pandas alone
    assert pd.read_parquet(tmp_path / "queries.parquet").tta_s.notna().sum() == 6


def test_names_of_replications_are_united():
    first, second = info(0), info(1, categories=("proof", "coding", "chat"))
    runs = [(run, tables([request(1, category=run.categories.index("proof"))], run)) for run in (first, second)]
    results = Results(scenario="", runs=runs)
    assert results.queries.category.tolist() == ["proof", "proof"]
    assert results.tables["queries"].names["category"] == ("coding", "proof", "chat")


def test_a_set_column_shows_in_the_frame():
    results = some_results()
    assert np.isnan(results.queries.slowdown).all()
    results.set_column("queries", "slowdown", np.arange(10))
    assert results.queries.slowdown.tolist() == list(range(10))
    with pytest.raises(ValueError, match="10 rows, got 3"):
        results.set_column("queries", "slowdown", np.arange(3))


def broken(path, change):
    some_results().save(path)
    change(path)
    with pytest.raises(InputError) as error:
        Results.load(path)
    return str(error.value)


def test_every_missing_file_is_named(tmp_path):
    def remove(path):
        (path / "summary.json").unlink()
        (path / "stalls.parquet").unlink()

    text = broken(tmp_path, remove)
    assert "summary.json: file is missing" in text
    assert "stalls.parquet: file is missing" in text
    with pytest.raises(InputError, match="not a directory"):
        Results.load(tmp_path / "nowhere")


def test_an_empty_scenario_is_named(tmp_path):
    text = broken(tmp_path, lambda path: (path / "scenario.resolved.yaml").write_text(""))
    assert "scenario.resolved.yaml: is empty" in text


def test_broken_files_are_named_all_at_once(tmp_path):
    def spoil(path):
        (path / "requests.parquet").write_bytes(b"nothing")
        (path / "provenance.json").write_text('{"a": \n]')
        frame = pd.read_parquet(path / "queries.parquet")
        frame = frame.drop(columns="tta_s").rename(columns={"ttfo_s": "tfto_s"}).astype({"requests": "float64"})
        frame.to_parquet(path / "queries.parquet", index=False)

    text = broken(tmp_path, spoil)
    assert "requests.parquet: cannot be read as Parquet" in text
    assert "provenance.json:2: cannot be read as JSON" in text
    assert "has no column 'tta_s'" in text
    assert "unknown column 'tfto_s'" in text
    assert "'requests' holds double, expected int32" in text


def test_another_version_is_refused(tmp_path):
    def older(path):
        data = json.loads((path / "summary.json").read_text())
        (path / "summary.json").write_text(json.dumps(data | {"schema_version": 0}))

    assert "was written in version 0" in broken(tmp_path, older)


def test_replacing_is_all_or_nothing(tmp_path):
    target = tmp_path / "deep" / "run"
    replace_directory(target, lambda path: some_results(1).save(path))
    assert len(Results.load(target).runs) == 1

    def fails(path):
        some_results(2).save(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_directory(target, fails)
    assert len(Results.load(target).runs) == 1
    replace_directory(target, lambda path: some_results(2).save(path))
    assert len(Results.load(target).runs) == 2
    assert [path.name for path in target.parent.iterdir()] == ["run"]


def test_a_users_folder_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("cat")
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="does not look like results"):
        replace_directory(tmp_path / "photos", lambda path: None)
    with pytest.raises(InputError, match="is a file"):
        replace_directory(tmp_path / "file", lambda path: None)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "cat"


def test_json_has_no_nan_and_no_strangers():
    text = to_json({"a": np.float64("nan"), "b": np.int64(3), "c": [np.inf, np.True_], "d": np.arange(2), "ü": (1,)})
    assert json.loads(text) == {"a": None, "b": 3, "c": [None, True], "d": [0, 1], "ü": [1]}
    with pytest.raises(TypeError, match="no place"):
        to_json({"a": object()})


def test_provenance_tells_versions_and_speed():
    from datetime import UTC, datetime

    from sim.results.provenance import collect

    data = collect(
        seed=7,
        started=datetime(2026, 1, 1, tzinfo=UTC),
        wall_s=2.0,
        requests=100,
        tokens=5000,
        command=["thinkcap", "run"],
    )
    assert data["requests_per_wall_s"] == 50
    assert data["tokens_per_wall_s"] == 2500
    assert data["versions"]["numpy"] == np.__version__
    assert data["peak_memory_bytes"] > 10_000_000
    json.loads(to_json(data))


def test_forgotten_segments_take_no_room_and_others_may_follow() -> None:
    sink = SegmentSink(blocks=100)
    row = (0, 3, 10, 1, 4, 0, 0, 400, 0, 0, 0, 0, 28, 30, 404, 4, 0, 0, 0, 0, 0, 0)
    write = sink.write  # as an engine keeps it
    for _ in range(1000):
        sink.add(row, bytes(32), 5)
    held = sys.getsizeof(write.__self__)
    sink.forget_segments()
    assert len(sink) == 0
    assert sys.getsizeof(write.__self__) < held / 100
    write(pack_segment(*row, 0, 0))
    assert sink.segments().tolist() == [list(row)]


@pytest.mark.parametrize("lengths", [[0], [1], [2047, 1], [2048, 3, 0], [5000]])
def test_columns_are_those_of_the_rows_one_by_one(lengths: list[int]) -> None:
    rows = np.arange(3 * sum(lengths)).reshape(-1, 3)
    parts = np.split(rows, np.cumsum(lengths)[:-1])
    columns = columns_of(parts)
    assert [column.tolist() for column in columns] == rows.T.tolist()
    assert all(column.base is None for column in columns)
