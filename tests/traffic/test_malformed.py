"""Sixty malformed traces: each is refused once and clearly, or read with a word about what was odd."""

import contextlib
import gzip
import json

import numpy as np
import pytest

from sim.errors import InputError
from workloads.replay import TraceSource
from workloads.source import build
from workloads.spec import WorkloadSpec

HEAD = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
GOOD = HEAD + "0.0,10,20\n1.5,30,40\n2.5,50,60\n"
SPLIT = "arrived_at,num_prefill_tokens,num_decode_tokens,num_reasoning_tokens,num_answer_tokens\n"
AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
LINE = {"arrived_at": 0, "num_prefill_tokens": 5, "num_decode_tokens": 6}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(**columns):
    def make(path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)

    return make


def broken_parquet(path):
    parquet(arrived_at=[0.0], num_prefill_tokens=[1], num_decode_tokens=[1])(path)
    path.write_bytes(path.read_bytes()[:-20])


# name: (content, what the message says)
REFUSED = {
    "empty.csv": (b"", "is empty"),
    "blank.csv": ("\n\n  \n", "is empty"),
    "bom_only.csv": (b"\xef\xbb\xbf", "is empty"),
    "nul.csv": (b"\x00" * 50, "is empty"),
    "header_only.csv": (HEAD, "no rows"),
    "header_no_newline.csv": (HEAD.strip(), "no rows"),
    "no_decode.csv": ("arrived_at,num_prefill_tokens\n0,1\n", "num_decode_tokens"),
    "no_arrival.csv": ("num_prefill_tokens,num_decode_tokens\n1,1\n", "arrived_at"),
    "misspelt.csv": ("arrived_at,num_prefil_tokens,num_decode_tokens\n0,1,1\n", "'num_prefil_tokens'"),
    "no_header.csv": ("0.0,10,20\n1.5,30,40\n", "not recognised"),
    "prose.txt": ("Dear reader,\nthis is a letter\n", "not recognised"),
    "latin1.csv": (HEAD.encode() + "0,1,1é\n".encode("latin-1"), "UTF-8"),
    "binary.csv": (bytes(range(128, 256)) * 9, "UTF-8"),
    "negative_time.csv": (HEAD + "-1,5,5\n", "negative"),
    "negative_tokens.csv": (HEAD + "0,5,5\n1,-3,5\n", ":3: num_prefill_tokens"),
    "negative_output.csv": (HEAD + "0,5,-5\n", "num_decode_tokens"),
    "zero_prompt.csv": (HEAD + "0,0,5\n", "num_prefill_tokens"),
    "nan_time.csv": (HEAD + "nan,5,5\n", "finite"),
    "nan_tokens.csv": (HEAD + "0,NaN,5\n", "finite"),
    "inf_tokens.csv": (HEAD + "0,5,inf\n", "finite"),
    "huge_tokens.csv": (HEAD + "0,5,99999999999999999999\n", "out of range"),
    "huge_exponent.csv": (HEAD + "0,5,1e400\n", "finite"),
    "huge_time.csv": (HEAD + "1e12,5,5\n", "ten years"),
    "fraction.csv": (HEAD + "0,5.5,5\n", "not a whole number"),
    "text_tokens.csv": (HEAD + "0,5,5\n1,five,5\n", ":3: num_prefill_tokens: 'five' is not a number"),
    "empty_cell.csv": (HEAD + "0,5,5\n1,,5\n", "is empty"),
    "unsorted.csv": (HEAD + "0,5,5\n9,5,5\n3,5,5\n", ":4: arrived_at"),
    "short_row.csv": (HEAD + "0,5,5\n1,5\n", "2 cells where the header has 3"),
    "long_row.csv": (HEAD + "0,5,5\n1,5,5,5\n", "4 cells where the header has 3"),
    "repeated_column.csv": (
        "arrived_at,arrived_at,num_prefill_tokens,num_decode_tokens\n0,0,1,1\n",
        "more than once",
    ),
    "two_times.csv": ("arrived_at,arrived_at_ns,num_prefill_tokens,num_decode_tokens\n0,0,1,1\n", "has both"),
    "split_off.csv": (SPLIT + "0,5,10,6,5\n", "is not reasoning 6 + answer 5"),
    "split_more.csv": (
        "arrived_at,num_prefill_tokens,num_decode_tokens,num_reasoning_tokens\n0,5,10,11\n",
        "more than",
    ),
    "parent_later.csv": (
        HEAD.strip() + ",parent_id,prefix_len\n0,5,5,1,2\n1,5,5,-1,0\n",
        "not an earlier row",
    ),
    "parent_self.csv": (HEAD.strip() + ",parent_id,prefix_len\n0,5,5,0,2\n", "not an earlier row"),
    "prefix_long.csv": (HEAD.strip() + ",prefix_group,prefix_len\n0,5,5,1,9\n", "more than the prompt"),
    "underscore.csv": (HEAD + "0,1_000,5\n", "is not a number"),
    "hex.csv": (HEAD + "0,0x10,5\n", "is not a number"),
    "thousands.csv": (HEAD + '0,"1,000",5\n', "is not a number"),
    "only_failures.csv": (HEAD + "0,5,0\n", "no rows with output"),
    "truncated.csv.gz": (gzip.compress(GOOD.encode() * 3000)[:-40], "cut off or damaged"),
    "damaged.csv.gz": (gzip.compress(GOOD.encode() * 3000)[:60] + b"\xff" * 200, "cut off or damaged"),
    "gz_header_only.gz": (b"\x1f\x8b", "cut off or damaged"),
    "empty.gz": (gzip.compress(b""), "is empty"),
    "azure_mixed.csv": (AZURE + "2023-11-16 18:17:03.97,5,5\n17.5,5,5\n", "'17.5' is not a date"),
    "azure_mixed_back.csv": (AZURE + "17.5,5,5\n2023-11-16 18:17:03.97,5,5\n", "is not a number"),
    "azure_bad_date.csv": (AZURE + "2023-11-16 18:17:03,5,5\n2023-13-45 00:00:00,5,5\n", "is not a date"),
    "azure_no_time.csv": ("ContextTokens,GeneratedTokens\n5,5\n", "TIMESTAMP"),
    "azure_back.csv": (AZURE + "2023-11-16 18:17:03,5,5\n2023-11-16 18:17:01,5,5\n", "TIMESTAMP"),
    "broken.jsonl": (lines(LINE) + '{"arrived_at": 1,\n', ":2: is not valid JSON"),
    "nan.jsonl": (
        lines(LINE) + '{"arrived_at": NaN, "num_prefill_tokens": 1, "num_decode_tokens": 1}\n',
        "NaN",
    ),
    "list.jsonl": (lines(LINE) + "[1, 2]\n", "is not an object"),
    "missing_key.jsonl": (
        lines(LINE, {"arrived_at": 1, "num_prefill_tokens": 5}),
        ":2: num_decode_tokens: is empty",
    ),
    "bool.jsonl": (lines(LINE | {"num_prefill_tokens": True}), "is not a number"),
    "text.jsonl": (lines(LINE, LINE | {"num_prefill_tokens": "many"}), "'many' is not a number"),
    "null_time.jsonl": (lines(LINE | {"arrived_at": None}), "is empty"),
    "broken.json": ('[{"usage": 1}', "is not valid JSON"),
    "empty_list.json": ("[]", "holds no rows"),
    "number.json": ("[1, 2, 3]", "not recognised"),
    "broken.parquet": (broken_parquet, "not a whole Parquet file"),
    "nulls.parquet": (
        parquet(arrived_at=[0.0, 1.0], num_prefill_tokens=[1, None], num_decode_tokens=[1, 1]),
        "is empty",
    ),
    "nan.parquet": (
        parquet(arrived_at=[0.0, float("nan")], num_prefill_tokens=[1, 1], num_decode_tokens=[1, 1]),
        "finite",
    ),
    "no_rows.parquet": (parquet(arrived_at=[], num_prefill_tokens=[], num_decode_tokens=[]), "no rows"),
}

