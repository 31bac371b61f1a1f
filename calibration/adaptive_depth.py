"""What a step costs when not every token runs every layer once: early-exit layers, mixture of depths, recurrent depth.

A token leaves after a share of the layers, or runs them more than once; how many tokens do what is given, and independent
from token to token. Of ``n`` tokens in a step each slice of the depth is run by ``n s``, where ``s`` is the share that comes
so far, and its weights are read as soon as one of them does::

    linear'(n) = sum over slices of width w:  w (1 - (1 - s)^n) linear(max(1, n s / (1 - (1 - s)^n)))

so that a lone token saves what it leaves out, and a large batch saves arithmetic but hardly any reading of weights. Attention
reads the context in the layers that are run, hence in proportion to the mean depth. The KV cache holds all layers of every
token: a layer that was left out is filled from the last one that ran (as CALM does, arXiv 2207.07061), at no cost here, and
one that runs again overwrites its own. Prompts run to the same depths.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from calibration.step_cost import StepCost

Depths = tuple[tuple[float, float], ...]
"""(depth over the model's own, share of tokens), ascending and adding up to 1."""


def mean_depth(depths: Depths) -> float:
    """Layers that a token runs in the mean, over those that the model has."""
    return sum(depth * share for depth, share in depths)


def at_depths(cost: StepCost, depths: Depths) -> StepCost:
    """*cost* when tokens run to *depths*; the same object where all run every layer once.

    >>> at_depths(StepCost(host_ps=5, linear_ps=(0, 100), linear_slope_ps=10), ((0.5, 0.5), (1.0, 0.5))).linear(1)
    75
    """
    if all(depth == 1.0 for depth, share in depths if share):
        return cost
    mean = mean_depth(depths)
    slices = []
    for low, high in pairwise([0.0, *(depth for depth, _ in depths)]):
        reach = sum(share for depth, share in depths if depth >= high)
        if high > low and reach > 0:
            slices.append((high - low, min(1.0, reach)))
    table = [0]
    for tokens in range(1, len(cost.linear_ps)):
        total = 0.0
        for width, reach in slices:
            run = 1 - (1 - reach) ** tokens
            total += width * run * _between(cost, tokens * reach / run)
        table.append(max(table[-1], round(total)))
    table[0] = min([cost.linear(0), *table[1:2]])
    return replace(
        cost,
        linear_ps=tuple(table),
        linear_slope_ps=round(cost.linear_slope_ps * mean),
        kv_ps=round(cost.kv_ps * mean),
        half_pair_ps=round(cost.half_pair_ps * mean),
        cached_ps=round(cost.cached_ps * mean),
    )


def _between(cost: StepCost, tokens: float) -> float:
    """``cost.linear`` of a mean number of tokens."""
    below = int(tokens)
    low = cost.linear(below)
    return low + (tokens - below) * (cost.linear(below + 1) - low) if tokens > below else low
