"""Times steps of a torch decoder on a real device."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from calibration.profiler import shapes
from calibration.profiler.decoder import Decoder, choose_attention
from calibration.profiler.devices import TORCH_DTYPES, Device
from calibration.profiler.group import Group
from calibration.profiler.kv import BlockTables, StepInput, build_step, point_sequences
from calibration.profiler.points import Limits, Point
from calibration.profiler.run import Measured, summarise
from calibration.profiler.shapes import Shape, Stack
from sim.errors import DoesNotFit

WARM_UP = 3
POINT_SECONDS = 20.0
"""No point is repeated for longer than this; the number of repeats goes down to five before that."""
FEWEST = 5
CPU_POOL_BYTES = 2e9
"""A CPU's memory is shared with everything else on the machine, and filling it takes its time."""
COOL_DOWN_S = 30.0
"""How long a throttled device is left alone before its point is tried once more."""


class TorchBench:
    """A decoder of *shape* on *device*; *layers* of each kind are built (None: as many as memory allows).

    *kv_tokens* is how large a KV pool is wanted at most (None: what memory allows). Raise DoesNotFit when
    weights or a pool do not fit, InputError for a format that the device cannot multiply.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        dtype: str,
        device: Device,
        group: Group | None = None,
        layers: int | None = None,
        max_tokens: int,
        longest: int,
        kv_tokens: int | None = None,
        attention: str = "auto",
        graphs: bool = True,
        compiled: bool = False,
        seed: int = 0,
        whole: bool = False,
    ) -> None:
        self.shape, self.dtype, self.device, self.seed = shape, dtype, device, seed
        self.group = group or Group()
        self.writes = self.group.rank == 0
        self.wanted_graphs = self.graphs = graphs and device.kind == "cuda"
        self.compiled = compiled
        kinds = shape.kinds()
        if layers is None:
            layers = self.group.least(shapes.fitting_layers(shape, dtype, device.free_bytes()))
        if whole:
            # The model *is* the few layers: nothing is extrapolated.
            self.stacks: tuple[Stack, ...] = (Stack(tuple((k, min(layers, n)) for k, n in kinds.items()), 1.0),)
        else:
            self.stacks = shapes.plan_stacks(shape, layers)
        built = {kind: max(dict(stack.counts).get(kind, 0) for stack in self.stacks) for kind in kinds}
        self.attention, self.block_size, self.notes = choose_attention(shape, dtype, device, attention)
        device.reset_peak()
        self.decoder = Decoder(
            shape,
            built,
            dtype=dtype,
            device=device,
            attention=self.attention,
            max_tokens=max_tokens,
            longest=longest + 1,
            seed=seed,
            compiled=compiled,
            reduce=self.group.sum,
            collect=self.group.concatenate,
        )
        blocks = self.group.least(self._blocks(sum(built.values()), max_tokens, kv_tokens))
        self.decoder.allocate(blocks, self.block_size)
        self.limits = Limits(
            kv_tokens=blocks * self.block_size,
            max_context=longest,
            max_tokens=max_tokens,
            block_size=self.block_size,
        )

    def _blocks(self, layers: int, max_tokens: int, kv_tokens: int | None) -> int:
        """Blocks of the KV pool, after room for the activations of the largest step."""
        arch = self.shape.architecture
        widest = max(
            2 * arch.ffn // self.shape.tp,
            2 * arch.moe.active * arch.moe.ffn // self.shape.tp if arch.moe else 0,
            (self.shape.heads + 2 * self.shape.kv_heads) * arch.head_dim,
        )
        activations = max_tokens * (8 * arch.hidden + 3 * widest) * 4.0 + 4 * 512 * arch.vocab * 4.0
        per_block = layers * self.shape.kv_layer_bytes(self.dtype) * self.block_size
        free = self.device.free_bytes()
        room = 0.9 * free - activations
        if self.device.kind == "cpu":
            room = min(room, CPU_POOL_BYTES)
        wanted = None if kv_tokens is None else -(-kv_tokens // self.block_size) + 1
        blocks = int(room / per_block)
        if blocks < 16:
            raise DoesNotFit(
                f"{free / 1e9:.2f} GB are free after the weights, the largest step takes "
                f"{activations / 1e9:.2f} GB, and 16 blocks of KV {16 * per_block / 1e9:.2f} GB"
            )
        return blocks if wanted is None else min(blocks, max(16, wanted))

    # ---- what it is ----------------------------------------------------------------------------------------

    def identity(self) -> dict[str, Any]:
        """See Bench."""
        return {
            "device": self.device.name,
            "torch": torch.__version__,
            "threads": torch.get_num_threads() if self.device.kind == "cpu" else 0,
            "model": self.shape.architecture.name,
            "shape": str(self.shape.architecture.shape()),
            "tp": self.shape.tp,
            "gpus_together": self.group.size,
            "dtype": self.dtype,
            "attention": self.attention.name,
            "block_size": self.block_size,
            "stacks": [[stack.layers, stack.weight] for stack in self.stacks],
            "compiled": self.compiled,
            "graphs": self.wanted_graphs,
            "clock": self.device.clock.__name__,
            "seed": self.seed,
        }

    def facts(self) -> dict[str, Any]:
        """See Bench."""
        return {
            **self.device.describe(),
            "scaled": len(self.stacks) > 1,
            "architecture": self.shape.architecture.to_dict(),
            "attention_notes": self.notes,
            "kv_pool_tokens": self.limits.kv_tokens,
            "peak_bytes": self.device.peak_bytes(),
        }

    def columns(self) -> dict[str, Any]:
        """See Bench."""
        work = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[TORCH_DTYPES[self.dtype]]
        alone = self.shape.tp > 1 and self.group.size == 1
        return {
            "source": "thinkcap",
            "gpu": self.device.name,
            "model": self.shape.architecture.name,
            "dtype": self.dtype,
            "kv_dtype": work,
            "tp": self.shape.tp,
            "engine": f"torch {torch.__version__} {self.attention.name}" + (" without all-reduce" if alone else ""),
        }

    def agree(self, value: int) -> int:
        """See Bench."""
        return self.group.broadcast(value)

    # ---- timing --------------------------------------------------------------------------------------------

    def measure(self, point: Point, repeats: int) -> Measured:
        """See Bench; a point during which the device was throttled is tried once more after a pause."""
        try:
            first = self._measure(point, repeats)
        except torch.OutOfMemoryError:
            if self.device.kind == "cuda":
                torch.cuda.empty_cache()
            raise
        if first.flag and self.group.size == 1 and first.flag.startswith("throttled"):
            time.sleep(COOL_DOWN_S)
            return self._measure(point, repeats)
        return first

    def measure_served(self, point: Point, repeats: int) -> Measured:
        """Time *point* as a serving loop meets it: right after a step like it, no cache flushed, launched one kernel
        after the other."""
        return self._measure(point, repeats, served=True)

    def _measure(self, point: Point, repeats: int, *, served: bool = False) -> Measured:
        self.device.reset_peak()
        tables = BlockTables(self.limits.kv_tokens // self.block_size, self.block_size, self.seed)
        step = self.input(*point_sequences(point, tables))
        telemetry = self.device.telemetry
        readings = []
        with self.runners(step, graph=point.kind == "decode" and not served) as (runners, graphed):
            lead = self._warm_up(runners, graphed)
            if served:
                lead = 0.0
            once = self.group.largest(self.device.time(lambda: [runner() for runner in runners]))
            count = max(min(FEWEST, repeats), min(repeats, int(POINT_SECONDS / max(once, 1e-9))))
            times: list[list[float]] = [[] for _ in runners]
            for repeat in range(count):
                self.shuffle(step)
                for stack, runner in enumerate(runners):
                    if not served:
                        self.device.flush()
                    times[stack].append(self.group.largest(self.device.time(runner, lead_s=lead)))
                if repeat in (0, count // 2, count - 1):
                    readings.append(telemetry.read())
        middle, spread = summarise(times, [stack.weight for stack in self.stacks])
        flag = telemetry.verdict(readings)
        if middle <= 0.0:
            # Noise larger than the layers themselves: keep a positive figure that no fit will take.
            middle, flag = max(max(map(max, times)), 1e-9), "extrapolation drowned in noise"
        clocks = sorted(reading.clock_mhz for reading in readings)
        return Measured(
            time_s=middle,
            spread_s=spread,
            n=count,
            clock_mhz=clocks[len(clocks) // 2],
            temperature_c=max(reading.temperature_c for reading in readings),
            flag=flag or ("no_allreduce" if self.shape.tp > 1 and self.group.size == 1 else ""),
            extra={
                "peak_bytes": self.device.peak_bytes(),
                "graph": graphed,
                "stack_ms": " ".join(f"{1e3 * sorted(stack)[count // 2]:.6g}" for stack in times),
                "power_w": max(reading.power_w for reading in readings),
                "clock_reasons": _union(reading.reasons for reading in readings),
            },
        )

    def input(self, decodes: Sequence[Any], chunks: Sequence[Any]) -> StepInput:
        """The input of a step of these sequences."""
        return build_step(
            self.device,
            decodes,
            chunks,
            block_size=self.block_size,
            vocab=self.shape.vocab,
            window=self.shape.architecture.sliding_window,
            masks=self.attention.masks,
        )

    def shuffle(self, step: StepInput) -> None:
        """Other tokens and another routing, in place, so that a captured graph sees them."""
        step.tokens.random_(0, self.shape.vocab)
        self.decoder.shuffle()

    @contextmanager
    def runners(self, step: StepInput, *, graph: bool) -> Iterator[tuple[list[Callable[[], object]], bool]]:
        """One callable a stack, captured in CUDA graphs where asked and possible, and whether they are."""
        plain: list[Callable[[], object]] = [functools.partial(self.decoder.step, step, stack) for stack in self.stacks]
        graphs: list[Any] = []
        if graph and self.graphs:
            try:
                graphs = [self._capture(runner) for runner in plain]
            except RuntimeError as error:
                torch.cuda.synchronize()
                self.graphs = False
                self.notes.append(f"no CUDA graphs: {str(error).splitlines()[0][:120]}")
                graphs = []
            if self.group.least(len(graphs)) < len(plain):
                graphs = []
        try:
            yield ([captured.replay for captured in graphs] if graphs else plain), bool(graphs)
        finally:
            for captured in graphs:
                captured.reset()

    def _capture(self, runner: Callable[[], object]) -> Any:
        """A CUDA graph of *runner*, after the warm-up on a side stream that capture asks for."""
        make: Any = torch.cuda.Stream
        stream = make()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                runner()
        torch.cuda.current_stream().wait_stream(stream)
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            runner()
        return captured

    def _warm_up(self, runners: Sequence[Callable[[], object]], graphed: bool) -> float:
        """Run each a few times; how long the host takes to launch the longest, where that could hide in the
        times."""
        lead = 0.0
        for _ in range(WARM_UP if self.device.kind != "cpu" else 1):
            for runner in runners:
                self.device.sync()
                began = time.perf_counter()
                runner()
                lead = time.perf_counter() - began
                self.device.sync()
        return 1.5 * min(lead, 0.1) if self.device.kind == "cuda" and not graphed else 0.0


def _union(reasons: Iterable[int]) -> int:
    total = 0
    for reason in reasons:
        total |= reason
    return total
