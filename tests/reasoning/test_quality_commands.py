"""``thinkcap quality``: what is shipped, and parameters from a table with what they leave unexplained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sim import load
from sim.cli.main import main
from workloads.quality.exact import majority
from workloads.quality.published import BENCHMARKS, ROWS
from workloads.quality.spec import AnswerLaw


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_fit_shows_a_residual_for_every_row(tmp_path, capsys):
    rows = [(n, round(majority(n, 0.4, 2.0, 6), 4)) for n in (1, 4, 16, 64)]
    table = write(tmp_path / "t.csv", "samples,accuracy\n" + "".join(f"{n},{a}\n" for n, a in rows))
    assert main(["quality", "fit", table, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["accuracy"] == 0.4
    assert found["parameters"]["concentration"] == pytest.approx(2.0, rel=0.1)
    assert [row[:2] for row in found["rows"]] == [list(row) for row in rows]
    assert found["worst"] == pytest.approx(max(abs(a - b) for _, a, b in found["rows"]))
    assert main(["quality", "fit", table]) == 0
    said = capsys.readouterr().out
    assert "residual" in said
    assert len([line for line in said.splitlines() if line.split()[:1] in (["1"], ["4"], ["16"], ["64"])]) == 4


def test_tokens_fit_a_saturating_law(tmp_path, capsys):
    table = write(tmp_path / "t.csv", "tokens,accuracy\n256,0.53\n1000,0.66\n4000,0.74\n16000,0.78\n")
    assert main(["quality", "fit", table, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"]["floor"] < found["parameters"]["limit"] <= 1
    assert found["worst"] < 0.03
    law = AnswerLaw(**found["law"])
    for tokens, _, fitted in found["rows"]:
        assert law.mean(tokens / 16_000) == pytest.approx(fitted, abs=1e-9)


def test_what_a_fit_prints_last_is_a_section_of_a_scenario(tmp_path, capsys):
    table = write(tmp_path / "t.csv", "samples,accuracy\n1,40 %\n16,55%\n")
    assert main(["quality", "fit", table]) == 0
    section = capsys.readouterr().out.splitlines()[-1].replace("NAME", "mine")
    data = {
        "name": "fitted",
        "workload": {"arrivals": "poisson", "rate": "1/s", "lengths": {"prompt": 10, "reasoning": 10, "answer": 10}},
        "measure": {"queries": 3},
        "pools": {"main": {"model": "llama-3.1-8b", "hardware": "h100-sxm"}},
        **yaml.safe_load(section),
    }
    law = load(data).quality.models["any"]["mine"]
    assert law.accuracy == 0.4
    assert law.concentration is not None


def test_one_sample_says_nothing_of_how_queries_differ(tmp_path, capsys):
    assert main(["quality", "fit", write(tmp_path / "t.csv", "samples,accuracy\n1,0.7\n"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == {"accuracy": 0.7}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size,accuracy\n1,0.5\n", "a header with samples or tokens"),
        ("samples,accuracy\n1,x\n", "two numbers"),
        ("samples,accuracy\n1,1.5\n", "between 0 and 1"),
        ("samples,accuracy\n1.5,0.5\n", "whole samples"),
        ("samples,accuracy\n4,0.5\n", "one sample"),
        ("samples,accuracy\n", "no rows"),
        ("tokens,accuracy\n10,0.5\n", "three rows"),
    ],
)
def test_a_bad_table_is_one_message(tmp_path, capsys, text, words):
    assert main(["quality", "fit", write(tmp_path / "t.csv", text)]) == 2
    assert words in capsys.readouterr().err


def test_every_figure_is_listed_with_its_source(capsys):
    assert main(["quality", "list"]) == 0
    said = capsys.readouterr().out
    assert said.count("[") == len(ROWS)
    assert all(row.model in said and row.source in said for row in ROWS)
    assert all(name in said for name in BENCHMARKS)
    assert "17.9 % to 56.9 %" in said
    assert main(["quality", "list", "--benchmark", "aime"]) == 2
    assert "aime-2024" in capsys.readouterr().err


def test_the_models_asked_for_are_there():
    """GPT-4o, o1, R1 and its distills, QwQ, Qwen3, gpt-oss, where their figures were published."""
    known = {(row.model, row.benchmark) for row in ROWS}
    for model in ("gpt-4o", "o1", "deepseek-r1", "qwq-32b-preview", *DISTILLS):
        assert {(model, name) for name in ("math-500", "aime-2024", "gpqa-diamond")} <= known
    for model in ("gpt-4o", "deepseek-r1", *DISTILLS):
        assert (model, "livecodebench") in known
    assert {("r1-distill-qwen-7b", "gsm8k"), ("qwen3-8b", "gsm8k"), ("gpt-oss-120b", "mlperf-mix")} <= known


DISTILLS = [f"r1-distill-{name}" for name in ("qwen-1.5b", "qwen-7b", "llama-8b", "qwen-14b", "qwen-32b", "llama-70b")]
