"""Slowdown where steps are not alike: a query that is alone on an idle replica has a slowdown of one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from short_run import POOL, run


@pytest.mark.parametrize(
    "settings",
    [
        {"kv": {"name": "r-kv", "kept_tokens": 128, "interval_tokens": 32, "recent_tokens": 8}},
        pytest.param(
            {"speculative_config": {"num_speculative_tokens": 3, "acceptance": 0.6, "draft_cost": 0.1}},
            marks=pytest.mark.slow,
        ),
        {
            "speculative_config": {"num_speculative_tokens": 3, "acceptance": 0.6},
            "max_num_batched_tokens": 128,
            "max_num_seqs": 8,
        },
    ],
)
def test_alone_is_a_slowdown_of_one(settings: dict[str, Any]) -> None:
    queries = run(rate="0.01/s", pools={"main": {**POOL, "engine": settings}}).tables["queries"]
    assert queries["slowdown"] == pytest.approx(np.ones(8), abs=1e-9)
    busy = run(rate="40/s", pools={"main": {**POOL, "engine": settings}}).tables["queries"]
    assert np.array_equal(busy["alone_s"], queries["alone_s"])
    assert (busy["slowdown"] > 1.0).all()
