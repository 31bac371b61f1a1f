"""The README says what is there: its commands, its scenario, its files and links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sim import load
from sim.cli.main import commands
from sim.scenario.yaml_file import read_text

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the checkout")


@pytest.fixture(scope="module")
def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_command_is_listed_with_its_help(readme):
    table = dict(re.findall(r"^\| `([a-z -]+)` \| (.+) \|$", readme, re.MULTILINE))
    assert table == commands(), "stale: run `make docs`"


def test_its_scenario_is_quickstart(readme):
    text = re.search(r"this is quickstart:\n\n((?:    .*\n)+)", readme)
    assert text is not None
    shown = load({**read_text(re.sub("^    ", "", text[1], flags=re.MULTILINE), "README.md").data})
    real = load("quickstart")
    for section in ("workload", "pools", "router", "slo"):
        assert getattr(shown, section) == getattr(real, section), section
    assert shown.measure.queries == real.measure.queries


def test_links_lead_somewhere(readme):
    missing = [link for link in re.findall(r"\]\(([^)#:]+)\)", readme) if not (ROOT / link).exists()]
    assert not missing


def test_its_make_targets_exist(readme):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"(?:`|^    )make ([a-z-]+)", readme, re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
