"""One query's life: the words agree with the tables, causes sum to the delay, and bad names get an answer."""

from __future__ import annotations

import argparse

import pytest

from sim.cli import explain as command
from sim.cli.explain import explain, find
from sim.errors import InputError
from sim.metrics import finish
from sim.metrics.life import life


@pytest.fixture(scope="module")
def results(toy):
    return finish(toy.simulate(toy.random_work(1, 120, gap_s=0.12), seats=6, budget=24, blocks=30).results)


def test_named_queries_are_those_of_the_tables(results):
    queries, requests = results.queries, results.requests
    assert find(results, "slowest") == queries["query"][queries.tta_s.idxmax()]
    assert find(results, "starved") == requests["query"][requests.queue_s.idxmax()]
    assert find(results, "preempted") == requests["query"][requests.preemptions.idxmax()]
    tokens = queries.reasoning_tokens + queries.answer_tokens
    assert find(results, "longest") == queries["query"][tokens.idxmax()]
    assert find(results, "17") == 17


def test_causes_sum_to_the_delay(results):
    for number in range(120):
        story = life(results, number)
        row = results.queries.loc[number]
        assert story.delay_s == pytest.approx(row.tta_s - row.alone_s)
        assert sum(story.causes.values()) == pytest.approx(story.delay_s)
        assert story.causes["queue"] == pytest.approx(results.requests.queue_s[number])
        blocked = story.requests[0].blocked
        waited = blocked.kv_s + blocked.seats_s + blocked.token_budget_s + blocked.step_s
        assert waited == pytest.approx(results.requests.queue_s[number], abs=1e-9)


def test_a_preempted_query_is_told_so(results):
    text = "\n".join(explain(results, "preempted"))
    row = results.requests.loc[find(results, "preempted")]
    assert row.preemptions > 1
    assert f"was preempted {'twice' if row.preemptions == 2 else f'{row.preemptions} times'}" in text
    assert f"{row.recomputed_tokens:,} tokens computed again" in text
    assert "of the delay: waiting for its first step" in text


def test_thinking_and_answer_are_told_in_order(results):
    row = results.requests[(results.requests.reasoning_tokens > 3) & (results.requests.answer_tokens > 3)].iloc[0]
    lines = explain(results, int(row["query"]))
    places = [
        next(i for i, line in enumerate(lines) if word in line)
        for word in (
            "arrived",
            "waited",
            "computed its prompt",
            "thought",
            "answered from",
            "shared",
            "was answered",
        )
    ]
    assert places == sorted(places)
    assert f"{row.reasoning_tokens:,} tokens" in lines[places[3]]


def test_an_unfinished_query_is_told_so(toy):
    run = toy.simulate(toy.random_work(5, 100, gap_s=0.05), seats=2, stop_ps=3 * toy.PS)
    results = finish(run.results)
    open_ = results.queries[results.queries.status == "unfinished"]
    waiting = int(open_["query"].iloc[-1])
    text = "\n".join(explain(results, waiting))
    assert "was never scheduled because all seats were taken" in text
    assert "was still open when the run ended" in text


def test_the_command_reads_a_directory(results, tmp_path, capsys):
    results.save(tmp_path / "run")
    parser = argparse.ArgumentParser()
    command.prepare_parser(parser)
    assert command.run(parser.parse_args([str(tmp_path / "run"), "5"])) == 0
    told = capsys.readouterr().out
    assert told == "\n".join(explain(results, 5)) + "\n"


@pytest.mark.parametrize(
    ("query", "replication", "message"),
    [
        ("999", 0, "there is no query 999 in replication 0; expected a query from 0 to 119"),
        ("5", 3, "in replication 3"),
        ("slowst", 0, "did you mean 'slowest'"),
        ("slowest", 3, "replication 3 has no query"),
    ],
)
def test_bad_names_get_an_answer(results, query, replication, message):
    with pytest.raises(InputError, match=message):
        explain(results, query, replication)
