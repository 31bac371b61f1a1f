"""Random cases for :mod:`sim.validation.modes`: small pools, odd settings, ties, cancels.

Sizes are small on purpose: what goes wrong in an engine goes wrong at borders (of blocks, budgets, the pool,
a step's end), and small numbers meet borders often.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any, TypeVar

from calibration.step_cost import StepCost
from sim.engine.compression import Compression
from sim.engine.settings import EngineSettings
from sim.engine.speculation import Speculation
from sim.validation.modes import ARRIVE, CANCEL, PROBE, Case, Cue

C = TypeVar("C", bound=Case)


def random_case(
    seed: int,
    *,
    plain: bool = False,
    requests: int | None = None,
    policies: tuple[str, ...] = ("fcfs", "priority"),
) -> Case:
    """Case number *seed*.

    A *plain* case is what a recording can say: synchronous, a linear clock, every request runs to its
    ``max_tokens``, nothing is cancelled.
    """
    rng = Random(seed)
    made = _requests(rng, requests or rng.choice((4, 10, 20, 40)), plain)
    return Case(_settings(rng, made, plain, policies), _cost(rng, plain), tuple(made), _script(rng, made, plain))


def compressed_case(case: Case, seed: int) -> Case:
    """*case* with a KV cache that is compressed at short intervals."""
    rng = Random(seed * 31 + 5)
    kept = rng.choice((1, 3, 8, 20))
    compression = Compression(
        kept_tokens=kept,
        interval_tokens=rng.choice((1, 2, 5, 16)),
        ratio_ppm=rng.choice((0, 0, 200_000, 700_000)),
        recent_tokens=rng.randint(0, kept),
        passes=rng.choice((0, 1, 3)),
    )
    settings = replace(
        case.settings, compression=compression, reservation="none", sliding_window=0, swap_block_ps=0, swap_blocks=0
    )
    longest = max(each["prompt_tokens"] + _visible(each) for each in case.requests)
    if rng.random() < 0.6:  # a pool that the longest request fits in only by compression
        prompt = max(each["prompt_tokens"] for each in case.requests)
        least = -(-compression.peak(prompt, longest) // settings.block_size)
        settings = replace(settings, num_gpu_blocks=min(settings.num_gpu_blocks, 1 + least + rng.choice((0, 1, least))))
    return replace(case, settings=settings)


def looking_case(case: C, seed: int) -> C:
    """*case* with requests that decode tokens now and then which are rolled back."""
    rng = Random(seed * 41 + 3)
    made = []
    for each in case.requests:
        output = each["output_tokens"]
        if rng.random() < 0.7 and output > 1:
            tokens, every = rng.choice((1, 1, 2, 3, 8)), rng.choice((0, 1, 2, 5, 9))
            first = rng.randint(1, min(output, max(every, 1)))
            most = 1 + (output - first) // every if every else 6
            looks = {"first": first, "every": every, "tokens": tokens, "count": rng.randint(0, min(most, 12))}
            more = looks["count"] * tokens
            limit = each["max_tokens"]
            each = each | {
                "output_tokens": output + more,
                "reasoning_tokens": each["reasoning_tokens"] + more,
                "max_tokens": limit if limit < 0 or limit < output else limit + rng.choice((0, 0, 10)),
                "looks": looks,
            }
        made.append(each)
    return replace(case, requests=tuple(made))


def speculative_case(case: Case, seed: int) -> Case:
    """*case* with drafts that are verified; synchronous."""
    rng = Random(seed * 37 + 11)
    speculation = Speculation(
        draft_tokens=rng.choice((1, 2, 3, 7)),
        acceptance=rng.choice((0.0, 0.4, 0.8, 1.0)),
        draft_ppm=rng.choice((0, 50_000)),
        seed=seed,
    )
    return replace(case, settings=replace(case.settings, speculation=speculation, async_scheduling=False))


def _requests(rng: Random, count: int, plain: bool) -> list[dict[str, Any]]:
    longest_prompt = rng.choice((6, 20, 60))
    longest_output = rng.choice((4, 30, 120))
    made: list[dict[str, Any]] = []
    family = rng.choice(("none", "groups", "parents", "fan-out", "mixed"))
    while len(made) < count:
        prompt = rng.randint(1, longest_prompt)
        if rng.random() < 0.3:
            prompt = max(4, prompt // 4 * 4)
        copies = rng.randint(2, 6) if family in ("fan-out", "mixed") and rng.random() < 0.3 else 1
        shared: dict[str, Any] = {}
        if copies > 1:
            shared = {"prefix_group": f"same {len(made)}", "prefix_len": prompt}
        elif family in ("groups", "mixed") and rng.random() < 0.7:
            shared = {"prefix_group": rng.randrange(3), "prefix_len": rng.randint(0, prompt)}
        elif family in ("parents", "mixed") and made and rng.random() < 0.7:
            parent = rng.randrange(max(0, len(made) - 6), len(made))
            there = made[parent]["prompt_tokens"] + min(_visible(made[parent]), made[parent]["output_tokens"])
            prefix = rng.randint(1, there)
            prompt = prefix + rng.randint(0, 6) if rng.random() < 0.8 else max(prompt, prefix)
            shared = {"parent": parent, "prefix_len": prefix}
        for _ in range(copies):
            output = 1 if rng.random() < 0.08 else rng.randint(1, longest_output)
            limit, kind = output, rng.random()
            if not plain and kind < 0.3:
                limit = output + rng.randint(1, 20)
            elif not plain and kind < 0.4:
                limit = rng.randint(1, output)
            elif not plain and kind < 0.5:
                limit = -1
            made.append(
                {
                    "prompt_tokens": prompt,
                    "output_tokens": output,
                    "max_tokens": limit,
                    "reasoning_tokens": rng.choice((0, 0, output, rng.randint(0, output))),
                    "priority": rng.choice((0, 0, 1, 2)),
                    **shared,
                }
            )
    return made[:count]


def _visible(request: dict[str, Any]) -> int:
    return request["output_tokens"] if request["max_tokens"] < 0 else int(request["max_tokens"])


def _settings(rng: Random, made: list[dict[str, Any]], plain: bool, policies: tuple[str, ...]) -> EngineSettings:
    block = rng.choice((1, 2, 4, 4, 16))
    longest = max(each["prompt_tokens"] + _visible(each) for each in made)
    chunked = rng.random() < 0.8
    limit = 1 << 17
    if rng.random() < 0.25:
        limit = max(max(each["prompt_tokens"] for each in made) + 1, int(longest * rng.uniform(0.5, 1.1)))
    elif any(each["max_tokens"] < 0 for each in made):
        limit = longest + rng.randint(0, 40)
    least = -(-(min(limit, longest + (longest if limit < 1 << 17 else 0))) // block)
    blocks = 1 + least + rng.choice((0, 1, rng.randint(0, least), least * rng.randint(1, 3), least * 20))
    budget = rng.choice((3, 8, 30, 100, 2048))
    if not chunked:
        budget = max(budget, longest + 1)
    policy = rng.choice(policies)
    full = rng.random() < 0.7
    return EngineSettings(
        num_gpu_blocks=blocks,
        block_size=block,
        max_num_seqs=rng.choice((1, 3, 8, 64)),
        max_num_batched_tokens=budget,
        max_model_len=limit,
        enable_prefix_caching=rng.random() < 0.6,
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice((0, 0, 1, 4, 17)) if chunked else 0,
        long_prefill_token_threshold_adaptive=rng.random() < 0.5,
        policy=policy,
        watermark=rng.choice((0.0, 0.0, 0.05, 0.2)),
        scheduler_reserve_full_isl=full,
        async_scheduling=not plain and rng.random() < 0.5,
    )


def _cost(rng: Random, plain: bool) -> StepCost:
    if plain:
        token, context = rng.randint(0, 5), rng.choice((0, 0, 1, 3))
        return StepCost(
            host_ps=rng.randint(1, 60),
            linear_ps=(0,),
            linear_slope_ps=token + context,
            kv_ps=context,
            cached_ps=context,
        )
    table = [0]
    for _ in range(rng.choice((0, 5, 50))):
        table.append(table[-1] + rng.choice((0, 0, 1, 7)))
    return StepCost(
        host_ps=rng.choice((1, 10, 97, 5_000_011)),
        linear_ps=tuple(table),
        linear_slope_ps=rng.randint(0, 5),
        seq_ps=rng.randint(0, 2),
        kv_ps=rng.choice((0, 1, 2, 53)),
        half_pair_ps=rng.randint(0, 1),
        cached_ps=rng.randint(0, 2),
        mixed_ps=rng.randint(0, 3),
    )


def _script(rng: Random, made: list[dict[str, Any]], plain: bool) -> tuple[Cue, ...]:
    gap = rng.choice((0, 20, 200, 2_000, 20_000))
    if rng.random() < 0.1:
        gap = 40_000_000
    ties = rng.choice((0.0, 0.3, 0.8))

    def cue(kind: str, request: int = -1) -> Cue:
        after = 0 if rng.random() < 0.15 else rng.randint(0, 2 * gap)
        return Cue(after, kind, request, rng.random() < ties)

    script: list[Cue] = []
    open_cancels: list[int] = []
    same: Any = None
    for index, request in enumerate(made):
        again = request.get("prefix_group")
        if again is not None and again == same and isinstance(again, str):
            script.append(Cue(0, ARRIVE, index))
        else:
            script.append(cue(ARRIVE, index))
        same = again
        if plain:
            continue
        if rng.random() < 0.1:
            open_cancels.append(index)
        while rng.random() < 0.2:
            script.append(cue(PROBE))
        if open_cancels and rng.random() < 0.4:
            script.append(cue(CANCEL, open_cancels.pop(0)))
    script += [cue(CANCEL, index) for index in open_cancels]
    if not plain:
        script += [cue(PROBE) for _ in range(3)]
    return tuple(script)
