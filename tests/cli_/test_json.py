"""Every command that prints a result prints it as JSON when asked, and then nothing else on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration import measurements
from sim.cli.main import commands, parser_of

RECORDINGS = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize("command", commands())
def test_every_command_takes_json(command: str) -> None:
    assert "--json" in parser_of(command)._option_string_actions


def as_json(thinkcap, *arguments: object, code: int = 0):
    """What the command printed, read as JSON: all of stdout is."""
    ran = thinkcap(*arguments, "--json")
    assert ran.code == code, ran.err
    return json.loads(ran.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.mark.slow
def test_runs_and_what_is_made_of_them(thinkcap, here, tiny):
    assert as_json(thinkcap, "run", tiny, "--out", "a")["totals"]
    again = as_json(thinkcap, "report", "a")
    assert again["report"] == "a/report.html"
    assert again["summary"]["totals"]
    told = as_json(thinkcap, "explain", "a", "slowest")
    assert told["status"] == "completed"
    assert told["words"][0].startswith("Query ")
    checked = as_json(thinkcap, "validate", tiny, "--resolved")[0]
    assert checked["valid"]
    assert checked["resolved"]["name"] == "tiny"


def test_what_is_wrong_is_json_too(thinkcap, tiny):
    tiny.write_text(tiny.read_text() + "wrong: 1\n")
    said = as_json(thinkcap, "validate", tiny, code=2)
    assert said[0]["valid"] is False
    assert "wrong" in said[0]["problem"]


def test_what_there_is(thinkcap):
    for words in (["scenarios"], ["list", "models"], ["schema"]):
        assert as_json(thinkcap, *words)
    assert as_json(thinkcap, "check")["packages"]["sim"]
    assert as_json(thinkcap, "quality", "list", "--benchmark", "aime-2024")["rows"]
    model = as_json(thinkcap, "model", "r1-distill-llama-70b")
    assert model["weight_bytes"] == pytest.approx(141.1e9, rel=0.01)
    assert model["kv_tokens"]["h100-sxm"]["tp1"] == 0
    assert model["kv_tokens"]["h100-sxm"]["tp4"] > 100_000


@pytest.mark.slow
def test_traces(thinkcap, here):
    drawn = as_json(thinkcap, "trace", "sample", "qwq", "--queries", 400, "--out", "t.csv")
    assert drawn["queries"] == 400
    assert as_json(thinkcap, "trace", "convert", "t.csv", "--out", "u.csv")["rows"] == 400
    assert as_json(thinkcap, "trace", "scale", "t.csv", "--by", 2, "--out", "v.csv")["stretch"] == 0.5
    assert as_json(thinkcap, "trace", "splice", "t.csv", "u.csv", "--out", "w.csv")["rows"] == 800
    assert as_json(thinkcap, "trace", "describe", "t.csv")
    fitted = as_json(thinkcap, "trace", "fit", "t.csv", "--out", "g.yaml")
    assert fitted["written"] == "g.yaml"
    assert any(row["name"].startswith("output") for row in fitted["rows"])


@pytest.mark.slow
def test_calibration(thinkcap, here):
    rows = [(b, c, 0, 0) for b in (1, 4, 16, 64) for c in (64, 1024, 8192)] + [(0, 0, 1, n) for n in (64, 512, 8192)]
    frame = pd.DataFrame(rows, columns=["decodes", "context", "chunks", "chunk_tokens"])
    tokens = frame["decodes"] + frame["chunk_tokens"]
    frame["time_ms"] = 5.2 + 0.025 * np.maximum(0, tokens - 200) + 5e-5 * frame["decodes"] * frame["context"]
    frame = frame.assign(
        source="made", gpu="h100-sxm", model="llama-3.1-8b", dtype="bf16", tp=1, quantity="iteration_measured"
    )
    measurements.write(frame, Path("m.parquet"), {})
    fitted = as_json(thinkcap, "calibrate", "fit", "m.parquet", "--out", "p.yaml")
    assert fitted["written"] == ["p.yaml"]
    assert fitted["error"]["decode"]["n"] == 12
    shown = as_json(thinkcap, "calibrate", "show", "p.yaml", "--out", "-")
    assert shown["error"].keys() == fitted["error"].keys()
    assert shown["written"] is None


def test_conformance(thinkcap):
    recording = next(folder for folder in sorted(RECORDINGS.iterdir()) if (folder / "settings.json").is_file())
    found = as_json(thinkcap, "conformance", recording)
    assert found == [found[0] | {"recording": recording.name, "equal": True, "difference": None}]


@pytest.mark.slow
def test_sweeps_plans_and_comparisons(thinkcap, here, tiny):
    assert len(as_json(thinkcap, "sweep", tiny, "--over", "workload.rate=1..3:3/s", "--out", "s")) == 3
    assert as_json(thinkcap, "compare", tiny, tiny, "--out", "c")
    with_plan = tiny.read_text() + "plan: {sensitivity: false, headroom: [], max_replicas: 4, replications: 6}\n"
    tiny.write_text(with_plan.replace("queries: 40", "queries: 300"))
    plan = as_json(thinkcap, "plan", tiny, "--out", "p")
    assert plan["feasible"]
    assert json.loads(Path("p/plan.json").read_text()) == plan
