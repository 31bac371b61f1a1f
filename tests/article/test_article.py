"""The reproduced article: its facts, the arithmetic, what is fitted, the rules of the verdicts, the command and its page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sim.cli.main import main
from sim.planning.compare import check_pairs
from sim.planning.runs import Runner, Store
from sim.report.article import page
from sim.report.article_text import say, text
from sim.report.html import render
from sim.results.results import plain
from sim.scenario.load import load, shipped
from sim.scenario.yaml_file import read_file
from sim.validation.article import compute, recommendations, thinking, training, verification
from sim.validation.article.cases import Estimate, relative
from sim.validation.article.reproduce import MADE, reproduce
from sim.validation.article.rows import claims, judge, judge_change

ROOT = Path(__file__).parents[2]
BACKGROUND = ROOT.parent / "shared" / "background" / "reference_tables.yaml"


@pytest.mark.skipif(not BACKGROUND.is_file(), reason="the background article's tables are not here")
def test_claims_are_those_of_the_article():
    theirs, ours = read_file(BACKGROUND).data, claims()
    names = {"proof": "complex_proof"}
    for kind, row in ours["tokens_per_query"].items():
        if kind != "section":
            assert row == theirs["tokens_per_query"][names.get(kind, kind)]
    renamed = {"kv_compression": "kv_compression_50"}
    for name, row in ours["serving_configurations"].items():
        if name != "section":
            figures = {key: value for key, value in row.items() if key != "memory"}
            assert figures == theirs["serving_configurations"][renamed.get(name, name)]
    for name, row in ours["verification_math500"].items():
        if name != "section":
            assert [row["samples"], row["accuracy"], row["tokens"]] == list(
                theirs["verification_math500"][name].values()
            )
    for name, row in ours["compute_equivalent_math500"].items():
        if name != "section":
            want = theirs["compute_equivalent_math500"][name]
            assert (row["parameters"] / 1e9, row["tokens"], row["tflop"], row["accuracy"]) == tuple(want.values())
    for task, row in ours["chain_of_thought_palm_540b"].items():
        if task != "section":
            assert [row["standard"], row["chain"]] == theirs["chain_of_thought_palm_540b"][task][:2]
    for key in ("concurrent_standard", "concurrent_reasoning", "prompt_tokens", "reasoning_tokens"):
        assert ours["kv_cache"][key] == theirs["kv_cache"][key]
    for key in ("gpt_4o", "o1_minimal_thinking", "o1_maximum"):
        assert ours["aime_2024"][key] == theirs["aime_2024"][key]


def test_every_table_has_a_scenario_and_every_recommendation_a_pair():
    known = shipped()
    cases = [case for needed, _ in MADE.values() for case in needed]
    assert {case.scenario for case in cases} == {name for name in known if name.startswith("article/")}
    for case in {case.name: case for case in cases}.values():
        case.load(quick=True)
    for name in known:
        if name.endswith("_with"):
            with_, without = load(name), load(name.removesuffix("_with") + "_without")
            assert check_pairs([without, with_]) == [], name
            assert with_.measure == without.measure


def test_operations_with_and_without_attention():
    assert claims()["compute_equivalent_math500"]["medium_moderate"]["tflop"] == 2 * 70e9 * 8000 / 1e12
    assert compute.attention_flops("llama-3.1-405b", 16000, 0) / (2 * 405.9e9 * 16000) == pytest.approx(0.08, abs=0.01)
    assert compute.attention_flops("llama-2-7b", 64000, 0) == pytest.approx(1074e12, rel=0.01)
    by_hand = sum(4 * 32 * 128 * 32 * (200 + i) for i in range(1, 11))
    assert compute.attention_flops("llama-2-7b", 10, 200) == pytest.approx(by_hand, rel=1e-12)


def test_scenarios_hold_what_the_fit_finds():
    difficulty, _, prm = verification.fits()
    spec = load("article/verification").quality.models["any"]["math-500"]
    assert spec.concentration == pytest.approx(difficulty.parameters["concentration"], abs=5e-4)
    assert spec.wrong_answers == verification.WRONG
    said = claims()["verification_math500"]
    assert spec.accuracy == said["single"]["accuracy"]
    strategy = load("article/recommendations/best_of_n_with").strategy.make("strategy")
    assert strategy.discrimination == pytest.approx(prm.parameters["discrimination"], abs=5e-4)
    assert max(fit.worst for fit in verification.fits()) < 1e-6  # each has as many parameters as rows
    published = load("article/aime").quality.models["any"]["aime-2024"]
    from workloads.quality.published import BENCHMARKS

    assert (published.concentration, published.wrong_answers) == (
        BENCHMARKS["aime-2024"].concentration,
        BENCHMARKS["aime-2024"].wrong_answers,
    )


def test_the_gain_of_a_chain_is_a_line_through_two_tasks():
    first, slope = thinking.chain_law()
    said = claims()["chain_of_thought_palm_540b"]
    for task in thinking.FIT_TASKS:
        claim = said[task]
        odds = math.log(claim["standard"] / (1 - claim["standard"])) + first + slope * (sum(claim["steps"]) / 2 - 1)
        assert 1 / (1 + math.exp(-odds)) == pytest.approx(claim["chain"])
    assert slope > 0


def test_training_is_arithmetic():
    rows = {row.what: row for row in training.table().rows}
    assert rows["SFT: model states over the policy's alone"].ours == 1
    assert rows["PPO: model states over the policy's alone"].ours == pytest.approx((16 + 16 + 2) / 16)
    assert rows["GRPO: model states over the policy's alone"].ours == pytest.approx((16 + 2) / 16)


@pytest.mark.parametrize(
    ("claim", "ours", "low", "high", "unit", "verdict"),
    [
        (100.0, 104.0, None, None, "", "agrees"),
        (100.0, 107.0, None, None, "", "differs"),
        (100.0, 120.0, 95.0, 145.0, "", "agrees"),
        (100.0, 120.0, 10.0, 230.0, "", "undecided"),
        (0.90, 0.885, None, None, "share", "agrees"),
        (0.90, 0.87, None, None, "share", "differs"),
        ((5.0, 10.0), 4.0, 3.5, 4.5, "x", "differs"),
        ((5.0, 10.0), 4.9, 4.6, 5.2, "x", "agrees"),
        ((5.0, 10.0), 7.0, None, None, "x", "agrees"),
        (None, 1.0, None, None, "", "no claim"),
        (1.0, None, None, None, "", "not run"),
    ],
)
def test_verdicts(claim, ours, low, high, unit, verdict):
    assert judge(claim, ours, low, high, unit) == verdict


@pytest.mark.parametrize(
    ("claim", "ours", "low", "high", "verdict"),
    [
        (-0.08, 0.5, 0.3, 0.7, "opposite"),
        (0.5, 0.3, 0.2, 0.4, "same direction"),
        (0.5, 0.45, 0.4, 0.55, "agrees"),
        (0.5, 0.02, -0.1, 0.14, "no clear effect"),
        (0.5, 0.1, -1.0, 1.2, "undecided"),
        (0.5, None, None, None, "not run"),
    ],
)
def test_verdicts_of_changes(claim, ours, low, high, verdict):
    assert judge_change(claim, ours, low, high) == verdict


def test_the_interval_of_a_ratio_is_the_same_turned_round_and_never_below_nothing():
    times = (2.0, 9.0, 1.2)
    low, high = Estimate(3.0, times, base=0.0).bounds
    turned = Estimate(1 / 3.0, tuple(1 / each for each in times), base=0.0).bounds
    assert (1 / turned[1], 1 / turned[0]) == pytest.approx((low, high))
    assert 0 < low < 3.0 < high
    change = relative(Estimate(3.0, times), Estimate(1.0, (1.0, 1.0, 1.0)))
    assert change.bounds == pytest.approx((low - 1, high - 1))
    assert Estimate(3.0, times).bounds[0] < 0  # a figure's own interval is symmetric
    assert Estimate(0.0, (0.0, 1.0), base=0.0).bounds == Estimate(0.0, (0.0, 1.0)).bounds  # nothing has no logarithm
    assert Estimate(2.0, (2.0,), base=0.0).bounds == (None, None)


def test_figures_are_said_with_their_units():
    assert say(0.853, "share") == "85.3 %"
    assert say(-0.54, "change") == "\u221254 %"
    assert say([5.0, 10.0], "x").replace("\u2060", "") == "5\u00d7\u201310\u00d7"
    assert say(None, "s") == ""
    assert say(0.021, "points") == "+2.1 pts"


ROW_KEYS = {"what", "unit", "article", "published", "source", "ours", "low", "high", "basis", "verdict", "why"}
TABLE_KEYS = {"name", "question", "finding", "rows", "commands", "notes", "section"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reproduce")


@pytest.fixture(scope="module")
def found(folder):
    """Two tables with few queries: one of arithmetic, one with runs."""
    return plain(
        reproduce(Runner(Store(folder)), only=["training_for_reasoning", "chain_of_thought_palm_540b"], quick=True)
    )


def test_the_data_is_as_documented(found):
    assert json.loads(json.dumps(found, allow_nan=False)) == json.loads(json.dumps(found))
    assert found["schema_version"] == 1
    assert found["quick"]
    assert sum(found["verdicts"].values()) == sum(len(table["rows"]) for table in found["tables"])
    guide = ROOT / "docs" / "article.md"
    documented = guide.read_text(encoding="utf-8") if guide.is_file() else None
    for table in found["tables"]:
        assert set(table) == TABLE_KEYS
        assert table["finding"]
        assert table["section"]
        for row in table["rows"]:
            assert set(row) == ROW_KEYS
            assert row["basis"] == "not run" or row["ours"] is not None
    if documented is not None:
        for name in (*ROW_KEYS, *TABLE_KEYS, *found, *MADE):
            assert f"`{name}`" in documented, name


def test_finished_points_are_used_again(folder, found):
    runner = Runner(Store(folder))
    again = plain(reproduce(runner, only=["chain_of_thought_palm_540b"], quick=True))
    assert runner.computed == 0
    assert again["tables"] == [table for table in found["tables"] if table["name"] == "chain_of_thought_palm_540b"]


def test_page_and_words_hold_every_row(found):
    made = page(found)
    html, words = render(made), text(found)
    for table in found["tables"]:
        assert table["question"] in html.replace("&#39;", "'")
        assert table["finding"] in words
    assert "http://" not in html.split("<script")[0]
    assert "no evidence" in words
    assert any("not evidence" in banner.what for banner in made.banners)


def test_the_command_writes_both_files(folder, found, capsys):
    arguments = ["reproduce", "--only", "training_for_reasoning", "--only", "chain_of_thought_palm_540b"]
    assert main([*arguments, "--quick", "--quiet", "--json", "--workers", "1", "--out", str(folder)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((folder / "reproduce.json").read_text(encoding="utf-8"))
    assert printed["tables"][0]["name"] == "chain_of_thought_palm_540b"
    assert (folder / "reproduce.html").stat().st_size > 1_000_000
    assert main(["reproduce", "--only", "training", "--out", str(folder)]) == 2
    assert "training_for_reasoning" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_article_in_directions_that_are_robust(tmp_path):
    found = plain(reproduce(Runner(Store(tmp_path), workers=2)))
    assert [table["name"] for table in found["tables"]] == list(MADE)
    rows = {(table["name"], row["what"]): row for table in found["tables"] for row in table["rows"]}

    def ours(table: str, start: str) -> float:
        [row] = [row for (name, what), row in rows.items() if name == table and what.startswith(start)]
        return float(row["ours"])

    heavy = ", 64 users"
    assert ours("serving_configurations", f"streaming verification: queries a second{heavy}") > 0.5
    assert ours("serving_configurations", f"streaming verification: mean time to answer{heavy}") < -0.3
    assert ours("serving_configurations", f"difficulty routing: queries a second{heavy}") > 0.1
    assert ours("serving_configurations", f"KV compression: tokens a second{heavy}") > 0.1
    assert ours("serving_configurations", f"all: queries a second{heavy}") > 0.5
    assert 5.5 < ours("kv_cache", "reasoning requests in memory, reserved") < 6.5
    assert 58 < ours("kv_cache", "standard requests in memory, reserved") < 66
    assert 8 <= ours("kv_cache", "reasoning requests in flight, paged, that bring all the throughput") <= 12
    assert 6 <= ours("kv_cache", "reasoning requests in flight, paged, with less than 1 % recomputed") <= 10
    assert 1.5 < ours("recommendations", "1 routing, hardest 20 %") < 5
    assert ours("recommendations", "6 high effort for medium: mean time to answer") > 1.4
    assert ours("recommendations", "6 high effort for medium: p95 time per token") < 1.25
    assert ours("compute_equivalent_math500", "small heavy: over medium moderate") > 1.5
    assert len(render(page(found))) > 1_000_000
    assert recommendations.CASES
