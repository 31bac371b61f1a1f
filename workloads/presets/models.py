"""Reasoning models other than DeepSeek-R1, on exams."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.presets import preset
from workloads.presets.deepseek_r1 import CODE, MATHEMATICS, MULTIPLE_CHOICE
from workloads.spec import WorkloadSpec

_PROMPT = {"law": "lognormal", "median": 200, "sigma": 0.8, "min": 16, "max": 4000}


def _exams(scale: float, *, cap: int, answer: float) -> dict[str, Any]:
    """The mix of exams with reasoning *scale* times as long as DeepSeek-R1's and answers *answer* times."""
    categories = {}
    for name, weight, parts, words in (
        ("multiple_choice", 957, MULTIPLE_CHOICE, 240),
        ("mathematics", 640, MATHEMATICS, 360),
        ("code", 103, CODE, 440),
    ):
        reasoning = {
            "law": "mixture",
            "components": [{"weight": w, "median": m * scale, "sigma": s} for w, m, s in parts],
            "max": cap,
        }
        said = {"law": "lognormal", "median": words * answer, "sigma": 0.52, "min": 2, "max": 3000}
        lengths = {"prompt": _PROMPT, "reasoning": reasoning, "answer": said, "answer_correlation": 0.3}
        categories[name] = {"weight": weight, "lengths": lengths}
    return {"arrivals": "poisson", "rate": "1/s", "max_tokens": cap, "categories": categories}


@preset("r1-distill")
@dataclass(frozen=True)
class R1Distill:
    """DeepSeek-R1-Distill-Qwen-7B on questions of knowledge, mathematics and logic, a third each.

    Lognormals with the median and the spread of 95 outputs (5 runs a prompt, limit 60,000 tokens) of
    LRMTokenEconomy (github.com/cpldcpu/LRMTokenEconomy, Apache-2.0): reasoning medians 196, 2,128 and 2,696
    tokens. Assumed: prompts (lognormal, median 200), equal shares, Poisson arrivals at 1/s, a cap at 32,768.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        def kind(reasoning: tuple[float, float], answer: tuple[float, float]) -> dict[str, Any]:
            thought = {"law": "lognormal", "median": reasoning[0], "sigma": reasoning[1], "max": 32_768}
            said = {"law": "lognormal", "median": answer[0], "sigma": answer[1], "min": 2, "max": 8192}
            return {"lengths": {"prompt": _PROMPT, "reasoning": thought, "answer": said}}

        return {
            "arrivals": "poisson",
            "rate": "1/s",
            "categories": {
                "knowledge": kind((196, 0.90), (101, 0.57)),
                "mathematics": kind((2128, 0.63), (1410, 0.41)),
                "logic_puzzle": kind((2696, 1.07), (276, 1.0)),
            },
        }


@preset("qwq")
@dataclass(frozen=True)
class Qwq:
    """QwQ-32B on the MLPerf mix of exams.

    The mixtures of deepseek-r1-benchmark (MLPerf Inference v5.1 outputs) with reasoning 1.5 times as long,
    capped at 32,768 tokens. The factor is an assumption, not a measurement: no outputs of QwQ were at hand;
    it stands for "a 32B model that thinks longer than R1". Everything else as in deepseek-r1-benchmark.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return _exams(1.5, cap=32_768, answer=1.0)


@preset("gpt-oss-low")
@dataclass(frozen=True)
class GptOssLow:
    """gpt-oss-120b at low reasoning effort.

    Mean output 1,278 tokens, as the performance set of MLPerf Inference v6.0 has it (mlcommons/inference,
    language/gpt-oss-120b, Apache-2.0), cap 10,240. The shape is assumed: the mixtures of
    deepseek-r1-benchmark, shortened to that mean; so are prompts and Poisson arrivals at 1/s.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return _exams(0.283, cap=10_240, answer=0.8)


@preset("gpt-oss-medium")
@dataclass(frozen=True)
class GptOssMedium:
    """gpt-oss-120b at medium reasoning effort: three times the reasoning of low effort, cap 32,768.

    The factor is an assumption, not a measurement; the rest as in gpt-oss-low.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return _exams(0.876, cap=32_768, answer=0.8)


@preset("gpt-oss-high")
@dataclass(frozen=True)
class GptOssHigh:
    """gpt-oss-120b at high reasoning effort: nine times the reasoning of low effort, cap 32,768.

    The cap is that of the accuracy set of MLPerf Inference v6.0. The factor is an assumption, not a
    measurement; the rest as in gpt-oss-low.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return _exams(2.628, cap=32_768, answer=0.8)
