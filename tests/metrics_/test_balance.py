"""What must add up: holds in every run of the small engine, and each break of it is named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.metrics import BalanceError, finish
from sim.metrics.balance import check, littles_law, totals

WORK = st.lists(
    st.tuples(st.integers(0, 3 * 10**11), st.integers(1, 60), st.integers(0, 20), st.integers(1, 15)),
    min_size=1,
    max_size=25,
)


@given(WORK, st.integers(1, 5), st.integers(2, 40), st.integers(8, 30), st.integers(0, 10**12))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_run_adds_up(toy, rows, seats, budget, blocks, stop):
    """Random work under KV pressure, to the end or cut in the middle."""
    time, work = 0, []
    for gap, *shape in rows:
        time += gap
        work.append((time, *shape))
    for stop_ps in (None, stop):
        run = toy.simulate(work, seats=seats, budget=budget, blocks=blocks, stop_ps=stop_ps)
        finish(run.results)
        figures = run.results.summary["totals"]
        assert figures["queries"] == figures["completed"] + figures["unfinished"]
        assert figures["preemptions"] == run.preemptions or stop_ps is not None
        assert run.results.summary["littles_law"]["relative_difference"] < 1e-9


@pytest.fixture
def run(toy):
    return toy.simulate(toy.random_work(6, 80, gap_s=0.15), seats=6, budget=24, blocks=40)


def test_the_run_to_break_is_whole_and_has_preemptions(run):
    check(run.results)
    figures = totals(run.results)
    assert figures["preemptions"] > 0
    assert figures["recomputed_tokens"] > 0


@pytest.mark.parametrize(
    ("table", "column", "change", "message"),
    [
        ("queries", "query", lambda a: a.clip(max=a.max() - 1), "two rows"),
        ("queries", "requests", lambda a: a + (a.cumsum() == 3), "requests of a query 2 "),
        ("queries", "reasoning_tokens", lambda a: a + 1, "reasoning_tokens of a query"),
        ("queries", "answer_tokens", lambda a: a * 2, "answer_tokens of a query"),
        ("queries", "verification_tokens", lambda a: a + 1, "verification_tokens of a query"),
        ("queries", "finished_s", lambda a: a - 1e3, "lies before"),
        ("queries", "finished_s", lambda a: a + 1e6, "ends after the run"),
        ("requests", "scheduled_tokens", lambda a: a - 1, "scheduled"),
        ("requests", "recomputed_tokens", lambda a: a + 1, "expected"),
        ("requests", "dropped_tokens", lambda a: a + 1, "expected"),
        ("requests", "cached_tokens_first", lambda a: a + 1, "expected"),
        ("requests", "first_answer_s", lambda a: a - 1e3, "first_answer_s"),
        ("segments", "fresh", lambda a: a + (a > 0), "gaps between tokens"),
        ("segments", "dropped", lambda a: a + (a.cumsum() + np.arange(len(a)) == 40), "gaps between tokens"),
        ("stalls", "at_s", lambda a: a + 1e6, "gaps between tokens"),
        ("segments", "decodes", lambda a: a + 1, "tokens computed in steps"),
        ("segments", "chunk_tokens", lambda a: a * 2, "tokens computed in steps"),
    ],
)
def test_each_break_is_named(run, table, column, change, message):
    columns = run.results.tables[table].columns
    columns[column] = change(columns[column])
    with pytest.raises(BalanceError, match=message):
        check(run.results)


def test_littles_law_by_areas(run):
    law = littles_law(run.results)
    assert law["number_in_system"] == pytest.approx(law["arrival_rate_per_s"] * law["mean_time_s"], rel=1e-9)
    run.results.tables["queries"].columns["finished_s"][3] -= 1e4  # left before it came: the areas part
    with pytest.raises(BalanceError, match="Little"):
        littles_law(run.results)