# name: (content, rows, part of a note or None)
HANDLED = {
    "crlf.csv": (GOOD.replace("\n", "\r\n"), 3, None),
    "bom.csv": (b"\xef\xbb\xbf" + GOOD.encode(), 3, None),
    "utf16.csv": (GOOD.encode("utf-16"), 3, None),
    "semicolon.csv": (GOOD.replace(",", ";"), 3, None),
    "tabs.tsv": (GOOD.replace(",", "\t"), 3, None),
    "zipped_by_content.csv": (gzip.compress(GOOD.encode()), 3, None),
    "no_last_newline.csv": (GOOD.rstrip("\n"), 3, None),
    "blank_lines.csv": (GOOD.replace("\n1.5", "\n\n\n1.5"), 3, None),
    "blank_first.csv": ("\n\n" + GOOD, 3, None),
    "spaces.csv": (GOOD.replace(",", " , "), 3, None),
    "quoted.csv": ('"arrived_at","num_prefill_tokens","num_decode_tokens"\n"0.0","10","20"\n', 1, None),
    "whole_floats.csv": (HEAD + "0,10.0,20.0\n", 1, None),
    "failures.csv": (HEAD + "0,5,5\n1,5,0\n2,5,5\n", 2, "1 rows generated nothing"),
    "extra.csv": (HEAD.strip() + ",colour\n0,5,5,red\n", 1, "colour"),
    "blank_lines.jsonl": (lines(LINE) + "\n\n" + lines(LINE), 2, None),
    "ints.parquet": (
        parquet(arrived_at=[0, 1], num_prefill_tokens=[1, 2], num_decode_tokens=[1, 2]),
        2,
        None,
    ),
    "equal_times.csv": (HEAD + "1,5,5\n1,5,5\n", 2, None),
    "azure_zone.csv": (
        AZURE + "2024-05-10 00:00:00.009930+00:00,5,5\n2024-05-10 00:00:01+00:00,6,6\n",
        2,
        "first row",
    ),
}


