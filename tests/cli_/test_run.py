"""``run`` and ``report``: what they print, what they write, and that nothing is half-written."""

from __future__ import annotations

import io
import json

import pytest

from sim import load
from sim.cli._progress import ProgressLine
from sim.cli.run import folder_name

FILES = {
    "scenario.resolved.yaml",
    "provenance.json",
    "summary.json",
    "queries.parquet",
    "requests.parquet",
    "segments.parquet",
    "report.html",
}


def test_run_writes_everything_and_says_where(thinkcap, here, tiny):
    ran = thinkcap("run", tiny)
    assert ran.code == 0, ran.err
    out = here / "runs" / "tiny"
    assert {path.name for path in out.iterdir()} >= FILES
    assert str(out.relative_to(here) / "report.html") in ran.out
    assert [path.name for path in (here / "runs").iterdir()] == ["tiny"]


def test_the_resolved_scenario_runs_to_the_same_tables(thinkcap, here, tiny):
    assert thinkcap("run", tiny, "--out", "a", "--quiet").code == 0
    assert thinkcap("run", "a/scenario.resolved.yaml", "--out", "b", "--quiet").code == 0
    for name in FILES - {"provenance.json", "report.html"}:
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes(), name


def test_stepwise_gives_the_same_tables(thinkcap, here, tiny):
    assert thinkcap("run", tiny, "--out", "a", "--quiet").code == 0
    assert thinkcap("run", tiny, "--out", "b", "--quiet", "--stepwise").code == 0
    for name in ("queries.parquet", "requests.parquet"):
        assert (here / "a" / name).read_bytes() == (here / "b" / name).read_bytes(), name
    one, other = (json.loads((here / name / "summary.json").read_text()) for name in "ab")
    for key in ("metrics", "totals", "slo", "goodput", "cost"):
        assert one[key] == other[key], key


def test_changes_reach_the_run_and_its_provenance(thinkcap, here, tiny):
    ran = thinkcap("run", tiny, "--out", "a", "--json", "--seed", 3, "--replications", 2, "--set", "name=other")
    summary = json.loads(ran.out)
    assert summary["replications"] == 2
    assert json.loads((here / "a" / "provenance.json").read_text())["overrides"] == [
        "name=other",
        "seed=3",
        "measure.replications=2",
    ]


def test_a_trace_by_override_says_what_no_longer_applies(thinkcap, here, tiny):
    (here / "trace.csv").write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "".join(f"{i},50,20\n" for i in range(20))
    )
    arguments = ("run", tiny, "--set", "workload.trace=trace.csv", "--set", "measure.warmup_queries=null")
    ran = thinkcap(*arguments, "--json", "--out", "a")
    assert "note: workload.trace replaces" in ran.err
    assert json.loads(ran.out)["totals"]["queries"] == 20
    assert "note:" not in thinkcap(*arguments, "--out", "a", "--quiet").err


def test_earlier_results_are_replaced_as_a_whole(thinkcap, here, tiny):
    assert thinkcap("run", tiny, "--out", "a", "--quiet").code == 0
    (here / "a" / "old.txt").write_text("left over")
    assert thinkcap("run", tiny, "--out", "a", "--quiet", "--seed", 5).code == 0
    assert not (here / "a" / "old.txt").exists()
    assert sorted(path.name for path in here.iterdir()) == ["a"]


def test_what_is_not_ours_is_left_alone(thinkcap, here, tiny):
    (here / "mine").mkdir()
    (here / "mine" / "thesis.txt").write_text("years")
    (here / "file").write_text("x")
    for out, message in (("mine", "does not hold results"), ("file", "is a file"), ("file/sub", "is a file")):
        ran = thinkcap("run", tiny, "--out", out)
        assert (ran.code, message in ran.err) == (2, True), ran.err
    assert (here / "mine" / "thesis.txt").read_text() == "years"


def test_a_failure_while_writing_keeps_the_old_results(thinkcap, here, tiny, monkeypatch):
    assert thinkcap("run", tiny, "--out", "a", "--quiet").code == 0
    before = (here / "a" / "summary.json").read_bytes()

    def full(results, path):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("sim.report.page.write_report", full)
    ran = thinkcap("run", tiny, "--out", "a", "--quiet", "--seed", 5)
    assert (ran.code, "No space left" in ran.err) == (2, True)
    assert (here / "a" / "summary.json").read_bytes() == before
    assert sorted(path.name for path in here.iterdir()) == ["a"]


def test_report_renders_again_without_simulating(thinkcap, here, tiny, monkeypatch):
    assert thinkcap("run", tiny, "--out", "a", "--quiet").code == 0
    first = (here / "a" / "report.html").read_bytes()
    (here / "a" / "report.html").unlink()
    monkeypatch.delattr("sim.simulate.simulate")
    ran = thinkcap("report", "a")
    assert ran.code == 0, ran.err
    assert (here / "a" / "report.html").read_bytes() == first
    assert thinkcap("report", "a", "--out", "other.html").code == 0
    assert (here / "other.html").read_bytes() == first


def test_progress_says_time_queries_and_rate():
    stream = io.StringIO()
    line = ProgressLine(load("quickstart"), stream)
    text = line.text(7200.0, 12_345, 2.0)
    assert text == "simulated 2.0 h in 3 replications, 12,345 queries done, 6,170 queries/s"
    line(1.0, 1)
    assert stream.getvalue() == ""  # no terminal: a line only every few seconds


@pytest.mark.parametrize(
    ("name", "folder"),
    [("Peak hour / EU", "Peak-hour-EU"), ("../../etc", "etc"), ("...", "scenario"), ("größe 1", "größe-1")],
)
def test_names_become_safe_folders(name, folder):
    assert folder_name(name) == folder
