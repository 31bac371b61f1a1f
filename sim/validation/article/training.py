"""Training a reasoning model: memory of PPO, GRPO and SFT, and what a value pass takes."""

from __future__ import annotations

from calibration.architecture import architecture
from sim.planning.training import METHODS, Setting
from sim.validation.article.rows import Row, Table, claims, judge


def table() -> Table:
    """Arithmetic alone: `thinkcap economics training` has the rest."""
    said = claims()["training_for_reasoning"]
    model = architecture("deepseek-r1")
    states = {}
    for method in METHODS:
        setting = Setting(method, model)
        states[method] = sum(held.bytes for held in setting.models())
    policy = float(states["sft"])
    rows = []
    for method in METHODS:
        ratio = states[method] / policy
        article = float(said["memory"][method])
        rows.append(
            Row(f"{method.upper()}: model states over the policy's alone", "x", article, ours=ratio,
                verdict=judge(article, ratio),
                why={"ppo": "policy and value model are trained, reference and reward model only held",
                     "grpo": "the reference model is held beside the policy", "sft": "one model"}[method])
        )  # fmt: skip
    dense, active = 2 * model.parameters / 1e12, 2 * model.active_parameters / 1e12
    rows += [
        Row("a pass of 671 billion parameters over one token, were they all used", "TFLOP", said["value_pass_tflop"],
            ours=dense, verdict=judge(said["value_pass_tflop"], dense)),
        Row("the same of DeepSeek-R1, which uses 37 billion a token", "TFLOP", said["value_pass_tflop"], ours=active,
            verdict=judge(said["value_pass_tflop"], active),
            why="a mixture of experts; and one pass scores all tokens of a trace, it is not repeated for each"),
    ]  # fmt: skip
    return Table(
        "training_for_reasoning",
        "What does PPO take that GRPO does not?",
        f"With the models that each holds, PPO takes {states['ppo'] / policy:.2f} and GRPO {states['grpo'] / policy:.2f} "
        f"times the policy's states; a value pass takes {active:.3f} TFLOP a token, not 1.3.",
        tuple(rows),
        ("thinkcap economics training deepseek-r1",),
        ("Training speeds (2 to 3 times, 5 times) depend on lengths and the cluster and are not judged here.",),
        said["section"],
    )