def put(folder, name, content):
    path = folder / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def replay(path) -> TraceSource:
    return build(WorkloadSpec(trace=str(path)), seed=0)


def test_there_are_sixty():
    assert len(REFUSED) >= 60


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_clear_message(tmp_path, name):
    content, said = REFUSED[name]
    path = put(tmp_path, name, content)
    with pytest.raises(InputError) as caught:
        replay(path)
    message = str(caught.value)
    assert said in message
    assert str(path) in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize("name", HANDLED)
def test_handled_and_reported(tmp_path, name):
    content, rows, note = HANDLED[name]
    source = replay(put(tmp_path, name, content))
    assert source.total == rows
    source.block(0)._check()
    notes = " ".join(source.describe()["notes"])
    assert (note in notes) if note else not notes


def test_missing_file_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(InputError, match="no such file; looked in") as caught:
        build(WorkloadSpec(trace="nowhere.csv"), seed=0, base=tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_is_no_trace(tmp_path):
    with pytest.raises(InputError, match="not recognised"):
        replay(tmp_path)


def test_many_faults_are_told_at_once_but_not_all(tmp_path):
    path = put(tmp_path, "many.csv", HEAD + "".join(f"{i},x,5\n" for i in range(100)))
    with pytest.raises(InputError) as caught:
        replay(path)
    assert 5 <= len(caught.value.problems) <= 20


def test_bytes_of_noise_never_give_a_traceback(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(60):
        noise = GOOD.encode() if i % 2 else json.dumps(LINE).encode() * 3
        damaged = bytearray(noise)
        for _ in range(3):
            damaged[rng.integers(len(damaged))] = rng.integers(256)
        path = put(tmp_path, f"noise{i}", bytes(damaged))
        with contextlib.suppress(InputError):
            replay(path).block(0)._check()
