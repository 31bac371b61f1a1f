"""What a run's summary says, in words: the answer, the verdict, the tiles, the banners, the limit.

Pages and the terminal tell the same facts; both take them from here, and nothing here computes a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sim.report import formats
from sim.report.html import Banner, Tile, Tone

if TYPE_CHECKING:
    from sim.results.info import PoolInfo
    from sim.results.results import Results

Summary = Mapping[str, Any]

SAY = {
    "tta": "answer{s} {share} of queries within {target}",
    "e2e": "finish{es} {share} of requests within {target}",
    "ttft": "give{s} {share} of queries their first token within {target}",
    "ttfo": "show{s} {share} of queries the first token of the answer within {target}",
    "tpot": "generate{s} for {share} of queries at {target} a token or faster",
    "answer_tpot": "write{s} the answer of {share} of queries at {target} a token or faster",
    "itl": "bring{s} {share} of tokens within {target} of the one before",
    "queue_time": "schedule{s} {share} of queries within {target}",
    "slowdown": "answer{s} {share} of queries within {target} times their time alone",
}
"""How a target is said; *share* is of what met it."""


NAMES = {name: name.upper() for name in ("tta", "ttft", "ttfo", "tpot", "itl", "e2e")}
"""How metrics are written in running text; all others as they are."""


@dataclass(frozen=True)
class Answer:
    """The run in one sentence, with a heading and a tone."""

    verdict: str
    tone: Tone
    sentence: str
    reason: str


def value_of(metric: str, value: float | None) -> str:
    """A value of *metric* with its unit."""
    return f"{formats.number(value)}x" if metric == "slowdown" else formats.duration(value)


def answer(results: Results) -> Answer:
    """What the reader came for; numbers with interval where there are replications."""
    summary = results.summary
    state = str(summary["verdict"])
    targets = summary["slo"]["targets"]
    missed = [target for target in targets if not target["met"]]
    n = summary["slo"]["n"]
    if not n:
        return Answer(
            "Nothing was measured",
            "bad",
            f"{_subject(results)}: no query arrived in the measured window.",
            "",
        )
    if targets:
        each = "its target" if len(targets) == 1 else f"its {len(targets)} targets"
        heading = (
            f"Misses {len(missed)} of {len(targets)} target{'s' if len(targets) > 1 else ''}"
            if missed
            else f"Meets {each}"
        )
    else:
        heading = "No targets set"
    tone: Tone = "bad" if missed or state == "overloaded" else "warn" if state == "saturated" else "good"
    if not targets and tone == "good":
        tone = "none"
    pools = results.runs[0].pools
    one = len(pools) == 1 and _fewest_and_most(pools[0]) == (1, 1)
    sentence = f"{_subject(results)} {_service(summary, one=one)}{_price(summary)}"
    others = [target for target in missed if target is not _headline(summary)]
    if others:
        sentence += "; " + _misses(others)
    sentence += f"; {limit(results)}."
    return Answer(f"{heading}, {state}", tone, sentence, _sentence(str(summary["verdict_reason"])))


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _subject(results: Results) -> str:
    parts = []
    for pool in results.runs[0].pools:
        low, high = _fewest_and_most(pool)
        replicas = "1 replica" if (low, high) == (1, 1) else f"{_from_to(low, high)} replicas"
        gpus = _from_to(low * pool.gpus_per_replica, high * pool.gpus_per_replica)
        parts.append(f"{replicas} of {pool.model} on {gpus} {pool.hardware}")
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _fewest_and_most(pool: PoolInfo) -> tuple[int, int]:
    """Replicas that were on."""
    return min(pool.on_replicas, default=pool.replicas), max(pool.on_replicas, default=pool.replicas)


def _from_to(low: int, high: int) -> str:
    return f"{high:,}" if low == high else f"{low:,} to {high:,}"


def _service(summary: Summary, *, one: bool) -> str:
    rate = formats.number(summary["throughput"]["arrivals_per_s"])
    targets = summary["slo"]["targets"]
    if targets:
        first = _headline(summary)
        bounds = formats.span(first.get("share_ci"), formats.percent)
        share = formats.percent(first["share"]) + (f" {bounds}" if bounds else "")
        said = SAY[first["metric"]].format(
            share=share, target=value_of(first["metric"], first["target"]), s="s" * one, es="es" * one
        )
        if not first["met"]:
            said += f", not the {first['percentile']:g} % asked,"
        return f"{said} at {rate} queries/s"
    tta = summary["metrics"]["tta"]
    half, tail = (at(tta, "tta", stat) for stat in ("p50", "p99"))
    return f"answer{'s' * one} half of the queries within {half} and 99 % within {tail} at {rate} queries/s"


def _headline(summary: Summary) -> Mapping[str, Any]:
    """The target that the answer speaks of: that of the time to answer, else the first."""
    targets: list[Mapping[str, Any]] = summary["slo"]["targets"]
    return next((target for target in targets if target["metric"] == "tta"), targets[0])


def _price(summary: Summary) -> str:
    cost = summary["cost"]["cost_per_query"]
    return "" if cost is None else f", for {formats.money(cost)} a query"


def _misses(missed: Sequence[Mapping[str, Any]]) -> str:
    said = []
    for target in missed:
        limit = value_of(target["metric"], target["target"])
        name, share = NAMES.get(target["metric"], target["metric"]), f"{target['percentile']:g}"
        if target.get("attained") is not None:
            said.append(f"{name} p{share} is {attained(target)}, not {limit}")
        else:
            said.append(f"{formats.percent(target['share'])}, not {share} %, have a {name} of {limit} or less")
    return said[0] if len(said) == 1 else ", ".join(said[:-1]) + " and " + said[-1]


def attained(target: Mapping[str, Any]) -> str:
    """What a target's percentile came to, or the bound that is known of it."""
    if target.get("attained") is not None:
        return value_of(target["metric"], target["attained"])
    bound = target.get("attained_at_least")
    return "not known" if bound is None else f"more than {value_of(target['metric'], bound)}"


