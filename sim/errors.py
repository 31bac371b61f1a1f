"""Which errors a user can meet, and how they read.

    ThinkcapError            anything a user can mend; the command line prints it and exits with 2
    ├── InputError           one or more problems in a file, a trace or on the command line, all at once
    ├── DoesNotFit           a request, a model or a plan that can never fit, with the arithmetic
    └── PolicyError          a policy broke a rule of the engine; names the policy and the rule

Everything else that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class ThinkcapError(Exception):
    """Base of all errors that a user can mend."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, what was expected, and the nearest valid name."""

    message: str
    source: str | None = None
    line: int | None = None
    key: str | None = None
    expected: str | None = None
    nearest: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.source, self.line) if part is not None)
        text = ": ".join(part for part in (place, self.key, self.message) if part)
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


class InputError(ThinkcapError):
    """Bad input: carries every *problem* found, so that all can be mended in one go."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # from another process it comes as it was


class DoesNotFit(ThinkcapError):
    """Something can never fit (a request in the KV pool, weights on a GPU); it shows the arithmetic."""


class PolicyError(ThinkcapError):
    """A policy asked the engine for something that its rules forbid."""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to *name*, or None when nothing is close.

    >>> nearest("least_outstanding_token", ["round_robin", "least_outstanding_tokens"])
    'least_outstanding_tokens'
    """
    matches = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None
