"""The article's serving table on stated hardware, model and traffic: what each optimisation moves, and how far."""

from __future__ import annotations

from sim.report.article_text import say
from sim.validation.article.cases import Case, Ran, relative
from sim.validation.article.rows import Row, Table, Value, Verdict, claims, judge_change

SCENARIO = "article/serving"
STANDARD_POOL = "pools.standard={model: llama-3.3-70b, hardware: a100, tensor_parallel_size: 4, price: 2 USD/h}"
ROUTED = ("pools.reasoning.replicas=1", STANDARD_POOL, "quality.pools.standard={reasoning_scale: 0}")


def _routing(more: str = "") -> str:
    return f"strategy={{name: difficulty_routing, easy_pool: standard, hard_pool: reasoning, hard_share: 0.2{more}}}"


COMPRESSED = "pools.reasoning.engine.kv={name: r-kv, kept_ratio: 0.5}"
"""Half of each request's tokens so far, at least 1,024."""

CHUNKED = "pools.reasoning.engine.scheduler={name: chunked_reasoning, quantum_tokens: 2048%s}"
CHECKPOINTED = (CHUNKED % ", between_chunks: host", "pools.reasoning.engine.kv=swap")
"""KV goes to the host between two chunks and comes back over the link of the GPUs: what others wait for here is memory, not
a seat, and that is what a chunk has to leave."""

CHANGES: dict[str, tuple[str, ...]] = {
    "standard": (),
    "kv_compression": (COMPRESSED,),
    "difficulty_routing": (*ROUTED, _routing()),
    "streaming_verification": ("strategy={name: early_exit, method: deer}",),
    "chunked_reasoning": CHECKPOINTED,
    "all": (*ROUTED, _routing(", early_exit: deer"), COMPRESSED, CHUNKED % ""),
}
"""What each optimisation changes."""
SHORT = "simple_fact"
"""The kind of query that chunks are to help."""
LOADS = {64: "64 users, more than memory holds", 16: "16 users, memory is not the limit"}
METRICS = {
    "throughput": ("throughput", "tokens a second"),
    "queries_per_s": (None, "queries a second"),
    "tta_mean": ("tta_mean", "mean time to answer"),
    "tta_p99": ("tta_p99", "p99 time to answer"),
}
PUBLISHED: dict[tuple[str, str], tuple[Value, str]] = {
    ("kv_compression", "throughput"): (0.48, "R-KV README: 54 % kept, 8K generation, batches as memory allows, A100"),
    ("streaming_verification", "tta_mean"): ((-0.401, -0.279), "DEER digest: latency, models of 1.5B to 14B"),
}
NOTHING: tuple[Value, str] = (None, "")
WHY = {
    "kv_compression": "freed blocks let more requests run at once; where memory is not the limit only attention gets shorter",
    "difficulty_routing": "four queries of five no longer think: more queries a second, of fewer tokens each, and "
    "half of the GPUs for those that do, so the slowest gain nothing",
    "streaming_verification": "fewer tokens a query: queries a second rise, tokens a second mostly where memory was the "
    "limit; false exits add up over long chains, and accuracy falls",
    "chunked_reasoning": "short answers no longer wait for long chains, which wait longer instead; nobody's "
    "reasoning gets shorter, and where nobody waits nothing changes",
    "all": "gains are not composable: routed and verified queries no longer fill the memory that compression frees",
}
CASES = tuple(
    Case(f"serving/{name}/{users}", SCENARIO, (*changes, f"workload.arrivals.in_flight={users}"))
    for name, changes in CHANGES.items()
    for users in LOADS
)


