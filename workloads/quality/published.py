"""Published accuracies, each with its source; pass@1 of a single chain of thought unless said otherwise.

Concentration and number of wrong answers are not published. AIME's are what ``thinkcap quality fit`` says of pass@1
and cons@64 of R1-Distill-Qwen-7B and of nothing else: the fewest wrong answers that explain both figures (two), and the
concentration that goes with them. Its errors for the other distills, which were not looked at, are those of a blind
prediction: -20.9 (1.5B), -4.3 (8B), +15.8 (14B), +13.7 (32B), +9.2 points (70B) of cons@64, whose own standard error
over 30 problems is about 7. More alternatives would have come closer (six: -1.9 to +12.6), which only hindsight tells.
Those of the other benchmarks are assumptions, named so.

Convergence, the mean share of a chain after which it has settled: of MATH-500 the middle of its levels, as EvalScope measured
them of R1 (36 % to 54 %); of other benchmarks with answers that are worked out, by the law of `workloads.quality.convergence`
from R1-Distill-Qwen-7B's accuracy there; elsewhere as on MATH-500, which is an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sim.errors import InputError, Problem, nearest
from workloads.quality.convergence import MATH_500, convergence
from workloads.quality.spec import AnswerLaw

R1 = "DeepSeek-R1 README (github.com/deepseek-ai/DeepSeek-R1)"
O1 = "OpenAI, Learning to reason with LLMs (2024), via DeepSeek-R1 README and reports"
S1 = "s1: Simple test-time scaling (arXiv 2501.19393), with budget forcing, via lecture notes"
MLPERF = "MLPerf Inference v5.1 and v6.0 (github.com/mlcommons/inference), reference accuracy"


@dataclass(frozen=True)
class Benchmark:
    """What holds for every model on it: concentration, alternatives and guess are *assumed* unless noted."""

    concentration: float
    wrong_answers: int
    guess: float
    note: str
    convergence: float = MATH_500


BENCHMARKS: Mapping[str, Benchmark] = {
    "math-500": Benchmark(2.0, 4, 0.0, "assumed"),
    "aime-2024": Benchmark(
        6.725,
        2,
        0.0,
        "fitted to pass@1 and cons@64 of R1-Distill-Qwen-7B alone; 0 to 999 is not guessed",
        convergence(0.555),
    ),
    "gpqa-diamond": Benchmark(2.0, 3, 0.25, "four choices"),
    "gsm8k": Benchmark(1.0, 4, 0.0, "assumed", convergence(0.896)),
    "livecodebench": Benchmark(1.0, 8, 0.0, "assumed", convergence(0.376)),
    "mlperf-mix": Benchmark(2.0, 5, 0.1, "assumed; AIME, MATH-500, GPQA, MMLU-Pro and LiveCodeBench, exact match"),
}


@dataclass(frozen=True)
class Row:
    """One published figure."""

    model: str
    benchmark: str
    accuracy: float
    source: str
    tokens: int | None = None
    """Mean or median tokens an answer, where published with it."""
    consensus_64: float | None = None
    """cons@64, where published."""


ROWS: tuple[Row, ...] = (
    Row("gpt-4o", "math-500", 0.746, R1, 517),
    Row("gpt-4o", "aime-2024", 0.093, R1, None, 0.134),
    Row("gpt-4o", "gpqa-diamond", 0.499, R1),
    Row("gpt-4o", "livecodebench", 0.329, R1),
    Row("o1-mini", "math-500", 0.900, R1),
    Row("o1-mini", "aime-2024", 0.636, R1, None, 0.800),
    Row("o1-mini", "gpqa-diamond", 0.600, R1),
    Row("o1-mini", "livecodebench", 0.538, R1),
    Row("o1", "math-500", 0.948, O1),
    Row("o1", "aime-2024", 0.744, O1, None, 0.833),
    Row("o1", "gpqa-diamond", 0.773, O1),
    Row("deepseek-r1", "math-500", 0.973, R1),
    Row("deepseek-r1", "aime-2024", 0.798, R1),
    Row("deepseek-r1", "gpqa-diamond", 0.715, R1),
    Row("deepseek-r1", "livecodebench", 0.659, R1),
    Row("r1-distill-qwen-1.5b", "math-500", 0.839, R1),
    Row("r1-distill-qwen-1.5b", "aime-2024", 0.289, R1, None, 0.527),
    Row("r1-distill-qwen-1.5b", "gpqa-diamond", 0.338, R1),
    Row("r1-distill-qwen-1.5b", "livecodebench", 0.169, R1),
    Row("r1-distill-qwen-7b", "math-500", 0.928, R1, 4223),
    Row("r1-distill-qwen-7b", "aime-2024", 0.555, R1, None, 0.833),
    Row("r1-distill-qwen-7b", "gpqa-diamond", 0.491, R1),
    Row("r1-distill-qwen-7b", "livecodebench", 0.376, R1),
    Row("r1-distill-qwen-7b", "gsm8k", 0.896, "DEER (arXiv 2504.15895), digest", 1677),
    Row("r1-distill-llama-8b", "math-500", 0.891, R1, 2979),
    Row("r1-distill-llama-8b", "aime-2024", 0.504, R1, 15536, 0.800),
    Row("r1-distill-llama-8b", "gpqa-diamond", 0.490, R1),
    Row("r1-distill-llama-8b", "livecodebench", 0.396, R1),
    Row("r1-distill-qwen-14b", "math-500", 0.939, R1),
    Row("r1-distill-qwen-14b", "aime-2024", 0.697, R1, None, 0.800),
    Row("r1-distill-qwen-14b", "gpqa-diamond", 0.591, R1),
    Row("r1-distill-qwen-14b", "livecodebench", 0.531, R1),
    Row("r1-distill-qwen-32b", "math-500", 0.943, R1),
    Row("r1-distill-qwen-32b", "aime-2024", 0.726, R1, None, 0.833),
    Row("r1-distill-qwen-32b", "gpqa-diamond", 0.621, R1),
    Row("r1-distill-qwen-32b", "livecodebench", 0.572, R1),
    Row("r1-distill-llama-70b", "math-500", 0.945, R1),
    Row("r1-distill-llama-70b", "aime-2024", 0.700, R1, None, 0.867),
    Row("r1-distill-llama-70b", "gpqa-diamond", 0.652, R1),
    Row("r1-distill-llama-70b", "livecodebench", 0.575, R1),
    Row("qwq-32b-preview", "math-500", 0.906, R1),
    Row("qwq-32b-preview", "aime-2024", 0.440, R1, None, 0.600),
    Row("qwq-32b-preview", "gpqa-diamond", 0.545, R1),
    Row("qwq-32b-preview", "livecodebench", 0.419, R1),
    Row("deepseek-v3", "math-500", 0.902, R1),
    Row("deepseek-v3", "aime-2024", 0.392, R1),
    Row("deepseek-v3", "gpqa-diamond", 0.591, R1),
    Row("deepseek-r1", "mlperf-mix", 0.8136, MLPERF, 3886),
    Row("gpt-oss-120b", "mlperf-mix", 0.8313, MLPERF + ", high effort"),
    Row("s1-32b", "math-500", 0.930, S1),
    Row("s1-32b", "aime-2024", 0.567, S1),
    Row("s1-32b", "gpqa-diamond", 0.596, S1),
    Row("qwen3-8b", "gsm8k", 0.956, "self-consistency of Qwen3-8B at N = 10, reported notes"),
)


def law(model: str, benchmark: str, own: Mapping[str, Mapping[str, AnswerLaw]] | None = None) -> AnswerLaw:
    """Figures of *model* on *benchmark*: the user's *own* first (by model, then under ``any``), then the
    published ones; raise an InputError that says what there is.
    """
    for name in (model, "any"):
        found = (own or {}).get(name, {}).get(benchmark)
        if found is not None:
            return found
    for row in ROWS:
        if (row.model, row.benchmark) == (model, benchmark):
            shared = BENCHMARKS[benchmark]
            return AnswerLaw(
                accuracy=row.accuracy,
                concentration=shared.concentration,
                wrong_answers=shared.wrong_answers,
                guess=shared.guess,
                convergence=shared.convergence,
            )
    known = sorted({*BENCHMARKS, *(name for table in (own or {}).values() for name in table)})
    if benchmark not in known:
        raise InputError(
            Problem(
                f"unknown benchmark {benchmark!r}",
                expected="one of " + ", ".join(known),
                nearest=nearest(benchmark, known),
            )
        )
    raise InputError(
        Problem(
            f"no figure of model {model!r} on {benchmark}",
            expected=f"quality.models.{model}.{benchmark}.accuracy, or a model that has one: "
            + ", ".join(
                [
                    *(name for name, table in (own or {}).items() if benchmark in table),
                    *(row.model for row in ROWS if row.benchmark == benchmark),
                ]
            ),
        )
    )
