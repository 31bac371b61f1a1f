"""The decoder computes what a decoder computes, however its work is cut into steps."""

from __future__ import annotations

from typing import Any

import pytest
from decoder_sorts import SORTS

from calibration.architecture import Architecture
from calibration.profiler.points import Point
from calibration.profiler.shapes import Shape, Stack
from sim.errors import InputError

BLOCK = 16


class Rig:
    """A small decoder whose logits can be seen, and one sequence of fixed tokens in it."""

    def __init__(self, torch: Any, arch: Architecture, attention: Any = None) -> None:
        from calibration.profiler.attention import Loop
        from calibration.profiler.decoder import Decoder
        from calibration.profiler.devices import Device
        from calibration.profiler.kv import BlockTables

        self.torch, self.arch = torch, arch
        self.device = Device("cpu")
        self.logits: list[Any] = []

        def collect(logits: Any) -> Any:
            self.logits.append(logits.clone())
            return logits

        self.decoder = Decoder(
            Shape(arch),
            Shape(arch).kinds(),
            dtype="fp32",
            device=self.device,
            attention=attention or Loop(),
            max_tokens=128,
            longest=256,
            collect=collect,
        )
        self.decoder.allocate(64, BLOCK)
        for layer in self.decoder.all_layers():
            if hasattr(layer.mlp, "noise"):
                layer.mlp.noise.zero_()  # so that a token's experts depend on the token alone
        self.tables = BlockTables(64, BLOCK, seed=3)
        self.tokens = torch.randint(0, arch.vocab, (200,), generator=torch.Generator().manual_seed(5))

    def run(self, parts: list[tuple[list[int], int, int]]) -> Any:
        """Logits of one step; *parts* are (block table, tokens before, new tokens), single tokens first."""
        from calibration.profiler.kv import Span, build_step

        spans = [Span(table, cached, new) for table, cached, new in parts]
        ones = [span for span in spans if span.new == 1]
        more = [span for span in spans if span.new > 1]
        step = build_step(
            self.device, ones, more, block_size=BLOCK, vocab=self.arch.vocab, window=self.arch.sliding_window
        )
        ids = [self.tokens[span.cached : span.cached + span.new] for span in (*ones, *more)]
        step.tokens.copy_(self.torch.cat(ids))
        self.decoder.step(step)
        return self.logits.pop()


def test_chunks_and_decodes_give_what_one_prefill_gives(torch: Any, architecture: Architecture) -> None:
    rig = Rig(torch, architecture)
    whole = rig.run([(rig.tables.take(60), 0, 60)])[0]
    table = rig.tables.take(60)
    rig.run([(table, 0, 20)])
    rig.run([(table, 20, 35)])
    for cached in range(55, 60):
        last = rig.run([(table, cached, 1)])[0]
    assert torch.allclose(whole, last, atol=2e-4, rtol=1e-3)
    assert whole.std() > 0.1, "logits that are all alike would prove nothing"


def test_sequences_of_a_step_do_not_see_each_other(torch: Any, architecture: Architecture) -> None:
    rig = Rig(torch, architecture)
    tables = [rig.tables.take(80) for _ in range(4)]
    for table, length in zip(tables[:3], (33, 50, 16), strict=True):
        rig.run([(table, 0, length)])
    parts = [(tables[0], 33, 1), (tables[1], 50, 1), (tables[2], 16, 20), (tables[3], 0, 40)]
    together = rig.run(parts)
    for row, part in enumerate(parts):
        alone = rig.run([part])[0]
        assert torch.allclose(together[row], alone, atol=2e-4, rtol=1e-3)


def test_a_sliding_window_forgets_and_full_attention_does_not(torch: Any) -> None:
    from dataclasses import replace

    for sliding_layers, forgets in ((3, True), (0, False)):
        arch = replace(SORTS["sliding"], layers=1, sliding_layers=min(1, sliding_layers))
        rig = Rig(torch, arch)
        table = rig.tables.take(100)
        rig.run([(table, 0, 90)])
        before = rig.run([(table, 90, 1)])[0]
        rig.tokens[:10] = (rig.tokens[:10] + 1) % arch.vocab
        rig.run([(table, 0, 10)])
        after = rig.run([(table, 90, 1)])[0]
        assert torch.equal(before, after) == forgets


@pytest.mark.parametrize("sort", ["grouped", "sliding"])
def test_every_way_of_attention_agrees_with_the_plain_one(torch: Any, sort: str) -> None:
    import warnings

    from calibration.profiler.attention import Batched, Flex
    from calibration.profiler.decoder import disagreement
    from calibration.profiler.devices import Device

    device, shape = Device("cpu"), Shape(SORTS[sort])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # uncompiled FlexAttention warns that it is slow
        for attention, block in ((Batched(), 16), (Flex(compiled=False), 16), (Flex(compiled=False), 128)):
            assert disagreement(attention, block, shape, "fp32", device) < 1e-4


