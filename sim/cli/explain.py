"""Tell one query's life in words and times: why it waited, when it thought and answered, what delayed it."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from sim.cli._arguments import add_json, print_json

if TYPE_CHECKING:
    from sim.metrics.life import QueryLife, RequestLife
    from sim.results import Results

HELP = "tell one query's life: what it waited for, when it thought and answered, what delayed it"


FOUND = {
    "miss": "which held nothing for it",
    "hit": "which held the trace of its problem",
    "false_hit": "and the trace of another problem was taken for its own",
}
"""What is said of a look-up."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("directory", metavar="DIR", help="results that `thinkcap run` wrote")
    parser.add_argument(
        "query", metavar="QUERY", help="number of the query, or one of: slowest, longest, starved, preempted"
    )
    parser.add_argument(
        "--replication", type=int, default=0, metavar="N", help="which replication (default: %(default)s)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print the story; raise an InputError when there is no such directory, query or replication."""
    from sim.results import Results

    results = Results.load(args.directory)
    story = story_of(results, args.query, args.replication)
    if args.json:
        from dataclasses import asdict

        print_json({**asdict(story), "words": list(_tell(story))})
    else:
        print("\n".join(_tell(story)))
    return 0


def explain(results: Results, query: str | int, replication: int = 0) -> list[str]:
    """The story of *query* (its number, or one of the names in ``find``) as lines of text."""
    return list(_tell(story_of(results, query, replication)))


def story_of(results: Results, query: str | int, replication: int = 0) -> QueryLife:
    """The life of *query*; raise an InputError where there is none."""
    from sim.errors import InputError, Problem
    from sim.metrics.life import life

    story = life(results, find(results, query, replication), replication)
    if story is None:
        numbers = results.tables["queries"]["query"]
        raise InputError(
            Problem(
                f"there is no query {query} in replication {replication}",
                expected=f"a query from 0 to {int(numbers.max(initial=-1))} in one of replications "
                f"0 to {len(results.runs) - 1}",
            )
        )
    return story


def find(results: Results, query: str | int, replication: int = 0) -> int:
    """The number of *query*: itself, or the ``slowest`` (largest tta), ``longest`` (most tokens), most
    ``starved`` (longest wait before its first step) or most often ``preempted`` of the replication; raise
    an InputError for others."""
    import numpy as np

    from sim.errors import InputError, Problem, nearest

    requests, queries = results.tables["requests"], results.tables["queries"]
    if isinstance(query, int) or query.lstrip("-").isdigit():
        return int(query)
    of_request = {"starved": requests["queue_s"], "preempted": requests["preemptions"].astype(float)}
    of_query = {
        "slowest": queries["tta_s"],
        "longest": (queries["reasoning_tokens"] + queries["answer_tokens"]).astype(float),
    }
    if query not in of_request and query not in of_query:
        names = [*of_query, *of_request]
        raise InputError(
            Problem(
                f"{query!r} is no query",
                expected="a number, " + ", ".join(names),
                nearest=nearest(query, names),
            )
        )
    table, values = (requests, of_request[query]) if query in of_request else (queries, of_query[query])
    values = np.where((table["replication"] == replication) & ~np.isnan(values), values, -np.inf)
    if not len(values) or not np.isfinite(values).any():
        raise InputError(Problem(f"replication {replication} has no query of which this could be said"))
    return int(table["query"][int(np.argmax(values))])


def _tell(story: QueryLife) -> list[str]:
    lines = [
        f"Query {story.query} (replication {story.replication}"
        + (f", category {story.category}" if story.category else "")
        + (f", client {story.client}" if story.client else "")
        + ")"
        + ("" if story.in_window else ", outside the measured window")
    ]
    lines.append(f"  arrived at {_clock(story.arrived_s)} of the run")
    if story.trace_cache in FOUND:
        lines.append(f"  was looked up in the trace cache, {FOUND[story.trace_cache]}")
    if not story.requests:
        lines.append("  no request was made for it")
    for request in story.requests:
        if len(story.requests) > 1:
            lines.append(f"  request {request.number} ({request.role}, sample {request.sample}):")
        lines += ["  " + line for line in _tell_request(request, story)]
    lines.append("  " + _ending(story))
    if story.causes and story.delay_s > 0:
        early = story.requests[0].preemptions > len(story.requests[0].stalls)
        shared = "longer steps, shared with others" + (" (and preempted before its first token)" if early else "")
        parts = [
            f"{words} {_duration(story.causes[cause])} ({story.causes[cause] / story.delay_s:.0%})"
            for cause, words in (
                ("queue", "waiting for its first step"),
                ("handover", "getting its KV to the decode replica, beyond an idle link's time"),
                ("stalled", "standing still after it had begun"),
                ("batch", shared),
            )
            if cause in story.causes
        ]
        lines.append("  of the delay: " + "; ".join(parts))
    return lines


def _tell_request(request: RequestLife, story: QueryLife) -> list[str]:
    start = story.arrived_s
    lines = []
    if math.isnan(request.first_scheduled_s):
        lines.append(f"was never scheduled{_because(request)}")
        return lines
    cached = f", {request.cached_tokens:,} of them found in the prefix cache" if request.cached_tokens else ""
    waited = _duration(request.first_scheduled_s - request.arrived_s)
    lines.append(
        f"waited {waited}{_because(request)}, first scheduled "
        f"at {_after(request.first_scheduled_s - start)} on {request.pool} replica {request.replica}"
    )
    if math.isnan(request.first_token_s):
        lines.append(f"its prompt of {request.prompt_tokens:,} tokens was not computed to the end")
        return lines
    until = _after(request.first_token_s - start)
    if request.role == "prefill":
        lines.append(
            f"computed its prompt ({request.prompt_tokens:,} tokens{cached}) until {until}, for another replica to go on"
        )
        return lines
    if request.transferred_tokens:
        lines.insert(
            0,
            f"the KV of {request.transferred_tokens:,} tokens was in place at {_after(request.kv_arrived_s - start)}",
        )
        lines.append(f"computed its prompt's last token{cached} until {until}")
    elif request.latent and request.reasoning_tokens:
        lines.append(
            f"computed its prompt ({request.prompt_tokens:,} tokens{cached}) and thought {request.reasoning_tokens:,} latent "
            f"steps until {until}"
        )
    else:
        lines.append(f"computed its prompt ({request.prompt_tokens:,} tokens{cached}) until {until}")
    end = request.finished_s
    if request.reasoning_tokens and not request.latent:
        done = request.first_answer_s if not math.isnan(request.first_answer_s) else end
        stop = _after(done - start) if not math.isnan(done) else "the end of the run"
        lines.append(f"thought from then until {stop}: {request.reasoning_tokens:,} tokens")
    if request.answer_tokens:
        stop = _after(end - start) if not math.isnan(end) else "the end of the run"
        begun = _after(request.first_answer_s - start)
        lines.append(f"answered from {begun} until {stop}: {request.answer_tokens:,} tokens")
    if request.preemptions:
        lines.append(
            f"was preempted {_times(request.preemptions)}: {request.recomputed_tokens:,} tokens computed again"
        )
    if request.stalls:
        since, length = request.stalls[0]
        lines.append(
            f"stood still {_times(len(request.stalls))}, the longest for {_duration(length)} "
            f"from {_after(since - start)}"
        )
    lines.append(
        f"shared its steps with {max(request.batch_mean - 1, 0):.1f} others in the mean (at most "
        f"{max(request.batch_max - 1, 0)}), {request.waiting_mean:.1f} waiting"
        + (f"; for {_duration(request.mixed_s)} others' prompts were computed beside it" if request.mixed_s else "")
    )
    if request.truncated:
        paused = not story.truncated and request.status == "completed"
        lines.append("paused there for its strategy" if paused else "was cut by a limit before its natural end")
    return lines


def _because(request: RequestLife) -> str:
    reasons = [
        (request.blocked.kv_s, "KV memory was full"),
        (request.blocked.seats_s, "all seats were taken"),
        (request.blocked.token_budget_s, "the step's token budget was used up"),
    ]
    told = [f"{text} for {_duration(time)}" for time, text in sorted(reasons, reverse=True) if time > 0]
    if told:
        return " because " + " and ".join(told)
    return " for the step under way" if request.blocked.step_s > 0 else ""


def _ending(story: QueryLife) -> str:
    if story.status == "completed":
        ratio = f", {story.tta_s / story.alone_s:.2f} times the {_duration(story.alone_s)} that it takes alone"
        return f"was answered {_duration(story.tta_s)} after it arrived" + (ratio if story.alone_s > 0 else "")
    if story.status == "unfinished":
        return f"was still open when the run ended, {_duration(story.end_s - story.arrived_s)} after it arrived"
    words = {"timed_out": "gave up: its client's deadline passed", "failed": "was lost with its replica"}
    how = words.get(story.status, f"was {story.status}")
    return f"{how}, {_duration(story.finished_s - story.arrived_s)} after it arrived"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _after(seconds: float) -> str:
    return f"+{_duration(seconds)}"


def _clock(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:d}:{rest // 60:02d}:{rest % 60:02d}{f'{seconds % 1:.3f}'[1:]}"


def _duration(seconds: float) -> str:
    from sim.report.formats import duration

    return duration(seconds)
