"""The commands, for real on the CPU with a tiny model, alone and as a group of two processes."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from calibration import fitting, measurements
from sim.cli import calibrate_measure, calibrate_selfcheck
from sim.errors import InputError

ROOT = Path(__file__).parents[2]
CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 6,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": 256,
    "max_position_embeddings": 2048,
    "torch_dtype": "float32",
}


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny config.json."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    return str(path)


def call(command: Any, *words: str) -> int:
    """Run a command as the command line would."""
    parser = argparse.ArgumentParser()
    command.prepare_parser(parser)
    code: int = command.run(parser.parse_args(list(words)))
    return code


SMALL = ("--device", "cpu", "--threads", "1", "--repeats", "3", "--batches", "1,2,4", "--contexts", "16,64")


def test_measured_fitted_and_resumed(
    torch: Any, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m.parquet"
    words = (
        "--model",
        model,
        "--out",
        str(out),
        *SMALL,
        "--chunks",
        "8,32",
        "--cached",
        "0,32",
        "--layers",
        "4",
    )
    assert call(calibrate_measure, *words) == 0
    first = capsys.readouterr()
    frame = measurements.read(out)
    assert set(frame["quantity"]) == {"decoder_measured"}
    kinds = set(zip(frame["decodes"] > 0, frame["chunks"] > 0, strict=True))
    assert kinds == {(True, False), (False, True), (True, True)}
    assert (frame["peak_bytes"] > 0).all()
    assert (frame["n"] == 3).all()
    assert all(len(times.split()) == 2 for times in frame["stack_ms"]), "two stacks, scaled"
    for key in ("device", "torch", "date", "command", "stacks", "kv_pool_tokens"):
        assert frame.attrs[key], key
    assert f"--model {model}" in frame.attrs["command"]
    assert "scaled to 6" in first.err
    assert "left" in first.err
    assert len(first.err.splitlines()) >= len(frame)
    usable = frame[frame["flag"] == ""]
    if usable[usable["chunks"] == 0].groupby("decodes").size().gt(1).sum() >= 2:
        assert fitting.fit(usable).fit.cost.kv_s >= 0

    assert call(calibrate_measure, *words) == 0
    second = capsys.readouterr()
    assert f"{len(frame)} of an earlier run" in second.out
    assert "ms, about" not in second.err, "nothing was measured again"
    with pytest.raises(InputError, match="repeats: an earlier run had 3"):
        call(calibrate_measure, *words, "--repeats", "4")
    assert call(calibrate_measure, *words, "--repeats", "4", "--restart") == 0


def test_all_layers_need_no_scaling(torch: Any, model: str, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    assert call(calibrate_measure, "--model", model, "--out", str(out), *SMALL, "--layers", "all", "--no-mixed") == 0
    frame = measurements.read(out)
    assert frame.attrs["scaled"] is False
    assert not ((frame["decodes"] > 0) & (frame["chunks"] > 0)).any()
    first = [float(times) for times in frame["stack_ms"]]
    assert first == pytest.approx(list(frame["time_ms"]), rel=1e-4)
    assert (frame["flag"] == "").all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tp", "2"), "torchrun --nproc-per-node 2"),
        (("--tp", "3", "--shard"), "attention heads"),
        (("--dtype", "fp8"), "Hopper"),
        (("--dtype", "int4"), "no int4 matrix multiplication"),
        (("--dtype", "bf61"), "bf61"),
        (("--device", "tpu"), "--device"),
        (("--attention", "magic"), "--attention"),
        (("--layers", "some"), "--layers"),
        (("--layers", "1"), "at least 2"),
        (("--budget", "10"), "--budget"),
        (("--batches", "4096"), "none of the"),
        (("--repeats", "0"), "--repeats"),
    ],
)
def test_what_cannot_be_measured_is_said_in_a_sentence(
    torch: Any, model: str, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    given = ["--model", model, "--out", str(tmp_path / "m.parquet"), "--device", "cpu", *words]
    if words[0] == "--batches":
        given += ["--contexts", "4096"]
    with pytest.raises(InputError, match=message):
        call(calibrate_measure, *given)
    assert not (tmp_path / "m.parquet").exists()


def test_a_share_alone_is_flagged(torch: Any, model: str, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    words = ("--model", model, "--out", str(out), *SMALL, "--layers", "all", "--tp", "2", "--shard")
    assert call(calibrate_measure, *words) == 0
    frame = measurements.read(out)
    assert set(frame["tp"]) == {2}
    assert set(frame["flag"]) == {"no_allreduce"}
    with pytest.raises(InputError):
        fitting.fit(frame)


def test_without_torch_one_sentence_with_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'thinkcap\[profile\]'"):
        call(calibrate_measure, "--model", "qwen3-8b", "--out", str(tmp_path / "m.parquet"))
    with pytest.raises(InputError, match=r"pip install 'thinkcap\[profile\]'"):
        call(calibrate_selfcheck)


def test_the_commands_and_the_torchless_modules_import_without_torch() -> None:
    modules = "sim.cli.calibrate_measure, sim.cli.calibrate_selfcheck, sim.validation.selfcheck, " + ", ".join(
        f"calibration.profiler.{name}"
        for name in ("points", "shapes", "journal", "telemetry", "synthetic", "run", "loop", "session")
    )
    heavy = "{'torch', 'pandas', 'scipy', 'pyarrow'}"
    code = f"import sys, {modules}; bad = {heavy} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_selfcheck_runs_on_a_real_decoder(
    torch: Any, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "check"
    words = ("--model", model, "--device", "cpu", "--threads", "1", "--requests", "4", "--seats", "3")
    code = call(calibrate_selfcheck, *words, "--layers", "2", "--out", str(folder), "--json")
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((folder / "selfcheck.json").read_text())
    assert found["repeats"] == 5
    assert code == (0 if found["passed"] else 1)
    for item in found["comparisons"]:
        assert item["measured_s"] > 0
        assert item["simulated_s"] > 0
        assert item["bar"] == max(0.05, item["noise"])
        # No promise of accuracy on a busy machine and steps of a millisecond, but the right order.
        assert 0.2 < item["simulated_s"] / item["measured_s"] < 5
    assert found["facts"]["clock"] == "perf_counter"
    assert 0 < found["conditions"]["host_s"] < max(item["measured_s"] for item in found["comparisons"])
    assert found["conditions"]["pairs"] == 4 * found["repeats"]
    assert len(measurements.read(folder / "selfcheck.parquet")) == found["grid_points"]


def test_selfcheck_on_a_synthetic_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(calibrate_selfcheck, "--synthetic", "--noise", "0.005", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert all(abs(error) < 0.01 for error in found["recovered"].values())
    assert len(found["recovered"]) == 6


def test_selfcheck_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    for words, message in ((("--repeats", "4"), "at least 5"), (("--synthetic", "--noise", "2"), "--noise")):
        with pytest.raises(InputError, match=message):
            call(calibrate_selfcheck, *words)


def torchrun(*words: str) -> subprocess.CompletedProcess[str]:
    """Two processes of group_member.py."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(Path(__file__).with_name("group_member.py"))
    return subprocess.run(
        [*command, script, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_a_group_sums_collects_and_agrees(torch: Any, tmp_path: Path) -> None:
    done = torchrun(str(tmp_path), "check")
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("checked") == 2


@pytest.mark.slow
def test_two_processes_measure_together(torch: Any, model: str, tmp_path: Path) -> None:
    done = torchrun(str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    frame = measurements.read(tmp_path / "m.parquet")
    steps = frame[frame["quantity"] == "decoder_measured"]
    reduces = frame[frame["quantity"] == "allreduce_op"]
    assert frame.attrs["gpus_together"] == 2
    assert set(frame["tp"]) == {2}
    assert not steps["flag"].str.contains("no_allreduce").any()
    assert len(steps) == len(steps.drop_duplicates(["decodes", "context", "chunks", "chunk_tokens"])) >= 5
    assert reduces["message_bytes"].is_monotonic_increasing
    assert len(reduces) >= 10
    assert reduces["time_ms"].iloc[-1] > reduces["time_ms"].iloc[0], "128 MiB take longer than 8 KiB"
