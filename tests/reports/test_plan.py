"""The report of a plan: what it says equals what the plan says, and every part is there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from plan_case import NAMES, infeasible, plan

from sim.planning.text import sentence, text
from sim.report.figures import frontier, hockey_stick, means, tornado
from sim.report.html import points
from sim.report.plan import page, write_plan


@pytest.fixture
def data() -> dict[str, Any]:
    return plan()


def test_every_question_of_a_plan_is_answered(data: dict[str, Any], tmp_path: Path) -> None:
    said = page(data)
    keys = [section.key for section in said.sections]
    assert keys == ["slo", "buy", "room", "change", "means", "api", "deploy"]
    html = write_plan(data, tmp_path / "plan.html").read_text(encoding="utf-8")
    for words in (
        "Deploy 4 replicas (h100-sxm, TP 4) on 16 GPUs",
        "vllm serve deepseek-ai",
        "kind: Deployment",
        "vllm bench serve",
        "does not survive",
        "First to break: KV memory",
        "+50% in cost",
        "overloaded with 8 replicas",
    ):
        assert words in html, words
    assert all(exhibit.figure.layout.meta["alt"] for exhibit in said.exhibits)


def test_the_verdict_does_not_claim_more_than_the_plan(data: dict[str, Any]) -> None:
    assert page(data).verdict == "Meets every target"
    data["recommendation"]["certain"] = False
    said = page(data)
    assert (said.verdict, said.tone) == ("Probably meets", "warn")
    assert "could not be shown at 90% confidence" in sentence(data)
    assert any("replications ran out" in banner.what for banner in said.banners)
    assert page(infeasible()).tone == "bad"


def test_a_plan_without_an_answer_has_a_page_and_a_text(tmp_path: Path) -> None:
    data = infeasible()
    assert "No candidate meets the targets" in text(data)
    assert "overloaded with 2 replicas" in write_plan(data, tmp_path / "plan.html").read_text(encoding="utf-8")


def test_the_tornado_names_what_flips_the_decision(data: dict[str, Any]) -> None:
    rows = tornado.table(data)
    assert tornado.finding(rows) == f"Longer tail of lengths (exponent 1.1) would change the decision to {NAMES[1]}"
    by_words = rows.set_index("assumption")
    step = data["alternatives"][0]["usd_per_month"] / 2  # one node of the two
    assert by_words.loc["10 % more queries", "change_usd_per_month"] == pytest.approx(step)
    assert by_words.loc["10 % fewer queries", "change_usd_per_month"] == 0
    assert list(rows["change_usd_per_month"].abs()) == sorted(rows["change_usd_per_month"].abs(), reverse=True)
    for row in data["sensitivity"]:
        row["flips_to"] = None
    assert tornado.finding(tornado.table(data)).startswith("3 of 4 assumptions would need more")


def test_means_hide_what_the_figure_says(data: dict[str, Any]) -> None:
    rows = means.table(data)
    assert rows["replicas"].tolist() == [1, 2, 4]
    assert rows["meets"].tolist() == [False, False, True]
    assert means.finding(rows) == (
        "Sizing by mean lengths buys 1 of the 4 replicas needed, 4x too few; 0 % would be in time, not 99 %"
    )
    lucky = copy.deepcopy(data)
    for way in lucky["means"]["ways"]:
        way["replicas"] = {"reasoning": 4}
    assert "would not have bought too little" in means.finding(means.table(lucky))
    assert points(means.figure(rows)) == 3


def test_frontier_and_hockey_stick_show_every_point(data: dict[str, Any]) -> None:
    rows = frontier.table(data)
    assert rows["kind"].tolist() == ["misses", "chosen", "meets", "frontier", "meets"]
    assert points(frontier.figure(rows)) == len(data["points"])
    assert "3.6 queries/s, 1.20x this traffic" in hockey_stick.finding(data).replace("3.60", "3.6")
    terminal = text(data)
    assert terminal.count("*") >= 2
    assert "recommended, o meets, . misses" in terminal


def test_strings_of_users_stay_text(data: dict[str, Any], tmp_path: Path) -> None:
    data["scenario"] = "<script>alert(1)</script>"
    data["alternatives"][0]["name"] = "<img src=x>"
    html = write_plan(data, tmp_path / "plan.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
