"""Workers that are forked: every job once, in any order, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sim.planning import forked

pytestmark = pytest.mark.skipif(not forked.available(), reason="processes are not forked on this system")


def _work(job: int) -> tuple[int, int]:
    if job < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return job, os.getpid()


def _lost(job: int) -> tuple[int, int]:
    return job, 0


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_every_job_is_done_once_and_by_others(workers: int) -> None:
    found = list(forked.unordered(_work, range(12), workers, lost=_lost))
    assert sorted(job for job, _ in found) == list(range(12))
    assert os.getpid() not in {process for _, process in found}
    assert len({process for _, process in found}) <= workers


def test_a_worker_that_is_killed_fails_its_job_alone() -> None:
    found = dict(forked.unordered(_work, [1, -2, 3, -4, 5, 6, -7], 2, lost=_lost))
    assert {job for job, process in found.items() if process == 0} == {-2, -4, -7}
    assert len(found) == 7


def test_no_jobs_no_workers() -> None:
    assert list(forked.unordered(_work, [], 2, lost=_lost)) == []


def test_left_early_nobody_goes_on() -> None:
    results = forked.unordered(_work, range(50), 2, lost=_lost)
    _, process = next(results)
    results.close()
    assert not _alive(process)


ENDLESS = r"""
import os, sys, time
from sim.planning import forked
def work(job):
    os.write(1, b"%d\n" % os.getpid())
    time.sleep(0.2)
    return job
for _ in forked.unordered(work, range(1000), 2, lost=lambda job: job):
    pass
"""


def test_workers_end_when_who_asked_is_killed() -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = {int(process.stdout.readline()) for _ in range(2)}
    process.kill()
    process.wait()
    until = time.monotonic() + 60
    while any(map(_alive, workers)) and time.monotonic() < until:
        time.sleep(0.02)
    process.stdout.close()
    assert not any(map(_alive, workers))


def _alive(process: int) -> bool:
    """Whether it runs; the dead whom nobody has waited for do not."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
