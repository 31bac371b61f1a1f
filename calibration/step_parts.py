"""Where the time of steps goes: host, weights and matrices, sequences, KV read, prefill attention, mixed
steps.

Evaluates a :class:`StepCost` over columns of a segments table (``sim/results``): one row is a run of like
steps, the context of its decodes growing by one token a step and decode. The parts of a row add up to its
duration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.step_cost import StepCost

Array = npt.NDArray[np.float64]

PARTS = {
    "host": "the engine's own time, a step and a layer, whatever is in the step",
    "weights": "matrix multiplications: reading the weights, or computing once there are many tokens",
    "rows": "sampling and handling of each sequence",
    "kv": "decodes reading the KV cache",
    "attention": "prefill attention, cached context included",
    "mixed": "what decodes take longer beside a prefill chunk",
}
"""Names of the parts and what each means."""


@dataclass(frozen=True)
class Columns:
    """The columns of segments that a step's cost depends on, as float64 (exact to 2^53)."""

    steps: Array
    decodes: Array
    context: Array
    chunks: Array
    chunk_tokens: Array
    pairs: Array
    cached: Array

    @classmethod
    def of(cls, table: Any) -> Columns:
        """From a DataFrame or mapping of arrays; what a pure-decode table lacks is zero."""
        size = len(table["steps"])

        def column(name: str) -> Array:
            known = name in table if isinstance(table, Mapping) else name in table.columns
            return np.asarray(table[name], dtype=float) if known else np.zeros(size)

        return cls(**{name: column(name) for name in cls.__dataclass_fields__})


def linear_s(cost: StepCost, tokens: Array) -> Array:
    """Seconds of ``linear(T)`` for many numbers of tokens."""
    table = np.asarray(cost.linear_ps, dtype=float)
    last = len(table) - 1
    at = np.minimum(tokens, last).astype(int)
    return np.asarray((table[at] + cost.linear_slope_ps * np.maximum(tokens - last, 0.0)) * 1e-12)


def parts(cost: StepCost, segments: Any) -> dict[str, Array]:
    """Seconds of each part of each row of *segments*, keys as in :data:`PARTS`."""
    c = Columns.of(segments)
    mixed = c.chunks > 0
    read = c.steps * c.context + c.decodes * c.steps * (c.steps - 1) / 2
    return {
        "host": c.steps * cost.host_ps * 1e-12,
        "weights": c.steps * linear_s(cost, c.decodes + c.chunk_tokens),
        "rows": c.steps * (c.decodes + c.chunks) * (cost.seq_ps * 1e-12),
        "kv": read * (cost.kv_ps * 1e-12),
        "attention": c.steps * mixed * (c.pairs * cost.half_pair_ps + c.cached * cost.cached_ps) * 1e-12,
        "mixed": c.steps * mixed * c.decodes * (cost.mixed_ps * 1e-12),
    }


def duration_s(cost: StepCost, segments: Any) -> Array:
    """Seconds of each row of *segments*: the sum of its parts."""
    return np.asarray(sum(parts(cost, segments).values()))


def bound(cost: StepCost, segments: Any) -> dict[str, float]:
    """Share of all step time that each part takes, 0 where there are no steps."""
    seconds = {name: float(values.sum()) for name, values in parts(cost, segments).items()}
    total = sum(seconds.values())
    return {name: value / total if total else 0.0 for name, value in seconds.items()}
