"""Runs the steps of a serving loop on a torch decoder, in real time and with real tokens going round."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from calibration.profiler.bench import TorchBench
from calibration.profiler.kv import BlockTables, Span
from calibration.profiler.loop import Work


class TorchExecutor:
    """The decoder of *bench* behind a serving loop; every sampled token is the next step's input.

    The clock runs from the work being known to the tokens being back on the host, input building included,
    as in an engine. Sequences take all their blocks when they join, scattered over the pool.
    """

    def __init__(self, bench: TorchBench, *, seed: int = 0) -> None:
        self.bench = bench
        self.tables = BlockTables(bench.limits.kv_tokens // bench.block_size, bench.block_size, seed)
        self.held: dict[int, list[int]] = {}
        self.last: dict[int, int] = {}
        self.outside_s = 0.0

    def begin(self, job: int, tokens: int) -> None:
        """See Executor."""
        self.held[job] = self.tables.take(tokens)

    def end(self, job: int) -> None:
        """See Executor."""
        self.tables.give(self.held.pop(job))
        self.last.pop(job, None)

    def execute(self, work: Sequence[Work]) -> float:
        """See Executor."""
        self.bench.decoder.shuffle()
        began = self.bench.device.clock()
        spans = [Span(self.held[item.job], item.cached, item.new) for item in work]
        decodes = sum(item.new == 1 for item in work)
        step = self.bench.input(spans[:decodes], spans[decodes:])
        known = [self.last.get(item.job) for item in work[:decodes]]
        if decodes and None not in known:
            step.tokens[:decodes] = torch.tensor(known, device=step.tokens.device)
        made: list[torch.Tensor] = []
        inside = self.bench.device.time(lambda: made.append(self.bench.decoder.step(step)))
        sampled = made[0].tolist()
        seconds = self.bench.device.clock() - began
        self.outside_s = max(0.0, seconds - inside)
        for item, token in zip(work, sampled, strict=True):
            if item.samples:
                self.last[item.job] = token
        return seconds
