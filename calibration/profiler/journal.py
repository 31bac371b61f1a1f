"""Keeps every measured point on disk the moment it is known, so that a run that dies costs at most one point.

A journal is a file of JSON lines beside the table: first who measures what (the identity), then one line a
point. Lines are appended and forced to disk; a line torn by a sudden death is recognised and overwritten.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sim.errors import InputError, Problem


class Journal:
    """The journal in *path*; *identity* must be equal for a run that goes on where another stopped."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.records: dict[str, dict[str, Any]] = {}
        """Finished points by key, those of earlier runs included."""
        self.resumed = 0
        """How many of them an earlier run left."""

    def open(self) -> None:
        """Read what an earlier run left and be ready to append; raise an InputError for another
        measurement's journal."""
        try:
            raw = self.path.read_bytes() if self.path.exists() else b""
            whole, _, torn = raw.rpartition(b"\n")
            lines = whole.split(b"\n") if whole else []
            if lines:
                self._compare(lines[0])
                for number, line in enumerate(lines[1:], start=2):
                    record = self._parse(line, number)
                    self.records[record["key"]] = record
            self.resumed = len(self.records)
            if torn:
                with self.path.open("r+b") as file:
                    file.truncate(len(raw) - len(torn))
            if not lines:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._write({"identity": self.identity})
        except OSError as error:
            raise InputError(Problem(f"cannot be used: {error.strerror}", source=str(self.path))) from None

    def add(self, key: str, record: dict[str, Any]) -> None:
        """Append a finished point; it is on disk when this returns."""
        entry = {"key": key, **record}
        self.records[key] = entry
        self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            record = json.loads(line)
            if isinstance(record, dict) and ("key" in record or number == 1):
                return record
        except ValueError:
            pass
        raise InputError(
            Problem("not a line of a journal", source=str(self.path), line=number, expected="an untouched journal")
        )

    def _compare(self, line: bytes) -> None:
        earlier = self._parse(line, 1).get("identity")
        if not isinstance(earlier, dict):
            raise InputError(Problem("not a journal of a measurement", source=str(self.path), line=1))
        differing = [
            Problem(
                f"an earlier run had {earlier.get(key)!r}, this one has {self.identity.get(key)!r}",
                source=str(self.path),
                key=key,
                expected="the same measurement, another --out, or the journal removed",
            )
            for key in sorted({*earlier, *self.identity})
            if earlier.get(key) != self.identity.get(key)
        ]
        if differing:
            raise InputError(differing)
