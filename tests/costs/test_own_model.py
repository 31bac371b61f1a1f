"""A model that does not ship: its table and its profile carry its shapes, from measuring to simulating."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from calibration import measurements, profile
from calibration.architecture import architecture, from_dict, is_shipped, names
from calibration.deployment import deploy
from sim.cli.main import main
from sim.errors import InputError

CONFIG = {
    "model_type": "qwen3",
    "num_hidden_layers": 12,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "intermediate_size": 1536,
    "vocab_size": 8192,
    "max_position_embeddings": 8192,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config.json of a model of its own."""
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(CONFIG))
    return path


def table(model: str) -> pd.DataFrame:
    rows = [
        {"decodes": batch, "context": context, "time_ms": 1.0 + 0.01 * batch + 1e-5 * batch * context}
        for batch in (1, 2, 4, 8)
        for context in (64, 256, 1024)
    ]
    rows += [{"decodes": 0, "context": 0, "chunks": 1, "chunk_tokens": n, "time_ms": 1.0 + 0.02 * n} for n in (16, 64)]
    frame = pd.DataFrame(rows).fillna(0)
    return frame.assign(
        source="mine", gpu="NVIDIA Made Up 9000", model=model, dtype="bf16", tp=1, quantity="decoder_measured"
    )


def test_fitted_and_used_without_saying_the_model_again(config: Path, tmp_path: Path) -> None:
    arch = architecture(str(config))
    assert arch.name == "mine"
    measured, fitted = tmp_path / "m.parquet", tmp_path / "p.yaml"
    measurements.write(table("mine"), measured, {"architecture": arch.to_dict()})
    assert main(["calibrate", "fit", str(measured), "--out", str(fitted), "--residuals", str(tmp_path / "r.html")]) == 0
    found = profile.load(fitted)
    assert found.name == "mine_nvidia-made-up-9000_tp1_bf16"
    assert found.architecture is not None
    assert found.architecture.shape() == arch.shape()
    assert "No roofline beside it" in (tmp_path / "r.html").read_text(encoding="utf-8")
    placed = deploy(model=str(config), hardware="l4", profile=str(fitted))
    assert placed.fidelity.profile == found.name
    with pytest.raises(InputError, match="is of mine, whose shapes differ"):
        deploy(model="qwen3-8b", hardware="l4", profile=str(fitted))


def test_an_unknown_model_says_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measurements.write(table("mine"), tmp_path / "m.parquet")
    assert main(["calibrate", "fit", str(tmp_path / "m.parquet"), "--out", str(tmp_path / "p.yaml")]) == 2
    said = capsys.readouterr().err
    assert "m.parquet: model: unknown model 'mine'" in said
    assert "--model with one or the config.json" in said
    assert not (tmp_path / "p.yaml").exists()


@pytest.mark.parametrize("name", ["mixtral-8x7b", "deepseek-r1", "gpt-oss-20b"])
def test_shapes_survive_being_written(name: str) -> None:
    arch = architecture(name)
    assert name in names()
    again = from_dict(json.loads(json.dumps(arch.to_dict())), source="x")
    assert again == arch
    assert is_shipped(again)
    assert not is_shipped(replace(again, layers=again.layers + 1))


def test_a_shipped_models_profile_does_not_repeat_its_shapes(tmp_path: Path) -> None:
    measurements.write(table("qwen3-8b"), tmp_path / "m.parquet")
    assert main(["calibrate", "fit", str(tmp_path / "m.parquet"), "--out", str(tmp_path / "p.yaml"), "--json"]) == 0
    assert "architecture" not in (tmp_path / "p.yaml").read_text(encoding="utf-8")


def test_a_name_is_where_the_config_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(folder)
    assert architecture("config.json").name == "my-model"
    assert architecture(str(folder)).name == "my-model"
