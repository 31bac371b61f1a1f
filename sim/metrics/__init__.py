"""Every metric, defined once and computed from the tables; nothing here draws or simulates."""

from sim.metrics.balance import BalanceError
from sim.metrics.censored import Censored, Estimate
from sim.metrics.definitions import METRICS, Metric
from sim.metrics.gaps import Gaps, token_gaps
from sim.metrics.samples import measured, sample
from sim.metrics.summary import describe, finish, summarise
from sim.metrics.verdict import number_in_system

__all__ = [
    "METRICS",
    "BalanceError",
    "Censored",
    "Estimate",
    "Gaps",
    "Metric",
    "describe",
    "finish",
    "measured",
    "number_in_system",
    "sample",
    "summarise",
    "token_gaps",
]
