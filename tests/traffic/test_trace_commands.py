"""``thinkcap trace``: the whole road from a trace to a generator and back, pages, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from sim.cli.main import main
from workloads.formats import read
from workloads.source import build
from workloads.spec import WorkloadSpec


@pytest.fixture
def trace(tmp_path):
    """Two clients, one of them with <html> in its name."""
    rng = np.random.default_rng(0)
    n = 3000
    output = np.rint(rng.lognormal(6.5, 0.9, n)).astype(int) + 1
    frame = pd.DataFrame(
        {
            "arrived_at": np.cumsum(rng.exponential(0.5, n)),
            "num_prefill_tokens": np.rint(rng.lognormal(5, 1, n)).astype(int) + 1,
            "num_decode_tokens": output,
            "num_reasoning_tokens": np.rint(output * rng.beta(5, 2, n)).astype(int),
            "client_id": np.where(rng.random(n) < 0.3, "<b>secret</b>", "two"),
        }
    )
    path = tmp_path / "real.csv"
    frame.to_csv(path, index=False)
    return path


def rows_of(path):
    return sum(batch.num_rows for batch in read(path))


def test_fit_sample_describe(trace, tmp_path, capsys):
    generator, page, drawn = tmp_path / "workload.yaml", tmp_path / "fit.html", tmp_path / "drawn.csv"
    assert main(["trace", "fit", str(trace), "--out", str(generator), "--html", str(page)]) == 0
    told = capsys.readouterr().out
    assert "KS distance" in told
    assert "secret" not in generator.read_text()
    assert "secret" not in page.read_text()
    assert main(["trace", "sample", str(generator), "--out", str(drawn), "--seed", "4"]) == 0
    assert rows_of(drawn) == 3000
    again = tmp_path / "again.csv"
    assert main(["trace", "sample", str(generator), "--out", str(again), "--seed", "4"]) == 0
    assert again.read_bytes() == drawn.read_bytes()
    html = tmp_path / "d.html"
    capsys.readouterr()
    assert main(["trace", "describe", str(trace), "--html", str(html)]) == 0
    told = capsys.readouterr().out
    assert "3,000 queries" in told
    assert "KV tokens" in told
    text = html.read_text()
    assert "<b>secret</b>" not in text
    assert text.count("plotly.js v") == 1 or "plotly" in text.lower()


def test_describe_json_is_json(trace, capsys):
    assert main(["trace", "describe", str(trace), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["queries"] == 3000
    assert found["group_count"] == 2


def test_fitted_yaml_is_a_workload_section_for_scenarios(trace, tmp_path):
    from sim.scenario.yaml_file import read_file

    generator = tmp_path / "workload.yaml"
    main(["trace", "fit", str(trace), "--out", str(generator), "--keep-names"])
    spec = WorkloadSpec.model_validate(read_file(generator).data["workload"])
    source = build(spec, seed=0)
    assert source.total == 3000
    assert "<b>secret</b>" in source.clients


def test_sample_from_a_preset(tmp_path):
    out = tmp_path / "p.parquet"
    assert (
        main(
            [
                "trace",
                "sample",
                "deepseek-r1-production",
                "--rate",
                "4/s",
                "--duration",
                "10min",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert rows_of(out) == pytest.approx(2400, rel=0.1)
    assert main(["trace", "sample", "article", "--queries", "5000", "--out", str(out)]) == 0
    assert rows_of(out) == 5000


def test_sessions_survive_sampling(tmp_path):
    generator, out = tmp_path / "w.yaml", tmp_path / "s.jsonl"
    generator.write_text(
        "workload:\n  arrivals: poisson\n  rate: 4/s\n  lengths: {prompt: 50, answer: 20}\n"
        "  sessions: {turns: 3, think_time: 10 s}\n"
    )
    assert main(["trace", "sample", str(generator), "--queries", "6000", "--out", str(out)]) == 0
    parents = pd.concat([batch.to_pandas() for batch in read(out)])["parent_id"]
    assert (parents >= 0).mean() == pytest.approx(2 / 3, abs=0.02)


def test_scale_splice_convert(trace, tmp_path):
    fast, both, hour = tmp_path / "fast.csv", tmp_path / "both.jsonl", tmp_path / "part.csv.gz"
    assert main(["trace", "scale", str(trace), "--rate", "8/s", "--out", str(fast)]) == 0
    before, after = pd.read_csv(trace), pd.read_csv(fast)
    gaps = np.diff(before["arrived_at"]), np.diff(after["arrived_at"])
    assert 1 / gaps[1].mean() == pytest.approx(8, rel=1e-6)
    np.testing.assert_allclose(gaps[0] / gaps[0].mean(), gaps[1] / gaps[1].mean(), rtol=1e-5, atol=1e-9)
    assert main(["trace", "splice", str(trace), str(fast), "--merge", "--out", str(both)]) == 0
    assert rows_of(both) == 6000
    assert main(["trace", "splice", str(trace), "--from", "5 min", "--until", "10 min", "--out", str(hour)]) == 0
    inside = (before["arrived_at"] >= 300) & (before["arrived_at"] < 600)
    assert rows_of(hour) == inside.sum()
    assert main(["trace", "splice", str(fast), "--repeat", "3", "--out", str(both)]) == 0
    assert rows_of(both) == 9000


def test_convert_sorts_when_asked(tmp_path, capsys):
    path, out = tmp_path / "t.csv", tmp_path / "o.csv"
    path.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n5,1,1\n2,2,2\n")
    assert main(["trace", "convert", str(path), "--out", str(out)]) == 2
    assert "--sort" in capsys.readouterr().err
    assert not out.exists()
    assert main(["trace", "convert", str(path), "--sort", "--out", str(out)]) == 0
    assert pd.read_csv(out)["arrived_at"].tolist() == [2, 5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["convert", "TRACE", "--out", "x.xyz"], "cannot be told"),
        (["convert", "TRACE", "--out", "x", "--to", "parket"], "parquet"),
        (["convert", "TRACE", "--out", "x.csv", "--format", "azur"], "azure"),
        (["convert", "nowhere.csv", "--out", "x.csv"], "no such file"),
        (["scale", "TRACE", "--rate", "8", "--out", "x.csv"], "no unit"),
        (["scale", "TRACE", "--by", "0", "--out", "x.csv"], "above zero"),
        (["splice", "TRACE", "--from", "2h", "--until", "1h", "--out", "x.csv"], "nothing lies between"),
        (["splice", "TRACE", "--from", "2000h", "--out", "x.csv"], "nothing to write"),
        (["splice", "TRACE", "--repeat", "0", "--out", "x.csv"], "1 or more"),
        (["sample", "nowhere.yaml", "--out", "x.csv"], "nowhere.yaml"),
        (["sample", "deepseek-r1", "--out", "x.csv"], "deepseek-r1-benchmark"),
        (["sample", "article", "--queries", "0", "--out", "x.csv"], "above zero"),
        (["sample", "article", "--duration", "5", "--out", "x.csv"], "no unit"),
        (["fit", "TRACE", "--window", "5", "--out", "x.yaml"], "no unit"),
        (["describe", "TRACE", "--tpot", "5"], "no unit"),
    ],
)
def test_refused_with_one_message_and_nothing_written(arguments, said, trace, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [str(trace) if argument == "TRACE" else argument for argument in arguments]
    assert main(["trace", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["real.csv"]


def test_a_wrong_workload_file_says_line_and_key(tmp_path, capsys):
    path = tmp_path / "w.yaml"
    path.write_text("workload:\n  arrivals: poisson\n  rate: 4\n  lengths: {prompt: 5, answer: 5}\n")
    assert main(["trace", "sample", str(path), "--out", str(tmp_path / "x.csv")]) == 2
    said = capsys.readouterr().err
    assert "w.yaml:3" in said
    assert "rate" in said
