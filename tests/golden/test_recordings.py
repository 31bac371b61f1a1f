"""The engine decides as the real vLLM V1 scheduler did: every row and column of every recording, in both
modes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sim.validation.conformance import check, check_recording
from sim.validation.recording import find, load

HERE = Path(__file__).parent
FOLDERS = find([HERE])
LONG = {"d03_heavy_tail"}
MODES = [pytest.param(True, id="stepwise"), pytest.param(False, id="fast-forward")]


def _marks(folder: Path) -> list[pytest.MarkDecorator]:
    return [pytest.mark.slow] if folder.name in LONG else []


@pytest.mark.parametrize("stepwise", MODES)
@pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name, marks=_marks(folder)) for folder in FOLDERS])
def test_recording_is_met_row_by_row(folder: Path, stepwise: bool) -> None:
    outcome = check(folder, stepwise=stepwise)
    assert outcome.difference is None, str(outcome.difference)


def test_recordings_cover_what_the_scheduler_can_do() -> None:
    """A folder that got lost must not make this suite easier."""
    assert len(FOLDERS) == 28
    recordings = [load(folder) for folder in FOLDERS]
    settings = [recording.settings for recording in recordings]
    assert any(arrival.parent is not None for recording in recordings for arrival in recording.arrivals)
    together = {(own.async_scheduling, own.policy, own.enable_prefix_caching) for own in settings}
    assert {
        (True, "fcfs", True),
        (True, "priority", False),
        (True, "priority", True),
        (False, "priority", True),
    } <= together
    for name in (
        "policy",
        "enable_prefix_caching",
        "enable_chunked_prefill",
        "async_scheduling",
        "scheduler_reserve_full_isl",
        "long_prefill_token_threshold_adaptive",
        "block_size",
        "watermark",
        "max_model_len",
        "sliding_window",
        "sliding_groups",
    ):
        assert len({getattr(each, name) for each in settings}) > 1, name


@pytest.mark.parametrize(
    ("case", "changes"),
    [
        ("d02_kv_pressure", {"num_gpu_blocks": -1}),
        ("d08_watermark", {"watermark": 0.04}),
        ("x03_no_chunked", {"enable_chunked_prefill": True}),
        ("x10_priority_refund", {"scheduler_reserve_full_isl": True}),
        ("d07_priority", {"policy": "fcfs"}),
        ("a05_async_prefix_lru", {"async_scheduling": False}),
        ("d06_shared_prefix_lru", {"enable_prefix_caching": False}),
        ("r01_async_conversations", {"num_gpu_blocks": -1}),
        ("r02_async_priority_prefix", {"policy": "fcfs"}),
        ("r03_async_priority_refund", {"long_prefill_token_threshold": 39}),
        ("r04_async_watermark_adaptive", {"long_prefill_token_threshold_adaptive": False}),
        ("r05_async_no_chunked_length", {"max_model_len": 255}),
        ("r06_conversations_block_128", {"async_scheduling": True}),
        ("r07_burst_priority_block_1", {"max_num_seqs": 16}),
        ("s01_async_window_gpt_oss", {"sliding_window": 144}),
        ("s01_async_window_gpt_oss", {"num_gpu_blocks": -1}),
        ("s02_window_five_groups", {"sliding_window": 39}),
        ("s03_async_window_watermark", {"sliding_groups": 1}),
    ],
)
@pytest.mark.parametrize("stepwise", MODES)
def test_another_setting_is_noticed(case: str, changes: dict[str, object], stepwise: bool) -> None:
    """The comparison has teeth: one setting off, and the recording is missed."""
    recording = load(HERE / case)
    if changes.get("num_gpu_blocks") == -1:
        changes = {"num_gpu_blocks": recording.settings.num_gpu_blocks - 1}
    wrong = replace(recording, settings=replace(recording.settings, **changes))  # type: ignore[arg-type]
    assert check_recording(wrong, stepwise=stepwise).difference is not None


@pytest.mark.slow
@pytest.mark.skipif("VLLM_FILES" not in os.environ, reason="VLLM_FILES does not say where vLLM 0.33.0 is unpacked")
@pytest.mark.parametrize(
    "name", ["r02_async_priority_prefix", "r07_burst_priority_block_1", "d07_priority", "s03_async_window_watermark"]
)
def test_recordings_can_be_made_again(name: str, tmp_path: Path) -> None:
    command = [sys.executable, HERE / "record.py", os.environ["VLLM_FILES"], tmp_path, HERE / name]
    subprocess.run(
        [str(word) for word in command], check=True, env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    )
    assert replace(load(tmp_path / name), folder=HERE / name) == load(HERE / name)
