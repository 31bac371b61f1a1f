"""Notebooks hold no outputs, and run from top to bottom: their assertions check what their text claims."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

_RUN = """
import sys
import nbformat
from nbclient import NotebookClient
path, folder = sys.argv[1:]
notebook = nbformat.read(path, as_version=4)
place = {"metadata": {"path": folder}}
NotebookClient(notebook, timeout=900, kernel_name="python3", resources=place).execute()
drawn = sum("application/vnd.plotly.v1+json" in output.get("data", {})
            for cell in notebook.cells for output in cell.get("outputs", ()))
print("figures", drawn)
"""


GUIDE = Path(__file__).parents[2] / "docs" / "report.md"


@pytest.mark.slow
def test_the_guide_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    assert len(code) >= 2
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in code:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert "Good enough" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_guide_names_every_figure() -> None:
    from sim.report import figures

    text = GUIDE.read_text(encoding="utf-8")
    for path in Path(figures.__path__[0]).glob("*.py"):
        assert path.stem == "__init__" or f"`{path.stem}`" in text


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_outputs_are_kept(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="the notebooks extra is not installed")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert any("assert " in cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_it_runs_and_its_claims_hold(path: Path, tmp_path: Path) -> None:
    """In a process of its own: kernels and their libraries warn of things that are not ours to mend."""
    pytest.importorskip("nbclient", reason="the notebooks extra is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _RUN, str(path), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
        env={
            **os.environ,
            "IPYTHONDIR": str(tmp_path / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter"),
        },
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout.split()[-1]) >= 3
