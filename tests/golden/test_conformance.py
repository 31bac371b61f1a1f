"""Conformance from the command line: equal, different, unreadable; and what a difference says."""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from sim.cli.main import main
from sim.engine.fast_forward import FastForward
from sim.engine.request import Request
from sim.errors import InputError
from sim.validation import conformance
from sim.validation.conformance import check, compare, replay
from sim.validation.recording import WORKLOAD, Recording, find, load

HERE = Path(__file__).parent
CASE = "d04_chunked_256"


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copytree(HERE / CASE, tmp_path / CASE)
    return tmp_path / CASE


def _change_steps(case: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    with gzip.open(case / "steps.csv.gz", "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    with gzip.open(case / "steps.csv.gz", "wt", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_equal_exits_with_zero(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", str(HERE / CASE), str(HERE / "a03_async_chunked_256"), "--both"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(" equal " in line for line in lines)


def test_folder_of_recordings_is_searched() -> None:
    assert [folder.name for folder in find([HERE])] == sorted(
        folder.parent.name for folder in HERE.glob("*/settings.json")
    )


@pytest.mark.parametrize("column", ["t_end_ns", "n_waiting", "free_after_update", "finished", "scheduled"])
def test_difference_names_column_and_both_plans(case: Path, column: str, capsys: pytest.CaptureFixture[str]) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows[700][column] = "123456"

    _change_steps(case, change)
    assert main(["conformance", str(case), "--stepwise"]) == 1
    said = capsys.readouterr().out
    assert "first difference: step 700 of steps" in said
    assert "recorded 123456" in said
    assert "step 700 ←" in said
    for index in (698, 699, 701, 702):
        assert f"step {index}\n" in said
    difference = check(case, stepwise=False).difference
    assert difference is not None
    assert column in difference.columns


def test_every_column_is_compared(case: Path) -> None:
    """A wrong value in any column of either table is found, wherever it stands."""
    recording = load(case)
    ours = replay(recording, stepwise=False)
    for column in recording.steps[0]:
        if column == "step":
            continue

        def change(rows: list[dict[str, str]], column: str = column) -> None:
            rows[11][column] = {"admitted": "7@7", "scheduled": "7"}.get(column, rows[11][column] + "7")

        shutil.copy(HERE / CASE / "steps.csv.gz", case)
        _change_steps(case, change)
        difference = compare(load(case), ours)
        assert difference is not None, column
        assert (difference.table, difference.index, difference.columns) == ("steps", 11, (column,))
    shutil.copy(HERE / CASE / "steps.csv.gz", case)
    original = (case / "requests.csv").read_text().splitlines()
    for position, column in enumerate(original[0].split(",")[1:], start=1):
        fields = original[40].split(",")
        fields[position] += "7"
        (case / "requests.csv").write_text("\n".join([*original[:40], ",".join(fields), *original[41:]]) + "\n")
        difference = compare(load(case), ours)
        assert difference is not None, column
        assert (difference.table, difference.index, difference.columns) == ("requests", 39, (column,))


@pytest.mark.parametrize("missing", [1, 40])
def test_a_recording_that_stops_early_differs(case: Path, missing: int) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        del rows[-missing:]

    steps = len(load(case).steps)
    _change_steps(case, change)
    for stepwise in (True, False):
        difference = check(case, stepwise=stepwise).difference
        assert difference is not None
        assert (difference.index, difference.recorded) == (steps - missing, None)


def test_a_recording_that_goes_on_differs(case: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        rows.append({**rows[-1], "step": str(len(rows))})

    _change_steps(case, change)
    difference = check(case, stepwise=False).difference
    assert difference is not None
    assert difference.ours is None
    assert "our run has no step" in str(difference)


def _settings(case: Path, **changes: object) -> None:
    document = json.loads((case / "settings.json").read_text())
    document["settings"].update(changes)
    (case / "settings.json").write_text(json.dumps(document))


def test_a_request_that_never_fits_stands_still_and_is_said(case: Path) -> None:
    _settings(case, num_gpu_blocks=20)
    difference = check(case, stepwise=False).difference
    assert difference is not None
    assert "stands still" in str(difference) or "cut off" in str(difference)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: (c / "steps.csv.gz").unlink(), "file is missing"),
        (lambda c: (c / "steps.csv.gz").write_bytes(b"no gzip"), "cannot be read"),
        (lambda c: (c / "settings.json").write_text("{"), "is not JSON"),
        (lambda c: (c / "settings.json").write_text("[]"), "has no settings"),
        (lambda c: _settings(c, max_num_seq=4), "did you mean 'max_num_seqs'?"),
        (lambda c: _settings(c, max_num_seqs="4"), "wrong type"),
        (lambda c: _settings(c, watermark=True), "wrong type"),
        (lambda c: _settings(c, policy="lifo"), "must be 'fcfs' or 'priority'"),
        (lambda c: _settings(c, c0_ns=-1), "nanoseconds"),
        (lambda c: _settings(c, max_num_active_seqs=4), "not modelled"),
        (lambda c: (c / "workload.csv").write_text("request_id\n0\n"), "column is missing"),
        (lambda c: (c / "requests.csv").write_text(""), "requests.csv: is empty"),
        (lambda c: (c / "requests.csv").write_text("request_id\n"), "column is missing"),
        (lambda c: (c / "workload.csv").write_text(",".join(WORKLOAD) + "\n"), "has no rows"),
        (lambda c: (c / "steps.csv.gz").write_bytes((c / "steps.csv.gz").read_bytes()[:9000]), "cannot be read"),
        (lambda c: _cell(c, 700, "t_end_ns", "NaN"), "702: t_end_ns: 'NaN' makes no sense; expected an integer"),
        (lambda c: _cell(c, 700, "scheduled", "4:x"), "'4:x' makes no sense; expected requests as id:tokens"),
        (lambda c: _cell(c, 700, "admitted", "4"), "expected requests as id@cached_tokens"),
        (lambda c: _cell(c, 0, "scheduled", "="), "there is no row above"),
        (lambda c: _cell(c, 700, "step", "9" * 5000), "9…' out of order; expected 700"),
        (lambda c: _settings(c, watermark=float("nan")), "watermark must be at least 0 and below 1"),
        (lambda c: _settings(c, max_model_len=500), "a prompt of 580 leaves no room in max_model_len 500"),
        (lambda c: _settings(c, watermark=-0.5), "watermark must be at least 0 and below 1"),
        (lambda c: _settings(c, long_prefill_token_threshold=-1), "must be at least 0"),
        (lambda c: _line(c, 3, "2,1,5,5,,,,"), "arrives before the line above"),
        (lambda c: _line(c, 3, "2,999999999,5,five,,,,"), "'five' is no such number"),
        (lambda c: _line(c, 3, "7,999999999,5,5,,,,"), "out of order"),
        (lambda c: _line(c, 3, "2,999999999,5,5,,,5,9"), "comes later"),
        (lambda c: _line(c, 3, "2,999999999,5,5,,1,6,"), "longer than the prompt"),
        (lambda c: _line(c, 3, "2,999999999,9999,5,,,9999,0"), "longer than all of request 0"),
        (lambda c: _line(c, 3, "2,999999999,5,5,"), "has 5 fields"),
        (lambda c: (c / "workload.csv").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    ],
)
def test_unreadable_recordings_are_refused(
    case: Path, damage: Callable[[Path], object], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(case)
    with pytest.raises(InputError):
        load(case)
    assert main(["conformance", str(case)]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said
    assert str(case) in said


def _cell(case: Path, row: int, column: str, value: str) -> None:
    _change_steps(case, lambda rows: rows[row].update({column: value}))


@pytest.mark.parametrize("damage", ["empty", "cut"])
def test_a_broken_file_is_one_message(case: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (case / "steps.csv.gz").read_bytes()
    (case / "steps.csv.gz").write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert main(["conformance", str(case)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_a_spreadsheet_writes_is_read(case: Path) -> None:
    """A byte order mark, line ends of Windows, an empty line at the end."""
    text = (case / "workload.csv").read_text()
    (case / "workload.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n")
    assert load(case).arrivals == load(HERE / CASE).arrivals


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    """A column of integers with gaps becomes one of floats there."""
    name = "r01_async_conversations"
    shutil.copytree(HERE / name, tmp_path / name)
    frame = pd.read_csv(tmp_path / name / "workload.csv")
    assert frame["parent"].dtype == float
    frame.to_csv(tmp_path / name / "workload.csv", index=False)
    assert load(tmp_path / name).arrivals == load(HERE / name).arrivals


def test_equal_different_and_broken_together(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All are looked at; what cannot be read decides the exit code."""
    for name in ("different", "broken"):
        shutil.copytree(HERE / CASE, case.parent / name)
    _settings(case.parent / "different", num_gpu_blocks=300)
    (case.parent / "broken" / "workload.csv").unlink()
    assert main(["conformance", str(case), str(case.parent / "different")]) == 1
    capsys.readouterr()
    assert main(["conformance", str(case.parent)]) == 2
    said = capsys.readouterr()
    assert [line.split()[2] for line in said.out.splitlines() if "fast-forward" in line] == ["equal", "differs"]
    assert "broken/workload.csv: file is missing" in said.err


def _line(case: Path, number: int, text: str) -> None:
    lines = (case / "workload.csv").read_text().splitlines()
    lines[number] = text
    (case / "workload.csv").write_text("\n".join(lines) + "\n")


def test_no_folder_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", str(tmp_path / "nowhere"), str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "does not exist" in said
    assert "holds no recording" in said


def test_fast_forward_as_simulations_run_it_is_compared_too(
    case: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake that only an engine without a log makes: here one prompt after the other gets its first token late."""
    count = FastForward._count

    def late(engine: FastForward, request: Request, end_ps: int) -> None:
        if engine.log is None:
            request.first_token_ps += 1000
        count(engine, request, end_ps)

    monkeypatch.setattr(FastForward, "_count", late)
    assert main(["conformance", str(case)]) == 1
    assert main(["conformance", str(case), "--stepwise"]) == 0
    out = capsys.readouterr().out
    assert "left alone, as a simulation runs it" in out
    assert "first_token_ns" in out


def test_what_segments_show_of_steps_is_compared(
    case: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = conformance.replay_alone

    def one_more_waits(recording: Recording) -> conformance.Replay:
        ours = run(recording)
        changed = {**ours.steps[40], "n_waiting": "99"}
        return replace(ours, steps=(*ours.steps[:40], changed, *ours.steps[41:]))

    monkeypatch.setattr(conformance, "replay_alone", one_more_waits)
    assert main(["conformance", str(case)]) == 1
    out = capsys.readouterr().out
    assert "first difference: step 40 of steps" in out
    assert re.search(r"n_waiting\s+recorded \d+\n\s+ours\s+99", out)
