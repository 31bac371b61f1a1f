"""Accuracies of sampling strategies in closed form: what simulation must come to, what fits are made of."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@lru_cache(maxsize=256)
def plurality_win(samples: int, wrong_answers: int) -> FloatArray:
    """Chance that the right answer wins a plurality, given 0 … *samples* right ones; the others scatter
    evenly over *wrong_answers*, ties are broken by a fair draw.

    With M wrong ones over K answers, K**M / M! times the chance that exactly t of them reach n and none more
    is C(K, t) (1/n!)^t [x^(M - nt)] (sum over j < n of x^j / j!)^(K - t).
    """
    n_all, k_all = samples, wrong_answers
    win = np.zeros(n_all + 1)
    for n in range(1, n_all + 1):
        m = n_all - n
        if m < n:
            win[n] = 1.0
            continue
        # scaled by K: the polynomial's coefficients are chances of a Poisson-like law
        base = np.zeros(m + 1)
        top = min(n - 1, m)
        base[: top + 1] = [math.exp(-math.lgamma(j + 1) - j * math.log(k_all)) for j in range(top + 1)]
        log_peak = -math.lgamma(n + 1) - n * math.log(k_all)
        powers = [np.zeros(m + 1)]
        powers[0][0] = 1.0
        for _ in range(k_all):
            powers.append(np.convolve(powers[-1], base)[: m + 1])
        total = 0.0
        for t in range(min(k_all, m // n) + 1):
            log_scale = math.log(math.comb(k_all, t)) + t * log_peak + math.lgamma(m + 1)
            coefficient = powers[k_all - t][m - n * t]
            if coefficient > 0:
                total += math.exp(log_scale + math.log(coefficient)) / (t + 1)
        win[n] = min(total, 1.0)
    return win


def right_counts(samples: int, accuracy: float, concentration: float | None) -> FloatArray:
    """Chances of 0 … *samples* right answers: Beta-binomial, or binomial where all queries are alike."""
    from scipy.stats import betabinom, binom

    n = np.arange(samples + 1)
    if concentration is None or not 0 < accuracy < 1:
        return np.asarray(binom.pmf(n, samples, accuracy))
    return np.asarray(betabinom.pmf(n, samples, accuracy * concentration, (1 - accuracy) * concentration))


def majority(samples: int, accuracy: float, concentration: float | None = None, wrong_answers: int = 1) -> float:
    """Accuracy of plurality voting over *samples* answers.

    >>> round(majority(5, 0.6), 4)
    0.6826
    """
    return float(right_counts(samples, accuracy, concentration) @ plurality_win(samples, wrong_answers))


@lru_cache(maxsize=64)
def best_win(samples: int, discrimination: float) -> FloatArray:
    """Chance that the best score is a right answer's, given 0 … *samples* right ones: scores are normal,
    right ones *discrimination* standard deviations higher.
    """
    win = np.zeros(samples + 1)
    win[samples] = 1.0
    if math.isinf(discrimination):
        win[1:] = 1.0
        return win
    from scipy.special import log_ndtr

    x = np.linspace(-9.0, 9.0 + discrimination, 4001)
    log_phi = -0.5 * (x - discrimination) ** 2 - 0.5 * math.log(2 * math.pi)
    right, wrong = log_ndtr(x - discrimination), log_ndtr(x)
    for n in range(1, samples):
        density = n * np.exp(log_phi + (n - 1) * right + (samples - n) * wrong)
        win[n] = float(density.sum() * (x[1] - x[0]))
    return win


def best_of(samples: int, accuracy: float, concentration: float | None = None, discrimination: float = 0.0) -> float:
    """Accuracy of taking the best-scored of *samples* answers; infinite discrimination: an ideal verifier.

    >>> round(best_of(4, 0.3, discrimination=float("inf")), 4), round(best_of(4, 0.3), 4)
    (0.7599, 0.3)
    """
    return float(right_counts(samples, accuracy, concentration) @ best_win(samples, discrimination))
