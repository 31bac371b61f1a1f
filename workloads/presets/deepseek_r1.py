"""DeepSeek-R1: traffic as in production, and the mix of a benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.errors import InputError, Problem
from workloads.presets import preset
from workloads.spec import WorkloadSpec

_FIGURES = Path(__file__).with_name("deepseek_r1_production.json")


@cache
def _figures() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(_FIGURES.read_text())
    return figures


def _lengths(client: Mapping[str, Any]) -> dict[str, Any]:
    def mixture(law: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "law": "mixture",
            "components": [{"weight": w, "median": m, "sigma": s} for w, m, s in law["components"]],
            "atoms": [{"weight": w, "value": v} for w, v in law["atoms"]],
            "min": law["min"],
            "max": law["max"],
        }

    return {
        "prompt": mixture(client["prompt"]),
        "output": mixture(client["output"]),
        "reasoning_share": {
            "law": "beta",
            "components": [{"weight": w, "a": a, "b": b} for w, a, b in client["share"]["components"]],
            "atoms": [{"weight": w, "value": v} for w, v in client["share"]["atoms"]],
        },
        "share_correlation": SHARE_CORRELATION,
    }


SHARE_CORRELATION = 0.9
"""Published are output and reasoning share of each client, not how they hang together. With the two drawn
independently answers would spread far wider than answers of the same model do where both are known (MLPerf
Inference v5.1: mean 310, median 273, p90 533, p99 813)."""


@preset("deepseek-r1-production")
@dataclass(frozen=True)
class DeepSeekR1Production:
    """DeepSeek-R1 as served in production: 46 clients, half a day, output median 1,224 and p99 13,900 tokens.

    A mixture of clients, each with its own rate in windows of ten minutes, its burstiness, and mixtures of
    lognormals (output, prompt) and of Betas (share of reasoning), with its caps. Fitted to the client
    figures of ServeGen ("ServeGen: workload characterization and generation of LLM serving in production",
    arXiv 2505.09999; Apache-2.0), first 12 hours. Without ``rate`` the half day as measured, 16.8/s in the
    mean; with ``rate`` its mean traffic all the time, or with ``profile: day`` its shape. ``windows`` takes
    other rates: a CSV with client_id, window_start_s (from midnight of the source, which says whose hours they
    are), req_per_s, iat_cv, iat_family. Lengths and bursts of a client differ between its first and its second
    six hours; hours past the twelve have those of both together, as has traffic of one mean rate. Assumed: prompt and
    output are independent within a client, and longer outputs have a larger share of reasoning, so that
    answers stay as narrow as those of MLPerf Inference v5.1.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        figures = _figures()
        if asked.windows is not None:
            members, window_s, start_s = _from_windows(asked.windows, base)
        else:
            window_s, start_s = figures["window_s"], 0.0
            members = {
                name: {"rates": client["rates"], "cvs": [client["cv"]], "weibull": _all(client)}
                for name, client in figures["clients"].items()
                if any(client["rates"])
            }
        timed = asked.arrivals is None and asked.profile != "steady" and (asked.profile == "day" or asked.rate is None)
        clients: dict[str, Any] = {}
        for name, member in members.items():
            client = figures["clients"].get(name, figures["others"])
            if timed and "blocks" in client:
                measured = asked.windows is not None
                clients |= _by_hours(name, member, client, window_s, start_s, figures["block_s"], measured=measured)
            else:
                clients[name] = member | {"lengths": _lengths(client)}
        return {"clients": {"window": f"{window_s:g} s", "members": clients}, "rate": "16.8/s"}


def _by_hours(
    name: str,
    member: dict[str, Any],
    client: Mapping[str, Any],
    window_s: float,
    start_s: float,
    block_s: float,
    *,
    measured: bool,
) -> dict[str, Any]:
    """A client as one member for each stretch of hours that has figures of its own, and one for all other hours.

    *measured* spreads of gaps stay; others are those of the hours.
    """
    count = len(member["rates"])
    hours = [f"{(start_s + i * window_s) % 86_400 // block_s * block_s:g}" for i in range(count)]
    parts: dict[str, Any] = {}
    for block in dict.fromkeys(hour if hour in client["blocks"] else "other" for hour in hours):
        figures = client["blocks"].get(block, client)
        mine = [(hour if hour in client["blocks"] else "other") == block for hour in hours]
        rates = [rate if here else 0.0 for rate, here in zip(member["rates"], mine, strict=True)]
        if not any(rates):
            continue
        bursts = (
            {} if measured else {"cvs": [figures["cv"]], "weibull": list(range(count)) if figures["weibull"] else []}
        )
        parts[f"{name}@{block}"] = member | bursts | {"client": name, "rates": rates, "lengths": _lengths(figures)}
    return parts


def _all(client: Mapping[str, Any]) -> list[int]:
    return list(range(len(client["rates"]))) if client["weibull"] else []


def _from_windows(name: str, base: Path | None) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Rates and spreads of gaps by client from a CSV of windows, the length of a window and the first one's start."""
    from workloads.clients import read_windows

    members, window_s, start_s = read_windows(name, base)
    if not members:
        raise InputError(Problem("holds no window with traffic", source=name, key="workload.windows"))
    return members, window_s, start_s


_CAP = 20_000


def _category(weight: float, parts: list[tuple[float, float, float]], answer: float) -> dict[str, Any]:
    return {
        "weight": weight,
        "lengths": {
            "prompt": {"law": "lognormal", "median": 200, "sigma": 0.8, "min": 16, "max": 4000},
            "reasoning": {
                "law": "mixture",
                "components": [{"weight": w, "median": m, "sigma": s} for w, m, s in parts],
                "max": _CAP,
            },
            "answer": {"law": "lognormal", "median": answer, "sigma": 0.52, "min": 2, "max": 1500},
            "answer_correlation": 0.3,
        },
    }


@preset("deepseek-r1-benchmark")
@dataclass(frozen=True)
class DeepSeekR1Benchmark:
    """DeepSeek-R1 on the MLPerf mix of exams: AIME, MATH500, GPQA, MMLU-Pro, LiveCodeBench; cap 20,000
    tokens.

    Categories by the form of the answer, as often as in the runs: multiple choice (outputs with p10, p50,
    p90 of 535, 1,184, 5,335), mathematics (724, 3,629, 11,734), code (1,263, 4,538, 19,261). Mixtures of
    lognormals fitted by EM to reasoning lengths of MLPerf Inference v5.1, closed division, DeepSeek-R1,
    TEST06 outputs (lengths only). Answers are lognormal with sigma 0.52. Assumed: prompt lengths (lognormal,
    median 200), which the outputs do not say, and Poisson arrivals at 1/s.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return {
            "arrivals": "poisson",
            "rate": "1/s",
            "max_tokens": _CAP,
            "categories": {
                "multiple_choice": _category(957, MULTIPLE_CHOICE, 240),
                "mathematics": _category(640, MATHEMATICS, 340),
                "code": _category(103, CODE, 440),
            },
        }


MULTIPLE_CHOICE = [(0.5401, 587.2, 0.4377), (0.4599, 2518.0, 0.7653)]
MATHEMATICS = [(0.1089, 515.6, 0.2079), (0.6214, 2606.0, 0.6831), (0.2697, 11500.0, 0.55)]
CODE = [(0.6, 1650.0, 0.5), (0.4, 9600.0, 0.55)]
"""Mixtures of reasoning lengths (weight, median, sigma); code, with 63 outputs, by hand between its
quantiles."""
