"""Every column, metric, key and finding is documented, in the words of its declaration, and nothing else is.

``THINKCAP_FIX=1 pytest tests/tables/test_docs.py`` rewrites the tables of the page.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sim.metrics.anomalies import ANOMALIES
from sim.metrics.definitions import METRICS
from sim.metrics.keys import KEYS
from sim.results import TABLES

PAGE = Path(__file__).parents[2] / "docs" / "results.md"


def rendered() -> dict[str, list[str]]:
    """The page's generated tables by name."""
    tables = {}
    for name, columns in TABLES.items():
        tables[name] = ["| column | type | unit | meaning |", "| --- | --- | --- | --- |"]
        tables[name] += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} |" for c in columns]
    tables["metrics"] = [
        "| metric | unit | one observation | better | definition |",
        "| --- | --- | --- | --- | --- |",
    ]
    tables["metrics"] += [
        f"| `{m.name}` | {m.unit or 'ratio'} | {m.level} | {m.better} | {m.formula} |" for m in METRICS.values()
    ]
    tables["summary"] = ["| key | meaning |", "| --- | --- |"]
    tables["summary"] += [f"| `{key}` | {meaning} |" for key, meaning in KEYS.items()]
    tables["anomalies"] = ["| finding | when |", "| --- | --- |"]
    tables["anomalies"] += [f"| `{name}` | {when} |" for name, when in ANOMALIES.items()]
    return tables


@pytest.mark.parametrize("name", rendered())
def test_the_page_says_what_the_declarations_say(name):
    text = PAGE.read_text(encoding="utf-8")
    pattern = rf"(<!-- table: {name} -->\n)(.*?)(<!-- end -->)"
    found = re.search(pattern, text, flags=re.DOTALL)
    assert found, f"docs/results.md has no place for table {name}"
    expected = "\n".join(rendered()[name]) + "\n"
    if os.environ.get("THINKCAP_FIX") and found[2] != expected:
        PAGE.write_text(text[: found.start(2)] + expected + text[found.end(2) :], encoding="utf-8")
        return
    assert found[2] == expected, "docs/results.md is stale: run THINKCAP_FIX=1 pytest tests/tables/test_docs.py"


def test_words_for_table_cells_hold_no_pipe():
    for rows in rendered().values():
        assert len({row.count("|") for row in rows}) == 1
