"""The command as a whole: fast help, exit codes, one message, nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from sim.cli import main as cli
from sim.errors import InputError, Problem


def test_help_names_every_command_and_imports_nothing_heavy(thinkcap):
    ran = thinkcap("--help")
    assert ran.code == 0
    for name in ("run", "validate", "report", "explain", "scenarios", "list", "schema", "check"):
        assert f"  {name} " in ran.out
    heavy = ["numpy", "pandas", "pydantic", "yaml", "plotly", "scipy", "pyarrow", "simpy", "torch", "rich"]
    code = (
        "import sys; from sim.cli.main import main; main(['--help']); "
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def test_help_takes_little_more_than_python_itself():
    def best(*arguments: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    bare = best("-c", "pass")
    assert best("-m", "sim.cli", "--help") < 0.3 + 3 * bare


@pytest.mark.parametrize("command", sorted(cli.commands()))
def test_every_command_has_help(thinkcap, command):
    ran = thinkcap(*command.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"usage: thinkcap {command}")
    assert thinkcap("help", *command.split()).code == 0


def test_version_and_no_arguments(thinkcap):
    assert thinkcap("--version").out.startswith("thinkcap 0.")
    assert thinkcap().out.startswith("usage: thinkcap COMMAND")


def test_words_of_a_module_are_words_of_a_command(monkeypatch, tmp_path):
    names = ("trace_fit", "trace_scale", "compare", "compare_run", "scenario_from", "plan", "_helper", "main")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "main.py"))
    for name in names:
        (tmp_path / f"{name}.py").write_text(f'HELP = "what {name} does"\n')
    (tmp_path / "no_help.py").write_text("x = 1\n")
    assert list(cli.commands()) == ["compare", "compare-run", "plan", "scenario-from", "trace fit", "trace scale"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "unknown command 'rnu'.*did you mean 'run'"),
        (["--verbose"], "unknown option '--verbose'"),
        (["run"], "SCENARIO"),
        (["run", "quickstart", "--frobnicate"], "--frobnicate"),
        (["run", "nowhere.yaml"], "no such file or scenario"),
        (["run", "quikstart"], "did you mean 'quickstart'"),
        (
            ["run", "quickstart", "--set", "workload.rat=3/s"],
            "--set workload.rat: workload.rat: unknown key.*'rate'",
        ),
        (["run", "quickstart", "--set", "workload.rate=3"], "no unit.*3/s"),
        (["run", "quickstart", "--set", "workload.rate"], "sets nothing"),
        (["run", "quickstart", "--set", "workload.trace=none.csv"], "no such file 'none.csv'"),
        (["run", "quickstart", "--seed", "x"], "seed.*whole number"),
        (["run", "quickstart", "--replications", "0"], "replications.*at least 1"),
        (["validate"], "SCENARIO"),
        (["validate", "quickstart", "none.yaml"], "none.yaml: no such file"),
        (["report", "nowhere"], "nowhere is not a directory"),
        (["explain", "nowhere", "3"], "nowhere is not a directory"),
        (["list", "routes"], "routes"),
        (["schema", "extra"], "extra"),
    ],
)
def test_bad_command_lines(thinkcap, here, arguments, message):
    ran = thinkcap(*arguments)
    assert ran.code == 2
    import re

    assert re.search(message, ran.err, re.DOTALL), ran.err
    assert "Traceback" not in ran.err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("header.csv", "a,b,c\n1,2,3\n", "header.csv"),
        ("empty.csv", "", "empty.csv"),
        ("only_header.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n", "only_header.csv"),
        ("negative.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,-5,3\n", "negative.csv"),
        ("word.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,many,3\n", "word.csv"),
        ("nan.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\nnan,5,3\n", "nan.csv"),
        ("zero.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0,5,0\n", "zero.csv"),
        ("binary.csv", "\0\1\2\3", "binary.csv"),
    ],
)
@pytest.mark.parametrize("command", ["run", "validate"])
def test_broken_traces(thinkcap, here, tmp_path, tiny, name, content, message, command):
    trace = tmp_path / name
    trace.write_text(content)
    ran = thinkcap(command, tiny, "--set", f"workload.trace={trace}")
    assert ran.code == 2, (ran.out, ran.err)
    assert message in ran.err
    assert "Traceback" not in ran.err
    assert list(here.iterdir()) == []


def test_all_problems_of_all_files_in_one_message(thinkcap, tmp_path, tiny):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(tiny.read_text().replace("rate: 2/s", "rate: 2"))
    ran = thinkcap("validate", tmp_path / "a.yaml", tiny, tmp_path / "b.yaml")
    assert ran.code == 2
    assert ran.err.startswith("thinkcap: 2 problems\n")
    assert "a.yaml:4: workload.rate" in ran.err
    assert "b.yaml:4: workload.rate" in ran.err
    assert "tiny is valid" in ran.out


def test_a_bug_of_ours_keeps_its_traceback(thinkcap, monkeypatch):
    def broken(args):
        raise RuntimeError("ours")

    monkeypatch.setattr("sim.cli.check.run", broken)
    with pytest.raises(RuntimeError, match="ours"):
        thinkcap("check")


def test_ctrl_c_is_130(thinkcap, monkeypatch):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("sim.cli.check.run", interrupted)
    ran = thinkcap("check")
    assert (ran.code, "Traceback" in ran.err) == (130, False)


def test_messages_say_how_many_problems(thinkcap, monkeypatch):
    def fail(args):
        raise InputError([Problem("one", source="f", line=1), Problem("two")])

    monkeypatch.setattr("sim.cli.check.run", fail)
    assert thinkcap("check").err == "thinkcap: 2 problems\n  f:1: one\n  two\n"


def test_ctrl_c_during_a_run_writes_nothing(here, tiny):
    long = [sys.executable, "-m", "sim.cli", "run", str(tiny), "--out", "out", "--stepwise"]
    long += ["--set", "measure.queries=100000000", "--set", "workload.lengths.reasoning=4000"]
    # Where the tests themselves run in the background, SIGINT is ignored and a child would inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(long, stderr=subprocess.PIPE, text=True, cwd=here, preexec_fn=heard) as process:
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        try:
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "Traceback" not in err
    assert os.listdir(here) == []


def test_a_closed_pipe_is_no_error(here):
    command = f"{sys.executable} -m sim.cli list models | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_what_can_be_listed(thinkcap):
    assert "deepseek-r1-production" in thinkcap("list", "presets").out
    assert "h100-sxm" in thinkcap("list", "hardware", "--names").out.split()
    policies = thinkcap("list", "policies").out
    assert "round_robin" in policies
    assert "thinking_token_budget" in policies
    assert all(line.count("(") == line.count(")") for line in policies.splitlines())  # no line ends within parentheses
    assert thinkcap("list").code == 0
    for kind, name in (("autoscalers", "target_kv_use"), ("predictors", "oracle"), ("kv", "paged")):
        assert name in thinkcap("list", kind, "--names").out.split()


def test_check_says_where_everything_is(thinkcap):
    ran = thinkcap("check")
    assert ran.code == 0
    for name in ("sim", "workloads", "calibration", "numpy"):
        assert name in ran.out


def test_schema_is_json(thinkcap):
    assert json.loads(thinkcap("schema").out)["title"] == "ThinkCap scenario"
    assert thinkcap("schema", "--markdown").out.startswith("# Scenarios")


def test_shipped_scenarios_are_listed_and_valid(thinkcap):
    ran = thinkcap("scenarios")
    assert "quickstart  " in ran.out
    names = [line.split()[0] for line in ran.out.splitlines()]
    assert thinkcap("validate", *names).code == 0


def test_validate_reads_what_a_plan_and_a_sweep_try(thinkcap, here, tiny, tmp_path):
    changed = tmp_path / "changed.yaml"
    changed.write_text(
        tiny.read_text(encoding="utf-8")
        + "plan: {candidates: {a: {seed: 3}, b: {router: ronud_robin}}}\n"
        + "sweep: {over: {seed: [1, many], workload.rate: [1/s]}}\n",
        encoding="utf-8",
    )
    ran = thinkcap("validate", changed)
    assert ran.code == 2
    assert "plan.candidates.b: router: unknown router 'ronud_robin'" in ran.err
    assert "'round_robin'" in ran.err
    assert "sweep.over.seed[1]" in ran.err
    assert "candidates.a" not in ran.err
    assert "rate" not in ran.err


def test_validate_prints_the_resolved_scenario(thinkcap, here, tiny):
    ran = thinkcap("validate", tiny, "--resolved", "--seed", 3)
    (here / "resolved.yaml").write_text(ran.out)
    again = thinkcap("validate", "resolved.yaml", "--resolved")
    assert again.out == ran.out
    assert "seed: 3" in ran.out


@pytest.mark.parametrize("command", [["scenarios"], ["list"], ["list", "models"], ["list", "policies"]])
def test_lists_as_json(command, capsys):
    assert cli.main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if command == ["scenarios"]:
        assert "quickstart" in {row["name"] for row in found}
    elif command == ["list"]:
        assert found["routers"]["round_robin"]
    else:
        assert all(text for kind in found.values() for text in kind.values())
