"""Conversations, shared prefixes and recurring prompts of a trace as keys of a spec."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.conversations import Structure
from workloads.fitting.lengths import length_law
from workloads.fitting.nearness import by_quantiles
from workloads.fitting.plain import digits, plain

FloatArray = npt.NDArray[np.float64]

_LEAST_TURNS = 200
_EARLY = 0.9
_FEW = 20
_LEAST_REPEATS = 30
_LEAST_SHARE = 0.01
_LEAST_GROUPS = 20


def sessions_of(structure: Structure, clients: npt.NDArray[np.integer], last_s: float) -> dict[str, Any]:
    """Turns, pauses and new tokens of the conversations of *clients*, or of all where these are few, until *last_s*."""
    said, last = structure.said, structure.last
    if np.isin(said[:, 0], clients).sum() >= _LEAST_TURNS:
        said, last = said[np.isin(said[:, 0], clients)], last[np.isin(last[:, 0], clients)]
    # What follows a turn near the trace's end may lie beyond it: turns before its last tenth tell how they go on.
    early, ended = said[said[:, 7] <= _EARLY * last_s], last[last[:, 2] <= _EARLY * last_s]
    if len(early) < _LEAST_TURNS:
        early, ended = said, last
    kept = _reasoning_kept(said)
    context = said[:, 4] if kept else said[:, 3]
    new = said[:, 2] - context
    again = new < 1
    keys: dict[str, Any] = {
        "turns": plain(_turns_law(early[:, 8], ended[:, 1])),
        "think_time": plain(by_quantiles(np.maximum(early[:, 1], 0.0))),
        "retries": digits(float(again.mean()), 3),
    }
    back = said[:, 2] < 0
    if back.any():
        keeps = np.clip(1.0 + said[again, 2] / said[again, 6], 0.0, 1.0)
        keys["retry_keeps"] = plain(by_quantiles(keeps))
    if not again.all():
        keys["new_tokens"] = plain(length_law(new[~again]))
    return keys | ({"reasoning": "kept"} if kept else {})


def _reasoning_kept(said: FloatArray) -> bool:
    """Whether later prompts hold what was thought before: they share more than prompt and answer, or grow by that much."""
    thought = said[:, 4] - said[:, 3]
    telling = said[thought > 0]
    return bool(len(telling)) and float((telling[:, 2] > telling[:, 4]).mean()) > 0.9


def _turns_law(went_on: FloatArray, ended: FloatArray) -> Any:
    """Numbers of turns as a law of quantiles whose draws, rounded, are as often each number.

    From the turns (by number, two and more) after which a conversation *went_on* and those that *ended* it: the product
    of the chances to go on, pooled where turns are few.
    """
    from workloads.laws import Empirical

    most = int(max(went_on.max(initial=1), ended.max(initial=2))) + 1
    more = np.bincount(went_on[went_on >= 2].astype(np.int64), minlength=most)
    all_of = more + np.bincount(ended.astype(np.int64), minlength=most)
    alive, numbers, shares = 1.0, [], []
    for turn in range(2, most):
        pooled = slice(turn, None) if all_of[turn] < _FEW else slice(turn, turn + 1)
        at_risk = int(all_of[pooled].sum())
        goes_on = float(more[pooled].sum()) / at_risk if at_risk and turn < most - 1 else 0.0
        numbers.append(turn)
        shares.append(alive * (1.0 - goes_on))
        alive *= goes_on
    values, counts = np.array(numbers, np.float64), np.array(shares)
    values, counts = values[counts > 0], counts[counts > 0]
    ends = np.cumsum(counts) / counts.sum()
    quantiles: dict[float, float] = {0.0: float(values[0])}
    for value, begin, end in zip(values.tolist(), [0.0, *ends[:-1].tolist()], ends.tolist(), strict=True):
        if begin > 0:
            quantiles.setdefault(round(begin + 1e-6, 7), value)
        quantiles[round(end, 7)] = value
    return Empirical(quantiles=dict(sorted(quantiles.items())))


def mean_turns(sessions: dict[str, Any]) -> float:
    """Mean number of turns as a spec's source has it."""
    from workloads.build import turns_of
    from workloads.spec import Sessions

    return turns_of(Sessions.model_validate(sessions))


def extras_of(structure: Structure, members: list[dict[str, Any]], notes: list[str]) -> dict[str, Any]:
    """Shared prefixes and recurring prompts, for all clients together; spreads within a prompt go into the *members*."""
    keys: dict[str, Any] = {}
    first = structure.first_prompts
    shared = sum(structure.groups.values())
    if first and shared / first >= _LEAST_SHARE and structure.group_tokens:
        popular = np.array(sorted(structure.groups.values(), reverse=True), np.float64)
        sizes = np.array(structure.group_tokens, np.float64)
        keys["shared_prefix"] = {
            "groups": len(popular),
            "tokens": digits(float(np.median(sizes)), 6) if len(sizes) < _LEAST_GROUPS else plain(by_quantiles(sizes)),
            "share": digits(min(shared / first, 1.0), 4),
            "skew": digits(_skew(popular), 3),
            "within_prompt": True,
        }
    prompts = structure.prompts
    if prompts.repeats >= _LEAST_REPEATS:
        inside, _, answers = prompts.within()
        for member in members:
            member["lengths"] |= {
                "within_prompt_sigma": digits(min(inside, 5.0), 3),
                "answer_prompt_share": digits(answers, 3),
            }
        counts = prompts.counts
        many = counts[counts >= 2]
        if any("sessions" in member for member in members):
            notes.append("prompts that are asked again are not modelled beside conversations")
        else:
            keys["recurrence"] = {
                "problems": max(len(many) * prompts.each, 1),
                "share": digits(float(many.sum() / counts.sum()), 4),
                "skew": digits(_skew(np.sort(many)[::-1]), 3),
                "wording": "same",
            }
    return keys


def _skew(counts: FloatArray) -> float:
    """Exponent of 1 / rank whose chance that two draws meet is that of *counts*, beyond the luck of counting."""
    total = float(counts.sum())
    if len(counts) < 2 or total < 2:
        return 0.0
    met = float((counts * (counts - 1)).sum() / (total * (total - 1)))
    ranks = np.arange(len(counts)) + 1.0
    low, high = 0.0, 4.0
    for _ in range(50):
        middle = (low + high) / 2
        weight = ranks**-middle
        low, high = (middle, high) if float((weight**2).sum() / weight.sum() ** 2) < met else (low, middle)
    return low
