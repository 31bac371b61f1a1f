"""What training a reasoning model takes: memory by GPU and model passes of SFT, GRPO and PPO.

Sources: 16 bytes a trained parameter with mixed-precision Adam (2 weights, 2 gradients, 4 each for the master copy
and two moments; Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054), all of it sharded over the GPUs (ZeRO stage 3);
activations of a layer 34 s h bytes (attention not materialised), or 2 s h with full recomputation (Korthikanti et
al. 2022, arXiv 2205.05198); PPO holds policy, reference, reward and value model, GRPO none of the value model (Shao
et al. 2024, DeepSeekMath, arXiv 2402.03300); a forward pass takes 2 N operations a token, a backward pass 4 N.

Memory counts all parameters, operations those that a token uses: a mixture of experts as large as DeepSeek-R1 (671
billion, 37 of them active) takes 0.07 TFLOP a token, not 1.3, and one value pass scores all tokens of a trace.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from calibration.architecture import Architecture
from calibration.hardware import Hardware
from sim.errors import DoesNotFit, InputError, Problem

Method = Literal["sft", "grpo", "ppo"]
METHODS: tuple[Method, ...] = ("sft", "grpo", "ppo")

WEIGHTS, GRADIENTS, OPTIMIZER = 2, 2, 12
"""Bytes a parameter."""
ACTIVATION = {"full": 2, "none": 34}
"""Bytes a token, layer and unit of width, by how much is recomputed."""
LOGIT_TOKENS = 4096
"""Logits are made for so many tokens at a time, in 32 bits, with their gradient."""


@dataclass(frozen=True)
class Held:
    """One model during training."""

    role: str
    parameters: int
    active_parameters: int
    trained: bool

    @property
    def bytes(self) -> int:
        """Weights, and for a trained one gradients and optimiser state."""
        return self.parameters * (WEIGHTS + (GRADIENTS + OPTIMIZER if self.trained else 0))


@dataclass(frozen=True)
class Setting:
    """A training step: *prompts* with *samples* answers each, of *prompt_tokens* and *response_tokens* in the mean.

    The longest sequence (*longest_tokens*) says what activations take: one sequence a GPU at a time, cut over
    *context_parallel* GPUs.
    """

    method: Method
    model: Architecture
    prompts: int = 64
    samples: int = 8
    prompt_tokens: int = 512
    response_tokens: int = 8192
    longest_tokens: int = 32_768
    context_parallel: int = 1
    recompute: Literal["full", "none"] = "full"
    epochs: int = 1
    """Passes over each batch."""
    reference: bool = True
    """A penalty on the distance to a reference model (KL)."""
    reward: Architecture | None = None
    """A reward model; None: answers are checked by a rule."""
    value: Architecture | None = None
    """PPO's value model; None: as large as the policy."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(Problem(f"method {self.method!r}", expected=", ".join(METHODS)))
        for name in (
            "prompts", "samples", "prompt_tokens", "response_tokens", "longest_tokens", "context_parallel", "epochs",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise InputError(Problem(f"{name} is {getattr(self, name)}", expected="at least 1"))

    @property
    def tokens(self) -> int:
        """Tokens of all sequences of a step; SFT learns from one answer a prompt."""
        count = self.prompts * (1 if self.method == "sft" else self.samples)
        return count * (self.prompt_tokens + self.response_tokens)

    def models(self) -> tuple[Held, ...]:
        """Everything that is held."""
        held = [_held("policy", self.model, trained=True)]
        if self.method != "sft":
            if self.reference:
                held.append(_held("reference", self.model))
            if self.reward is not None:
                held.append(_held("reward", self.reward))
        if self.method == "ppo":
            held.append(_held("value", self.value or self.model, trained=True))
        return tuple(held)


def _held(role: str, model: Architecture, *, trained: bool = False) -> Held:
    return Held(role, model.parameters, model.active_parameters, trained)


@dataclass(frozen=True)
class Pass:
    """Passes of one model over the sequences of a step."""

    role: str
    what: str
    forward: int
    backward: int
    flops: float


def passes(setting: Setting) -> tuple[Pass, ...]:
    """What is computed in a step beside generating the answers."""
    done: list[Pass] = []

    def add(held: Held, what: str, forward: int, backward: int) -> None:
        flops = held.active_parameters * setting.tokens * (2.0 * forward + 4.0 * backward)
        done.append(Pass(held.role, what, forward, backward, flops))

    for held in setting.models():
        if held.role == "policy":
            if setting.method != "sft":
                add(held, "probabilities of the tokens generated", 1, 0)
            add(held, "update", setting.epochs, setting.epochs)
        elif held.role == "value":
            add(held, "values of all tokens, in one pass", 1, 0)
            add(held, "update", setting.epochs, setting.epochs)
        else:
            add(held, "probabilities for the penalty" if held.role == "reference" else "rewards", 1, 0)
    return tuple(done)


@dataclass(frozen=True)
class Memory:
    """Bytes on each of *gpus* GPUs."""

    gpus: int
    states: dict[str, float]
    """By model: weights, gradients and optimiser state, its share of them."""
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All together."""
        return sum(self.states.values()) + self.activations + self.logits


def memory(setting: Setting, gpus: int) -> Memory:
    """What lies on each of *gpus* GPUs."""
    model = setting.model
    own = math.ceil(setting.longest_tokens / setting.context_parallel)
    per_layer = ACTIVATION[setting.recompute] * own * model.hidden
    working = ACTIVATION["none"] * own * model.hidden if setting.recompute == "full" else 0
    return Memory(
        gpus=gpus,
        states={held.role: held.bytes / gpus for held in setting.models()},
        activations=float(per_layer * model.layers + working),
        logits=float(2 * 4 * min(own, LOGIT_TOKENS) * model.vocab),
    )


def fewest_gpus(setting: Setting, hardware: Hardware, *, utilization: float = 0.9, most: int = 65_536) -> Memory:
    """The smallest number of GPUs (a power of two within a node, whole nodes beyond) on which a step fits.

    Raise DoesNotFit when activations alone are too large, whatever the number.
    """
    usable = hardware.memory_bytes * utilization
    node = hardware.gpus_per_node
    sizes = [size for size in (1, 2, 4, 8, 16) if size < node] + list(range(node, most + 1, node))
    fixed = memory(setting, 1)
    if fixed.activations + fixed.logits >= usable:
        raise DoesNotFit(
            f"activations of {setting.longest_tokens:,} tokens take {(fixed.activations + fixed.logits) / 1e9:.1f} GB "
            f"of the {usable / 1e9:.1f} GB of {hardware.name}: cut sequences over more GPUs (context parallel) or "
            "recompute"
        )
    for size in sizes:
        if size % setting.context_parallel == 0 and memory(setting, size).total <= usable:
            return memory(setting, size)
    raise DoesNotFit(f"does not fit on {most:,} GPUs of {hardware.name}")


def training_seconds(
    setting: Setting, hardware: Hardware, gpus: int, *, utilization: float = 0.4, dtype: str = "bf16"
) -> float:
    """Time of the passes of a step on *gpus* GPUs at that share of their peak; answers are generated elsewhere."""
    return sum(each.flops for each in passes(setting)) / (hardware.peak_flops(dtype) * utilization * gpus)


def beside(setting: Setting, method: Method) -> Setting:
    """The same step by another *method*."""
    return replace(setting, method=method)
