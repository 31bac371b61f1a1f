"""How far a run has come, on stderr: one rewritten line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from sim.units import format_count, format_duration, format_number

if TYPE_CHECKING:
    from sim.scenario.model import Scenario

REWRITE_S = 0.2
REPEAT_S = 5.0


class ProgressLine:
    """Call it with the simulated seconds and the queries done so far, all replications together."""

    def __init__(self, scenario: Scenario, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._replications = scenario.measure.replications
        self._started = time.monotonic()
        self._shown = self._started - (REPEAT_S if self.terminal else 0.0)
        self._width = 0

    def __call__(self, simulated_s: float, queries_done: int) -> None:
        """Show it, if it is time to."""
        now = time.monotonic()
        if now - self._shown < (REWRITE_S if self.terminal else REPEAT_S):
            return
        self._shown = now
        self._write(self.text(simulated_s, queries_done, now - self._started))

    def text(self, simulated_s: float, queries_done: int, wall_s: float) -> str:
        """What the line says."""
        rate = format_number(queries_done / wall_s) if wall_s > 0 else "0"
        runs = f" in {self._replications} replications" if self._replications > 1 else ""
        return (
            f"simulated {format_duration(simulated_s)}{runs}, "
            f"{format_count(queries_done)} queries done, {rate} queries/s"
        )

    def _write(self, text: str) -> None:
        if self.terminal:
            self.stream.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Take the line away."""
        if self.terminal and self._width:
            self.stream.write("\r" + " " * self._width + "\r")
            self.stream.flush()
