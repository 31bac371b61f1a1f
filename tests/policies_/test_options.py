"""Options that make no sense are refused when a policy is made, in words that name them."""

from __future__ import annotations

from typing import Any

import pytest

from sim.engine.request import Request
from sim.policies import registry
from sim.rng import Streams


@pytest.mark.parametrize(
    ("kind", "name", "options", "words"),
    [
        ("scheduler", "srpt", {"factor": 0.5}, "factor must be at least 1"),
        ("scheduler", "sarathi", {"chunk_size": 0}, "chunk_size must be at least 1"),
        ("scheduler", "mlfq", {"levels": 0}, "levels must be at least 1"),
        ("scheduler", "mlfq", {"starvation_s": -1.0}, "starvation_s must be above 0"),
        ("scheduler", "vtc", {"prompt_weight": -1.0}, "prompt_weight and output_weight"),
        ("scheduler", "vtc", {"output_weight": -0.1}, "prompt_weight and output_weight"),
        ("scheduler", "sglang", {"new_token_ratio": -3.0}, "new_token_ratio and min_ratio_factor"),
        ("scheduler", "sglang", {"min_ratio_factor": 5.0}, "new_token_ratio and min_ratio_factor"),
        ("scheduler", "sglang", {"decay_steps": 0}, "decay_steps must be at least 1"),
        ("scheduler", "pascal", {"reading_tokens_per_s": -1.0}, "reading_tokens_per_s must be at least 0"),
        ("scheduler", "chunked_reasoning", {"quantum_tokens": 0}, "quantum_tokens must be at least 1"),
        ("kv", "swap", {"efficiency": 2.0}, "efficiency above 0 and at most 1"),
        ("predictor", "lognormal_error", {"sigma": -1.0}, "sigma must be at least 0"),
        ("predictor", "by_category", {"default_tokens": 0}, "default_tokens and the tokens"),
        ("predictor", "by_category", {"tokens": {0: 100, 1: -5}}, "default_tokens and the tokens"),
        ("predictor", "first_k_tokens", {"tokens": 0}, "tokens must be at least 1"),
        ("predictor", "always_wrong", {"middle_tokens": 0}, "middle_tokens must be at least 1"),
        ("admission", "priority_tiers", {"per_replica": {0: 4, 1: -4}}, "per_replica must be at least 0"),
        ("admission", "token_bucket", {"burst": 0}, "burst at least 1"),
        ("admission", "token_limit", {"kv_share": 0.0}, "kv_share must be above 0"),
        ("admission", "max_wait", {"max_wait_s": 0.0}, "max_wait_s must be above 0"),
        ("admission", "deadline_shedding", {"safety": 0.0}, "safety must be above 0"),
        ("admission", "max_outstanding", {"per_replica": 0}, "per_replica must be at least 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(kind: str, name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        registry(kind).make(name, options)


def test_an_error_beyond_all_measure_is_still_a_prediction() -> None:
    predict = registry("predictor").make("lognormal_error", {"sigma": 1e6}).begin(Streams(3))
    requests = [Request(n, arrived_ps=0, prompt_tokens=4, output_tokens=50, max_tokens=90, query=n) for n in range(20)]
    assert {predict(request) for request in requests} == {1, 90}
