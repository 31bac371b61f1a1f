"""Scale, cut, append, merge: nothing lost, order kept, parents followed."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.sorting import by_arrival
from workloads.transform import append, cut, extent, in_order, merge, scale


def batches(times, size=3, tag=0, **more):
    rows = {
        "arrived_at": np.asarray(times, float),
        "num_prefill_tokens": np.arange(len(times)) + 1000 * tag + 1,
        "num_decode_tokens": np.full(len(times), 10),
    } | more
    whole = pa.RecordBatch.from_pydict(rows)
    return [whole.slice(i, size) for i in range(0, len(times), size)]


def joined(parts):
    return pa.Table.from_batches(list(parts)).to_pydict()


TIMES = st.lists(st.floats(0, 100), min_size=1, max_size=30).map(sorted)


@settings(max_examples=60, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=4), st.integers(1, 7))
def test_merge_keeps_every_row_in_order(traces, size):
    inputs = [lambda t=t, i=i: iter(batches(t, size, i)) for i, t in enumerate(traces)]
    found = joined(merge(inputs))
    assert found["arrived_at"] == sorted(time for trace in traces for time in trace)
    assert sorted(found["num_prefill_tokens"]) == sorted(
        1000 * i + k + 1 for i, t in enumerate(traces) for k in range(len(t))
    )


def test_merge_follows_parents_and_keeps_groups_apart():
    one = {"parent_id": [-1, 0, 1], "prefix_len": [0, 1, 1], "prefix_group": [5, -1, -1]}
    two = {"parent_id": [-1, 0], "prefix_len": [0, 1], "prefix_group": [5, -1]}
    inputs = [lambda: iter(batches([0, 4, 8], 1, 0, **one)), lambda: iter(batches([1, 5], 2, 1, **two))]
    found = joined(merge(inputs))
    assert found["num_prefill_tokens"] == [1, 1001, 2, 1002, 3]
    assert found["parent_id"] == [-1, -1, 0, 1, 2]
    assert found["prefix_group"][0] != found["prefix_group"][1]


def test_merge_fills_columns_that_one_trace_lacks():
    inputs = [lambda: iter(batches([0, 2], max_tokens=[5, 6])), lambda: iter(batches([1], client_id=["a"]))]
    found = joined(merge(inputs))
    assert found["max_tokens"] == [5, -1, 6]
    assert found["client_id"] == [None, "a", None]


def test_append_puts_one_after_another():
    more = {"parent_id": [-1, 0], "prefix_len": [0, 1], "session_id": ["s", "s"]}
    inputs = [lambda: iter(batches([1, 3], **more)), lambda: iter(batches([0, 2], tag=1, **more))]
    found = joined(append(inputs, gap_s=10))
    assert found["arrived_at"] == [1, 3, 13, 15]
    assert found["parent_id"] == [-1, 0, -1, 2]
    assert found["session_id"][0] != found["session_id"][2]


def test_cut_starts_time_anew_and_gives_up_lost_prefixes():
    more = {"parent_id": [-1, 0, 1, 2], "prefix_len": [0, 1, 1, 1]}
    found = joined(cut(batches([0, 10, 20, 30], 2, **more), begin_s=10, end_s=30))
    assert found["arrived_at"] == [0, 10]
    assert found["parent_id"] == [-1, 0]
    assert found["prefix_len"] == [0, 1]


def test_scale():
    more = {"num_reasoning_tokens": [0, 9], "num_answer_tokens": [10, 1]}
    found = joined(scale(batches([1, 3], **more), stretch=0.5, prompt=3, reasoning=2, answer=0.01))
    assert found["arrived_at"] == [0.5, 1.5]
    assert found["num_prefill_tokens"] == [3, 6]
    assert found["num_reasoning_tokens"] == [0, 18]
    assert found["num_answer_tokens"] == [1, 0]
    assert found["num_decode_tokens"] == [1, 18]


def test_extent():
    found = extent(batches([1, 3, 5, 11]))
    assert (found.rows, found.first_s, found.last_s) == (4, 1, 11)
    assert found.rate == pytest.approx(0.3)


def test_sorting_renumbers_parents():
    found = in_order(batches([5, 1, 3], parent_id=[2, -1, 1], prefix_len=[1, 0, 1])).to_pydict()
    assert found["arrived_at"] == [1, 3, 5]
    assert found["parent_id"] == [-1, 0, 1]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 100), min_size=1, max_size=60), st.integers(1, 7), st.integers(1, 20))
def test_sorting_in_parts_is_sorting(tmp_path_factory, times, size, run_rows):
    folder = tmp_path_factory.mktemp("s")
    found = joined(by_arrival(batches(times, size), folder, run_rows=run_rows))
    order = np.argsort(times, kind="stable")
    np.testing.assert_allclose(found["arrived_at"], np.array(times)[order] - min(0.0, min(times)), atol=1e-12)
    assert found["num_prefill_tokens"] == (order + 1).tolist()
    assert list(folder.iterdir()) == []


def test_sorting_in_parts_keeps_names_and_late_columns(tmp_path):
    parts = [*batches([9, 3], client_id=["a", "b"]), *batches([1], client_id=["c"], max_tokens=[5])]
    found = joined(by_arrival(parts, tmp_path, run_rows=1))
    assert found["client_id"] == ["c", "b", "a"]
    assert found["max_tokens"] == [5, -1, -1]
