"""ServeGen client folders: ``chunk-<client>-trace.csv`` and ``chunk-<client>-dataset.json`` for each client.

Source: github.com/alibaba/ServeGen, Apache-2.0. A folder holds no requests but laws: for windows of ten
minutes each client's rate and spread of gaps, for blocks of six hours its distributions of input, output and
share of reasoning. What is read are requests drawn from them, with a fixed seed. Only marginals are
published: output and share of reasoning are drawn so that answers stay narrow, input by itself.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.formats import Report, trace_format
from workloads.formats.cells import Faults, numbers, texts
from workloads.formats.files import Head, csv_rows, fail

if TYPE_CHECKING:
    import pyarrow as pa

_TRACE = re.compile(r"chunk-(\w+)-trace\.csv")
_COLUMNS = ("window_start_s", "req_per_s", "iat_cv", "family", "shape", "scale")
_FIELDS = {"input_tokens": "prompt", "output_tokens": "output", "reason_ratio": "reasoning_share"}
SEED = 0


@trace_format("servegen")
@dataclass(frozen=True)
class ServeGen:
    """ServeGen client folders."""

    title: str = "ServeGen client folder"

    def recognises(self, head: Head) -> bool:
        return head.kind == "folder" and any(_TRACE.fullmatch(name) for name in head.names)

    def read(self, path: Path, report: Report) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        from workloads.source import build
        from workloads.spec import WorkloadSpec

        clients, window_s, count = spell_out(path)
        report.note(f"requests drawn from the published laws of {path.name} with seed {SEED}")
        spec = WorkloadSpec.model_validate({"clients": {"window": f"{window_s!r} s", "members": clients}})
        source = build(spec, seed=SEED)
        end_ps = round(count * window_s * 1e12)
        names = [name.partition("@")[0] for name in source.clients]
        index = 0
        while True:
            block = source.block(index)
            assert block is not None
            index += 1
            size = int(np.searchsorted(block.arrived_ps, end_ps))
            columns: dict[str, Any] = {
                "arrived_at": block.arrived_ps[:size] / 1e12,
                "num_prefill_tokens": block.num_prefill_tokens[:size],
                "num_decode_tokens": block.num_decode_tokens[:size],
            }
            if block.reasoning_known:
                columns["num_reasoning_tokens"] = block.num_reasoning_tokens[:size]
                columns["num_answer_tokens"] = block.num_answer_tokens[:size]
            columns["client_id"] = [names[code] for code in block.client[:size].tolist()]
            if size:
                yield pa.RecordBatch.from_pydict(columns)
            if size < len(block):
                return


def spell_out(path: Path) -> tuple[dict[str, Any], float, int]:
    """Clients of a spelled-out spec (one for each client and block of hours), window length, number of
    windows."""
    found = sorted(match[1] for child in path.iterdir() if (match := _TRACE.fullmatch(child.name)) is not None)
    tables = {client: _windows(path / f"chunk-{client}-trace.csv") for client in found}
    starts = np.unique(np.concatenate([table["window_start_s"] for table in tables.values()]))
    window_s = float(np.diff(starts).min()) if len(starts) > 1 else 600.0
    count = round(float(starts[-1]) / window_s) + 1
    members: dict[str, Any] = {}
    for client, table in tables.items():
        blocks = _dataset(path / f"chunk-{client}-dataset.json")
        cuts = sorted(blocks)
        place = np.rint(table["window_start_s"] / window_s).astype(int)
        block_of = np.maximum(np.searchsorted(cuts, table["window_start_s"], side="right") - 1, 0)
        for i, cut in enumerate(cuts):
            mine = (block_of == i) & (table["req_per_s"] > 0)
            if not mine.any():
                continue
            rates, cvs = np.zeros(count), np.ones(count)
            rates[place[mine]] = table["req_per_s"][mine]
            cvs[place[mine]] = np.clip(table["iat_cv"][mine], 0.01, 100.0)
            weibull = [int(w) for w, f in zip(place[mine], table["family"][mine], strict=True) if f == "Weibull"]
            members[f"{client}@{cut:g}"] = {
                "rates": rates.tolist(),
                "cvs": cvs.tolist(),
                "weibull": weibull,
                "lengths": blocks[cut],
            }
    if not members:
        raise fail(path, "holds no client with traffic")
    return members, window_s, count


def _windows(path: Path) -> dict[str, Any]:
    faults = Faults(str(path))
    parts: dict[str, list[Any]] = {name: [] for name in _COLUMNS[:4]}
    for raw in csv_rows(path, header=_COLUMNS):
        for name in _COLUMNS[:3]:
            read = numbers(raw.columns[name], first=raw.first, column=name, faults=faults, empty=0.0)
            parts[name].append(read)
        parts["family"].append(np.array([str(value).strip() for value in texts(raw.columns["family"]).to_pylist()]))
        faults.stop()
    return {name: np.concatenate(values) for name, values in parts.items()}


def _dataset(path: Path) -> dict[float, dict[str, Any]]:
    """Laws of each block: start of the block in s, then lengths as a spec spells them."""
    try:
        blocks = json.loads(path.read_text())
        result = {}
        for start, fields in blocks.items():
            lengths: dict[str, Any] = {}
            for field, name in _FIELDS.items():
                if field in fields:
                    table = fields[field]
                    lengths[name] = _law(ast.literal_eval(table) if isinstance(table, str) else table)
            if "prompt" in lengths and "output" in lengths:
                result[float(start)] = lengths
    except FileNotFoundError:
        raise fail(path, "is missing beside the client's trace") from None
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        raise fail(path, f"is not a ServeGen data set: {error}") from None
    if not result:
        raise fail(path, "has no block with input_tokens and output_tokens")
    return result


def _law(table: dict[Any, Any]) -> dict[str, Any]:
    """An empirical law from {value: probability}: each value holds its own stretch of probability."""
    values = np.array([float(value) for value in table])
    weights = np.array([float(weight) for weight in table.values()])
    order = np.argsort(values)
    values, weights = values[order][weights[order] > 0], weights[order][weights[order] > 0]
    reached = np.cumsum(weights) / weights.sum()
    begins = np.concatenate([[0.0], reached[:-1] + 1e-12])
    levels = np.stack([begins, np.minimum(reached, 1.0)], axis=1).ravel()
    heights = np.repeat(values, 2)
    return {"law": "empirical", "quantiles": dict(zip(levels.tolist(), heights.tolist(), strict=True))}
