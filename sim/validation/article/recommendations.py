"""The article's recommendations as pairs of scenarios, without and with; what each saves, with intervals."""

from __future__ import annotations

from sim.report.article_text import as_points, as_share, say
from sim.validation.article.cases import Case, Estimate, Ran
from sim.validation.article.rows import Row, Table, Value, Verdict, claims, judge, pair
from sim.validation.article.serving import COMPRESSED
from workloads.quality.published import ROWS

FOLDER = "article/recommendations"
SMALL = {"7B": "r1-distill-qwen-7b", "14B": "r1-distill-qwen-14b", "32B": "r1-distill-qwen-32b"}
BLOCKS = ("pools.reasoning.engine.block_size=128",)
LESS_REPEATED = "workload.recurrence.skew=0.6"


def _pair(name: str) -> tuple[Case, Case]:
    return Case(f"{name}/without", f"{FOLDER}/{name}_without"), Case(f"{name}/with", f"{FOLDER}/{name}_with")


CASES = (
    *_pair("routing"),
    Case("distilled/without", f"{FOLDER}/distilled_without"),
    *(
        Case(f"distilled/{size}", f"{FOLDER}/distilled_with", (f"pools.main.model={model}",))
        for size, model in SMALL.items()
    ),
    *_pair("budgets"),
    *_pair("best_of_n"),
    Case("best_of_n/4", f"{FOLDER}/best_of_n_with", ("strategy.samples=4",)),
    Case("best_of_n/full", f"{FOLDER}/best_of_n_without", ("workload.arrivals.in_flight=128",)),
    Case("best_of_n/4/full", f"{FOLDER}/best_of_n_with", ("strategy.samples=4", "workload.arrivals.in_flight=32")),
    *_pair("kv_pressure"),
    Case("kv_pressure/compressed", f"{FOLDER}/kv_pressure_without", (COMPRESSED,)),
    *_pair("time_to_answer"),
    *_pair("trace_cache"),
    *(
        Case(f"trace_cache/{side}/less", f"{FOLDER}/trace_cache_{side}", (LESS_REPEATED,))
        for side in ("without", "with")
    ),
)


def _row(what: str, unit: str, claim: Value, found: Estimate, why: str = "", verdict: Verdict | None = None) -> Row:
    low, high = found.bounds
    said = judge(claim, found.value, low, high, unit) if verdict is None else verdict
    return Row(what, unit, claim, ours=found.value, low=low, high=high, basis="simulated", verdict=said, why=why)


def _falls(ran: Ran, base: str, case: str, what: str) -> Estimate:
    return ran.ratio(base, case, what)


