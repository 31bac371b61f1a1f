"""What outputs leave in the prefix cache, and how much of it is dead: blocks that no later turn ever finds.

A request that ends leaves its full blocks to the prefix cache, its reasoning and its answer among them. A chat template
that strips reasoning from later prompts makes these blocks useless: the next turn's prompt goes on with the answer at
the place where the reasoning stood, so it finds the prompt of the turn before and nothing of its output. The blocks
stay until they are evicted, and keep room from blocks that would be found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sim.results.columns import Role, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sim.results.info import PoolInfo
    from sim.results.results import Results


def left_behind(results: Results, pool: PoolInfo) -> dict[str, int]:
    """Output tokens that completed requests of the windows left in full blocks of *pool*'s prefix cache, and those of
    them that were not found by the first admission of any later turn, until the end of the run."""
    table = results.tables["requests"]
    if not pool.prefix_caching:
        return dict.fromkeys(_NAMES, 0)
    reached = _reached(results)
    rows = table.equals("pool", pool.name) & table["in_window"] & (table["role"] == Role.GENERATE)
    rows &= table["status"] == Status.COMPLETED
    prompt, thought, answer = (table[f"{name}_tokens"][rows] for name in ("prompt", "reasoning", "answer"))
    computed = prompt + thought + answer - 1  # the last token is sent, never computed
    full = np.maximum(computed // pool.block_size * pool.block_size - prompt, 0)
    found = np.minimum(np.maximum(reached[rows] - prompt, 0), full)
    left_thought, found_thought = np.minimum(full, thought), np.minimum(found, thought)
    left_answer, found_answer = full - left_thought, found - found_thought
    figures = (left_thought, left_answer, left_thought - found_thought, left_answer - found_answer)
    return {name: int(values.sum()) for name, values in zip(_NAMES, figures, strict=True)}


def _reached(results: Results) -> NDArray[np.int64]:
    """Of each request, the most tokens from its beginning that the first admission of a later turn found."""
    table = results.tables["requests"]
    size = int(table["request"].max(initial=0)) + 1
    keys = table["replication"] * size + table["request"]
    reached = np.zeros(len(keys), dtype=np.int64)
    later = np.flatnonzero(table["parent"] >= 0)
    place = np.searchsorted(keys, table["replication"][later] * size + table["parent"][later])
    np.maximum.at(reached, place, table["cached_tokens_first"][later])
    return reached


_NAMES = ("left_reasoning_tokens", "left_answer_tokens", "dead_reasoning_tokens", "dead_answer_tokens")