def at(entry: Mapping[str, Any], metric: str, stat: str) -> str:
    """A statistic of a summary entry with its unit, or the bound that is known of it."""
    if entry.get(stat) is not None:
        return value_of(metric, entry[stat])
    bound = entry.get(f"{stat}_at_least")
    return formats.MISSING if bound is None else f"≥ {value_of(metric, bound)}"


KEPT_WAITING_LIMIT = 0.02
"""Share of the window in which requests are kept waiting for one thing, beyond which it is called the limit."""


def limit(results: Results) -> str:
    """What gives out first, by what kept requests waiting; said from measured shares alone."""
    summary = results.summary
    if not summary["totals"]["completed"]:
        return "no query was completed"
    detail = summary["verdict_detail"]["pools"]
    several = len(detail) > 1
    causes = []
    for name, shares in detail.items():
        kv = summary["kv"]["pools"][name]
        where = f" of pool {name}" if several else ""
        mean, most = formats.percent(kv["use_mean"], 2), formats.percent(kv["use_max"])
        use = f"{mean} full in the mean and {most} at its peak"
        causes += [
            (shares["blocked_by_kv_share"], f"KV memory{where} is the limit, {use}"),
            (
                shares["blocked_by_seats_share"],
                f"max_num_seqs{where} is the limit, all seats being taken "
                f"{formats.percent(shares['seats_full_share'], 2)} of the time",
            ),
            (
                shares["blocked_by_token_budget_share"],
                f"max_num_batched_tokens{where} is the limit: prompts fill the steps",
            ),
        ]
    share, words = max(causes, key=lambda cause: cause[0] or 0.0)
    if share is not None and share > KEPT_WAITING_LIMIT:
        return words
    gone = [name for name, pool in summary["fleet"]["pools"].items() if not pool["replicas_min"]]
    roles = {pool.name: pool.role for pool in results.runs[0].pools}
    makers = [name for name, role in roles.items() if role == "generate"]
    if (makers and set(makers) <= set(gone)) or any(roles[name] in ("prefill", "decode") for name in gone):
        return f"for a time no replica{' of pool ' + ' and '.join(gone) if several else ''} was there, and queries waited for one"
    totals = summary["totals"]
    if results.scenario.get("admission") and totals["rejected"] > 0.005 * totals["queries"]:
        turned_away = formats.percent(totals["rejected"] / totals["queries"])
        return (
            f"admission control turns away {turned_away} of the queries for good, and nothing keeps the others waiting"
        )
    name = max(summary["kv"]["pools"], key=lambda pool: summary["kv"]["pools"][pool]["use_max"] or 0.0)
    kv = summary["kv"]["pools"][name]
    if (kv["use_max"] or 0.0) > 0.95:
        most = formats.percent(kv["use_max"])
        return f"nothing keeps queries waiting yet, but KV memory is {most} full at its peak"
    return (
        "nothing keeps queries waiting, generating takes the time: KV memory is "
        f"{formats.percent(kv['use_max'], 2)} full at its peak"
    )