def table(ran: Ran) -> Table:
    """Relative changes from the standard configuration, at both loads, with intervals."""
    said = claims()["serving_configurations"]
    rows: list[Row] = []
    base = said["standard"]
    for users, load in LOADS.items():
        case = f"serving/standard/{users}"
        for what, (key, words) in METRICS.items():
            found = ran.figure(case, what)
            unit = {"throughput": "tokens/s", "queries_per_s": "1/s"}.get(what, "s")
            rows.append(
                Row(f"standard: {words}, {load}", unit, float(base[key]) if key else None, ours=found.value,
                    low=found.bounds[0], high=found.bounds[1], basis="simulated", verdict="no claim",
                    why="the article states no hardware, model, traffic or rate; only directions can be compared"
                    if what == "throughput" else "")
            )  # fmt: skip
        for what, words in (("memory_efficiency", "KV memory that holds live tokens"), ("accuracy", "accuracy")):
            found = ran.figure(case, what)
            verdict: Verdict = "differs" if what == "memory_efficiency" else "no claim"
            rows.append(
                Row(f"standard: {words}, {load}", "share", ours=found.value, low=found.bounds[0], high=found.bounds[1],
                    basis="simulated", verdict=verdict,
                    why='the article says "low (memory waste)"; paged blocks waste half a block a request'
                    if what == "memory_efficiency" else "")
            )  # fmt: skip
    for name in CHANGES:
        if name == "standard":
            continue
        words_of = spoken(name)
        claim = said.get(name)
        for users, load in LOADS.items():
            case, reference = f"serving/{name}/{users}", f"serving/standard/{users}"
            for what, (key, words) in METRICS.items():
                change = ran.change(case, reference, what)
                low, high = change.bounds
                article = claim[key] / base[key] - 1 if claim and key else None
                published = PUBLISHED.get((name, what), NOTHING)
                rows.append(
                    Row(f"{words_of}: {words}, {load}", "change", article, *published, ours=change.value, low=low,
                        high=high, basis="simulated",
                        verdict="no claim" if article is None else judge_change(article, change.value, low, high),
                        why=WHY[name] if what == "throughput" else "")
                )  # fmt: skip
            short = relative(ran.time_of(case, SHORT), ran.time_of(reference, SHORT))
            rows.append(
                Row(f"{words_of}: mean time to answer of facts, {load}", "change", ours=short.value, low=short.bounds[0],
                    high=short.bounds[1], basis="simulated")
            )  # fmt: skip
            for what, words in (("memory_efficiency", "memory efficiency"), ("accuracy", "accuracy")):
                difference = ran.difference(case, reference, what)
                rows.append(
                    Row(f"{words_of}: {words}, {load}", "points", ours=difference.value, low=difference.bounds[0],
                        high=difference.bounds[1], basis="simulated")
                )  # fmt: skip
    return Table(
        "serving_configurations",
        "What does each optimisation move?",
        _finding(ran),
        tuple(rows),
        tuple(case.command for case in CASES),
        (
            "Nothing was tuned to a row of this table. Two loads are shown because most of what an optimisation does depends on "
            "whether KV memory is the limit.",
            "Users are a closed loop: throughput and mean time to answer are two sides of one figure (Little's law).",
            "A mean of 12.3 s at a reasoning 70B's 25 to 40 tokens a second is an answer of 400 tokens: the table cannot be of "
            "the article's own reasoning lengths.",
            "The presets of early exit are guesses, not fitted to published savings; accuracy after compression follows R-KV's "
            "published rows (AIME, MATH-500).",
            "Chunks are of 2,048 tokens and go to the host in between. All: routing, verification, compression and chunks, whose "
            "KV stays in the pool, since what is compressed is not swapped.",
        ),
        said["section"],
    )


def spoken(name: str) -> str:
    """The name of an optimisation in words."""
    return name.replace("_", " ").replace("kv ", "KV ")


def _finding(ran: Ran) -> str:
    parts = []
    for name in CHANGES:
        if name == "standard":
            continue

        def said(what: str, case: str = f"serving/{name}/64") -> str:
            return say(ran.change(case, "serving/standard/64", what).value, "change")

        queries = said("queries_per_s")
        tokens = said("throughput")
        p99 = said("tta_p99")
        parts.append(f"{spoken(name)} {tokens} tokens, {queries} queries a second, p99 {p99}")
    return "With 64 users on eight A100: " + "; ".join(parts) + "."
