"""The article's memory example: KV bytes a request, and how many requests one A100 holds."""

from __future__ import annotations

from calibration.architecture import architecture
from sim.report.article_text import as_share
from sim.validation.article.cases import Case, Ran
from sim.validation.article.rows import Row, Table, claims, judge

SCENARIO = "article/kv_cache"
STANDARD = ("workload.lengths.reasoning=0", "workload.max_tokens=200")
STATIC = "pools.reasoning.engine.kv=static"
IN_FLIGHT = (6, 7, 8, 9, 10, 11, 12, 14)
SPREAD = ("workload.lengths.reasoning.sigma=0.3", "measure.warmup=5 h")
"""Lengths that differ enough for requests to fall out of step."""
CALM = 0.01
"""Share of tokens recomputed up to which nothing is said to be lost."""

CASES = (
    Case("kv/standard/reserved", SCENARIO, (*STANDARD, STATIC)),
    Case("kv/standard/paged", SCENARIO, STANDARD),
    Case("kv/reasoning/reserved", SCENARIO, (STATIC,)),
    Case("kv/reasoning/paged", SCENARIO),
    *(
        Case(f"kv/reasoning/{users}", SCENARIO, (f"workload.arrivals.in_flight={users}", *SPREAD))
        for users in IN_FLIGHT
    ),
)


def table(ran: Ran) -> Table:
    """Arithmetic from the architecture, then runs with reserved and with paged memory."""
    said = claims()["kv_cache"]
    prompt, answer, thought = (said[key] for key in ("prompt_tokens", "standard_output_tokens", "reasoning_tokens"))
    model = architecture("llama-3.1-70b")
    per_token = model.kv_bytes_per_token()
    sizes = {"standard": prompt + answer, "reasoning": prompt + thought + answer}
    pool = said["kv_bytes"]
    rows = [
        Row("KV of a token, 80 layers, 8 KV heads of 128, 16 bits", "bytes", 327_680.0, ours=per_token,
            verdict=judge(327_680.0, per_token)),
        Row("weights of 70.6 billion parameters in 4 bits", "bytes", 35e9, ours=model.weight_bytes("int4"),
            verdict=judge(35e9, model.weight_bytes("int4")),
            why="ours counts the scales, and embeddings in 16 bits; in 16 bits all of it is 141 GB"),
    ]  # fmt: skip
    for kind, size in sizes.items():
        article = float(said[f"concurrent_{kind}"])
        bytes_ = size * per_token
        rows.append(Row(f"KV of a {kind} request of {size:,} tokens", "bytes", ours=bytes_))
        rows.append(
            Row(f"{kind} requests that fit, peak reserved", "requests", article, ours=pool / bytes_,
                verdict=judge(article, pool / bytes_), why="45 GB over the peak of a request")
        )  # fmt: skip
        grown = prompt + (size - prompt) / 2
        rows.append(
            Row(f"{kind} requests that fit, growing from prompt to peak", "requests", article,
                ours=pool / (grown * per_token), verdict=judge(article, pool / (grown * per_token)),
                why="a request holds its prompt and, over its life, half of its output in the mean")
        )  # fmt: skip
    for kind in sizes:
        for how in ("reserved", "paged"):
            found = ran.figure(f"kv/{kind}/{how}", "running")
            article = float(said[f"concurrent_{kind}"])
            low, high = found.bounds
            why = (
                "memory for the longest output is set aside at admission, as before paging"
                if how == "reserved"
                else "100 users press: young requests are admitted on their prompts, the last admitted are preempted and "
                f"recomputed ({as_share(ran.figure(f'kv/{kind}/{how}', 'recomputed').value)} of the tokens generated)"
            )
            rows.append(
                Row(f"{kind} requests in memory, {how}, 100 users", "requests", article, ours=found.value, low=low,
                    high=high, basis="simulated", verdict=judge(article, found.value, low, high), why=why)
            )  # fmt: skip
    calm = [users for users in IN_FLIGHT if ran.figure(f"kv/reasoning/{users}", "recomputed").value <= CALM]
    most = float(max(calm)) if calm else None
    article = float(said["concurrent_reasoning"])
    rows.append(
        Row("reasoning requests in flight, paged, with less than 1 % recomputed", "requests", article, ours=most,
            basis="simulated", verdict=judge(article, most),
            why=f"the most of {', '.join(map(str, IN_FLIGHT))} in flight for which next to nothing is preempted")
    )  # fmt: skip
    speeds = {users: ran.figure(f"kv/reasoning/{users}", "throughput").value for users in IN_FLIGHT}
    best = float(next(users for users in IN_FLIGHT if speeds[users] >= 0.99 * max(speeds.values())))
    rows.append(
        Row("reasoning requests in flight, paged, that bring all the throughput", "requests", article, ours=best,
            basis="simulated", verdict=judge(article, best),
            why="the fewest within 1 % of the greatest throughput; beyond them what is won is recomputed")
    )  # fmt: skip
    shares = [ran.figure(f"kv/{kind}/paged", "throughput") for kind in ("standard", "reasoning")]
    queries = [ran.figure(f"kv/{kind}/paged", "queries_per_s") for kind in ("standard", "reasoning")]
    rows += [
        Row("throughput in tokens, standard over reasoning", "x", 10.0, ours=shares[0].value / shares[1].value,
            basis="simulated", verdict=judge(10.0, shares[0].value / shares[1].value),
            why="prompts of 2,000 tokens for 200 of output: standard queries spend their time in prefill"),
        Row("throughput in queries, standard over reasoning", "x", 10.0, ours=queries[0].value / queries[1].value,
            basis="simulated", verdict=judge(10.0, queries[0].value / queries[1].value),
            why="a reasoning query makes 101 times the tokens"),
    ]  # fmt: skip
    return Table(
        "kv_cache",
        "How many requests does one GPU hold?",
        f"The arithmetic is right when peaks are reserved ({pool / (sizes['standard'] * per_token):.1f} and "
        f"{pool / (sizes['reasoning'] * per_token):.2f}); with paging "
        + (f"{most:.0f} reasoning requests run undisturbed, and " if most else "")
        + f"{best:.0f} bring all the throughput there is, not 6.",
        tuple(rows),
        tuple(case.command for case in CASES[:4]),
        ("Llama 70B in 4 bits on one A100: step times from the roofline prior, no measured profile.",),
        claims()["kv_cache"]["section"],
    )