def tiles(results: Results) -> list[Tile]:
    """The six to eight figures that matter, each with unit, n, interval and target."""
    summary = results.summary
    metrics, slo = summary["metrics"], summary["slo"]
    made = [
        _metric_tile(metrics, slo, "tta", "p50", "TTA p50"),
        _metric_tile(metrics, slo, "tta", "p99", "TTA p99"),
        _metric_tile(metrics, slo, "ttft", "p95", "TTFT p95"),
        _metric_tile(metrics, slo, "tpot", "p95", "TPOT p95"),
    ]
    goodput = summary["goodput"]
    share = slo["attainment"]
    made.append(
        Tile(
            "goodput",
            f"{formats.number(goodput['value'])}/s",
            _detail(goodput["n"], formats.span(goodput.get("value_ci"), lambda v: f"{formats.number(v)} /s")),
            f"{formats.percent(share)} of queries meet all" if slo["targets"] else "",
            "none" if slo["met"] is None else "good" if slo["met"] else "bad",
            "goodput",
        )
    )
    quality = summary.get("quality", {})
    if quality.get("accuracy") is not None:
        worth = quality["value_per_query"]
        made.append(
            Tile(
                "answered right",
                formats.percent(quality["accuracy"]),
                _detail(quality["n"], formats.span(quality["accuracy_ci"], formats.percent)),
                "" if worth is None else f"{formats.money(worth)} a query, wrong answers and GPUs paid",
                define="accuracy",
            )
        )
    cache = summary.get("trace_cache")
    if cache is not None and cache["hit_rate"] is not None:
        made.append(
            Tile(
                "trace cache hits",
                formats.percent(cache["hit_rate"]),
                _detail(cache["lookups"], formats.span(cache["hit_rate_ci"], formats.percent)),
                f"{formats.percent(cache['false_hit_rate'])} false, {cache['evicted']:,} traces dropped for room",
            )
        )
    steps = summary.get("rollout")
    if steps is not None and steps["gpu_hours_per_step"] is not None:
        made.append(
            Tile(
                "GPU-hours a training step",
                formats.number(steps["gpu_hours_per_step"]),
                f"{steps['steps']:,} steps of {formats.duration(steps['step_s'])}",
                f"{formats.percent(steps['bubble_share'])} of seats empty, {formats.percent(steps['waiting_share'])} "
                f"waiting for training, {formats.number(steps['lag_mean'])} versions behind",
            )
        )
    gpu = summary["gpu"]
    made.append(
        Tile(
            "GPU use",
            formats.percent(gpu["value"]),
            f"of {formats.number(gpu['gpu_hours'])} GPU-hours on",
            define="gpu_utilisation",
        )
    )
    cost = summary["cost"]
    n = cost["queries_completed"]
    made.append(
        Tile(
            "cost a query",
            formats.money(cost["cost_per_query"]),
            _detail(n, formats.span(cost.get("cost_per_query_ci"), formats.money))
            if cost["cost_per_query"] is not None
            else "a pool has no price"
            if cost["unpriced_pools"]
            else "no query was completed",
            define="cost_per_query",
        )
    )
    correct = quality.get("cost_per_correct_answer")
    if correct is not None:
        bounds = formats.span(quality.get("cost_per_correct_answer_ci"), formats.money)
        made.append(
            Tile(
                "cost a correct answer",
                formats.money(correct),
                _detail(round(cost["total"] / correct), bounds),  # right ones among those that the cost is shared by
                define="cost_per_correct_answer",
            )
        )
    else:
        made.append(
            Tile(
                "cost a million output tokens",
                formats.money(cost["usd_per_million_output_tokens"]),
                f"{formats.tokens(cost['output_tokens'])} tokens"
                + ("" if quality.get("modelled") else "; no quality model for correct answers"),
                define="usd_per_million_output_tokens",
            )
        )
    energy = summary.get("energy") or {}
    if energy.get("kwh_per_query") is not None:
        made.append(
            Tile(
                "energy a query",
                f"{formats.number(1000 * energy['kwh_per_query'])} Wh",
                f"{formats.number(energy['co2e_g_per_query'])} g CO₂e at {energy['carbon_intensity_g_per_kwh']:g} g/kWh",
                define="kwh_per_query",
            )
        )
    return made


