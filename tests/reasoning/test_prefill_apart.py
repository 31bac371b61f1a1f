"""Drafts, probes and latent steps where prefill and decode are done on different replicas; KV compression is refused there."""

from __future__ import annotations

from typing import Any

import pytest
from short_run import POOL, run, same

from sim.errors import InputError

DRAFTS = {"speculative_config": {"num_speculative_tokens": 3, "acceptance": 0.6}}


def apart(prefill: Any = None, decode: Any = None) -> dict[str, Any]:
    engine = POOL["engine"]
    return {
        "prefill": {**POOL, "role": "prefill", "engine": {**engine, **(prefill or {})}},
        "main": {**POOL, "role": "decode", "engine": {**engine, **(decode or {})}},
    }


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"pools": apart(decode=DRAFTS)}, marks=pytest.mark.slow),
        pytest.param({"pools": apart(prefill=DRAFTS, decode=DRAFTS)}, marks=pytest.mark.slow),
        {"pools": apart(decode={"num_gpu_blocks_override": 150, **DRAFTS})},
        {"pools": apart(), "strategy": {"name": "early_exit", "method": "own", "every_tokens": 40, "hit": 0.3}},
    ],
)
def test_both_modes_give_the_same_tables(changes: Any) -> None:
    fast, slow = run(rate="30/s", **changes), run(rate="30/s", stepwise=True, **changes)
    assert same(fast, slow)
    requests = fast.tables["requests"]
    assert (requests["status"] == 0).all()
    assert (requests["transferred_tokens"] > 0).any()


def test_what_is_not_modelled_is_refused() -> None:
    kv = {"kv": {"name": "r-kv", "kept_tokens": 128}}
    with pytest.raises(InputError, match="KV policy"):
        run(pools=apart(decode=kv))
    with pytest.raises(InputError, match="KV policy"):
        run(pools=apart(prefill=kv))
