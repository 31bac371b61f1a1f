"""What an engine decided, step by step, with request ids: for conformance and for explaining, never in a normal run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StepRow:
    """One batch; columns as in a recording of the real scheduler. Times in picoseconds."""

    t_scheduled_ps: int
    t_start_ps: int
    t_end_ps: int
    n_tokens: int
    total_context: int
    n_running: int
    n_waiting: int
    free_after_schedule: int
    free_after_update: int
    admitted: list[tuple[int, int]] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    scheduled: list[tuple[int, int]] = field(default_factory=list)
    given_back: int = 0
    """Blocks that came back once the batch was planned."""


class StepLog:
    """Rows of one replica in order."""

    def __init__(self) -> None:
        self.rows: list[StepRow] = []

    def update(self, end_ps: int, free: int, finished: list[int]) -> None:
        """The batch that ended at *end_ps* was processed: *finished* left, *free* blocks are free now."""
        for row in reversed(self.rows):
            if row.t_end_ps == end_ps:
                row.free_after_update = free
                row.finished.extend(finished)
                return
            if row.t_end_ps < end_ps:
                break
        raise AssertionError(f"no batch ended at {end_ps}")