def _detail(n: int, interval: str) -> str:
    return f"n {n:,}" + (f", {interval}" if interval else "")


def _metric_tile(metrics: Summary, slo: Summary, metric: str, stat: str, label: str) -> Tile:
    entry = metrics[metric]
    target = _target_of(slo, metric, stat)
    said, tone = "", _NONE
    if target is not None:
        tone = "good" if target["met"] else "bad"
        at_most = value_of(metric, target["target"])
        own = f"p{target['percentile']:g}"
        said = f"target {at_most}" if own == stat else f"target {own} ≤ {at_most}"
        said += " met" if target["met"] else " missed"
    bounds = formats.span(entry.get(f"{stat}_ci"), lambda value: value_of(metric, value))
    open_ = f", {entry['censored']:,} cut short" if entry["censored"] else ""
    return Tile(label, at(entry, metric, stat), _detail(entry["n"], bounds) + open_, said, tone, metric)


def _target_of(slo: Summary, metric: str, stat: str) -> Mapping[str, Any] | None:
    """The target of *metric* at *stat*; for a tail also one at a percentile that has no tile of its own."""
    targets: list[Mapping[str, Any]] = [t for t in slo["targets"] if t["metric"] == metric]
    shown = {"tta": ("p50", "p99")}.get(metric, ("p95",))
    for target in targets:
        if f"p{target['percentile']:g}" == stat:
            return target
    others = [target for target in targets if f"p{target['percentile']:g}" not in shown]
    return others[0] if others and stat == shown[-1] else None


def banners(summary: Summary) -> list[Banner]:
    """Where a reader could be misled, the gravest first; each says what to do."""
    made = [
        Banner(
            _sentence(str(finding["what"])),
            _sentence(str(finding["do"])),
            "bad" if finding["name"] in _MISLEADING else "warn" if finding["severity"] == "warning" else "none",
        )
        for finding in summary["anomalies"]
    ]
    made += [Banner(_sentence(str(text)), "", "none") for text in summary["banners"]]
    order = {"bad": 0, "warn": 1, "none": 2, "good": 3}
    made.sort(key=lambda banner: order[banner.tone])
    left_out = summary["not_modelled"]
    if left_out:
        made.append(
            Banner(
                f"{len(left_out)} thing{'s' if len(left_out) > 1 else ''} of a real system "
                f"{'are' if len(left_out) > 1 else 'is'} not modelled: {'; '.join(map(str, left_out))}.",
                "Keep a margin for them, or measure them on your system.",
                "none",
            )
        )
    return made


_NONE: Tone = "none"
_MISLEADING = frozenset({"overloaded", "nothing_measured", "censored"})
