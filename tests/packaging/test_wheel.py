"""The built wheel works from an empty folder as the checkout does."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the checkout"),
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = out.glob("thinkcap-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel in it, and everything it depends on lent by this one."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Ours is an editable install: its .pth is not read from a folder that a .pth names.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "python"


def test_the_wheel_holds_what_is_needed_and_no_more(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sim", "workloads", "calibration"}
    for part in (
        "sim/_scenarios/quickstart.yaml",
        "calibration/models/r1-distill-llama-70b.yaml",
        "calibration/gpus/h100-sxm.yaml",
        "calibration/engines/vllm.yaml",
        "sim/py.typed",
        "workloads/py.typed",
        "calibration/py.typed",
    ):
        assert part in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for kind in ("scenarios", "calibration", "workloads", "sim"):
        folder = ROOT / kind
        ours = {
            path.relative_to(ROOT).as_posix().replace("scenarios/", "sim/_scenarios/", kind == "scenarios")
            for path in folder.rglob("*")
            if path.suffix in (".yaml", ".json", ".py") and "__pycache__" not in path.parts
        }
        assert ours <= set(names), sorted(ours - set(names))[:5]


def test_it_works_from_an_empty_folder(installed, tmp_path):
    def thinkcap(*arguments: str) -> str:
        command = [str(installed), "-m", "sim.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    checked = thinkcap("check")
    assert str(ROOT) not in checked, checked
    assert "_scenarios" in checked
    assert "quickstart" in thinkcap("scenarios")
    assert list(tmp_path.iterdir()) == []
    summary = thinkcap("run", "quickstart", "--replications", "1")
    assert "report" in summary
    assert (tmp_path / "runs" / "quickstart" / "report.html").stat().st_size > 100_000
