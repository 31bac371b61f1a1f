"""What means hide: what sizing by mean lengths would have bought, and how that does with the real lengths."""

from __future__ import annotations

from typing import Any

from sim.planning.design import Sizes, by_arithmetic
from sim.planning.lengths import means
from sim.planning.point import Twist
from sim.planning.sizing import HALVE, Sized, Sizer
from sim.planning.tables import target_data


def means_hide(sizer: Sizer, winner: Sized, needed: Sizes) -> dict[str, Any]:
    """What two ways of sizing by mean lengths would have bought, and what that does with the real lengths."""
    from workloads.source import build

    candidate = winner.candidate
    twist = Twist(mean_lengths=True)
    simulated = sizer.size([winner], exactly=HALVE, twist=twist)[0]
    assert candidate.scenario is not None
    prompt, reasoning, answer = means(build(sizer.base.workload, seed=sizer.base.seed))
    arithmetic = tuple(by_arithmetic(candidate.scenario, pool, sizer.rate) for pool in candidate.scale[:1])
    ways: list[dict[str, Any]] = []
    for way, sizes in (("arithmetic", arithmetic if len(needed) == 1 else None), ("simulated", simulated)):
        if sizes is None:
            continue
        judgement = sizer.bench.judge([sizer.asked(candidate, sizes)], exactly=HALVE)[0]
        ways.append(
            {
                "way": way,
                "replicas": dict(zip(candidate.scale, sizes, strict=True)),
                "too_optimistic": sum(needed) / sum(sizes),
                "meets_with_real_lengths": judgement.meets,
                "overloaded_with_real_lengths": judgement.overloaded,
                **target_data(judgement.deciding),
            }
        )
    block = build(sizer.base.workload, seed=sizer.base.seed).block(0)
    assert block is not None
    import numpy as np

    output = np.sort(block.num_decode_tokens)[::-1]
    top = max(1, len(output) // 10)
    return {
        "mean_prompt_tokens": prompt,
        "mean_reasoning_tokens": reasoning,
        "mean_answer_tokens": answer,
        "median_output_tokens": float(np.median(output)),
        "p99_output_tokens": float(np.quantile(output, 0.99)),
        "tokens_of_longest_tenth": float(output[:top].sum() / max(output.sum(), 1)),
        "ways": ways,
    }
