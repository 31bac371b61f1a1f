"""The page: one file, offline, complete, and nothing in it that a user's string could become."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pytest

from sim.report import facts, formats, html, page, theme
from sim.report.fairness import CLIENTS
from sim.results import Results

HOSTILE = '<img src=x onerror="window.pwned=1">'


class Reader(HTMLParser):
    """What a browser would make of a page: elements with attributes, and text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside = tag
            if tag == "script":
                self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif not self._inside:
            self.text.append(data)

    def found(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def words(self) -> str:
        text = " ".join(" ".join(self.text).split())
        return text.replace("\u00a0", " ").replace("\u2060", "")


@pytest.fixture(scope="module")
def rendered(synthetic: Any) -> Any:
    """``rendered(name)``: (HTML, what a browser sees) of the named run, made once."""
    made: dict[str, tuple[str, Reader]] = {}

    def get(name: str) -> tuple[str, Reader]:
        if name not in made:
            text = page.report(synthetic(name))
            reader = Reader()
            reader.feed(text)
            reader.close()
            made[name] = (text, reader)
        return made[name]

    return get


def test_one_file_under_six_megabytes_with_plotly_once(rendered: Any) -> None:
    text, reader = rendered("overloaded")
    assert len(text.encode()) < 6_000_000
    assert len([1 for _, script in reader.scripts if len(script) > 1_000_000]) == 1
    assert text.count("* plotly.js v") == 1


def test_nothing_is_fetched(rendered: Any) -> None:
    _, reader = rendered("normal")
    for tag, attrs in reader.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            target = attrs.get(name)
            assert target is None or target.startswith(("#", "data:")), (tag, target)


def test_only_the_page_s_own_scripts_may_run(rendered: Any) -> None:
    _, reader = rendered("hostile")
    policy = next(a["content"] for a in reader.found("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    running = [text for attrs, text in reader.scripts if attrs.get("type") != "application/json"]
    assert len(running) == 2
    assert allowed == {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running}
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy


def test_no_user_string_becomes_markup(rendered: Any, synthetic: Any) -> None:
    text, reader = rendered("hostile")
    assert not reader.found("img")
    assert HOSTILE not in text
    assert not any("onerror" in attrs for _, attrs in reader.elements)
    assert "{{7*7}}" in reader.words
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", "".join(reader.text))
    assert HOSTILE in reader.words  # it is shown, as what it is
    names = {attrs.get("href") for attrs in reader.found("a")}
    assert not any(name is not None and name.startswith("javascript:") for name in names)
    setup = json.loads(next(text for attrs, text in reader.scripts if attrs.get("id") == "setup"))
    raw = next(text for attrs, text in reader.scripts if attrs.get("id") == "setup")
    assert not set(raw) & set("<>&\u2028\u2029")
    for key, figure in setup["figures"].items():
        for label in _strings(figure):
            # The only tags in a figure are ours; a user's are escaped, which Plotly shows as they were.
            assert not re.search(r"<(?!/?b>|br>|extra>|/extra>)", label), (key, label)
            assert "%{x}" not in label or "window" not in label or "%{customdata" not in label, (key, label)


def _strings(node: Any) -> list[str]:
    if isinstance(node, str):
        return [node]
    if isinstance(node, dict):
        return [text for value in node.values() for text in _strings(value)]
    if isinstance(node, list):
        return [text for value in node for text in _strings(value)]
    return []


def test_user_strings_never_stand_in_a_template(rendered: Any) -> None:
    """A hover template reads %{…}: users' strings reach it through customdata and trace names alone."""
    _, reader = rendered("hostile")
    setup = json.loads(next(text for attrs, text in reader.scripts if attrs.get("id") == "setup"))
    for figure in setup["figures"].values():
        for trace in figure["data"]:
            for name in ("hovertemplate", "texttemplate"):
                assert "7*7" not in trace.get(name, "")
                assert "cmd" not in trace.get(name, "")


def test_the_answer_comes_first(rendered: Any, synthetic: Any) -> None:
    _, reader = rendered("normal")
    answer = facts.answer(synthetic("normal"))
    words = reader.words
    assert answer.sentence in words
    place = [words.index(text) for text in (answer.verdict, answer.sentence, "TTA p50", "How long do people wait?")]
    assert words.index(answer.sentence) < 600
    assert place[1:] == sorted(place[1:])


@pytest.mark.parametrize("name", ["normal", "overloaded", "single", "nothing", "one", "untidy", "hostile"])
def test_the_verdict_does_not_rest_on_colour(rendered: Any, synthetic: Any, name: str) -> None:
    _, reader = rendered(name)
    answer = facts.answer(synthetic(name))
    assert f"{html.MARKS[answer.tone]} {answer.verdict}" in reader.words
    slo = synthetic(name).summary["slo"]
    assert ("Misses" in answer.verdict) == (not slo["met"])
    assert len({html.MARKS[tone] for tone in html.MARKS}) == len(html.MARKS)


def test_tiles_have_unit_n_interval_and_target(synthetic: Any) -> None:
    results = synthetic("normal")
    tiles = {tile.label: tile for tile in facts.tiles(results)}
    assert 6 <= len(tiles) <= 8
    tta = results.summary["metrics"]["tta"]
    assert tiles["TTA p99"].value == facts.value_of("tta", tta["p99"])
    assert f"n {tta['n']:,}" in tiles["TTA p99"].detail
    assert "[" in tiles["TTA p99"].detail
    assert "target 3.0 min" in tiles["TTA p99"].target
    assert tiles["TTA p99"].tone == ("good" if results.summary["slo"]["targets"][0]["met"] else "bad")
    assert not tiles["TTA p50"].target


def test_a_target_at_another_percentile_stands_on_the_tail_s_tile(synthetic: Any) -> None:
    from sim.results.info import SloTarget

    results = synthetic("normal", queries=60, replications=1, slo=(SloTarget("tta", 90, 240.0),))
    tiles = {tile.label: tile for tile in facts.tiles(results)}
    assert tiles["TTA p99"].target.startswith("target p90 ≤ 4.0 min")
    assert not tiles["TTA p50"].target


def test_a_hidden_percentile_is_a_bound(synthetic: Any) -> None:
    results = synthetic("overloaded")
    assert results.summary["metrics"]["tta"]["p99"] is None
    tile = next(tile for tile in facts.tiles(results) if tile.label == "TTA p99")
    assert tile.value.startswith("≥ ")


def test_definitions_are_one_click_away(rendered: Any) -> None:
    _, reader = rendered("normal")
    names = {attrs.get("id") for _, attrs in reader.elements}
    links = [attrs["href"] for attrs in reader.found("a") if (attrs.get("href") or "").startswith("#")]
    assert sum((link or "").startswith("#def-") for link in links) >= 6
    assert all((link or "")[1:] in names for link in links)


def test_fairness_and_pressure_are_the_summary_s(rendered: Any, synthetic: Any) -> None:
    _, reader = rendered("overloaded")
    summary, words = synthetic("overloaded").summary, reader.words
    fairness, pressure = summary["fairness"], summary["pressure"]
    for told in (
        f"evenness over queries {formats.number(fairness['jain_queries'])} Jain's index",
        f"evenness over clients {formats.number(fairness['jain_clients'])}",
        f"starvation age {formats.duration(pressure['starvation_age_s'])}",
        f"recomputed tokens {formats.percent(pressure['recomputed_per_generated'])}",
        f"preemptions a request {formats.number(pressure['preemptions_per_request'])}",
        *(
            f"{client['client']} {client['n']:,} {formats.percent(client['share_of_service'])}"
            for client in fairness["by_client"][:CLIENTS]
        ),
    ):
        assert told in words
    assert pressure["preemptions_per_request"] > 0
    assert len(fairness["by_client"]) > 1


def test_every_figure_has_words_and_data(rendered: Any, synthetic: Any) -> None:
    _, reader = rendered("normal")
    shown = page.page(synthetic("normal"))
    plots = [attrs for attrs in reader.found("div") if "data-figure" in attrs]
    downloads = {attrs["download"]: attrs["href"] for attrs in reader.found("a") if "download" in attrs}
    assert len(plots) == len(shown.exhibits) >= 9
    for plot, exhibit in zip(plots, shown.exhibits, strict=True):
        assert plot["data-figure"] == exhibit.key
        assert plot["role"] == "img"
        assert plot["aria-label"]
        assert any(attrs.get("id") == plot["aria-describedby"] for attrs in reader.found("p"))
        href = downloads[f"{exhibit.key}.csv"] or ""
        frame = pd.read_csv(io.StringIO(unquote(href.removeprefix("data:text/csv;charset=utf-8,"))))
        assert list(frame.columns) == list(exhibit.data.columns)
        assert len(frame) == len(exhibit.data)
        for name in frame.columns:
            if pd.api.types.is_float_dtype(exhibit.data[name]):
                assert frame[name].to_numpy() == pytest.approx(exhibit.data[name].to_numpy(), rel=1e-6, nan_ok=True)


def test_csv_gives_spreadsheets_no_formula() -> None:
    frame = pd.DataFrame({"name": ["=1+1", "@x", "+2", "-3", "plain", 'say "a, b"\n'], "value": [1.5] * 6})
    rows = list(csv.reader(io.StringIO(html.csv(frame))))
    assert [row[0] for row in rows[1:]] == ["'=1+1", "'@x", "'+2", "'-3", "plain", 'say "a, b"\n']


def test_banners_say_what_to_do(rendered: Any, synthetic: Any) -> None:
    for name in ("overloaded", "untidy"):
        _, reader = rendered(name)
        summary = synthetic(name).summary
        assert summary["anomalies"]
        made = facts.banners(summary)
        for finding in summary["anomalies"]:
            banner = next(b for b in made if finding["what"][1:] in b.what)
            assert finding["do"][1:] in banner.do
        assert made[0].tone == "bad"
        words = reader.words
        for banner in made:
            assert banner.what.replace("`", "") in words
        assert any("not modelled" in banner.what for banner in made)


def test_provenance_is_complete(rendered: Any, synthetic: Any) -> None:
    _, reader = rendered("normal")
    results = synthetic("normal")
    words = reader.words
    for text in (
        "thinkcap run synthetic.yaml",
        results.provenance["profiles"]["reasoning"]["sha256"],
        "seed: 5",
    ):
        assert text in words
    for name, value in results.summary["totals"].items():
        assert name.replace("_", " ") in words
        if not name.endswith("_s"):
            assert f"{value:,}" in words
    for text in results.summary["not_modelled"]:
        assert text in words
    for name in results.summary["metrics"]:
        assert f"def-{name}" in {attrs.get("id") for _, attrs in reader.elements}


def test_the_memory_sum_stands_in_words(rendered: Any, synthetic: Any) -> None:
    _, reader = rendered("normal")
    for line in synthetic("normal").runs[0].pools[0].memory["lines"]:
        assert " ".join(line.split()) in reader.words


def test_colours_of_both_modes_are_on_the_page(rendered: Any) -> None:
    text, reader = rendered("normal")
    assert "prefers-color-scheme:dark" in text
    assert f"--paper:{theme.LIGHT.paper}" in text
    assert f"--paper:{theme.DARK.paper}" in text
    setup = json.loads(next(text for attrs, text in reader.scripts if attrs.get("id") == "setup"))
    assert set(setup["templates"]) == {"light", "dark"}
    assert "@media print" in text
    known = set(setup["colors"]) | {"rgba(0,0,0,0)", "#fefefe", "#010101"}
    for key, figure in setup["figures"].items():
        for color in _colors(figure):
            assert color.lower() in known, (key, color)


def _colors(node: Any, key: str = "") -> list[str]:
    if isinstance(node, dict):
        return [color for name, value in node.items() for color in _colors(value, name)]
    if isinstance(node, list):
        return [color for value in node for color in _colors(value, key)]
    return [node] if key in theme.COLOR_KEYS and isinstance(node, str) else []


def test_the_same_run_gives_the_same_page(synthetic: Any) -> None:
    results = synthetic("one")
    assert page.report(results) == page.report(results)


def test_a_loaded_run_gives_the_same_page(synthetic: Any, tmp_path: Path) -> None:
    results = synthetic("single")
    results.save(tmp_path)
    path = page.write_report(Results.load(tmp_path), tmp_path / "report.html")
    assert path.read_text(encoding="utf-8") == page.report(results)


def test_two_figures_of_one_name_are_refused(synthetic: Any) -> None:
    exhibit = html.Exhibit("a", theme.new_figure(), pd.DataFrame())
    section = html.Section("s", "?", [exhibit, exhibit])
    with pytest.raises(ValueError, match="two figures of one name"):
        html.Page(title="", kicker="", answer="", verdict="", tone="none", sections=[section])


def test_too_many_points_are_refused() -> None:
    figure = theme.new_figure()
    figure.add_scatter(x=list(range(html.MOST_POINTS + 1)), y=list(range(html.MOST_POINTS + 1)))
    section = html.Section("s", "?", [html.Exhibit("a", figure, pd.DataFrame())])
    with pytest.raises(ValueError, match="5,001 points, not at most 5,000"):
        html.render(html.Page(title="", kicker="", answer="", verdict="", tone="none", sections=[section]))


BROWSER = next(
    (shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome") if shutil.which(name)),
    None,
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("name", ["hostile", "overloaded", "nothing"])
def test_a_browser_draws_every_figure_without_a_complaint(synthetic: Any, tmp_path: Path, name: str) -> None:
    assert BROWSER is not None
    path = page.write_report(synthetic(name), tmp_path / "report.html")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
            "--virtual-time-budget=20000", "--window-size=1440,3000", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=180, check=True, env={**os.environ, "LANG": "C.UTF-8"},
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr, done.stderr
    assert 'data-figures="drawn"' in done.stdout
    count = len(page.page(synthetic(name)).exhibits)
    assert done.stdout.count('class="plot js-plotly-plot"') == count
    reader = Reader()
    reader.feed(done.stdout)
    assert not reader.found("img")
    assert not any("onerror" in attrs for _, attrs in reader.elements)
