"""Each format: recognised by content, read into our columns; written and read again without loss."""

import datetime
import decimal
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.errors import InputError
from workloads.formats import Report, detect, read, trace_format
from workloads.formats.write import FORMATS, write


def table(path, **report):
    return pa.Table.from_batches(list(read(path, Report(str(path), **report)))).to_pydict()


def put(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


OTEL = {
    "resourceSpans": [
        {
            "scopeSpans": [
                {
                    "spans": [
                        {
                            "startTimeUnixNano": str(1_700_000_001_500_000_000),
                            "attributes": [
                                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "12"}},
                                {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "90"}},
                                {"key": "gen_ai.request.model", "value": {"stringValue": "r1"}},
                                {"key": "gen_ai.request.max_tokens", "value": {"intValue": "500"}},
                            ],
                        },
                        {"startTimeUnixNano": "1700000001000000000", "attributes": []},
                        {
                            "startTimeUnixNano": str(1_700_000_001_000_000_000),
                            "attributes": [
                                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}},
                                {"key": "gen_ai.usage.output_tokens", "value": {"intValue": "8"}},
                            ],
                        },
                    ]
                }
            ]
        }
    ]
}

CASES = {
    "azure": (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n"
        "2023-11-16 18:17:08.2945600,396,109\n",
        {"arrived_at": [0, 4.3146], "num_prefill_tokens": [374, 396], "num_decode_tokens": [44, 109]},
    ),
    "burstgpt": (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,0,1087,API log\n"
        "118,GPT-4,417,276,693,API log\n",
        {"arrived_at": [5, 118], "num_prefill_tokens": [472, 417], "model": ["ChatGPT", "GPT-4"]},
    ),
    "splitwise": (
        "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
        "0,2,0,0.5,1,100,20\n1,2,3,0.75,1,7,8\n",
        {"arrived_at": [0.5, 0.75], "num_decode_tokens": [20, 8], "client_id": ["0", "3"]},
    ),
    "mooncake": (
        '{"timestamp": 0, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]}\n'
        '{"timestamp": 3000, "input_length": 1100, "output_length": 6, "hash_ids": [0, 1, 9]}\n'
        '{"timestamp": 3500, "input_length": 400, "output_length": 7, "hash_ids": [44]}\n',
        {"arrived_at": [0, 3, 3.5], "parent_id": [-1, 0, -1], "prefix_len": [0, 1024, 0]},
    ),
    "qwen_bailian": (
        '{"chat_id": 0, "parent_chat_id": -1, "timestamp": 0.1, "input_length": 40, "output_length": 5, '
        '"type": "text", "turn": 1, "hash_ids": [1, 2, 3]}\n'
        '{"chat_id": 5, "parent_chat_id": 0, "timestamp": 9.5, "input_length": 70, "output_length": 6, '
        '"type": "text", "turn": 2, "hash_ids": [1, 2, 7, 8, 9]}\n',
        {"arrived_at": [0.1, 9.5], "session_id": ["0", "0"], "parent_id": [-1, 0], "prefix_len": [0, 32]},
    ),
    "openai_usage": (
        '{"created": 1700000005, "model": "o1", "user": "u", '
        '"usage": {"prompt_tokens": 9, "completion_tokens": 50, '
        '"completion_tokens_details": {"reasoning_tokens": 30}}}\n'
        '{"created": 1700000001, "model": "o1", "usage": {"input_tokens": 8, "output_tokens": 7, '
        '"output_tokens_details": {"reasoning_tokens": 0}}}\n',
        {"arrived_at": [0, 4], "num_reasoning_tokens": [0, 30], "num_answer_tokens": [7, 20]},
    ),
    "otel": (
        json.dumps(OTEL) + "\n",
        {"arrived_at": [0, 0.5], "num_decode_tokens": [8, 90], "max_tokens": [-1, 500]},
    ),
    "vllm_bench": (
        json.dumps({"date": "x", "input_lens": [5, 6], "output_lens": [7, 8], "start_times": [100.5, 101.0]}),
        {"arrived_at": [0, 0.5], "num_prefill_tokens": [5, 6], "num_decode_tokens": [7, 8]},
    ),
    "vllm_custom": (
        '{"prompt": "hi hi hi", "output_tokens": 9}\n{"prompt": "What is this?", "output_tokens": 4}\n',
        {"arrived_at": [0, 0], "num_prefill_tokens": [3, 4], "num_decode_tokens": [9, 4]},
    ),
    "sharegpt": (
        json.dumps([{"id": "a", "conversations": [{"value": "x" * 40}, {"value": "y" * 9}]}, {"conversations": []}]),
        {"arrived_at": [0], "num_prefill_tokens": [10], "num_decode_tokens": [3]},
    ),
    "guidellm": (
        json.dumps(
            {
                "benchmarks": [
                    {
                        "requests": {
                            "successful": [
                                {"request_start_time": 9.0, "prompt_tokens": 3, "output_tokens": 4},
                                {"request_start_time": 8.0, "prompt_tokens": 1, "output_tokens": 2},
                            ]
                        }
                    }
                ]
            }
        ),
        {"arrived_at": [0, 1], "num_prefill_tokens": [1, 3], "num_decode_tokens": [2, 4]},
    ),
    "aiperf": (
        json.dumps(
            {
                "metadata": {"request_start_ns": 1_000_000_000},
                "metrics": {
                    "input_sequence_length": {"value": 5, "unit": "tokens"},
                    "output_sequence_length": {"value": 9, "unit": "tokens"},
                    "reasoning_token_count": {"value": 4, "unit": "tokens"},
                },
            }
        )
        + "\n",
        {"arrived_at": [0], "num_decode_tokens": [9], "num_answer_tokens": [5]},
    ),
    "inference_perf": (
        json.dumps(
            [
                {
                    "start_time": 5.5,
                    "end_time": 9,
                    "info": {"input_tokens": 4, "output_tokens": 6},
                    "error": None,
                },
                {"start_time": 6.0, "end_time": 9, "info": {}, "error": {"type": "timeout"}},
            ]
        ),
        {"arrived_at": [0], "num_prefill_tokens": [4], "num_decode_tokens": [6]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_format(tmp_path, name):
    content, expected = CASES[name]
    path = tmp_path / "trace"
    path.write_text(content)
    assert detect(path)[0] == name
    found = table(path)
    for column, values in expected.items():
        if isinstance(values[0], str):
            assert found[column] == values
        else:
            np.testing.assert_allclose(found[column], values, atol=1e-9)


def test_every_format_has_a_case():
    assert set(trace_format.names()) - {"columns", "servegen"} == set(CASES)


def servegen(folder):
    put(folder / "chunk-7-trace.csv", "0,0.5,1.0,Gamma,1,1", "600,1.0,2.0,Weibull,1,1", "1200,0,0,,,")
    fields = {
        "input_tokens": str({10: 0.5, 20: 0.5}),
        "output_tokens": str({100: 0.25, 300: 0.75}),
        "reason_ratio": str({0.5: 1.0}),
    }
    (folder / "chunk-7-dataset.json").write_text(json.dumps({"0": fields}))
    return folder


def test_servegen_folder_is_drawn_from_its_laws(tmp_path):
    path = servegen(tmp_path)
    assert detect(path)[0] == "servegen"
    found = table(path)
    arrived = np.array(found["arrived_at"])
    assert np.bincount((arrived // 600).astype(int)).tolist() == [300, 600]
    assert set(found["client_id"]) == {"7"}
    assert set(found["num_prefill_tokens"]) == {10, 20}
    assert np.mean(np.array(found["num_decode_tokens"]) == 300) == pytest.approx(0.75, abs=0.05)
    assert found["num_reasoning_tokens"][0] * 2 == found["num_decode_tokens"][0]


def test_servegen_data_set_missing(tmp_path):
    servegen(tmp_path)
    (tmp_path / "chunk-7-dataset.json").unlink()
    with pytest.raises(InputError, match="missing beside"):
        table(tmp_path)


FULL = {
    "arrived_at": [0.1, 0.30000000000000004, 7.25],
    "num_prefill_tokens": [9, 1024, 30],
    "num_decode_tokens": [10, 20, 30],
    "num_reasoning_tokens": [4, 0, 30],
    "num_answer_tokens": [6, 20, 0],
    "max_tokens": [-1, 99, 100],
    "priority": [-2, 0, 5],
    "prefix_group": [3, -1, 3],
    "prefix_len": [9, 0, 9],
    "client_id": ["a", "b, with comma", 'quote"d'],
    "model": ["r1", None, "r1"],
    "colour": ["red", "ünï", ""],
}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".jsonl", ".parquet"])
def test_convert_then_read_is_lossless(tmp_path, suffix):
    path = tmp_path / f"full{suffix}"
    write(path, [pa.RecordBatch.from_pydict(FULL)])
    found = table(path)
    for name, values in FULL.items():
        if suffix.startswith(".csv") and name in ("model", "colour"):
            assert [value or "" for value in found[name]] == [value or "" for value in values]
        else:
            assert found[name] == values, name


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 4e6), st.integers(1, 10**9), st.integers(1, 10**9)), min_size=1, max_size=50),
    st.sampled_from([".csv", ".jsonl", ".parquet"]),
)
def test_numbers_survive_every_own_format(tmp_path_factory, rows, suffix):
    rows = sorted(rows)
    columns = dict(
        zip(
            ("arrived_at", "num_prefill_tokens", "num_decode_tokens"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    path = tmp_path_factory.mktemp("n") / f"x{suffix}"
    write(path, [pa.RecordBatch.from_pydict(columns)])
    assert table(path) == columns


@pytest.mark.parametrize("name", FORMATS)
def test_exports_are_read_back_with_their_lengths(tmp_path, name):
    path = tmp_path / "out"
    write(path, [pa.RecordBatch.from_pydict(FULL)], name=name)
    found = table(path)
    assert found["num_prefill_tokens"] == FULL["num_prefill_tokens"]
    assert found["num_decode_tokens"] == FULL["num_decode_tokens"]
    # A custom data set of vLLM has no times.
    gaps = np.zeros(len(FULL["arrived_at"]) - 1) if name == "vllm-custom" else np.diff(FULL["arrived_at"])
    np.testing.assert_allclose(np.diff(found["arrived_at"]), gaps, atol=1e-3)


FIELDS = {
    "mooncake": {"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [0, 1]},
    "guidellm": {
        "timestamp": 1.5,
        "input_length": 600,
        "output_length": 7,
        "prompt_tokens_count": 600,
        "output_tokens_count": 7,
    },
    "burstgpt": "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "1.5,GPT-4,600,7,607,Conversation log\n",
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 00:00:01.5000000,600,7\n",
}
"""What AIPerf and vLLM's timed_trace, guidellm's trace replay, vLLM's burstgpt (which keeps GPT-4 alone) and
inference-perf look for."""


@pytest.mark.parametrize("name", FIELDS)
def test_exports_have_the_names_and_units_that_load_generators_read(tmp_path, name):
    path = tmp_path / "out"
    row = {"arrived_at": [1.5], "num_prefill_tokens": [600], "num_decode_tokens": [7]}
    write(path, [pa.RecordBatch.from_pydict(row)], name=name)
    assert (path.read_text() if isinstance(FIELDS[name], str) else json.loads(path.read_text())) == FIELDS[name]


def test_burstgpt_with_sessions_and_its_second_two_months(tmp_path):
    path = tmp_path / "BurstGPT_2.csv"
    path.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5270000,7,3.5,GPT-4,472,18,490,Conversation log\n"
        "10530000,,2.5,ChatGPT,30,9,39,API log\n"
    )
    found = table(path)
    assert found["arrived_at"] == [0, 5_260_000]
    assert found["session_id"] == ["7", ""]
    assert found["category"] == ["Conversation log", "API log"]


def test_vllm_custom_has_prompts_of_as_many_words(tmp_path):
    path = tmp_path / "out"
    write(path, [pa.RecordBatch.from_pydict(FULL)], name="vllm-custom")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(row["prompt"].split()) for row in rows] == FULL["num_prefill_tokens"]
    assert [row["output_tokens"] for row in rows] == FULL["num_decode_tokens"]


def test_mooncake_export_keeps_shared_prefixes(tmp_path):
    path = tmp_path / "out.jsonl"
    columns = {
        "arrived_at": [0.0, 1.0, 2.0],
        "num_prefill_tokens": [2000, 3000, 2600],
        "num_decode_tokens": [5, 5, 5],
        "prefix_group": [1, 1, -1],
        "prefix_len": [1536, 1536, 1024],
        "parent_id": [-1, -1, 0],
    }
    write(path, [pa.RecordBatch.from_pydict(columns)], name="mooncake")
    hashes = [json.loads(line)["hash_ids"] for line in path.read_text().splitlines()]
    assert [len(h) for h in hashes] == [4, 6, 6]
    assert hashes[0][:3] == hashes[1][:3]
    assert hashes[0][3] not in hashes[1]
    assert hashes[2][:2] == hashes[0][:2]
    assert hashes[2][2] != hashes[0][2]
    assert table(path)["prefix_len"] == [0, 1536, 1024]


def test_nothing_is_left_behind_after_an_error(tmp_path):
    def fails():
        yield pa.RecordBatch.from_pydict(FULL)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write(tmp_path / "x.csv", fails())
    assert list(tmp_path.iterdir()) == []


def test_unknown_output_format(tmp_path):
    with pytest.raises(InputError, match="mooncake"):
        write(tmp_path / "x", [], name="moncake")
    with pytest.raises(InputError, match="cannot be told"):
        write(tmp_path / "x.xyz", [])


USAGE = '{{"created": {}, "usage": {{"prompt_tokens": {}, "completion_tokens": 9}}}}'


@pytest.mark.parametrize(
    ("stamps", "arrived"),
    [
        ([1715299200, 1715299201], [0, 1]),
        ([1715299200000, 1715299200100], [0, 0.1]),
        ([1753780607550317897, 1753780607550317999], [0, 102e-9]),
        (['"2024-05-10T00:00:02+02:00"', '"2024-05-09T22:00:01Z"', '"2024-05-09 22:00:05"'], [0, 1, 4]),
    ],
    ids=["seconds", "milliseconds", "nanoseconds", "zones"],
)
def test_clocks_of_any_unit_and_zone(tmp_path, stamps, arrived):
    path = put(tmp_path / "log.jsonl", *(USAGE.format(stamp, 5) for stamp in stamps))
    assert table(path)["arrived_at"] == arrived


def test_a_fault_in_rows_that_are_sorted_is_where_it_stands_in_the_file(tmp_path):
    lines = [USAGE.format(1715299200 - row, -7 if row == 3 else 5) for row in range(5)]
    path = put(tmp_path / "log.jsonl", *(line + "\n" for line in lines))
    with pytest.raises(InputError, match=r"log.jsonl:7: num_prefill_tokens: -7 is negative"):
        table(path)


def test_dates_before_the_first_row_are_unsorted(tmp_path):
    path = put(
        tmp_path / "azure.csv",
        "TIMESTAMP,ContextTokens,GeneratedTokens",
        "2024-05-10 00:00:00+00:00,3,4",
        "2024-05-10 00:00:01+02:00,3,4",
    )
    with pytest.raises(InputError, match=r"azure.csv:3: TIMESTAMP: 7199 s before the first row: .* not in order"):
        table(path)


def test_aiperf_turns_with_delays_and_prompts_as_text(tmp_path):
    path = put(
        tmp_path / "turns.jsonl",
        {"session_id": "a", "timestamp": 100, "input_length": 30, "output_length": 50},
        {"session_id": "a", "delay": 2000, "input_length": 40, "output_length": 5},
        {"session_id": "b", "timestamp": 150, "text_input": "What is this?", "output_length": 7},
    )
    found = table(path)
    assert found["arrived_at"] == [0.1, 0.15, 2.1]
    assert found["num_prefill_tokens"] == [30, 4, 40]
    assert found["session_id"] == ["a", "b", "a"]


def test_vidur_lengths_without_times_arrive_at_once(tmp_path):
    path = put(tmp_path / "v.csv", "num_prefill_tokens,num_decode_tokens,pd_ratio", "374,44,8.5", "396,109,3.6")
    assert table(path)["arrived_at"] == [0, 0]


ONE = {"arrived_at": [0.0, 1.5], "num_prefill_tokens": [3, 4], "num_decode_tokens": [5, 6]}
DAY = datetime.datetime(2024, 5, 10)


def parquet(path, **columns):
    pq.write_table(pa.table(ONE | columns), path)
    return path


@pytest.mark.parametrize(
    "stamps",
    [
        pa.array([DAY, DAY + datetime.timedelta(seconds=1.5)]),
        pa.array(["2024-05-10 00:00:00", "2024-05-10 00:00:01.5"]),
        pa.array([decimal.Decimal("0"), decimal.Decimal("1.5")]),
    ],
    ids=["timestamps", "dates", "decimals"],
)
def test_our_columns_may_have_dates(tmp_path, stamps):
    assert table(parquet(tmp_path / "t.parquet", arrived_at=stamps))["arrived_at"] == [0, 1.5]


@pytest.mark.parametrize(
    ("clients", "said"),
    [([b"a", b"\xff"], r"t.parquet:2: client_id: b'\\xff' is not UTF-8"), ([[1], [2]], "is no text")],
)
def test_names_that_are_no_text_are_refused(tmp_path, clients, said):
    with pytest.raises(InputError, match=said):
        table(parquet(tmp_path / "t.parquet", client_id=pa.array(clients)))


@pytest.mark.parametrize(
    ("extra", "text"),
    [([{"a": 1}, None], '{"a": 1}'), ([[1, 2], []], "[1, 2]"), ([b"x", b"y"], "b'x'"), ([DAY, DAY], "2024-05-10")],
    ids=["structs", "lists", "bytes", "dates"],
)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_columns_of_any_type_are_kept(tmp_path, extra, text, suffix):
    source, out = parquet(tmp_path / "t.parquet", extra=pa.array(extra)), tmp_path / f"o{suffix}"
    write(out, read(source))
    assert table(out)["num_decode_tokens"] == [5, 6]
    kept = table(out)["extra"][0]
    assert (kept if isinstance(kept, str) else str(kept).replace("'a'", '"a"')).startswith(text[:7])
