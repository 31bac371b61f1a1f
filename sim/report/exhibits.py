"""The figures of a run, made from its tables and its summary, each with its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sim.report import facts, fairness, formats
from sim.report.figures import (
    balance,
    ccdf,
    fleet,
    gantt,
    gpu_time,
    heavy,
    memory,
    phases,
    prefix_cache,
    slowdown,
    timeline,
)
from sim.report.html import Code, Exhibit, Section, Table
from sim.results.tables import PS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sim.results.results import Results


def sections(results: Results) -> list[Section]:
    """The evidence, a section a question."""
    return [
        Section("waiting", "How long do people wait?", _waiting(results), [*_targets(results), *_kinds(results)]),
        Section("time", "Where does the time go?", [_phases(results)]),
        Section("stable", "Is it stable?", _stable(results), [fairness.signs_of_pressure(results.summary)]),
        Section("who", "Who suffers?", _who(results), fairness.evenness(results.summary)),
        Section("limits", "What limits it?", _limits(results), _memory_words(results)),
        Section("load", "What kind of load is it?", _load(results), _training_steps(results)),
    ]


def end_s(results: Results) -> dict[int, float]:
    """When each replication stopped, in seconds."""
    return {run.replication: run.end_ps / PS_PER_S for run in results.runs}


def window_s(results: Results) -> tuple[float, float]:
    """The measured window of the first replication, in seconds."""
    run = results.runs[0]
    return run.window_start_ps / PS_PER_S, run.window_end_ps / PS_PER_S


def _first(results: Results, table: str) -> Any:
    frame = getattr(results, table)
    return frame[frame["replication"] == results.runs[0].replication]


def _waiting(results: Results) -> list[Exhibit]:
    made = [_ccdf(results, "tta")]
    others = ["ttft", "ttfo", "tpot"] if results.summary["reasoning_known"] else ["ttft", "tpot"]
    made += [_ccdf(results, metric, "third" if len(others) == 3 else "half") for metric in others]
    return made


def _ccdf(results: Results, metric: str, size: Any = "wide") -> Exhibit:
    frame = results.queries if metric in ("tta", "ttfo") else results.requests
    target = next((t for t in results.summary["slo"]["targets"] if t["metric"] == metric), None)
    ends = end_s(results)
    figure = ccdf.figure(
        frame,
        metric,
        slo=None if target is None else (target["percentile"], target["target"]),
        missed=None if target is None or target["share"] is None else 1 - target["share"],
        end_s=ends,
        small=size != "wide",
        height=440 if size == "wide" else 330,
    )
    return Exhibit(metric, figure, ccdf.table(frame, metric, end_s=ends), size)


def _phases(results: Results) -> Exhibit:
    tables = results.queries, results.requests, results.stalls
    return Exhibit("phases", phases.figure(*tables), phases.table(*tables))


def _stable(results: Results) -> list[Exhibit]:
    run = results.runs[0]
    made = [_timeline(results)]
    if any(pool.on_at_ps for pool in run.pools):
        queries = _first(results, "queries")
        made.append(Exhibit("fleet", fleet.figure(queries, run), fleet.table(queries, run)))
    return made


def _timeline(results: Results) -> Exhibit:
    run = results.runs[0]
    segments = _first(results, "segments")
    blocks = {pool.name: pool.num_gpu_blocks * max((pool.replicas, *pool.on_replicas)) for pool in run.pools}
    end = run.end_ps / PS_PER_S
    figure = timeline.figure(segments, kv_blocks=blocks, window_s=window_s(results), end_s=end)
    return Exhibit("timeline", figure, timeline.table(segments, kv_blocks=blocks, end_s=end))


def _who(results: Results) -> list[Exhibit]:
    queries = results.queries
    made = [Exhibit("slowdown-by-length", slowdown.figure_by_length(queries), slowdown.by_length(queries), "half")]
    by_client = slowdown.by_client(queries)
    if len(by_client) > 1:
        made.append(Exhibit("slowdown-by-client", slowdown.figure_by_client(queries), by_client, "half"))
    tables = queries, results.requests, results.stalls
    ends = end_s(results)
    made.append(Exhibit("gantt", gantt.figure(*tables, end_s=ends), gantt.table(*tables, end_s=ends)))
    return made


def _limits(results: Results) -> list[Exhibit]:
    gpu = gpu_time.table(results.summary["gpu"])
    gpus = {pool.name: pool.gpus_per_replica for pool in results.runs[0].pools}
    held = memory.table(results.summary["kv"], gpus)
    made = [
        Exhibit("gpu-time", gpu_time.figure(gpu), gpu),
        Exhibit("memory", memory.figure(held), held),
    ]
    found = prefix_cache.table(results.summary["kv"])
    if len(found):
        made.append(Exhibit("prefix-cache", prefix_cache.figure(found), found))
    return made


def _memory_words(results: Results) -> list[Code]:
    return [
        Code("\n".join(str(line) for line in pool.memory["lines"]), f"The memory sum of pool {pool.name}:")
        for pool in results.runs[0].pools
        if pool.memory.get("lines")
    ]


def _load(results: Results) -> list[Exhibit]:
    requests, segments = results.requests, _first(results, "segments")
    made = [Exhibit("heavy-tail", heavy.figure(requests), heavy.table(requests), "half")]
    run = results.runs[0]
    replicas = balance.table(segments, run)
    if len(replicas) > 1:
        made.append(Exhibit("balance", balance.figure(segments, run), replicas, "half"))
    return made


def _training_steps(results: Results) -> list[Table]:
    """The first steps of a trainer, where there is one."""
    from sim.metrics.rollout import measured

    run = results.runs[0]
    if not run.rollout:
        return []
    rows = [
        (
            f"{number:,}",
            f"{step['started']:,}",
            f"{step['resumed']:,}",
            f"{step['trained']:,}",
            formats.duration((step["generated_ps"] - step["start_ps"]) / PS_PER_S),
            formats.duration((step["updated_ps"] - step["start_ps"]) / PS_PER_S),
        )
        for number, step in enumerate(measured(run)[:12])
    ]
    head = ("step", "groups started", "resumed", "trained", "until the batch was complete", "until the next weights")
    return [Table(head, rows, frozenset(range(6)), "Training steps within the window, the first twelve at most.")]


def _targets(results: Results) -> Sequence[Table]:
    targets = results.summary["slo"]["targets"]
    if not targets:
        return []
    rows = []
    for target in targets:
        metric = target["metric"]
        share = formats.percent(target["share"])
        bounds = formats.span(target.get("share_ci"), formats.percent)
        rows.append(
            (
                f"{facts.NAMES.get(metric, metric)} p{target['percentile']:g}",
                f"≤ {facts.value_of(metric, target['target'])}",
                facts.attained(target),
                f"{share} {bounds}".strip(),
                f"{target['n']:,}",
                "✓ met" if target["met"] else "✕ missed",
            )
        )
    return [
        Table(
            ("metric", "target", "attained", "queries within it", "n", ""),
            rows,
            frozenset({1, 2, 3, 4}),
            "The targets; what was never answered counts as missing them.",
        )
    ]


def _kinds(results: Results) -> Sequence[Table]:
    """How each kind of query fared, where there are several."""
    kinds = results.summary["fairness"]["by_kind"]
    if len(kinds) < 2:
        return []
    priorities = len({kind["priority"] for kind in kinds}) > 1
    judged = bool(results.summary["slo"]["targets"])
    rows = []
    for kind in kinds:
        name = kind["category"] or "all"
        row = [
            f"{name} (priority {kind['priority']})" if priorities else name,
            f"{kind['n']:,}",
            formats.percent(kind["completed"] / kind["n"]),
            *(formats.duration(kind[key]) for key in ("ttft_p95_s", "tta_p95_s")),
            formats.number(kind["output_tokens_per_s"]),
        ]
        rows.append((*row, formats.percent(kind["slo_attainment"])) if judged else tuple(row))
    head = ["kind", "n", "answered", "TTFT p95", "TTA p95", "tokens/s"]
    if judged:
        head.append("in time")
    return [
        Table(
            tuple(head),
            rows,
            frozenset(range(1, len(head))),
            "Kinds of queries, the most urgent first, and their output. Percentiles leave out who was turned away"
            + ("; in time: all targets met." if judged else "."),
        )
    ]
