"""The scheduler of the docs works as a third party's: found by its entry point, run by name, exact."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sim.policies.schedulers import scheduler
from sim.validation.modes import compare
from sim.validation.random_cases import random_case

DOCS = Path(__file__).parents[2] / "docs" / "schedulers.md"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder such as pip would leave behind: the module, and the metadata of its distribution."""
    (code,) = _blocks("python")
    (declaration,) = _blocks("toml")
    (tmp_path / "shortest_prompt.py").write_text(code, encoding="utf-8")
    section = re.search(r'entry-points\."(.+)"\]\n(\w+) = "(.+)"', declaration)
    assert section is not None
    metadata = tmp_path / "shortest_prompt-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: shortest-prompt\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{section[1]}]\n{section[2]} = {section[3]}\n")
    return tmp_path


def _python(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(package)}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


SCENARIO = """
import json
from sim import load, simulate
pool = {"model": "llama-3.1-8b", "hardware": "a100",
        "engine": {"scheduler": SCHEDULER, "max_num_seqs": 2, "num_gpu_blocks_override": 9000}}
lengths = {"prompt": {"law": "uniform", "low": 10, "high": 4000}, "output": 200}
results = simulate(load({
    "name": "short", "seed": 3, "workload": {"arrivals": "poisson", "rate": "2/s", "lengths": lengths},
    "pools": {"pool": pool}, "measure": {"queries": 120, "max_drain": "10 h"},
}))
requests = results.requests
short = requests[requests.prompt_tokens < 1000].queue_s.mean()
long = requests[requests.prompt_tokens > 3000].queue_s.mean()
print(json.dumps([results.summary["totals"]["completed"], short, long]))
"""


def _run(package: Path, scheduler: str) -> list[float]:
    done = _python(package, "-W", "error", "-c", SCENARIO.replace("SCHEDULER", scheduler))
    assert done.returncode == 0, done.stderr
    result: list[float] = json.loads(done.stdout)
    return result


def test_the_example_is_short() -> None:
    (code,) = _blocks("python")
    assert len(code.splitlines()) <= 50


def test_found_by_its_entry_point_and_run_by_name(package: Path) -> None:
    completed, short_s, long_s = _run(package, '{"name": "shortest_prompt", "patience_s": 600}')
    assert completed >= 120
    assert short_s < long_s / 3
    _, first_short_s, first_long_s = _run(package, '"vllm"')
    assert short_s < first_short_s
    assert first_short_s > first_long_s / 3


def test_its_fields_are_its_options(package: Path) -> None:
    done = _python(package, "-c", SCENARIO.replace("SCHEDULER", '{"name": "shortest_prompt", "patience": 60}'))
    assert "patience_s" in done.stderr
    listed = _python(package, "-m", "sim.cli", "list", "schedulers")
    assert "shortest_prompt" in listed.stdout, listed.stderr


def test_unknown_without_the_package(tmp_path: Path) -> None:
    done = _python(tmp_path, "-c", SCENARIO.replace("SCHEDULER", '"shortest_prompt"'))
    assert "unknown scheduler 'shortest_prompt'" in done.stderr


def test_exact_in_both_modes(package: Path) -> None:
    cls = scheduler.get(f"{package / 'shortest_prompt.py'}:ShortestPrompt")
    runs = preemptions = 0
    for seed in range(100):
        case = random_case(seed, policies=("fcfs",))
        stepwise, fast, differences = compare(case, cls, most_steps=20_000)
        assert not differences, f"seed {seed}\n" + "\n".join(differences)
        runs += fast.seen["steps in runs"]
        preemptions += stepwise.seen["preemptions"]
    assert runs > 1000
    assert preemptions > 50
