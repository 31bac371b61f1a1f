"""Runs ``thinkcap`` in this process, in an empty folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from sim.cli.main import main


@dataclass
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that commands run in."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def thinkcap(here: Path, capsys: pytest.CaptureFixture[str]):
    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:  # argparse
            code = int(error.code or 0)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


TINY = """\
name: tiny
workload:
  arrivals: poisson
  rate: 2/s
  lengths: {prompt: 50, reasoning: 40, answer: 10}
pools:
  p: {model: llama-3.1-8b, hardware: h100-sxm}
slo: {tta: {p99: 20 s}}
measure: {warmup_queries: 5, queries: 40}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A scenario of a moment."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path
