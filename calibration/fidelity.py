"""Where a step cost comes from, and how far it may be believed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fidelity:
    """Where a step cost comes from and how far it may be believed."""

    profile: str
    """Name of the profile, or "prior"."""
    kind: str
    """"measured" (whole engine steps), "composed" (sums of measured kernels) or "prior" (nothing
    measured)."""
    source: str
    licence: str
    error_median: float
    """Median absolute relative error of a step, on what was left out of the fit."""
    error_p95: float
    error_basis: str
    """What the error was measured against."""
    batch_max: int | None = None
    """Largest decode batch measured; None where nothing was."""
    context_max: int | None = None
    """Longest context of a sequence measured, tokens."""
    tokens_max: int | None = None
    """Most tokens of a prefill step measured."""
    engine: str = ""
    """Engine and version whose overheads are added."""
    sha256: str = ""
    """Of the profile's file."""
    notes: tuple[str, ...] = ()

    def warnings(self, *, batch: int | None = None, context: int | None = None, tokens: int | None = None) -> list[str]:
        """What of a run lies outside the measured range, in plain words.

        *batch* is its largest decode batch, *context* its longest sequence, *tokens* its fullest step.
        """
        found = []
        for value, limit, what in (
            (batch, self.batch_max, "a decode batch of {} (measured to {})"),
            (context, self.context_max, "a context of {} tokens (measured to {})"),
            (tokens, self.tokens_max, "a step of {} tokens (measured to {})"),
        ):
            if value is not None and limit is not None and value > limit:
                reach = what.format(f"{value:,}", f"{limit:,}")
                found.append(f"profile {self.profile} is extrapolated: {reach}")
        return found

    def words(self) -> str:
        """One sentence for a summary."""
        if self.kind == "prior":
            return (
                "nothing was measured for this model on this GPU: a roofline estimate, "
                f"error {self.error_median:.0%} median and {self.error_p95:.0%} at the 95th percentile "
                f"({self.error_basis})"
            )
        return (
            f"profile {self.profile} ({self.kind}; {self.source}), error {self.error_median:.1%} median and "
            f"{self.error_p95:.1%} at the 95th percentile ({self.error_basis})"
        )
