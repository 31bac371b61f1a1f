"""How fast and how hot the device ran: clocks, temperature and reasons for slowing down, through NVML or
nvidia-smi.

Where neither is there, readings are empty and points carry clock 0 and temperature 0 (unknown).
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLOW = {
    0x08: "hw_slowdown",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}
"""NVML clock event reasons under which a time is not the device's own."""
POWER_CAP = 0x04
"""NVML reason: the software power cap; usual under load, in serving too, hence noted and not rejected."""
CLOCK_DROP = 0.85
"""A clock under this share of the highest seen is throttling, unless the power cap explains it."""


@dataclass(frozen=True)
class Reading:
    """One look at the device; 0 means unknown."""

    clock_mhz: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0
    reasons: int = 0

    @property
    def slow(self) -> tuple[str, ...]:
        """Names of the reasons that make a time unusable."""
        return tuple(name for bit, name in SLOW.items() if self.reasons & bit)


class Telemetry:
    """Reads device *index*; *kind* is the device's kind, only "cuda" and "cpu" have readings."""

    def __init__(self, kind: str, index: int = 0, *, uuid: str | None = None) -> None:
        self.kind = kind
        self.index = index
        self.source = "none"
        self._nvml: Any = None
        self._handle: Any = None
        self._uuid = uuid
        self._highest = 0.0
        if kind == "cuda":
            self._connect()
        elif kind == "cpu" and Path("/proc/cpuinfo").exists():
            self.source = "/proc/cpuinfo"

    def _connect(self) -> None:
        try:
            import pynvml

            pynvml.nvmlInit()
            # CUDA_VISIBLE_DEVICES renumbers devices, NVML does not: the UUID is the only safe name.
            self._handle = (
                pynvml.nvmlDeviceGetHandleByUUID(self._uuid)
                if self._uuid
                else pynvml.nvmlDeviceGetHandleByIndex(self.index)
            )
            self._nvml = pynvml
            self.source = "nvml"
        except Exception:
            if shutil.which("nvidia-smi"):
                self.source = "nvidia-smi"

    def read(self) -> Reading:
        """The device now; an empty reading when it cannot be asked."""
        try:
            if self.source == "nvml":
                return self._from_nvml()
            if self.source == "nvidia-smi":
                return self._from_smi()
            if self.source == "/proc/cpuinfo":
                return Reading(clock_mhz=_cpu_clock())
        except Exception:
            return Reading()
        return Reading()

    def _from_nvml(self) -> Reading:
        nvml, handle = self._nvml, self._handle
        ask = getattr(nvml, "nvmlDeviceGetCurrentClocksEventReasons", None) or (
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons
        )
        return Reading(
            clock_mhz=float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            temperature_c=float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            power_w=float(nvml.nvmlDeviceGetPowerUsage(handle)) / 1000.0,
            reasons=int(ask(handle)),
        )

    def _from_smi(self) -> Reading:
        fields = "clocks.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active"
        which = self._uuid or str(self.index)
        done = subprocess.run(
            ["nvidia-smi", "-i", which, f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return parse_smi(done.stdout)

    def driver(self) -> str:
        """The driver's version, or "" where there is none."""
        try:
            if self.source == "nvml":
                version = self._nvml.nvmlSystemGetDriverVersion()
                return version.decode() if isinstance(version, bytes) else str(version)
            if self.source == "nvidia-smi":
                ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
                done = subprocess.run(ask, capture_output=True, text=True, timeout=10, check=True)
                return done.stdout.splitlines()[0].strip()
        except Exception:
            return ""
        return ""

    def verdict(self, readings: list[Reading]) -> str:
        """Why times taken under *readings* should not be fitted, or "".

        NVML's own reasons decide; without them a clock far under the highest of this run does (GPUs only:
        the clock that a CPU shows says nothing about the core that ran).
        """
        slow = sorted({name for reading in readings for name in reading.slow})
        if slow:
            return "throttled: " + ", ".join(slow)
        clocks = [reading.clock_mhz for reading in readings if reading.clock_mhz > 0]
        if self.kind == "cpu" or not clocks:
            return ""
        self._highest = max(self._highest, *clocks)
        capped = any(reading.reasons & POWER_CAP for reading in readings)
        if min(clocks) < CLOCK_DROP * self._highest and not capped:
            return f"throttled: clock {min(clocks):.0f} of {self._highest:.0f} MHz"
        return ""


def parse_smi(text: str) -> Reading:
    """One line of ``nvidia-smi
    --query-gpu=clocks.sm,temperature.gpu,power.draw,clocks_throttle_reasons.active``.

    >>> parse_smi("1980, 54, 312.20, 0x0000000000000004").reasons
    4
    """
    parts = [part.strip() for part in text.splitlines()[0].split(",")]

    def number(part: str) -> float:
        try:
            return float(part)
        except ValueError:
            return 0.0

    try:
        reasons = int(parts[3], 16)
    except (ValueError, IndexError):
        reasons = 0
    return Reading(number(parts[0]), number(parts[1]), number(parts[2]), reasons)


def _cpu_clock() -> float:
    clocks = [
        float(line.rpartition(":")[2])
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("cpu MHz")
    ]
    return sum(clocks) / len(clocks) if clocks else 0.0
