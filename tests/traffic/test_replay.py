"""Replay: every column where it belongs, rates stretched, parents resolved, samples like their prompt."""

from pathlib import Path

import numpy as np
import pytest

from sim.errors import InputError
from workloads.source import BLOCK, QuerySource, build
from workloads.spec import WorkloadSpec

SHARED = Path(__file__).parents[3] / "shared" / "external" / "traces"

TRACE = """\
arrived_at,num_prefill_tokens,num_decode_tokens,num_reasoning_tokens,max_tokens,priority,client_id,\
session_id,prompt_id,category,prefix_group,prefix_len,parent_id
0.5,100,40,30,-1,0,x,s1,p,math,7,50,-1
1.0,90,30,30,500,2,y,,p,code,7,50,-1
2.5,160,20,0,,1,x,s1,q,math,-1,140,0
"""


def replay(path, **spec):
    return build(WorkloadSpec.model_validate({"trace": str(path)} | spec), seed=3)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(TRACE)
    return path


def test_columns_arrive_where_they_belong(trace):
    source = replay(trace)
    assert isinstance(source, QuerySource)
    assert (source.name, source.total, source.closed_loop) == ("trace t.csv", 3, None)
    block = source.block(0)
    block._check()
    assert block.arrived_ps.tolist() == [500_000_000_000, 10**12, 2_500_000_000_000]
    assert block.num_reasoning_tokens.tolist() == [30, 30, 0]
    assert block.num_answer_tokens.tolist() == [10, 0, 20]
    assert block.max_tokens.tolist() == [-1, 500, -1]
    assert block.priority.tolist() == [0, 2, 1]
    assert [source.clients[c] for c in block.client] == ["x", "y", "x"]
    assert [source.categories[c] for c in block.category] == ["math", "code", "math"]
    assert block.session.tolist() == [0, -1, 0] or block.session[0] == block.session[2] != block.session[1]
    assert block.prompt[0] == block.prompt[1] != block.prompt[2]
    assert block.prefix_group.tolist() == [7, 7, -1]
    assert block.parent.tolist() == [-1, -1, 0]
    assert block.reasoning_known
    assert source.block(1) is None


def test_a_rate_stretches_time(trace):
    times = replay(trace, rate="4/s").block(0).arrived_ps
    np.testing.assert_allclose(times / times[0], [1, 2, 5])
    assert 2 / ((times[-1] - times[0]) / 1e12) == pytest.approx(4)


def test_limits_fill_what_the_trace_leaves_open(trace):
    assert replay(trace, max_tokens=77).block(0).max_tokens.tolist() == [77, 500, 77]
    assert replay(trace, queries=2).total == 2


def test_parents_by_request_id(tmp_path):
    path = tmp_path / "t.csv"
    head = "arrived_at,num_prefill_tokens,num_decode_tokens,request_id,parent_id,prefix_len\n"
    path.write_text(head + "0,10,5,70,-1,0\n1,20,5,71,70,12\n")
    assert replay(path).block(0).parent.tolist() == [-1, 0]


def test_golden_names_are_known(tmp_path):
    path = tmp_path / "t.csv"
    head = "request_id,arrived_at_ns,num_prefill_tokens,num_decode_tokens,"
    head += "priority,prefix_group,prefix_len,parent\n"
    path.write_text(head + "0,0,10,5,0,-1,0,-1\n1,1500000000,20,5,1,-1,12,0\n")
    block = replay(path).block(0)
    assert block.arrived_ps.tolist() == [0, 1_500_000_000_000]
    assert block.parent.tolist() == [-1, 0]


def test_paths_are_looked_for_beside_the_scenario_first(tmp_path, monkeypatch):
    beside, working = tmp_path / "scenario", tmp_path / "cwd"
    for folder, rows in ((beside, 1), (working, 2)):
        folder.mkdir()
        text = "arrived_at,num_prefill_tokens,num_decode_tokens\n" + "0,1,1\n" * rows
        (folder / "t.csv").write_text(text)
    monkeypatch.chdir(working)
    spec = WorkloadSpec(trace="t.csv")
    assert build(spec, seed=0, base=beside).total == 1
    assert build(spec, seed=0, base=tmp_path).total == 2


def test_samples_share_the_prompts_effect(tmp_path):
    rng = np.random.default_rng(0)
    effect = rng.normal(size=3000)
    output = np.exp(7.5 + 1.1 * effect).astype(int) + 1
    path = tmp_path / "t.csv"
    rows = "".join(f"{i},10,{value},{value // 2}\n" for i, value in enumerate(output))
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens,num_reasoning_tokens\n" + rows)
    source = replay(path)
    assert source.sample_lengths(5, 0) == (output[5] // 2, output[5] - output[5] // 2)
    logs = np.log([[sum(source.sample_lengths(q, s)) for s in range(6)] for q in range(800)])
    within = logs.var(axis=1, ddof=1).mean()
    assert np.sqrt(within) == pytest.approx(0.30, abs=0.04)
    assert logs[:, 3].std() == pytest.approx(1.1, abs=0.12)
    thought, said = source.sample_lengths(9, 4)
    assert abs(thought - said) <= 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="the measured traces stand beside the checkout, if at all")
@pytest.mark.parametrize(
    ("name", "rows", "rate"),
    [("azure2023_conv.csv", 19366, 5.53), ("servegen_r1_h00-12_scale0.1.csv", 72752, 1.684)],
)
def test_measured_traces(name, rows, rate):
    source = build(WorkloadSpec(trace=name), seed=0, base=SHARED)
    assert source.total == rows
    assert source.describe()["rate_per_s"] == pytest.approx(rate, rel=1e-3)
    total = 0
    for index in range(-(-rows // BLOCK)):
        block = source.block(index)
        block._check()
        total += len(block)
    assert total == rows


def test_bursts_cannot_be_scaled(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0,1,1\n0,1,1\n")
    with pytest.raises(InputError, match="all arrive at once"):
        replay(path, rate="4/s")
