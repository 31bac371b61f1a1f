"""Does our engine decide as the recorded scheduler did? Replays a recording and names the first difference.

Every row and column of ``steps.csv.gz`` and ``requests.csv`` is compared as text. Times are integers, so
equal means equal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sim.engine.replica import NoProgress, make_replica
from sim.engine.request import FAR_FUTURE, Request
from sim.engine.step_log import StepLog, StepRow
from sim.policies.schedulers.vllm import Vllm
from sim.results.columns import Status
from sim.results.sinks import SEGMENT_ROW
from sim.validation.modes import Trace, TraceSink
from sim.validation.recording import PS_PER_NS, REQUESTS, STEPS, Recording, Row, load

_LOGGED = {"step", "free_after_update", "admitted", "finished", "scheduled"}
SEEN = tuple(name for name in STEPS if name not in _LOGGED)
"""Columns of steps that segments show; of preempted requests only how many."""

AROUND = 2
"""Steps shown before and after the first difference."""


@dataclass(frozen=True)
class Difference:
    """The first row that differs; None stands for a row that is not there."""

    table: str
    """``steps`` or ``requests``."""
    index: int
    columns: tuple[str, ...]
    recorded: Row | None
    ours: Row | None
    around: tuple[tuple[int, Row | None, Row | None], ...] = ()
    """Rows next to it: (index, recorded, ours)."""
    remark: str = ""

    def __str__(self) -> str:
        noun = self.table.removesuffix("s")
        lines = [f"first difference: {noun} {self.index} of {self.table}"]
        if self.remark:
            lines.append(f"  {self.remark}")
        if self.recorded is None or self.ours is None:
            which = "the recording" if self.recorded is None else "our run"
            lines.append(f"  {which} has no {noun} {self.index}")
        else:
            width = max(len(column) for column in self.columns)
            for column in self.columns:
                lines.append(f"  {column:<{width}}  recorded {self.recorded[column]}")
                lines.append(f"  {'':<{width}}  ours     {self.ours[column]}")
        for index, recorded, ours in self.around:
            lines.append(f"  {noun} {index}{' ←' if index == self.index else ''}")
            if recorded == ours:
                lines.append(f"    both      {_line(recorded)}")
            else:
                lines.append(f"    recorded  {_line(recorded)}")
                lines.append(f"    ours      {_line(ours)}")
        return "\n".join(lines)


def _line(row: Row | None) -> str:
    return (
        "(none)"
        if row is None
        else " ".join(f"{name}={value}" for name, value in row.items() if value and name != "step")
    )


@dataclass(frozen=True)
class Replay:
    """What our engine made of a recording's workload, in the recording's form."""

    steps: tuple[Row, ...]
    requests: tuple[Row, ...]
    remark: str = ""
    """Why the run stopped early; empty when every request came to its end."""


@dataclass(frozen=True)
class Outcome:
    """One recording in one mode."""

    name: str
    mode: str
    steps: int
    difference: Difference | None


def replay(recording: Recording, *, stepwise: bool) -> Replay:
    """Run the recording's workload on our engine under the ``vllm`` scheduler.

    The check at start-up that the longest context fits in the pool is skipped, as it was when recording. A
    run that can make no step any more, or makes more steps than the recording, is cut off with a remark.
    """
    log = StepLog()
    replica = make_replica(recording.settings, recording.cost, Vllm(), stepwise=stepwise, log=log)
    requests = _requests(recording)
    at, left, remark = 0, len(requests), ""
    while left:
        next_arrival = requests[at].arrived_ps if at < len(requests) else None
        moments = [moment for moment in (replica.next_end_ps, next_arrival) if moment is not None]
        if not moments:
            remark = f"our engine stands still with {left} requests open"
            break
        now = min(moments)
        while replica.next_end_ps == now:
            left -= len(replica.complete(now))
        while at < len(requests) and requests[at].arrived_ps == now:
            replica.submit(requests[at], now)
            at += 1
        try:
            replica.plan(now)
        except NoProgress as stuck:
            remark = f"our engine stands still with {left} requests open: {stuck}"
            break
        if len(log.rows) > len(recording.steps) + AROUND:
            remark = f"cut off: more steps than recorded, {left} requests open"
            break
    return Replay(tuple(_step_rows(log.rows)), tuple(_request_row(request) for request in requests), remark)


def replay_alone(recording: Recording) -> Replay:
    """The same in fast-forward as a simulation runs it: told for how long nobody comes, and with no log of steps. What is known
    of each step is what its segment says (SEEN).
    """
    trace = Trace("fast-forward, left alone")
    sink = TraceSink(trace, recording.settings.usable_blocks)
    replica = make_replica(recording.settings, recording.cost, Vllm(), segments=sink)
    requests = _requests(recording)
    at, left, remark = 0, len(requests), "left alone, as a simulation runs it"
    end = None
    while left:
        now = requests[at].arrived_ps if at < len(requests) else FAR_FUTURE
        if end is not None and end <= now:
            now = end
            while replica.next_end_ps == now:
                left -= len(replica.complete(now))
        while at < len(requests) and requests[at].arrived_ps == now:
            replica.submit(requests[at], now)
            at += 1
        end = replica.plan(now, requests[at].arrived_ps if at < len(requests) else FAR_FUTURE)
        if end is None and at == len(requests):
            break
    total = recording.settings.usable_blocks
    return Replay(
        tuple(_seen_row(step, segment, total) for step, segment in enumerate(trace.segments)),
        tuple(_request_row(request) for request in requests),
        remark,
    )


def _seen_row(step: int, segment: tuple[int, ...], total: int) -> Row:
    own = dict(zip(SEGMENT_ROW, segment, strict=True))
    tokens = own["decodes"] + own["chunk_tokens"]
    values = (
        _ns(own["start_ps"]), _ns(own["start_ps"] + own["step_ps"]), own["decodes"] + own["chunks"], tokens,
        own["context"] + own["cached"] + tokens, own["running"], own["waiting"], total - own["reserved_blocks"],
        own["preempted"],
    )  # fmt: skip
    return {"step": str(step), **dict(zip(SEEN, map(str, values), strict=True))}


def _seen(row: Row) -> Row:
    """What a segment shows of a recorded step."""
    return {"step": row["step"], **{name: row[name] for name in SEEN}, "preempted": str(len(row["preempted"].split()))}


def _requests(recording: Recording) -> list[Request]:
    requests: list[Request] = []
    for arrival in recording.arrivals:
        requests.append(
            Request(
                arrival.id,
                arrived_ps=arrival.arrived_ps,
                prompt_tokens=arrival.prompt_tokens,
                output_tokens=arrival.decode_tokens,
                max_tokens=arrival.decode_tokens,
                priority=arrival.priority,
                prefix_group=arrival.prefix_group,
                prefix_len=arrival.prefix_len,
                parent=None if arrival.parent is None else requests[arrival.parent],
            )
        )
    return requests


def _step_rows(rows: Iterable[StepRow]) -> Iterable[Row]:
    for step, row in enumerate(rows):
        yield {
            "step": str(step),
            "t_start_ns": _ns(row.t_start_ps),
            "t_end_ns": _ns(row.t_end_ps),
            "n_scheduled": str(len(row.scheduled)),
            "n_tokens": str(row.n_tokens),
            "total_context": str(row.total_context),
            "n_running": str(row.n_running),
            "n_waiting": str(row.n_waiting),
            "free_after_schedule": str(row.free_after_schedule),
            "free_after_update": str(row.free_after_update),
            "admitted": " ".join(f"{request}@{cached}" for request, cached in row.admitted),
            "preempted": " ".join(map(str, row.preempted)),
            "finished": " ".join(map(str, row.finished)),
            "scheduled": " ".join(f"{request}:{new}" if new != 1 else str(request) for request, new in row.scheduled),
            "t_scheduled_ns": _ns(row.t_scheduled_ps),
        }


def _request_row(request: Request) -> Row:
    return {
        "request_id": str(request.id),
        "arrived_at_ns": _ns(request.arrived_ps),
        "num_prefill_tokens": str(request.prompt_tokens),
        "num_decode_tokens": str(request.output_tokens),
        "first_scheduled_ns": _ns(request.first_scheduled_ps),
        "first_token_ns": _ns(request.first_token_ps),
        "finish_ns": _ns(request.finished_ps) if request.status == Status.COMPLETED else "",
        "num_preemptions": str(request.preemptions),
        "cached_tokens_first": str(request.cached_tokens_first),
        "cached_tokens_total": str(request.cached_tokens),
        "scheduled_tokens": str(request.scheduled_tokens),
        "n_steps_scheduled": str(request.steps),
    }


def _ns(ps: int) -> str:
    whole, rest = divmod(ps, PS_PER_NS)
    return f"{whole}" if not rest else f"{whole}.{rest:03}"


def compare(recording: Recording, ours: Replay) -> Difference | None:
    """The first difference between *recording* and *ours*, steps before requests; None if they are equal."""
    columns = tuple(recording.steps[0])
    steps = [{column: row[column] for column in columns} for row in ours.steps]
    difference = _first("steps", columns, recording.steps, steps, ours.remark)
    return difference or _first("requests", REQUESTS, recording.requests, ours.requests, ours.remark)


def compare_alone(recording: Recording, ours: Replay) -> Difference | None:
    """The same of a run that was left alone."""
    steps = tuple(map(_seen, recording.steps))
    difference = _first("steps", ("step", *SEEN), steps, ours.steps, ours.remark)
    return difference or _first("requests", REQUESTS, recording.requests, ours.requests, ours.remark)


def _first(
    table: str,
    columns: tuple[str, ...],
    recorded: tuple[Row, ...],
    ours: Iterable[Mapping[str, str]],
    remark: str,
) -> Difference | None:
    mine = [dict(row) for row in ours]
    for index in range(max(len(recorded), len(mine))):
        a, b = _at(recorded, index), _at(mine, index)
        if a == b:
            continue
        wrong = () if a is None or b is None else tuple(column for column in columns if a[column] != b[column])
        near = range(max(0, index - AROUND), index + AROUND + 1) if table == "steps" else range(index, index + 1)
        around = tuple((i, _at(recorded, i), _at(mine, i)) for i in near if i < max(len(recorded), len(mine)))
        return Difference(table, index, wrong, a, b, around, remark)
    return None


def _at(rows: tuple[Row, ...] | list[Row], index: int) -> Row | None:
    return rows[index] if index < len(rows) else None


def check(folder: Path, *, stepwise: bool) -> Outcome:
    """Replay the recording in *folder*; raise an InputError when it cannot be read."""
    return check_recording(load(folder), stepwise=stepwise)


def check_recording(recording: Recording, *, stepwise: bool) -> Outcome:
    """Replay *recording* in one mode and compare; fast-forward a second time, left alone."""
    difference = compare(recording, replay(recording, stepwise=stepwise))
    if difference is None and not stepwise:
        difference = compare_alone(recording, replay_alone(recording))
    return Outcome(recording.name, "stepwise" if stepwise else "fast-forward", len(recording.steps), difference)
