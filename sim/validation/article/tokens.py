"""Tokens a query by kind: the article's ranges, what others measured, and what the ranges mean in time."""

from __future__ import annotations

import numpy as np

from sim.report.article_text import as_share
from sim.validation.article.cases import Case, Ran
from sim.validation.article.rows import Row, Table, Value, claims, pair

SCENARIO = "article/tokens_per_query"
CASES = (
    Case("tokens/reasoning", SCENARIO),
    Case("tokens/standard", SCENARIO, ("workload.mode=standard",)),
)
MEASURED: dict[str, tuple[Value, Value]] = {
    "simple_fact": (None, (75.0, 557.0)),
    "coding": ((1520.0, 2550.0), (1263.0, 19261.0)),
    "math_word": ((92.0, 201.0), 1677.0),
    "competition_math": ((226.0, 749.0), (2979.0, 15536.0)),
    "proof": (None, None),
}
"""Of a standard and of a reasoning model; sources below."""
SOURCES = {
    "simple_fact": "LRMTokenEconomy, knowledge questions, p10 to p90",
    "coding": "Aider polyglot, thinking off, a case; R1 on LiveCodeBench in MLPerf, p10 to p90",
    "math_word": "GSM8K: GPT-4o, p10 to p90; R1-Distill-Qwen-7B, mean",
    "competition_math": "GPT-4o on MATH level 5, p10 to p90; R1-Distill-Llama-8B, means of MATH-500 and AIME 2024",
    "proof": "nothing comparable is published; production has a cap at 32,768",
}
WHY = {
    "simple_fact": "agrees with what is measured",
    "coding": "the top is too low, and a standard model writes more: measured like for like 3 to 5 times, not 10 to 15",
    "math_word": "the standard model agrees; reasoning on grade-school problems is 2 to 9 times shorter than claimed",
    "competition_math": "AIME is at the low end of the claim, MATH-500 three to five times below it",
    "proof": "not anchored by any data",
}


def table(ran: Ran) -> Table:
    """The middle 90 % of what the preset drew from the article's ranges (an input), and the time to answer (a result)."""
    said = claims()["tokens_per_query"]
    rows: list[Row] = []
    spent: dict[str, float] = {}
    for mode in ("standard", "reasoning"):
        case = f"tokens/{mode}"
        parts: dict[str, list[tuple[float, float]]] = {}
        for frame, kinds in zip(ran.frames(case), ran.kinds(case), strict=True):
            for kind, tokens, tta in zip(kinds, frame["output_tokens"], frame["tta_s"], strict=True):
                parts.setdefault(kind, []).append((float(tokens), float(tta)))
        whole = sum(tokens for each in parts.values() for tokens, _ in each)
        for kind in (name for name in said if name != "section"):
            made = np.array(parts.get(kind, [(np.nan, np.nan)]))
            measured = MEASURED[kind][0 if mode == "standard" else 1]
            low, high = (float(np.nanquantile(made[:, 0], q)) for q in (0.05, 0.95))
            rows.append(
                Row(f"{kind}, {mode} model: tokens", "tokens", pair(said[kind][mode]), measured, SOURCES[kind],
                    ours=(low, high), basis="input", verdict="no claim",
                    why=WHY[kind] if mode == "reasoning" else "")
            )  # fmt: skip
            if mode == "reasoning":
                spent[kind] = float(made[:, 0].sum() / whole) if whole else float("nan")
                median = float(np.nanmedian(made[:, 1]))
                rows.append(Row(f"{kind}, {mode} model: median time to answer", "s", ours=median, basis="simulated"))
    cost = ran.ratio("tokens/reasoning", "tokens/standard", "busy_cost")
    low_, high_ = cost.bounds
    rows.append(
        Row("GPU time a query, reasoning over standard", "x", ours=cost.value, low=low_, high=high_, basis="simulated",
            why="at this light load; tokens differ by more, but short answers use a GPU badly")
    )  # fmt: skip
    share = spent.get("proof", 0.0) + spent.get("competition_math", 0.0)
    return Table(
        "tokens_per_query",
        "How many tokens does a query take?",
        "Facts and the standard model agree with what others measured; word problems, code and competition mathematics do "
        f"not. With the article's own figures 15 % of the queries make {as_share(share)} of the tokens.",
        tuple(rows),
        tuple(case.command for case in CASES),
        (
            "Our ranges are the article's, read as the middle 90 % of a lognormal: put in, not found.",
            "How many queries there are of each kind (40, 25, 20, 10, 5 %) is an assumption of ours.",
        ),
        said["section"],
    )
