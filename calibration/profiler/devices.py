"""One face for cpu, cuda and mps: how to wait, to time, to flush caches, and how much memory there is."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from calibration.profiler.telemetry import Telemetry
from sim.errors import InputError, Problem

TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
"""The format that activations and the KV cache have for weights of a format."""


class Device:
    """A torch device by name: ``cpu``, ``cuda``, ``cuda:1`` or ``mps``; raise an InputError when it is not
    there."""

    def __init__(self, name: str) -> None:
        try:
            self.torch = torch.device(name)
        except RuntimeError:
            self.torch = torch.device("meta")
        self.kind = self.torch.type
        if self.kind not in ("cpu", "cuda", "mps"):
            raise InputError(Problem(f"{name!r}", key="--device", expected="cpu, cuda, cuda:N or mps"))
        there = {
            "cpu": True,
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
        }
        if not there[self.kind]:
            usable = ", ".join(kind for kind, yes in there.items() if yes)
            raise InputError(
                Problem(
                    f"this torch ({torch.__version__}) finds no {self.kind} device",
                    key="--device",
                    expected=usable,
                )
            )
        self.index = 0
        uuid: str | None = None
        if self.kind == "cuda":
            self.index = self.torch.index if self.torch.index is not None else torch.cuda.current_device()
            if self.index >= torch.cuda.device_count():
                raise InputError(Problem(f"there are {torch.cuda.device_count()} devices", key="--device"))
            self.torch = torch.device("cuda", self.index)
            torch.cuda.set_device(self.torch)
            found = getattr(torch.cuda.get_device_properties(self.index), "uuid", None)
            uuid = f"GPU-{found}" if found else None
        self.telemetry = Telemetry(self.kind, self.index, uuid=uuid)
        self._flush: torch.Tensor | None = None
        self.clock: Callable[[], float] = time.perf_counter
        """What times work on a CPU; ``time.process_time`` leaves out what other processes take."""

    # ---- what it is ----------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The device's own name."""
        if self.kind == "cuda":
            return str(torch.cuda.get_device_name(self.index))
        if self.kind == "mps":
            return f"Apple {platform.machine()}"
        return _cpu_name()

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA compute capability, (0, 0) elsewhere."""
        return torch.cuda.get_device_capability(self.index) if self.kind == "cuda" else (0, 0)

    def describe(self) -> dict[str, Any]:
        """What a reader must know to judge the times."""
        facts: dict[str, Any] = {
            "device": self.name,
            "kind": self.kind,
            "torch": torch.__version__,
            "driver": self.telemetry.driver(),
            "telemetry": self.telemetry.source,
            "platform": platform.platform(),
            "python": platform.python_version(),
        }
        if self.kind == "cuda":
            facts |= {
                "cuda": torch.version.cuda or f"hip {torch.version.hip}",
                "capability": ".".join(map(str, self.capability)),
            }
        if self.kind == "cpu":
            facts["threads"] = torch.get_num_threads()
        return facts

    # ---- memory --------------------------------------------------------------------------------------------

    def free_bytes(self) -> float:
        """Memory that a new tensor may take."""
        if self.kind == "cuda":
            return float(torch.cuda.mem_get_info(self.index)[0])
        if self.kind == "mps":
            return float(torch.mps.recommended_max_memory() - torch.mps.current_allocated_memory())
        return _cpu_free()

    def peak_bytes(self) -> int:
        """High-water mark of memory since :meth:`reset_peak` (of the whole process on a CPU)."""
        if self.kind == "cuda":
            return int(torch.cuda.max_memory_allocated(self.index))
        if self.kind == "mps":
            return int(torch.mps.driver_allocated_memory())
        return _cpu_peak()

    def reset_peak(self) -> None:
        """Start the high-water mark anew where the device can."""
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats(self.index)

    # ---- time ----------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Wait until all queued work is done."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.index)
        elif self.kind == "mps":
            torch.mps.synchronize()

    def flush(self) -> None:
        """Push everything out of the last-level cache by writing twice its size."""
        if self._flush is None:
            size = 64 * 2**20
            if self.kind == "cuda":
                size = 2 * int(getattr(torch.cuda.get_device_properties(self.index), "L2_cache_size", 0) or 64 * 2**20)
            elif self.kind == "cpu":
                size = 2 * _cpu_cache()
            self._flush = torch.empty(size // 4, dtype=torch.int32, device=self.torch)
        self._flush.add_(1)

    @staticmethod
    def _event() -> Any:
        make: Any = torch.cuda.Event
        return make(enable_timing=True)

    def time(self, work: Callable[[], object], *, lead_s: float = 0.0) -> float:
        """Seconds that *work* takes on the device.

        CUDA events bracket the work in its stream. With *lead_s* the stream is first kept busy for about
        that long, so that launches queue up behind it and the events see the device's time and not Python's.
        """
        if self.kind == "cuda":
            start, end = self._event(), self._event()
            if lead_s > 0.0 and hasattr(torch.cuda, "_sleep"):
                nap: Any = torch.cuda._sleep
                nap(int(lead_s * 2e9))
            start.record()
            work()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000.0
        self.sync()
        began = self.clock()
        work()
        self.sync()
        return self.clock() - began


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def _cpu_cache() -> int:
    """Bytes of the largest cache that the kernel names, 32 MiB when it names none."""
    largest = 0
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            largest = max(largest, int(text[:-1]) * 1024)
    return largest or 32 * 2**20


def _cpu_free() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return float(line.split()[1]) * 1024.0
    except OSError:
        pass
    return 4e9


def _cpu_peak() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if platform.system() == "Darwin" else peak * 1024)