def table(ran: Ran) -> Table:
    """Seven recommendations."""
    said = claims()["recommendations"]
    rows: list[Row] = []

    cost = _falls(ran, "routing/without", "routing/with", "cost")
    busy = _falls(ran, "routing/without", "routing/with", "busy_cost")
    lost = ran.difference("routing/with", "routing/without", "accuracy")
    claim = pair(said["routing"]["cost_falls"])
    rows += [
        _row("1 routing, hardest 20 %: cost a query falls, GPUs paid", "x", claim, cost,
             "a fifth that thinks is a quarter after the classifier's errors; with it alone the limit is 4 to 5 times"),
        _row("1 routing: cost a query falls, GPU time used", "x", claim, busy),
        _row("1 routing: accuracy", "points", 0.0, lost,
             "easy queries are answered by a standard 70B (77.0 % of MATH), and the classifier misses 15 % of the hard ones"),
    ]  # fmt: skip

    claim_cost, claim_quality = pair(said["distilled"]["cost_falls"]), pair(said["distilled"]["quality_kept"])
    full = {row.benchmark: row.accuracy for row in ROWS if row.model == "deepseek-r1"}
    for size, model in SMALL.items():
        kept = {
            row.benchmark: row.accuracy / full[row.benchmark]
            for row in ROWS
            if row.model == model and row.benchmark in full
        }
        rows.append(
            Row(f"2 distilled {size}: quality kept, published", "share", claim_quality,
                (min(kept.values()), max(kept.values())), "DeepSeek-R1 README: AIME, GPQA, LiveCodeBench, MATH-500",
                ours=(min(kept.values()), max(kept.values())),
                basis="input", verdict="agrees" if min(kept.values()) <= claim_quality[1] else "differs",
                why=", ".join(f"{name} {as_share(value)}" for name, value in sorted(kept.items())))
        )  # fmt: skip
        kept_here = ran.ratio(f"distilled/{size}", "distilled/without", "accuracy")
        rows.append(
            _row(f"2 distilled {size}: accuracy kept on AIME, runs", "share", claim_quality, kept_here,
                 "accuracies put in as published")
        )  # fmt: skip
        rows.append(
            _row(f"2 distilled {size}: cost a query falls", "x", claim_cost,
                 _falls(ran, "distilled/without", f"distilled/{size}", "cost"),
                 "the same eight H200, the same tokens; R1 uses 37 of its 671 billion parameters a token, and its latent "
                 "KV is small")
        )  # fmt: skip

    rows += [
        _row("3 budgets by kind: cost a query falls", "x", None, _falls(ran, "budgets/without", "budgets/with", "cost")),
        _row("3 budgets by kind: p99 time to answer", "change", None, ran.change("budgets/with", "budgets/without", "tta_p99")),
        _row("3 budgets by kind: accuracy", "points", None, ran.difference("budgets/with", "budgets/without", "accuracy"),
             "16,000 tokens are below the article's own range for proofs and inside that for competitions: there the "
             "answer is a guess"),
    ]  # fmt: skip

    claim = pair(said["best_of_n"]["cost_rises"])
    rows += [
        _row("4 best of 4 with a PRM: cost a query rises, GPUs half idle", "x", claim,
             ran.ratio("best_of_n/4", "best_of_n/without", "cost"), "16 users each: four chains share what one left idle"),
        _row("4 best of 8: cost a query rises, GPUs half idle", "x", claim,
             ran.ratio("best_of_n/with", "best_of_n/without", "cost"), "16 users each"),
        _row("4 best of 4: cost a query rises, full GPUs", "x", claim,
             ran.ratio("best_of_n/4/full", "best_of_n/full", "cost"), "128 chains in flight on both sides"),
        _row("4 best of 8: cost a query rises, full GPUs", "x", claim,
             ran.ratio("best_of_n/with", "best_of_n/full", "cost"), "128 chains in flight on both sides"),
        _row("4 best of 4: accuracy", "points", None, ran.difference("best_of_n/4", "best_of_n/without", "accuracy")),
        _row("4 best of 8: accuracy", "points", None, ran.difference("best_of_n/with", "best_of_n/without", "accuracy"),
             "discrimination fitted to the article's best of 16"),
    ]  # fmt: skip

    more = ran.ratio("tokens/reasoning", "tokens/standard", "kv_per_request")
    blocks = ran.change("kv_pressure/with", "kv_pressure/without", "throughput")
    low, high = blocks.bounds
    none = low is not None and high is not None and low <= 0 <= high
    rows += [
        _row("5 KV of a resident request, reasoning over standard", "x", pair(said["kv_pressure"]["kv_per_request"]), more,
             "the article's own mix, time-averaged; published production traffic: 2.8"),
        _row("5 blocks of 128 tokens for 16: throughput", "change", None, blocks,
             "larger blocks waste more of the last one and win nothing here: the advice does not follow",
             "no clear effect" if none else "no claim"),
        _row("5 compression to half: tokens a second", "change", None,
             ran.change("kv_pressure/compressed", "kv_pressure/without", "throughput")),
        _row("5 compression to half: mean time to answer", "change", None,
             ran.change("kv_pressure/compressed", "kv_pressure/without", "tta_mean")),
        _row("5 compression to half: accuracy", "points", None,
             ran.difference("kv_pressure/compressed", "kv_pressure/without", "accuracy")),
    ]  # fmt: skip

    rows += [
        _row("6 high effort for medium: p95 time to first token", "x", None,
             ran.ratio("time_to_answer/with", "time_to_answer/without", "ttft_p95")),
        _row("6 high effort for medium: p95 time per token", "x", None,
             ran.ratio("time_to_answer/with", "time_to_answer/without", "tpot_p95")),
        _row("6 high effort for medium: mean time to answer", "x", None,
             ran.ratio("time_to_answer/with", "time_to_answer/without", "tta_mean"),
             "what people wait for nearly doubles; the two usual figures hardly move"),
    ]  # fmt: skip
    claim = pair(said["trace_cache"]["cost_falls"])
    rows += [
        _row("7 cache of traces: cost a query falls, Zipf 1.0", "x", claim,
             _falls(ran, "trace_cache/without", "trace_cache/with", "cost"),
             "2,000 types of problem, all traffic from them, 500 traces kept: assumed, as nothing of the kind is published"),
        _row("7 cache of traces: cost a query falls, Zipf 0.6", "x", claim,
             _falls(ran, "trace_cache/without/less", "trace_cache/with/less", "cost"), "the same, less often repeated"),
        _row("7 cache of traces: accuracy, Zipf 1.0", "points", None,
             ran.difference("trace_cache/with", "trace_cache/without", "accuracy"),
             "false hits, and wrong answers that are given again"),
    ]  # fmt: skip
    return Table(
        "recommendations",
        "Do the recommendations save what they claim?",
        _finding(rows),
        tuple(rows),
        tuple(case.command for case in CASES),
        (
            "Cost: the GPUs paid for over the queries they answered, users and GPUs the same on both sides; used: their busy "
            "time alone. Ratios are paired by replication, on the same queries.",
        ),
        said["section"],
    )


def _finding(rows: list[Row]) -> str:
    """All seven in a sentence."""

    def value(start: str) -> float:
        row = next(row for row in rows if row.what.startswith(start))
        assert isinstance(row.ours, float)
        return row.ours

    def times(start: str, digits: int = 1) -> str:
        return f"{value(start):.{digits}f}"

    saved = [times(f"2 distilled {size}: cost") for size in SMALL]
    kept = [as_share(value(f"2 distilled {size}: accuracy")) for size in SMALL]
    parts = (
        f"Routing saves {times('1 routing, hardest')} times, not 5 to 10",
        f"distillates of {_and(list(SMALL))} save {_and(saved)} times, not 10 to 50, and keep {_and(kept)} of R1 on AIME",
        f"budgets save {times('3 budgets by kind: cost')} times and move accuracy by "
        f"{as_points(value('3 budgets by kind: accuracy'))}",
        f"best of 4 to 8 costs {times('4 best of 4: cost a query rises, full')} to "
        f"{times('4 best of 8: cost a query rises, full')} times on full GPUs",
        f"larger blocks move throughput by {say(value('5 blocks of 128'), 'change')}, compression by "
        f"{say(value('5 compression to half: tokens'), 'change')}",
        f"time to answer grows {times('6 high effort for medium: mean')} times where time per token grows "
        f"{times('6 high effort for medium: p95 time per token', 2)}",
        f"a cache of traces saves {times('7 cache of traces: cost a query falls, Zipf 1.0')} times where traffic repeats itself",
    )
    return "; ".join(parts) + "."


def _and(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
