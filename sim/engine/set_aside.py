"""Blocks of the counted batch beside those that its tokens fill: set aside and not reached yet, and of windows.

Both change as the decodes go on, by a pattern as long as a block: where a decode stands within its block says when it takes
the next one. So they are counted like the blocks themselves, and nobody who decodes is looked at.
"""

from __future__ import annotations

from array import array

from sim.engine.request import Request
from sim.engine.windows import Windows


class SetAside:
    """Sums over the counted batch, brought up to a decode counter when they are asked for."""

    __slots__ = ("_at", "_grows", "_size", "_windows", "unused", "unused_takes", "window", "window_takes")

    def __init__(self, block_size: int, windows: Windows | None) -> None:
        self._size = block_size
        self._windows = windows
        self._at = 0
        self._grows: dict[Request, tuple[int, int]] = {}
        self.unused = self.window = 0
        """Blocks set aside and not reached, and blocks of windows, when the counter was last told."""
        self.unused_takes, self.window_takes = array("H", [0] * block_size), array("H", [0] * block_size)
        """How many of each a step changes, by the place within their block of those whose own change."""

    def go_on(self, counter: int) -> None:
        """The batch's counter stands at *counter* now."""
        steps, size = counter - self._at, self._size
        if steps:
            self.unused -= _taken(self.unused_takes, self._at, steps, size)
            if self._windows is not None:
                self.window += _taken(self.window_takes, self._at, steps, size)
            self._at = counter

    def after(self, steps: int) -> tuple[int, int]:
        """Both sums *steps* steps from the counter on."""
        size, unused, window = self._size, self.unused, self.window
        if steps:
            unused -= _taken(self.unused_takes, self._at, steps, size)
            if self._windows is not None:
                window += _taken(self.window_takes, self._at, steps, size)
        return unused, window

    def join(self, request: Request, counter: int) -> None:
        """*request* is counted from here on."""
        self.go_on(counter)
        blocks = -(-(request.base + counter) // self._size)
        self.unused += max(0, request.reserved - blocks)
        self.window += self._of_window(blocks)
        self._note(request, self._growing(request), 1)

    def leave(self, request: Request, counter: int) -> None:
        """*request* is counted no longer."""
        self.go_on(counter)
        blocks = -(-(request.base + counter) // self._size)
        self.unused -= max(0, request.reserved - blocks)
        self.window -= self._of_window(blocks)
        self._note(request, self._grows.pop(request), -1)

    def cross(self, request: Request, counter: int) -> None:
        """*request* has come to the end of what was set aside for it, or of its window."""
        self.go_on(counter)
        self._note(request, self._grows[request], -1)
        self._note(request, self._growing(request), 1)

    def _of_window(self, blocks: int) -> int:
        windows = self._windows
        return windows.settled(blocks) if windows is not None else 0

    def _growing(self, request: Request) -> tuple[int, int]:
        computed, windows = request.base + self._at, self._windows
        window = windows.groups if windows is not None and computed < windows.most * self._size else 0
        return int(computed < request.reserved * self._size), window

    def _note(self, request: Request, grows: tuple[int, int], sign: int) -> None:
        place = request.base % self._size
        self.unused_takes[place] += sign * grows[0]
        self.window_takes[place] += sign * grows[1]
        if sign > 0:
            self._grows[request] = grows


def _taken(takes: array[int], counter: int, steps: int, size: int) -> int:
    """What *takes* sums up to in *steps* steps, one at least, from *counter* on."""
    upto = -counter % size + 1  # a step looks one place further down, round and round
    if steps == 1:
        return takes[upto - 1]
    rounds, rest = divmod(steps, size)
    some = sum(takes[upto - rest : upto]) if upto >= rest else sum(takes[:upto]) + sum(takes[upto - rest :])
    return rounds * sum(takes) + some if rounds else some
