"""Random cases with all that a policy may look at: predictions, deadlines, clients, phases; and every kind of
memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from sim.engine.request import Request
from sim.validation.modes import Case, compare, differences, run
from sim.validation.random_cases import compressed_case, looking_case, random_case

OPTIONS: dict[str, list[dict[str, Any]]] = {
    "chunked_reasoning": [
        {"quantum_tokens": 5},
        {"quantum_tokens": 3, "newcomers_first": False},
        {"quantum_tokens": 4, "between_chunks": "recompute", "newcomers_first": False},
        {"quantum_tokens": 7, "between_chunks": "host"},
    ],
    "edf": [{}, {"preempt": True}],
    "mlfq": [{}, {"quantum_tokens": 4, "starvation_s": 5e-8}],
    "pascal": [{}, {"first": "reasoning", "reading_tokens_per_s": 3e9}],
    "sarathi": [{}, {"chunk_size": 4}],
    "sglang": [{}, {"order": "fcfs", "new_token_ratio": 0.02}],
    "srpt": [{}, {"factor": 1.0}],
}
"""Options beside the defaults that are worth a test."""

STARVATION_FREE = ("edf", "mlfq", "orca", "pascal", "sarathi", "sglang", "static", "vllm", "vtc")


@dataclass(frozen=True)
class DressedCase(Case):
    """A case whose requests have what predictor and gateway write into them."""

    extras: tuple[dict[str, int], ...] = ()

    def make_requests(self) -> list[Request]:
        made = super().make_requests()
        for request, extra in zip(made, self.extras, strict=True):
            for name, value in extra.items():
                setattr(request, name, value)
        return made


def dressed_case(seed: int, *, memory: str = "plain", looks: bool = False) -> DressedCase:
    """Case number *seed*; *memory* is ``plain``, ``swap``, ``reserve``, ``window``, ``host``, ``all`` or ``compress``; with
    *looks* requests decode tokens now and then that are rolled back.
    """
    case, rng = random_case(seed), Random(seed * 7 + 1)
    if memory == "compress":
        case = compressed_case(case, seed)
    requests, extras = [], []
    for options in case.requests:
        output = options["output_tokens"]
        requests.append(
            {**options, "client": rng.randrange(3), "reasoning_tokens": rng.choice((0, output // 2, output))}
        )
        extra = {
            "predicted_tokens": rng.choice((-1, output, rng.randint(1, 150))),
            "refine_after": rng.choice((0, 0, 5)),
            "refined_tokens": rng.randint(1, 100),
        }
        if rng.random() < 0.7:
            extra["deadline_ps"] = rng.randint(1, 200_000)
        extras.append(extra)
    made = DressedCase(_memory(case.settings, memory, rng), case.cost, tuple(requests), case.script, tuple(extras))
    return looking_case(made, seed) if looks else made


def pressed_case(seed: int) -> DressedCase:
    """Case number *seed* in paged memory that is short most of the time: few requests fit beside the longest, all come in
    order of their arrival or their keys, and nobody's prompt is held back.
    """
    case, rng = dressed_case(seed), Random(seed * 11 + 3)
    requests = tuple(
        {**each, "max_tokens": each["output_tokens"] if each["max_tokens"] < 0 else each["max_tokens"]}
        for each in case.requests
    )
    size = case.settings.block_size
    least = -(-max(each["prompt_tokens"] + each["max_tokens"] for each in requests) // size)
    settings = replace(
        case.settings,
        num_gpu_blocks=1 + least + rng.choice((0, 1, least // 4, least // 2, least)),
        max_num_seqs=rng.choice((4, 64, 64)),
        max_num_batched_tokens=max(case.settings.max_num_batched_tokens, rng.choice((12, 100))),
        max_model_len=1 << 17,
        long_prefill_token_threshold=0,
        watermark=rng.choice((0.0, 0.0, 0.01)),
        policy="fcfs",
    )
    extras = tuple({**each, "deadline_ps": rng.randint(1, 200_000)} for each in case.extras)
    return replace(case, settings=settings, requests=requests, extras=extras)


def _memory(settings: Any, kind: str, rng: Random) -> Any:
    changes: dict[str, Any] = {}
    if kind in ("swap", "all"):
        changes["swap_block_ps"] = rng.choice((1, 50))
        changes["swap_blocks"] = rng.choice((3, 20, 1000))
    if kind in ("reserve", "all"):
        changes["reservation"] = rng.choice(("max_tokens", "predicted"))
    if kind in ("window", "all"):
        size = settings.block_size
        changes["sliding_window"] = rng.choice((size, 2 * size, 5 * size, 5 * size, 1, size + 1, 3 * size - 1))
        changes["sliding_groups"] = rng.choice((1, 1, 2, 5))
    if kind in ("reserve", "window", "all"):
        changes["enable_prefix_caching"] = False
    if kind == "host":
        changes["enable_prefix_caching"] = True
        changes["host_blocks"] = rng.choice((2, 10, 60, 5000))
        changes["host_block_ps"] = rng.choice((1, 30))
        changes["swap_block_ps"], changes["swap_blocks"] = rng.choice(((0, 0), (0, 0), (5, 20)))
    if kind == "all" and rng.random() < 0.5:
        changes["reservation"] = "none"
    return replace(settings, **changes)


def preemptions_of_both(case: DressedCase, seed: int, plain: Callable[[], Any], kept: Callable[[], Any]) -> int:
    """How often the scheduler *plain* preempts in *case*; *kept* decides the same in both modes."""
    expected = run(case, plain, stepwise=True, most_steps=4_000)
    got, _, found = compare(case, kept, most_steps=4_000)
    assert not found, f"seed {seed}: " + "\n".join(found)
    assert expected.endless == got.endless
    if not expected.endless:
        found = differences(expected, got)
        assert not found, f"seed {seed}: " + "\n".join(found)
    return expected.seen["preemptions"]
