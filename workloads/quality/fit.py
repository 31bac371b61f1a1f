"""Parameters of the quality model from measured rows, with what they leave unexplained.

Rows of (samples, accuracy) give mean, concentration and alternatives by least squares on the exact accuracy
of plurality voting; rows of (tokens, accuracy) give ``limit - (limit - floor) exp(-tokens / scale)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sim.errors import InputError, Problem
from workloads.quality.exact import best_of, majority

ALTERNATIVES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20)


@dataclass(frozen=True)
class Fitted:
    """*parameters* by name, and for each row (x, measured, fitted)."""

    kind: str
    parameters: dict[str, float]
    rows: tuple[tuple[float, float, float], ...]

    @property
    def worst(self) -> float:
        """Largest residual."""
        return max(abs(measured - fitted) for _, measured, fitted in self.rows)

    @property
    def law(self) -> dict[str, float]:
        """The same in the words of `quality.models`; of tokens, the longest row's are taken for the natural length."""
        if self.kind != "tokens":
            return self.parameters
        limit, floor, scale = (self.parameters[name] for name in ("limit", "floor", "scale_tokens"))
        natural = max(tokens for tokens, _, _ in self.rows)
        accuracy = limit - (limit - floor) * math.exp(-natural / scale)
        return {"accuracy": min(max(accuracy, 0.0), 1.0), "floor": max(floor, 0.0), "saturation": natural / scale}


def fit_samples(rows: Sequence[tuple[int, float]], alternatives: Sequence[int] = ALTERNATIVES) -> Fitted:
    """From (N, accuracy of majority voting); N = 1 fixes the mean, and alone nothing else. Two rows fix the
    concentration for each number of alternatives; more choose among them.
    """
    from scipy.optimize import minimize_scalar

    single = [accuracy for samples, accuracy in rows if samples == 1]
    if not single:
        raise InputError(Problem("no row with one sample", expected="accuracy at n = 1, which is the mean"))
    mean = float(np.mean(single))
    if len(single) == len(rows):  # nothing says how far the queries differ
        return Fitted("samples", {"accuracy": mean}, tuple((n, accuracy, mean) for n, accuracy in rows))
    best: tuple[float, float, int] | None = None
    for wrong in alternatives:

        def loss(log_concentration: float, wrong: int = wrong) -> float:
            return sum((majority(n, mean, math.exp(log_concentration), wrong) - accuracy) ** 2 for n, accuracy in rows)

        found = minimize_scalar(loss, bounds=(math.log(0.02), math.log(200.0)), method="bounded")
        if best is None or found.fun < best[0] - 1e-7:  # the fewest alternatives that explain the rows
            best = (float(found.fun), math.exp(float(found.x)), wrong)
    assert best is not None
    _, concentration, wrong = best
    return Fitted(
        "samples",
        {"accuracy": mean, "concentration": concentration, "wrong_answers": wrong},
        tuple((n, accuracy, majority(n, mean, concentration, wrong)) for n, accuracy in rows),
    )


def fit_discrimination(rows: Sequence[tuple[int, float]], accuracy: float, concentration: float | None) -> Fitted:
    """A verifier's discrimination from (N, accuracy of best of N)."""
    from scipy.optimize import minimize_scalar

    def loss(d: float) -> float:
        return sum((best_of(n, accuracy, concentration, round(d, 6)) - a) ** 2 for n, a in rows)

    found = minimize_scalar(loss, bounds=(0.0, 6.0), method="bounded")
    d = round(float(found.x), 6)
    return Fitted(
        "best_of",
        {"discrimination": d},
        tuple((n, a, best_of(n, accuracy, concentration, d)) for n, a in rows),
    )


def fit_tokens(rows: Sequence[tuple[float, float]]) -> Fitted:
    """From (mean tokens, accuracy); three rows at least."""
    if len(rows) < 3:
        raise InputError(Problem(f"{len(rows)} rows", expected="three rows of tokens and accuracy at least"))
    x, y = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    best: tuple[float, float, float, float] | None = None
    for scale in np.geomspace(x.min() / 10 + 1e-9, x.max() * 10, 400):
        basis = np.stack([np.ones_like(x), -np.exp(-x / scale)], axis=1)
        solution, *_ = np.linalg.lstsq(basis, y, rcond=None)
        limit = min(float(solution[0]), 1.0)
        drop = float(solution[1])
        loss = float(((limit - drop * np.exp(-x / scale) - y) ** 2).sum())
        if best is None or loss < best[0]:
            best = (loss, limit, limit - drop, float(scale))
    assert best is not None
    _, limit, floor, scale = best
    return Fitted(
        "tokens",
        {"limit": limit, "floor": floor, "scale_tokens": scale},
        tuple(
            (float(t), float(a), float(limit - (limit - floor) * math.exp(-t / scale)))
            for t, a in zip(x, y, strict=True)
        ),
    )
