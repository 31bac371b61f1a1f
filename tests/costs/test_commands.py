"""thinkcap model, calibrate fit, show, compose, import: what they print, write and refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration import measurements, profile
from sim.cli.main import main


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [(b, c, 0, 0) for b in (1, 4, 16, 64) for c in (64, 1024, 8192)]
    rows += [(0, 0, 1, n) for n in (64, 512, 2048, 8192)]
    frame = pd.DataFrame(rows, columns=["decodes", "context", "chunks", "chunk_tokens"])
    tokens = frame["decodes"] + frame["chunk_tokens"]
    frame["time_ms"] = (
        5.2
        + 0.025 * np.maximum(0, tokens - 200)
        + 5e-5 * frame["decodes"] * frame["context"]
        + 5e-7 * frame["chunk_tokens"] ** 2
    )
    frame = frame.assign(
        source="made", gpu="h100-sxm", model="llama-3.1-8b", dtype="bf16", tp=1, quantity="iteration_measured"
    )
    path = tmp_path / "m.parquet"
    measurements.write(frame, path, {"device": "made up", "command": "made by hand", "date": "2026-01-01"})
    return path


def test_model_prints_weights_and_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "r1-distill-llama-70b"]) == 0
    out = capsys.readouterr().out
    for word in ("70.55 billion", "141.1 GB", "320.0 KiB", "h100-sxm", "does not fit"):
        assert word in out
    assert main(["model", "llama-9"]) == 2
    assert "unknown model" in capsys.readouterr().err


def test_fit_then_show(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page, residuals = tmp_path / "p.yaml", tmp_path / "p.html", tmp_path / "r.html"
    assert main(["calibrate", "fit", str(table), "--out", str(out), "--residuals", str(residuals)]) == 0
    said = capsys.readouterr().out
    assert "contexts left out" in said
    assert "shares of the GPU's peaks" in said
    found = profile.load(out)
    assert found.kind == "measured"
    assert found.provenance["device"] == "made up"
    assert found.cost.kv_s == pytest.approx(5e-8, rel=0.01)
    assert main(["calibrate", "show", str(out), "--table", str(table), "--out", str(page)]) == 0
    for file in (page, residuals):
        text = file.read_text(encoding="utf-8")
        assert "Profile llama-3.1-8b_h100-sxm_tp1_bf16" in text
        assert len(text) < 6_000_000
    assert "residuals" in residuals.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--only", "gpuu=h100-sxm"], "did you mean 'gpu'"),
        (["--only", "gpu=a100"], "no row has gpu 'a100'"),
        (["--only", "decodes=4"], "two batch sizes"),
    ],
)
def test_fit_refuses(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], words: str
) -> None:
    out = tmp_path / "p.yaml"
    assert main(["calibrate", "fit", str(table), "--out", str(out), *more]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_fit_needs_a_yaml_file_in_a_folder_that_exists(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "fit", str(table), "--out", str(tmp_path / "none" / "p.txt")]) == 2
    err = capsys.readouterr().err
    assert "no folder" in err
    assert ".yaml" in err


def test_show_without_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["calibrate", "show", "qwen3-14b_h100-sxm_tp1_bf16", "--out", "-"]) == 0
    assert "Apache-2.0" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    assert main(["calibrate", "show", "qwen3-14b_h100"]) == 2
    assert "qwen3-14b_h100-sxm_tp1_bf16" in capsys.readouterr().err


def test_import_keeps_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = (
        "source,gpu,model,dtype,kv_dtype,tp,engine,quantity,time_ms,spread_ms,n,flag,batch_size,context_tokens_per_seq"
    )
    rows = [
        f"x,{gpu},{model},bf16,bf16,{tp},e,iteration_measured,{5 + batch},,1,,{batch},100"
        for gpu, model, tp in (("h100", "llama-3.1-8b", 1), ("a100", "llama-3.1-8b", 1), ("h100", "qwen3-14b", 2))
        for batch in (1, 2)
    ]
    file, out = tmp_path / "decode.csv", tmp_path / "m.parquet"
    file.write_text("\n".join([columns, *rows]), encoding="utf-8")
    command = ["calibrate", "import", "steps", str(file), "--out", str(out)]
    assert main([*command, "--hardware", "h100-sxm", "--model", "meta-llama/Llama-3.1-8B"]) == 0
    assert "2 steps of 1 combination" in capsys.readouterr().out
    assert main(command) == 0
    assert "6 steps of 3 combinations" in capsys.readouterr().out
    assert main([*command, "--tp", "4"]) == 2
    assert "no step of 4; expected one of 1, 2" in capsys.readouterr().err


def test_import_refuses_the_wrong_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "m.parquet")
    (tmp_path / "x.csv").write_text("a\n1\n")
    x = str(tmp_path / "x.csv")
    assert main(["calibrate", "import", "splitwise", x, "--out", out]) == 2
    assert main(["calibrate", "import", "vidur", x, "--out", out]) == 2
    assert main(["calibrate", "import", "llmservingsim", str(tmp_path), "--out", out]) == 2
    assert main(["calibrate", "import", "splitwise", x, "--out", "m.csv"]) == 2
    err = capsys.readouterr().err
    for words in ("prompt_size", "2: mlp.csv attention.csv", "--model", ".parquet"):
        assert words in err


def test_compose_makes_the_shipped_profile_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("aiconfigurator_core", reason="the extra 'kernels' is not installed")
    out = tmp_path / "p.yaml"
    assert main(["calibrate", "compose", "llama-3.1-8b", "h100-sxm", "--tp", "2", "--out", str(out)]) == 0
    assert "wrote" in capsys.readouterr().out
    found, shipped = profile.load(out), profile.get("llama-3.1-8b_h100-sxm_tp2_bf16")
    assert found.provenance["data_sha256"] == shipped.provenance["data_sha256"]
    np.testing.assert_allclose(found.cost.linear_s, shipped.cost.linear_s, rtol=2e-3)
    assert main(["calibrate", "compose", "llama-3.1-8b", "mi300x", "--out", str(out)]) == 2
    assert "no kernels of mi300x" in capsys.readouterr().err
    assert main(["calibrate", "compose", "--tp", "2"]) == 2


def test_kernels_timed_badly_are_not_believed() -> None:
    """A matrix multiplication of fewer rows never takes much longer; Blackwell's fp8 samples do, at some sizes."""
    pytest.importorskip("aiconfigurator_core", reason="the extra 'kernels' is not installed")
    from calibration.hardware import hardware
    from calibration.importers.kernels import Kernels

    kernels = Kernels(hardware("b200"))
    rows = np.array([1.0, 2, 4, 8, 16, 32, 64, 128])
    for width, depth in ((5120, 8192), (8192, 4096), (4096, 8192), (8192, 7168)):
        times = kernels.gemm(rows, width, depth, "fp8")
        at_most = np.minimum.accumulate(times[::-1])[::-1]
        assert (times <= 1.26 * at_most).all(), (width, depth, times)
    small, large = kernels.allreduce(np.array([16 * 8192 * 2.0, 64 * 8192 * 2.0]), 8)
    assert small < large
    assert kernels.allreduce(np.array([1024.0]), 1)[0] == 0.0


def test_experts_with_equal_shares_take_the_times_measured_for_them() -> None:
    pytest.importorskip("aiconfigurator_core", reason="the extra 'kernels' is not installed")
    from dataclasses import replace

    from calibration.architecture import architecture
    from calibration.hardware import hardware
    from calibration.importers.kernels import Kernels

    kernels, arch = Kernels(hardware("h100-sxm")), architecture("mixtral-8x7b")
    assert arch.moe is not None
    assert arch.moe.even
    uneven = replace(arch, moe=replace(arch.moe, even=False))
    tokens = np.array([64.0, 2048.0])
    even_s, uneven_s = (kernels.moe(tokens, each, tp=2, ep=1, dtype="bf16") for each in (arch, uneven))
    assert (even_s < 0.95 * uneven_s).all()  # the fullest expert sets the pace
