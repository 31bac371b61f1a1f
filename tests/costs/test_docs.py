"""docs/profiles.md lists what ships, no more and no less.

``THINKCAP_FIX=1 pytest tests/costs/test_docs.py`` writes its tables anew.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from calibration import catalogue, profile
from calibration.engine_costs import versions

DOCS = Path(__file__).parents[2] / "docs"


def filled(text: str) -> str:
    for name, table in {**catalogue.tables(), "summary": catalogue.summary()}.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert pattern.search(text), name
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
    return text


def test_tables_are_current() -> None:
    page = DOCS / "profiles.md"
    text = page.read_text(encoding="utf-8")
    current = filled(text)
    if os.environ.get("THINKCAP_FIX"):
        page.write_text(current, encoding="utf-8")
        text = current
    assert text == current, "run THINKCAP_FIX=1 pytest tests/costs/test_docs.py"


def test_every_profile_is_in_the_table() -> None:
    text = (DOCS / "profiles.md").read_text(encoding="utf-8")
    for _, model, gpu, tp, *_, dtype in profile.index():
        row = re.search(rf"^\| {re.escape(model)} \| {dtype} \| {gpu} \| ([\d, ]+) \|", text, re.MULTILINE)
        assert row, (model, gpu, dtype)
        assert str(tp) in row[1].split(", ")


def test_engine_versions_are_explained() -> None:
    text = (DOCS / "calibration.md").read_text(encoding="utf-8")
    for version in versions():
        assert f"`{version}`" in text