def test_a_wrong_way_of_attention_is_found_out(torch: Any) -> None:
    from calibration.profiler.attention import Loop
    from calibration.profiler.decoder import disagreement
    from calibration.profiler.devices import Device

    class Forgetful(Loop):
        """Leaves the last block out."""

        def decode(self, query: Any, keys: Any, values: Any, step: Any, window: int, out: Any) -> None:
            step.lengths = [max(1, length - 1) for length in step.lengths]
            super().decode(query, keys, values, step, window, out)

    assert disagreement(Forgetful(), 16, Shape(SORTS["grouped"]), "fp32", Device("cpu")) > 0.05


def test_equal_decodes_in_one_gather(torch: Any) -> None:
    from calibration.profiler.attention import Batched

    arch = SORTS["grouped"]
    logits = []
    for attention in (None, Batched()):
        rig = Rig(torch, arch, attention)
        tables = [rig.tables.take(50) for _ in range(3)]
        for table in tables:
            rig.run([(table, 0, 40)])
        logits.append(rig.run([(table, 40, 1) for table in tables]))
    assert torch.allclose(*logits, atol=1e-4)


def test_tokens_are_drawn_from_the_softmax(torch: Any) -> None:
    from calibration.profiler.decoder import sample

    torch.manual_seed(0)
    logits = torch.tensor([[0.0, 1.0, 2.0, -50.0]]).expand(20_000, -1)
    share = torch.bincount(sample(logits), minlength=4) / 20_000
    assert torch.allclose(share, torch.softmax(logits[0], -1), atol=0.02)


def test_experts_are_all_used_alike_and_grouped_as_one_by_one(torch: Any) -> None:
    from calibration.architecture import Moe
    from calibration.profiler.devices import Device
    from calibration.profiler.mlp import Experts, expert_by_expert, swiglu

    torch.manual_seed(0)
    moe = Moe(16, 4, 24)
    layer = Experts(32, moe, tp=1, gated=True, dtype="fp32", device=Device("cpu"), max_tokens=512, activate=swiglu)
    x = torch.randn(1, 32).expand(512, -1).contiguous()  # like tokens, which unlike gates must spread
    counts = torch.zeros(16)
    seen: list[Any] = []
    plain = layer.multiply

    def spy(rows: Any, weight: Any, ends: Any, scale: Any) -> Any:
        seen.append(ends.clone())
        return plain(rows, weight, ends, scale)

    layer.multiply = spy
    out = layer(x)
    counts = torch.diff(seen[0], prepend=torch.zeros(1, dtype=seen[0].dtype))
    assert int(counts.sum()) == 512 * 4
    assert int(counts.min()) > 0.6 * 128
    assert int(counts.max()) < 1.5 * 128
    layer.multiply = expert_by_expert
    assert torch.allclose(out, layer(x), atol=1e-5)
    layer.shuffle()
    assert not torch.equal(out, layer(x)), "another routing"


def test_a_stack_runs_as_many_layers_as_it_says(torch: Any) -> None:
    rig = Rig(torch, SORTS["experts"])
    kinds = list(Shape(SORTS["experts"]).kinds())
    from calibration.profiler.kv import build_step, point_sequences

    ran: list[int] = []
    for kind, layers in rig.decoder.layers.items():
        for layer in layers:
            place: Any = layer
            place.mlp = _Spy(layer.mlp, ran, kinds.index(kind))
    step = build_step(
        rig.device, *point_sequences(Point(decodes=2, context=20), rig.tables), block_size=BLOCK, vocab=200
    )
    rig.decoder.step(step, Stack(((kinds[0], 1), (kinds[1], 2)), 1.0))
    assert sorted(ran) == [0, 1, 1]
    ran.clear()
    rig.decoder.step(step)
    assert len(ran) == 3


class _Spy:
    def __init__(self, inner: Any, ran: list[int], name: int) -> None:
        self.inner, self.ran, self.name = inner, ran, name

    def __call__(self, x: Any) -> Any:
        self.ran.append(self.name)
        return self.inner(x)


def test_blocks_are_scattered_and_come_back(torch: Any) -> None:
    from calibration.profiler.kv import BlockTables
    from sim.errors import DoesNotFit

    tables = BlockTables(40, BLOCK, seed=0)
    one, other = tables.take(161), tables.take(16 * 29)
    assert len(one) == 11
    assert not set(one) & set(other)
    assert one != sorted(one)
    with pytest.raises(DoesNotFit, match="and 0 of 40 are free"):
        tables.take(1)
    tables.give(one)
    assert sorted(tables.take(16 * 11)) == sorted(one)


def test_formats_that_the_device_lacks_are_refused(torch: Any) -> None:
    from calibration.profiler.devices import Device
    from calibration.profiler.mlp import check_dtype

    with pytest.raises(InputError, match="Hopper"):
        check_dtype("fp8", Device("cpu"))
    with pytest.raises(InputError, match="mxfp4"):
        check_dtype("mxfp4", Device("cpu"))
    with pytest.raises(InputError, match="--device"):
        Device("tpu")


def test_fp8_rows_keep_their_values(torch: Any) -> None:
    from calibration.profiler.mlp import quantise_rows

    x = torch.randn(32, 64) * torch.logspace(-3, 3, 32)[:, None]
    rows, scale = quantise_rows(x)
    assert rows.dtype == torch.float8_e4m3fn
    assert ((rows.float() * scale - x).abs() <= 0.07 * x.abs() + 1e-3 * x.abs().amax(1, keepdim=True)).all()
