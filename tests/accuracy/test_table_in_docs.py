"""The table of results that docs/write_accuracy.py writes from records."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sim.validation.accuracy_summary import against_bars

SCRIPT = Path(__file__).parents[2] / "docs" / "write_accuracy.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip("installed without docs")
    spec = importlib.util.spec_from_file_location("write_accuracy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def record(number: int, error: float, *, within: bool, fitted: bool = False, **more: Any) -> dict[str, Any]:
    base = {"id": f"resid-{number}", "tier": "A", "regime": "knee", "metric": "tpot_ms_mean", "profile": "composed"}
    return {**base, "signed_error": error, "used_in_fitting": fitted, "within_bar": within, **more}


def test_shares_count_what_they_say(script: ModuleType) -> None:
    rows = {f"resid-{number}": {"model": "Qwen3-14B", "gpu": "H100"} for number in range(3)}
    records = [
        record(0, 0.02, within=True, fitted=True),
        record(1, -0.10, within=False),
        record(2, 0.04, within=True, profile="prior"),
    ]
    text = script.table(records, rows)
    assert "| Qwen3-14B, vLLM 0.23, H100; knee | 3 | \u2013 | +2.0 %, \u221210 %; 2/3 | \u2013 |" in text
    assert "Within their bars: 2 of 3 figures" in text
    assert "was chosen, 1 of 2;" in text
    assert "the prior costs, 0 of 1." in text
    assert "| mean TPOT | 5 % | \u2013 | 2 of 3, median 4.0 % |" in script.bars(records)


def test_the_band_is_said_at_the_knee_alone(script: ModuleType) -> None:
    band = {"predicted": 10.0, "measured": 10.5, "band": [9.7, 10.6]}
    records = [record(0, 0.02, within=True, **band), record(1, 0.02, within=True, **{**band, "regime": "below_knee"})]
    assert (
        "| mean TPOT | 5 % | 1 of 1, median 2.0 % | 1 of 1, median 2.0 %; 1 in the band | \u2013 | \u2013 |"
        in script.bars(records)
    )


def test_every_judged_figure_stands_in_one_table(script: ModuleType) -> None:
    recipe = {"tier": "B", "regime": "overloaded"}
    records = [
        record(0, 0.02, within=True, **recipe, output_tokens=300.0),
        record(1, 0.20, within=False, **recipe, output_tokens=8000.0),
        record(2, 0.03, within=True, **{**recipe, "profile": "prior", "metric": "batch_mean"}),
        record(3, 0.01, within=True),
    ]
    rows = {(row.runs, row.metric): row for row in against_bars(records)}
    assert sum(f["judged"] for row in rows.values() if not row.part for f in row.regimes.values() if f["n"]) == 4
    reasoning = rows["of these, outputs of 1,400 tokens and more", "TPOT or median ITL"].regimes["overloaded"]
    assert (reasoning["within_bar"], reasoning["judged"]) == (0, 1)
    assert rows["from lengths and settings, costed by the prior", "mean batch"].bar == "20 %"
