"""Services without reasoning, to compare with: chat, code completion, an agent with tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.presets import preset
from workloads.spec import WorkloadSpec


def _mixture(parts: list[tuple[float, float, float]], low: float, high: float) -> dict[str, Any]:
    components = [{"weight": w, "median": m, "sigma": s} for w, m, s in parts]
    return {"law": "mixture", "components": components, "min": low, "max": high}


@preset("azure-chat")
@dataclass(frozen=True)
class AzureChat:
    """Conversations on Azure in November 2023: prompt median 1,020, output median 129 tokens, 5.5/s.

    Mixtures fitted by EM to the 19,366 rows of AzureLLMInferenceTrace_conv (Azure/AzurePublicDataset, CC BY
    4.0, with Splitwise, ISCA 2024); gaps are Gamma with the measured CV of 1.09. Prompt and output are
    independent (measured rank correlation 0.07).
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        prompt = [
            (0.2074, 250.0, 1.10),
            (0.2307, 398.2, 0.038),
            (0.3994, 1092.0, 0.0986),
            (0.1625, 3055.0, 0.3665),
        ]
        output = [
            (0.1422, 66.83, 0.936),
            (0.5330, 98.35, 0.387),
            (0.2746, 405.4, 0.0481),
            (0.0502, 513.4, 0.135),
        ]
        return {
            "arrivals": {"process": "gamma", "cv": 1.09},
            "rate": "5.53/s",
            "lengths": {"prompt": _mixture(prompt, 2, 4200), "answer": _mixture(output, 7, 1000)},
        }


@preset("azure-code")
@dataclass(frozen=True)
class AzureCode:
    """Code completion on Azure in November 2023: prompt median 1,469, output median 13 tokens, 2.6/s, in
    bursts.

    Mixtures of two lognormals fitted to the 8,819 rows of AzureLLMInferenceTrace_code
    (Azure/AzurePublicDataset, CC BY 4.0, with Splitwise, ISCA 2024): KS 0.029 and 0.034; gaps are Gamma with
    the CV of 11.2 measured within ten minutes.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        prompt = [(0.31, 249.6, 1.31), (0.69, 2100.6, 0.72)]
        output = [(0.66, 10.59, 0.38), (0.34, 36.6, 0.90)]
        return {
            "arrivals": {"process": "gamma", "cv": 11.2},
            "rate": "2.57/s",
            "lengths": {"prompt": _mixture(prompt, 3, 7437), "answer": _mixture(output, 1, 1899)},
        }


@preset("mooncake-agent")
@dataclass(frozen=True)
class MooncakeAgent:
    """An agent with tools, after Mooncake: prompts of 8,600 tokens in the mean, mostly shared, outputs of
    180.

    The means (8,596 and 182 tokens over 23,608 requests) are those of the tool-and-agent trace of Mooncake
    (kvcache-ai/Mooncake, FAST 2025, Apache-2.0); the output's shape is a mixture fitted to its synthetic
    trace. Assumed: 40 system prompts of 5,100 tokens with Zipf popularity, so that about 59 % of prompt
    tokens can be found in an endless prefix cache; new tokens lognormal with sigma 1.1; Poisson arrivals at
    6.6/s.
    """

    def parts(self, asked: WorkloadSpec, base: Path | None) -> Mapping[str, Any]:
        return {
            "arrivals": "poisson",
            "rate": "6.6/s",
            "lengths": {
                "prompt": {"law": "lognormal", "mean": 3650, "sigma": 1.1, "min": 32, "max": 120_000},
                "answer": _mixture([(0.57, 18.0, 1.30), (0.43, 314.0, 0.58)], 1, 2000),
            },
            "shared_prefix": {"groups": 40, "tokens": {"law": "lognormal", "median": 5000, "sigma": 0.2}},
        }
