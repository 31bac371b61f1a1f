"""Writes the table of results in ``docs/accuracy.md`` from a whole run of ``thinkcap accuracy``.

thinkcap accuracy CASES_DIR --out DIR
python docs/write_accuracy.py CASES_DIR DIR/accuracy.json
"""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

from sim.validation.accuracy_regime import REGIMES
from sim.validation.accuracy_summary import GROUPS, bar_tables, compared, errors_of

PAGE = Path(__file__).with_name("accuracy.md")
FAMILIES = (
    ("resid-", "", "", "Qwen3-14B, vLLM 0.23, H100"),
    ("blis-", "Llama", "", "Llama 2, 0.15, H100"),
    ("blis-", "Mixtral", "", "Mixtral, 0.15, H100"),
    ("llmss-", "", "PRO", "Llama 3.1 8B, 0.19, RTX PRO 6000"),
    ("llmss-", "", "4090", "the same, RTX 4090"),
    ("llmd-exp-0", "", "", "Llama 3.1 70B, 0.8.5, two A100"),
    ("llmd-exp-2", "", "", "the same, two replicas"),
    ("llmd7-", "", "", "Llama 3.1 8B, 0.8.5, 8K and 10K prompts"),
    ("blisagg-", "", "H100", "recipes, 0.15, H100"),
    ("blisagg-", "", "A100", "the same, A100"),
    ("mle-", "", "", "ML.ENERGY bursts, 0.11.1"),
    ("infx-", "Llama-3.1-70B", "", "InferenceX, Llama 3.1 70B"),
    ("infx-", "gpt-oss", "", "InferenceX, gpt-oss-120b"),
    ("infx-", "Qwen", "", "closed loops of Qwen3, 0.12"),
    ("infx-", "MiniMax", "", "InferenceX, MiniMax M2.5"),
    ("infx-", "Kimi", "", "InferenceX, Kimi K2.5"),
    ("infxpos-", "", "", "MiniMax M2.5, long prompts, marked experimental"),
)
"""Rows of the table: beginning of the id, what model and GPU hold, and what a reader calls it."""
COLUMNS = ("TTFT", ("TPOT", "ITL"), "E2E", "E2E p99", "throughput")
NAMES = {"below_knee": "below the knee", "kv_limited": "KV-limited"}


def cell(records: list[dict[str, Any]], label: str | tuple[str, ...]) -> str:
    """Median and worst signed error, and how many of the judged are within their bar."""
    for name in (label,) if isinstance(label, str) else label:
        found = errors_of([record for record in records if record["metric"] in GROUPS[name]])
        if found["n"]:
            text = f"{found['median']:+.1%}"
            text += f", {found['worst']:+.0%}" if found["n"] > 1 else ""
            text = re.sub(r"(\d)%", r"\1 %", text).replace("-", "\u2212")
            return text + (f"; {found['within_bar']}/{found['judged']}" if found["judged"] else "")
    return "\u2013"


def table(records: list[dict[str, Any]], rows: dict[str, dict[str, str]]) -> str:
    """The table, one line a family and regime."""
    lines = ["| runs, regime | n | TTFT | TPOT (or ITL) | E2E | E2E p99 | throughput |", "| --- " * 7 + "|"]
    usable = compared(records)
    for begin, model, gpu, name in FAMILIES:
        family = [
            record
            for record in usable
            if record["id"].startswith(begin)
            and model in rows[record["id"]]["model"]
            and gpu in rows[record["id"]]["gpu"]
        ]
        for regime in REGIMES:
            some = [record for record in family if record["regime"] == regime]
            if some:
                runs = len({record["id"] for record in some})
                cells = " | ".join(cell(some, label) for label in COLUMNS)
                lines.append(f"| {name}; {NAMES.get(regime, regime)} | {runs} | {cells} |")
    judged = [record for record in usable if "within_bar" in record]
    fresh = [record for record in judged if not record["used_in_fitting"]]
    measured = [record for record in fresh if record["profile"] != "prior"]
    shares = [
        f"{sum(record['within_bar'] for record in some):,} of {len(some):,}" for some in (judged, fresh, measured)
    ]
    lines += [
        "",
        f"Within their bars: {shares[0]} figures; of runs on which nothing was fitted and that were not in view when anything "
        f"was chosen, {shares[1]}; of those again without the ones that only the prior costs, {shares[2]}.",
        *thinking(judged),
    ]
    return "\n".join(lines)


def thinking(judged: list[dict[str, Any]]) -> list[str]:
    """Runs on GPQA with thinking on, a sentence; nothing where there are none."""
    said = []
    for name, metric in (("throughput", "output_tps"), ("median ITL", "itl_ms_p50")):
        some = [record for record in judged if "gpqa" in record["id"] and record["metric"] == metric]
        if some:
            found = errors_of(some)
            ten = sum(abs(record["signed_error"]) <= 0.10 for record in some)
            said.append(
                f"{name} median {100 * found['median_absolute']:.1f} %, worst {100 * found['worst']:+.0f} %, "
                f"{ten} of {len(some)} within 10 %".replace("-", "\u2212")
            )
    return ["", f"Thinking runs on GPQA, to 9,000 output tokens in the mean: {'; '.join(said)}."] if said else []


def bars(records: list[dict[str, Any]]) -> str:
    """Every judged figure beside its bar, by regime; the ±3 % band is said where it is the bar, at the knee."""
    lines: list[str] = []
    for runs, rows in bar_tables(records).items():
        lines += ["", f"| {runs} | bar | " + " | ".join(NAMES.get(name, name) for name in REGIMES) + " |"]
        lines.append("| --- " * (2 + len(REGIMES)) + "|")
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines[1:])


def main() -> None:
    folder, file = Path(sys.argv[1]), Path(sys.argv[2])
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as source:
        rows = {row["id"]: row for row in csv.DictReader(source)}
    records = json.loads(file.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    for name, written in (("results", table(records, rows)), ("bars", bars(records))):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = pattern.sub(lambda match, written=written: f"{match[1]}{written}\n{match[2]}", text)  # type: ignore[misc]
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
