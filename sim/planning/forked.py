"""Worker processes that begin with all that this process has loaded: forked, so that a start costs next to nothing.

Importing the simulator takes a worker as long as a dozen points of a small sweep. Each worker has a pipe of its own; when
this process dies, however it dies, the pipes close and the workers end. A worker that dies (the system kills what takes
too much memory) fails the job that it was at, and another takes its place.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from multiprocessing.context import ForkProcess

Job = TypeVar("Job")
Result = TypeVar("Result")

AHEAD = 2
"""Jobs that a worker knows of at most: while one's result is written to disk, it is at the next."""


def available() -> bool:
    """Whether processes can be forked safely here: macOS has libraries that do not bear it, Windows cannot."""
    return sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()


def unordered(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int, *, lost: Callable[[Job], Result]
) -> Iterator[Result]:
    """``work(job)`` of all jobs, as they end, on so many processes; ``lost(job)`` for one whose worker died.

    *work* must not raise. Workers inherit *jobs*, and results travel pickled.
    """
    waiting = deque(range(len(jobs)))
    team: dict[connection.Connection, _Worker] = {}
    try:
        for _ in range(min(workers, len(jobs))):
            _start(team, work, jobs)
        for _ in range(AHEAD):
            for each in team.values():
                each.give(waiting)
        while any(each.doing for each in team.values()):
            for ready in connection.wait(list(team)):
                assert isinstance(ready, connection.Connection)
                each = team[ready]
                try:
                    result = ready.recv()
                except (EOFError, OSError):
                    result = None
                    del team[ready]
                    each.process.join()
                    ready.close()
                    if not each.doing:
                        continue
                    waiting.extendleft(reversed(list(each.doing)[1:]))
                    _start(team, work, jobs)
                    for other in team.values():
                        while len(other.doing) < AHEAD and waiting:
                            other.give(waiting)
                    yield lost(jobs[each.doing[0]])
                    continue
                each.doing.popleft()
                each.give(waiting)
                yield result
    finally:
        for each in team.values():
            each.end()


class _Worker:
    """One process, and the numbers of the jobs that it has been given."""

    def __init__(self, process: ForkProcess, pipe: connection.Connection) -> None:
        self.process, self.pipe = process, pipe
        self.doing: deque[int] = deque()

    def give(self, waiting: deque[int]) -> None:
        """The next job, if there is one."""
        if waiting:
            self.doing.append(waiting.popleft())
            with contextlib.suppress(BrokenPipeError):  # it has died: its pipe will say so
                self.pipe.send(self.doing[-1])

    def end(self) -> None:
        """Now; what it was at is lost."""
        self.pipe.close()
        if self.doing:
            self.process.terminate()
        self.process.join()


def _start(team: dict[connection.Connection, _Worker], work: Callable[[Any], Any], jobs: Sequence[Any]) -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(work, jobs, theirs, [ours, *team]), daemon=True)
    with warnings.catch_warnings():
        # Python 3.12 warns of every fork beside threads: those of numpy and pyarrow know how to begin anew
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    team[ours] = _Worker(process, ours)


def _serve(
    work: Callable[[Any], Any],
    jobs: Sequence[Any],
    pipe: connection.Connection,
    others: Sequence[connection.Connection],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the process that asked decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in others:  # inherited; while they are open here, the pipes would not close with the process that asked
        other.close()
    while True:
        try:
            pipe.send(work(jobs[pipe.recv()]))
        except (EOFError, OSError):
            return
