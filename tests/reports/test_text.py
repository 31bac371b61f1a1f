"""The terminal's summary: the answer first, plain where nobody reads colours, safe whatever the names are."""

from __future__ import annotations

from typing import Any

import pytest

from sim.report import facts
from sim.report.text import summary

NAMES = ["normal", "overloaded", "single", "empty", "nothing", "one", "untidy", "hostile"]


@pytest.mark.parametrize("name", NAMES)
def test_the_answer_comes_first_and_lines_fit(synthetic: Any, name: str) -> None:
    results = synthetic(name)
    text = summary(results, color=False, width=100)
    lines = text.split("\n")
    assert lines[0].endswith(facts.answer(results).verdict)
    assert " ".join(lines[1].split())[:20] == facts.answer(results).sentence[:20]
    assert all(len(line) <= 100 for line in lines)
    assert "nan" not in text
    assert "None" not in text


def test_no_escape_codes_without_a_terminal(synthetic: Any) -> None:
    assert "\x1b" not in summary(synthetic("normal"))
    assert "\x1b[" in summary(synthetic("normal"), color=True)


def test_names_cannot_rewrite_the_screen(synthetic: Any) -> None:
    text = summary(synthetic("normal", pool="\x1b[2Jgone\r\u202e", replications=1, queries=30), color=False)
    assert not set(text) & {"\x1b", "\r", "\u202e"}


def test_every_tile_and_every_banner_is_there(synthetic: Any) -> None:
    results = synthetic("overloaded")
    text = " ".join(summary(results, color=False, width=100).split())
    for tile in facts.tiles(results):
        assert f"{tile.label} {tile.value}" in text
    for banner in facts.banners(results.summary):
        assert banner.what in text
        assert f"-> {banner.do}" in text


def test_what_limits_is_named_from_what_kept_requests_waiting(synthetic: Any) -> None:
    assert "KV memory is the limit" in facts.limit(synthetic("overloaded"))
    few_seats = synthetic("normal", seats=4, replications=1, queries=300)
    assert "max_num_seqs is the limit" in facts.limit(few_seats)
    assert facts.limit(synthetic("single")).startswith("nothing keeps queries waiting")
    assert facts.limit(synthetic("nothing")) == "no query was completed"
