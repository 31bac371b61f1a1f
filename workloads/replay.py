"""A trace, row by row, as a source: what arrived when, how long it was, what it shared with what."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import special

from sim.errors import InputError, Problem
from sim.rng import Streams
from workloads.arrivals import LONGEST_S, PS
from workloads.lengths import Latents, under
from workloads.source import BLOCK, QueryBlock
from workloads.spec import Lengths, WorkloadSpec

if TYPE_CHECKING:
    import pyarrow as pa

    from workloads.formats import Report

Int64Array = npt.NDArray[np.int64]

_USED = (
    "arrived_at",
    "num_prefill_tokens",
    "num_decode_tokens",
    "num_reasoning_tokens",
    "max_tokens",
    "priority",
    "prefix_group",
    "prefix_len",
    "parent_id",
    "client_id",
    "session_id",
    "prompt_id",
    "category",
    "request_id",
)


def locate(name: str, base: Path | None, *, key: str = "workload.trace") -> Path:
    """The file called *name* under *base*, or else under the working directory; raise InputError if neither
    has it."""
    path = Path(name).expanduser()
    places = [path] if path.is_absolute() else [*([base / path] if base is not None else []), path]
    for place in places:
        if place.exists():
            return place
    looked = " or ".join(str(place.parent.resolve()) for place in places)
    raise InputError(Problem(f"no such file; looked in {looked}", source=name, key=key))


class TraceSource:
    """A ``QuerySource`` that replays a trace; 8 bytes a row and column that the trace has."""

    closed_loop: int | None = None

    def __init__(
        self, columns: dict[str, Any], *, name: str, spec: WorkloadSpec, streams: Streams, report: Report
    ) -> None:
        self.name = name
        self._streams = streams
        self._report = report
        arrived = columns["arrived_at"]
        self.total: int | None = len(arrived)
        seconds = float(arrived[-1] - arrived[0])
        self._rate = (len(arrived) - 1) / seconds if seconds > 0 else float("inf")
        stretch = 1.0
        if spec.rate is not None:
            if not np.isfinite(self._rate):
                raise InputError(
                    Problem("rate does not go with a trace whose queries all arrive at once", key="workload.rate")
                )
            stretch = self._rate / spec.rate
        self._stretch = stretch
        if float(arrived[-1]) * stretch > LONGEST_S:
            raise InputError(
                Problem(
                    f"the trace would last {float(arrived[-1]) * stretch / 86_400:.0f} days",
                    key="workload.rate" if spec.rate is not None else "workload.trace",
                    expected=f"at most {LONGEST_S / 86_400:g} days; `thinkcap trace splice --until` cuts a trace",
                )
            )
        self._arrived_ps = np.rint(arrived * (stretch * PS)).astype(np.int64)
        self._prompt_tokens = columns["num_prefill_tokens"]
        self._output = columns["num_decode_tokens"]
        self._known = "num_reasoning_tokens" in columns
        self._reasoning = columns.get("num_reasoning_tokens")
        limit = -1 if spec.max_tokens is None else spec.max_tokens
        self._limit = columns.get("max_tokens")
        if self._limit is not None:
            self._limit = np.where(self._limit >= 1, self._limit, limit)
        self._default_limit = limit
        self._priority = columns.get("priority")
        self._default_priority = spec.priority
        self._group = columns.get("prefix_group")
        self._prefix_len = columns.get("prefix_len")
        self._parent = columns.get("parent_id")
        self.turns = self._parent is not None and bool((self._parent >= 0).any())
        self._category, self.categories = _codes(columns.get("category"), "all")
        self._client, self.clients = _codes(columns.get("client_id"), "all")
        self._session = _codes(columns.get("session_id"), "")[0]
        self._prompt = _codes(columns.get("prompt_id"), "")[0]
        self._z: npt.NDArray[np.float64] | None = None

    @staticmethod
    def open(spec: WorkloadSpec, *, seed: int, replication: int, base: Path | None) -> TraceSource:
        """The source of ``spec.trace``; raise InputError when it is missing or wrong."""
        from workloads.formats import Report

        assert spec.trace is not None
        path = locate(spec.trace, base)
        report = Report(str(path))
        columns = load(path, report, rows=spec.queries)
        _resolve_parents(columns, str(path))
        return TraceSource(
            columns, name=f"trace {path.name}", spec=spec, streams=Streams(seed, replication), report=report
        )

    # -- the contract -----------------------------------------------------------------------------------

    def block(self, index: int) -> QueryBlock | None:
        if index < 0:
            raise IndexError(f"block {index}")
        assert self.total is not None
        first = index * BLOCK
        if first >= self.total:
            return None
        part = slice(first, min(first + BLOCK, self.total))
        count = part.stop - first

        def take(column: npt.NDArray[Any] | None, otherwise: int) -> Int64Array:
            return np.full(count, otherwise, np.int64) if column is None else column[part].astype(np.int64)

        reasoning = take(self._reasoning, 0)
        return QueryBlock(
            first=first,
            arrived_ps=self._arrived_ps[part],
            num_prefill_tokens=take(self._prompt_tokens, 1),
            max_tokens=take(self._limit, self._default_limit),
            priority=take(self._priority, self._default_priority),
            category=take(self._category, 0).astype(np.int16),
            client=take(self._client, 0).astype(np.int32),
            session=take(self._session, -1),
            prompt=take(self._prompt, -1),
            prefix_group=take(self._group, -1),
            prefix_len=take(self._prefix_len, 0),
            parent=take(self._parent, -1),
            num_reasoning_tokens=reasoning,
            num_answer_tokens=take(self._output, 1) - reasoning,
            reasoning_known=self._known,
        )

    def sample_lengths(self, query: int, sample: int) -> tuple[int, int]:
        """Sample 0 is the row. Others share its prompt's effect, inferred from where the row stands among
        all rows.

        With a latent normal z of the row (its rank) and prompt share r, the prompt's effect is normal with
        mean sqrt(r) z and variance 1 - r; another sample adds a part of its own, and takes the row's share
        of reasoning.
        """
        assert self.total is not None
        if not 0 <= query < self.total:
            raise IndexError(f"query {query} of {self.total}")
        output = int(self._output[query])
        reasoning = int(self._reasoning[query]) if self._reasoning is not None else 0
        if sample == 0:
            return reasoning, output - reasoning
        ranked, share, ordered = self._ranks()
        key = query if self._prompt is None or self._prompt[query] < 0 else int(self._prompt[query])
        effect = np.sqrt(share) * ranked[query] + np.sqrt(1 - share) * self._streams.normals("trace.prompt", key)
        z = np.sqrt(share) * effect + np.sqrt(1 - share) * self._streams.normals("trace.sample", query, sample)
        place = min(int(float(special.ndtr(z)) * len(ordered)), len(ordered) - 1)
        other = int(ordered[place])
        part = round(other * reasoning / output)
        return part, other - part

    def lengths_under(self, query: int, sample: int, law: Lengths) -> tuple[int, int]:
        """See `workloads.source.OtherModels`; the difficulty is inferred as in `sample_lengths`."""
        assert self.total is not None
        if not 0 <= query < self.total:
            raise IndexError(f"query {query} of {self.total}")
        ranked, share, _ = self._ranks()
        key = query if self._prompt is None or self._prompt[query] < 0 else int(self._prompt[query])
        z = float(ranked[query])
        effect = np.sqrt(share) * z + np.sqrt(1 - share) * self._streams.normals("trace.prompt", key)
        if sample > 0 or share >= 1.0:
            own = self._streams.normals("trace.sample", query, sample)
        else:
            own = (z - np.sqrt(share) * effect) / np.sqrt(1 - share)
        asked, prompt = np.array([query]), np.array([key])
        latents = replace(
            Latents.draw(self._streams, asked, prompt, sample),
            effect=np.atleast_1d(effect),
            own=np.atleast_1d(own),
        )
        reasoning, answer = under(law, latents)
        return int(reasoning[0]), int(answer[0])

    def _ranks(self) -> tuple[npt.NDArray[np.float64], float, Int64Array]:
        if self._z is None:
            order = np.argsort(self._output, kind="stable")
            rank = np.empty(len(order))
            rank[order] = (np.arange(len(order)) + 0.5) / len(order)
            self._z = np.asarray(special.ndtri(rank))
            self._ordered = self._output[order]
            sigma = float(np.log(np.maximum(self._output, 1)).std())
            within = Lengths.model_fields["within_prompt_sigma"].default
            self._share = max(0.0, 1.0 - (within / sigma) ** 2) if sigma > 0 else 1.0
        return self._z, self._share, self._ordered

    def describe(self) -> dict[str, object]:
        return {
            "name": self.name,
            "file": self._report.source,
            "queries": self.total,
            "rate_per_s": self._rate / self._stretch,
            "time_stretched_by": self._stretch,
            "reasoning_known": self._known,
            "notes": self._report.lines(),
        }


def load(path: Path, report: Report, *, rows: int | None = None) -> dict[str, Any]:
    """The columns of a trace that a replay uses, as arrays; the first *rows* rows."""
    from workloads.formats import read

    parts: list[pa.RecordBatch] = []
    ready = 0
    for batch in read(path, report):
        batch = batch.select([name for name in batch.schema.names if name in _USED])
        if rows is not None and ready + batch.num_rows > rows:
            batch = batch.slice(0, rows - ready)
        parts.append(batch)
        ready += batch.num_rows
        if rows is not None and ready >= rows:
            break
    if not ready:
        raise InputError(Problem("holds no rows with output", source=str(path)))
    names = dict.fromkeys(name for batch in parts for name in batch.schema.names)
    result: dict[str, Any] = {}
    for name in names:
        pieces = [
            batch.column(name).to_numpy(zero_copy_only=False)
            if name in batch.schema.names
            else np.full(batch.num_rows, None, dtype=object)
            for batch in parts
        ]
        result[name] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return result


def _codes(values: npt.NDArray[Any] | None, alone: str) -> tuple[Int64Array | None, tuple[str, ...]]:
    """Codes by first appearance (-1 = empty) and the names behind them."""
    if values is None:
        return None, (alone,)
    import pandas as pd

    codes, names = pd.factorize(np.asarray(values), use_na_sentinel=True)
    result = np.asarray(codes, np.int64)
    shown = tuple(str(name) for name in names)
    if alone and (result < 0).any():
        result = np.where(result < 0, len(shown), result)
        shown = (*shown, "none")
    return result, shown or (alone,)


def _resolve_parents(columns: dict[str, Any], source: str) -> None:
    """Turn parent ids into row numbers; raise InputError for one that is not an earlier row."""
    parent = columns.get("parent_id")
    if parent is None:
        return
    ids = columns.get("request_id")
    if ids is not None:
        place = {str(value): row for row, value in enumerate(ids.tolist())}
        parent = np.array([-1 if p < 0 else place.get(str(p), len(ids)) for p in parent.tolist()], dtype=np.int64)
    wrong = np.flatnonzero(parent >= np.arange(len(parent)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            Problem(
                f"parent {columns['parent_id'][row]} of row {row} is not an earlier row",
                source=source,
                key="parent_id",
                expected="the number of an earlier row, from 0, or its request_id",
            )
        )
    columns["parent_id"] = parent
