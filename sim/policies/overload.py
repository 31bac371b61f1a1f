"""What admission control is asked, what it may see, and what it answers.

It is asked once for each new query, before routing. What it turns away is rejected, or tried again by a
client that backs off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from sim.policies.routing import RoutedRequest, Sees, View

Refuses = Callable[[View, RoutedRequest], str | None]


class Admission:
    """Base of admission policies: a subclass fills in `refuses`, and `begin` when it remembers anything."""

    sees: ClassVar[Sees] = "counts"

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        """Why *request* is turned away, in words; None when it is let in."""
        raise NotImplementedError

    def begin(self, rng: np.random.Generator) -> Refuses:
        """How to judge during one run, with the policy's own *rng*; what is returned holds what is
        remembered.
        """
        return self.refuses
