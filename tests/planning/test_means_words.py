"""What the plan says of sizing by mean lengths."""

from __future__ import annotations

from typing import Any

import pytest

from sim.planning.text import means_words

PLAN = {"recommendation": {"replicas_needed": {"reasoning": 3}}}
WAY: dict[str, Any] = {
    "way": "arithmetic",
    "replicas": {"reasoning": 2},
    "too_optimistic": 1.5,
    "overloaded_with_real_lengths": False,
    "metric": "tta",
    "percentile": 99.0,
    "target": 720.0,
    "category": None,
    "share": 0.97,
    "asked": 0.99,
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "1.5x too optimistic: with real lengths only 97.0% are answered within 12.0 min."),
        ({"overloaded_with_real_lengths": True}, "1.5x too optimistic: with real lengths it would be overloaded."),
        ({"share": 1.0}, "with real lengths 100.0% are answered within 12.0 min, which these runs do not prove."),
        ({"too_optimistic": 1}, "says 2 replicas, which is right here."),
        ({"too_optimistic": 0.5}, "says 2 replicas, more than the 3 replicas that suffice."),
    ],
)
def test_in_words(change: dict[str, Any], words: str) -> None:
    said = means_words(PLAN, WAY | change)
    assert said.startswith("Arithmetic with mean lengths says 2 replicas")
    assert said.endswith(words)
