"""A GPU's share of a decoder, and few layers that stand for all."""

from __future__ import annotations

from dataclasses import replace

import pytest
from decoder_sorts import SORTS
from hypothesis import given
from hypothesis import strategies as st

from calibration.architecture import Architecture, architecture, names
from calibration.profiler.shapes import Shape, fitting_layers, plan_stacks
from sim.errors import DoesNotFit, InputError


@given(
    st.sampled_from(sorted(SORTS)),
    st.integers(1, 90),
    st.integers(2, 90),
    st.floats(0.1, 10),
    st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
)
def test_stacks_add_up_to_the_whole_decoder(
    sort: str, layers: int, measured: int, around: float, each: list[float]
) -> None:
    arch = SORTS[sort]
    sliding = min(arch.sliding_layers, layers)
    shape = Shape(replace(arch, layers=layers, sliding_layers=sliding))
    cost = dict(zip(sorted(shape.kinds()), each, strict=False))
    whole = around + sum(cost[kind] * count for kind, count in shape.kinds().items())
    stacks = plan_stacks(shape, measured)
    timed = [around + sum(cost[kind] * count for kind, count in stack.counts) for stack in stacks]
    total = sum(stack.weight * time for stack, time in zip(stacks, timed, strict=True))
    assert total == pytest.approx(whole, rel=1e-9)
    for stack in stacks:
        assert all(count <= max(measured, 1) for _, count in stack.counts)


@pytest.mark.parametrize("name", names())
def test_kinds_of_shipped_models(name: str) -> None:
    arch = architecture(name)
    kinds = Shape(arch).kinds()
    assert sum(kinds.values()) == arch.layers
    assert sum(n for kind, n in kinds.items() if kind.mlp == "moe") == arch.moe_layers
    assert sum(n for kind, n in kinds.items() if kind.attention == "sliding") == arch.sliding_layers


@pytest.mark.parametrize("name", ["llama-3.1-70b", "qwen3-30b-a3b", "deepseek-r1", "gpt-oss-120b"])
@pytest.mark.parametrize("tp", [1, 2, 8])
def test_bytes_agree_with_the_architecture(name: str, tp: int) -> None:
    arch = architecture(name)
    shape = Shape(arch, tp)
    ours = shape.head_bytes("bf16") + sum(
        count * shape.layer_bytes(kind, "bf16") for kind, count in shape.kinds().items()
    )
    assert ours == pytest.approx(arch.weight_bytes("bf16", tp=tp), rel=0.02)


def test_a_share_that_is_no_share() -> None:
    with pytest.raises(InputError, match="attention heads"):
        Shape(SORTS["grouped"], 3)
    with pytest.raises(InputError, match="at least 2"):
        plan_stacks(Shape(SORTS["grouped"]), 1)


def test_layers_that_fit() -> None:
    shape = Shape(architecture("llama-3.1-70b"))
    one = shape.layer_bytes(next(iter(shape.kinds())), "bf16")
    found = fitting_layers(shape, "bf16", 78e9)
    used = found * one + shape.head_bytes("bf16")
    assert used <= 0.6 * 78e9 < used + one
    assert fitting_layers(shape, "bf16", 1e12) == shape.architecture.layers
    with pytest.raises(DoesNotFit, match="two layers"):
        fitting_layers(shape, "bf16", 5e9)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    arch: Architecture = SORTS["grouped"]
    assert Shape(arch, 4).kv_heads == 1
    assert Shape(arch, 2).kv_layer_bytes("fp32") == 2 * 16 * 4
