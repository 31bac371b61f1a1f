"""R-KV's published table of batch and speed by KV budget, predicted from its rows without compression.

R1-Distill-Llama-8B on one A100 80 GB in a Hugging Face engine, generations of 8,192 and 16,384 tokens, prompt included, all of a
batch at once (README of github.com/Zefan-Cai/R-KV). Only the four rows without compression are used: KV memory in tokens from
the two largest batches, and the engine's time a step (``host``) and a token of context (``kv``) from all four times, by
least squares of relative errors; ``linear``, the matrices, is the A100's prior. The other rows are simulated: the largest batch
whose peaks fit in that memory, and how long it takes. The engine keeps no blocks, so one block is one token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from calibration.deployment import deploy
from calibration.step_cost import StepCost
from sim.engine.compression import Compression
from sim.engine.replica import make_replica
from sim.engine.request import Request
from sim.engine.settings import EngineSettings
from sim.policies.kv.r_kv import RKv
from sim.policies.schedulers.vllm import Vllm

PROMPT = 98
"""8,192 tokens of which 8,094 were generated, and 16,384 of which 16,286."""


@dataclass(frozen=True)
class Row:
    """One row as published; ``kept`` 0: no compression. *largest*: the batch is the largest that fits."""

    length: int
    kept: int
    batch: int
    tokens_per_s: float
    largest: bool = True


ROWS = (
    Row(8_192, 0, 1, 75.44, largest=False),
    Row(8_192, 0, 62, 849.13),
    Row(16_384, 0, 1, 69.41, largest=False),
    Row(16_384, 0, 30, 347.03),
    Row(8_192, 1_024, 1, 80.46, largest=False),
    Row(8_192, 1_024, 402, 3251.52),
    Row(8_192, 1_536, 287, 2525.75),
    Row(8_192, 3_072, 150, 1520.99),
    Row(8_192, 819, 479, 3809.15),
    Row(8_192, 2_785, 167, 1608.01),
    Row(8_192, 4_423, 105, 1257.83),
    Row(16_384, 1_024, 1, 80.95, largest=False),
    Row(16_384, 1_024, 402, 3188.82),
    Row(16_384, 1_536, 287, 2447.61),
    Row(16_384, 3_072, 150, 1406.28),
    Row(16_384, 1_638, 271, 2300.28),
    Row(16_384, 5_570, 82, 797.43),
    Row(16_384, 8_847, 46, 584.77),
)


@dataclass(frozen=True)
class Predicted:
    """What the simulator says of a row: its batch, and tokens a second."""

    row: Row
    batch: int
    tokens_per_s: float

    @property
    def batch_error(self) -> float:
        """Relative."""
        return self.batch / self.row.batch - 1

    @property
    def speed_error(self) -> float:
        """Relative."""
        return self.tokens_per_s / self.row.tokens_per_s - 1


@cache
def fitted() -> tuple[StepCost, int]:
    """The engine's step cost and its KV memory in tokens."""
    full = [row for row in ROWS if not row.kept]
    # 62 sequences of 8,192 tokens are 31 of 16,384, of which 30 were run: no memory gives both.
    memory = max(row.batch * row.length for row in full)
    prior = deploy(model="r1-distill-llama-8b", hardware="a100", profile="prior").step_cost
    step_s = np.array([row.batch / row.tokens_per_s for row in full])
    matrices_s = np.array([prior.linear(row.batch) for row in full]) * 1e-12
    context = np.array([row.batch * (row.length + PROMPT) / 2 for row in full])
    terms = np.stack([np.ones(len(full)), context], axis=1) / step_s[:, None]
    (host_s, kv_s), *_ = np.linalg.lstsq(terms, (step_s - matrices_s) / step_s, rcond=None)
    cost = replace(prior, host_ps=round(host_s * 1e12), kv_ps=round(kv_s * 1e12), seq_ps=0, mixed_ps=0)
    return cost, memory


def predict(row: Row) -> Predicted:
    """Simulate *row* with the fitted engine."""
    cost, memory = fitted()
    compression: Compression | None = None
    peak = row.length
    if row.kept:
        compression = RKv(kept_tokens=row.kept).compression()
        peak = compression.peak(PROMPT, row.length)
    batch = memory // peak if row.largest else 1
    settings = EngineSettings(
        num_gpu_blocks=memory + 1,
        block_size=1,
        max_num_seqs=batch,
        max_num_batched_tokens=batch * PROMPT,
        enable_prefix_caching=False,
        compression=compression,
        async_scheduling=False,
    )
    replica = make_replica(settings, cost, Vllm())
    output = row.length - PROMPT
    requests = [
        Request(i, arrived_ps=0, prompt_tokens=PROMPT, output_tokens=output, max_tokens=output) for i in range(batch)
    ]
    for request in requests:
        replica.submit(request, 0)
    end = replica.plan(0)
    while end is not None:
        now = end
        replica.complete(now)
        end = replica.plan(now)
    assert not any(request.preemptions for request in requests)
    decoding_ps = max(request.finished_ps for request in requests) - max(request.first_token_ps for request in requests)
    return Predicted(row, batch, batch * output / (decoding_ps * 1e-12))
