"""Which requests of a load continue an earlier one, where the source hides it but its client's order tells.

LMBench's ShareGPT client walks through conversations in turns: all first questions, then the second of each conversation
that has one, and so on. A prompt holds the whole conversation so far, so it is longer than the prompt before it by that
one's answer and a new question; which request continues which is therefore told by the lengths, round after round, in
order. Only what was asked is used, nothing that was measured.

    >>> import numpy as np
    >>> prompts = np.array([500, 900, 300, 720, 1130, 940])  # three conversations; the third ends after one round
    >>> parents(prompts, np.full(6, 200)).tolist()
    [-1, -1, -1, 0, 1, 3]
"""

from __future__ import annotations

import numpy as np

from sim.validation.accuracy_cases import FloatArray, IntArray

QUESTION, SPREAD = 30.0, 1.1
"""Median tokens of a new question in a conversation, and its log-normal spread."""
ENDED = 2.5
"""What the end of a conversation costs beside an unlikely length of a question (minus its log likelihood)."""
NONE = -1


def parents(prompt_tokens: IntArray, output_tokens: IntArray) -> IntArray:
    """The request that each one continues, `NONE` for first rounds; all `NONE` where no order of rounds explains the
    lengths better than chance.
    """
    held = (prompt_tokens + output_tokens).astype(float)
    prompts = prompt_tokens.astype(float)
    count = len(prompts)
    best: tuple[float, IntArray] = (0.5, np.full(count, NONE, dtype=np.int64))
    for first in _first_rounds(prompts, held):
        found = _rounds(prompts, held, first)
        follows = found != NONE
        good = follows & (prompts - held[found] >= 0) & (prompts - held[found] < 20 * QUESTION)
        share = float(good.sum()) / max(1, count - first)
        if share > best[0]:
            best = (share, found)
    return best[1]


def _first_rounds(prompts: FloatArray, held: FloatArray) -> list[int]:
    """The few likeliest numbers of conversations: how far apart requests continue one another most often (conversations
    that have at least three rounds each stay that far apart at first)."""
    top = len(prompts) // 2
    score = np.zeros(top + 1)
    for apart in range(1, top + 1):
        question = prompts[apart:] - held[:-apart]
        score[apart] = float(((question >= 0) & (question < 10 * QUESTION)).mean())
    return [int(apart) for apart in np.argsort(-score[1:], kind="stable")[:5] + 1]


def _rounds(prompts: FloatArray, held: FloatArray, first: int) -> IntArray:
    """Parents with *first* conversations, each round aligned with the one before it in order."""
    count = len(prompts)
    found = np.full(count, NONE, dtype=np.int64)
    last, at = list(range(first)), first
    while at < count and last:
        pairs = _align(prompts[at : at + len(last)], held[last])
        if not pairs:
            break
        for place, (request, member) in enumerate(pairs):
            found[at + request] = last[member]
            pairs[place] = (at + request, member)
        last = [request for request, _ in pairs]
        at += len(pairs)
    return found


def _align(prompts: FloatArray, held: FloatArray) -> list[tuple[int, int]]:
    """The next round: pairs of (request, member of the round before) in order, the likeliest that takes every member
    either on or out."""
    rows, members = len(prompts), len(held)
    question = prompts[:, None] - held[None, :]
    off = (np.log(np.maximum(question, 1.0)) - np.log(QUESTION)) / SPREAD
    cost = np.where(question >= 0, off**2 / 2, np.inf)
    best = np.full((members + 1, rows + 1), np.inf)
    best[0, 0] = 0.0
    took = np.zeros((members + 1, rows + 1), dtype=bool)
    for member in range(members):
        ends = best[member] + ENDED
        goes = np.full(rows + 1, np.inf)
        goes[1:] = best[member, :-1] + cost[:, member]
        took[member + 1] = goes < ends
        best[member + 1] = np.minimum(goes, ends)
    request = int(np.argmin(best[members]))
    pairs = []
    for member in range(members, 0, -1):
        if took[member, request]:
            request -= 1
            pairs.append((request, member - 1))
    return pairs[::-1]
