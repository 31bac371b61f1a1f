"""The article's configurations of equal compute: operations with and without attention, and GPU time."""

from __future__ import annotations

from calibration.architecture import architecture
from sim.report.article_text import as_share
from sim.validation.article.cases import Case, Ran
from sim.validation.article.rows import Row, Table, claims, judge

SCENARIO = "article/compute_equivalent"
PROMPT = 200
MODELS = {
    "big_light": ("llama-3.1-405b", 8),
    "medium_moderate": ("llama-3.1-70b", 4),
    "small_heavy": ("r1-distill-qwen-7b", 1),
    "big_heavy": ("llama-3.1-405b", 8),
}
"""Model and tensor parallel size; eight GPUs each."""
PUBLISHED = {
    "small_heavy": (0.928, "R1-Distill-Qwen-7B at 4,223 tokens, DeepSeek-R1 README"),
    "medium_moderate": (0.945, "R1-Distill-Llama-70B, DeepSeek-R1 README"),
}
"""Accuracy on MATH-500 of reasoning models of that size."""


def _case(name: str, model: str, tp: int, tokens: int) -> Case:
    changes = (
        f"pools.main.model={model}",
        f"pools.main.tensor_parallel_size={tp}",
        f"pools.main.replicas={8 // tp}",
        f"workload.lengths.reasoning.mean={tokens}",
    )
    return Case(f"compute/{name}", SCENARIO, changes)


CASES = tuple(
    _case(name, model, tp, claims()["compute_equivalent_math500"][name]["tokens"])
    for name, (model, tp) in MODELS.items()
)


def attention_flops(model: str, tokens: int, prompt: int = PROMPT) -> float:
    """Operations of attention while *tokens* are generated after *prompt*."""
    arch = architecture(model)
    pairs = tokens * prompt + tokens * (tokens + 1) / 2
    return arch.attention_flops_per_pair() * arch.layers * pairs


def table(ran: Ran) -> Table:
    """2 N T, the attention that it leaves out, and the GPU-seconds of a query on eight H200."""
    said = claims()["compute_equivalent_math500"]
    rows: list[Row] = []
    for name, (model, _) in MODELS.items():
        claim = said[name]
        words = name.replace("_", " ")
        tokens = claim["tokens"]
        plain = 2 * claim["parameters"] * tokens / 1e12
        rows.append(
            Row(f"{words}: 2 N T, {tokens:,} tokens", "TFLOP", float(claim["tflop"]), ours=plain,
                verdict=judge(float(claim["tflop"]), plain))
        )  # fmt: skip
        arch = architecture(model)
        whole = 2 * arch.active_parameters * tokens / 1e12
        extra = attention_flops(model, tokens) / 1e12
        rows.append(
            Row(f"{words}: {model} with attention", "TFLOP", float(claim["tflop"]), ours=whole + extra,
                verdict=judge(float(claim["tflop"]), whole + extra),
                why=f"attention adds {as_share(extra / whole)}; the table leaves it out")
        )  # fmt: skip
        accuracy, source = PUBLISHED.get(name, (None, ""))
        rows.append(
            Row(f"{words}: accuracy on MATH-500", "share", claim["accuracy"], accuracy, source, basis="not run",
                verdict="no claim", why="nothing of ours: no model of accuracy by size; published stands beside it"
                if accuracy else "no published figure of a reasoning model of that size")
        )  # fmt: skip
    heads = architecture("llama-2-7b")
    tokens = said["small_heavy"]["tokens"]
    extra = attention_flops("llama-2-7b", tokens) / 1e12
    rows.append(
        Row("small heavy: a 7B with as many KV heads as heads, with attention", "TFLOP", 896.0,
            ours=2 * heads.active_parameters * tokens / 1e12 + extra,
            verdict=judge(896.0, 2 * heads.active_parameters * tokens / 1e12 + extra),
            why=f"attention alone {extra:,.0f} TFLOP, more than everything else")
    )  # fmt: skip
    seconds = {name: ran.figure(f"compute/{name}", "gpu_seconds") for name in MODELS}
    base = seconds["medium_moderate"].value
    for name, found in seconds.items():
        low, high = found.bounds
        article = said[name]["tflop"] / said["medium_moderate"]["tflop"]
        rows.append(
            Row(f"{name.replace('_', ' ')}: GPU-seconds a query, H200, 64 users", "s", ours=found.value, low=low, high=high,
                basis="simulated")
        )  # fmt: skip
        ratio = ran.ratio(f"compute/{name}", "compute/medium_moderate", "gpu_seconds")
        low, high = ratio.bounds
        if name != "medium_moderate":
            rows.append(
                Row(f"{name.replace('_', ' ')}: over medium moderate, FLOP and GPU time", "x", article, ours=ratio.value,
                    low=low, high=high, basis="simulated", verdict=judge(article, ratio.value, low, high),
                    why="decoding reads weights and KV; operations are not what it waits for")
            )  # fmt: skip
    return Table(
        "compute_equivalent_math500",
        "Is equal compute equal cost?",
        "The products are right, attention left out; but equal FLOP are not equal GPU time: the light 405B takes "
        f"{seconds['big_light'].value / base:.2f} and the heavy 7B {seconds['small_heavy'].value / base:.2f} times the 70B's.",
        tuple(rows),
        tuple(case.command for case in CASES),
        (
            "The unit is TFLOP a query, not TFLOPS. Accuracies are those of no reasoning model: published ones stand beside.",
        ),
        said["section"],
    )
