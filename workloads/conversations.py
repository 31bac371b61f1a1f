"""What hangs together in a trace: the turns of conversations, prefixes that prompts share, prompts asked again.

Rows pass by in order of arrival; what is kept is bounded: the 100,000 sessions that spoke last, samples of what was
said, and of very many prompts those whose names fall on every second, fourth, eighth … place of a hash.
"""

from __future__ import annotations

import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa

FloatArray = npt.NDArray[np.float64]

SINGLE, FIRST, LATER = 0, 1, 2
"""Whether a query is alone, the first of several turns, or a later one."""
_OPEN = 100_000
_ROWS = 400_000
_SAID = 200_000
_PROMPTS = 100_000
_BLOCK = 512
"""Tokens that a continued prompt may share less than the parent's: published block hashes are as coarse as this."""
_COMMON = 0.2

COLUMNS = ("session_id", "parent_id", "prefix_group", "prompt_id")
"""Columns that say so."""


@dataclass(slots=True)
class _Session:
    row: int
    client: int
    last_s: float
    prompt: int
    answer: int
    output: int
    turns: int
    group: Any = None
    """Whose prefix its first prompt shares; None: nobody's yet."""


class Structure:
    """Conversations, shared prefixes and recurring prompts of a trace, row by row."""

    def __init__(self) -> None:
        self.rows = 0
        self._sessions: OrderedDict[Any, _Session] = OrderedDict()
        self._key_of_row: OrderedDict[int, Any] = OrderedDict()
        self._group_of_row: OrderedDict[int, Any] = OrderedDict()
        self._common: int | None = None
        self.turns: Counter[tuple[int, int]] = Counter()
        """Sessions that ended, by client and number of turns."""
        self._said = _Sample()
        self._last = _Sample()
        self.groups: Counter[Any] = Counter()
        self._shares: Counter[tuple[Any, int]] = Counter()
        self.prompt_tokens = self.shared_tokens = self.shares_known = 0
        self.prompts = _Prompts()

    @property
    def conversations(self) -> int:
        """Sessions of several turns."""
        return sum(count for (_, turns), count in self.all_turns().items() if turns > 1)

    def all_turns(self) -> Counter[tuple[int, int]]:
        """Sessions by client and number of turns, those still open among them."""
        return self.turns + Counter((one.client, one.turns) for one in self._sessions.values())

    @property
    def said(self) -> FloatArray:
        """A sample of later turns: client, pause in s, growth of the prompt, answer and output before, shared tokens,
        the prompt before, when that was asked in s and which turn it was."""
        return self._said.table(9)

    @property
    def last(self) -> FloatArray:
        """A sample of the last turns of conversations, as many of all as of ``said``: client, number of turns, time in s."""
        still = [(one.client, one.turns, one.last_s) for one in self._sessions.values() if one.turns > 1]
        found = np.concatenate([self._last.table(3), np.array(still, np.float64).reshape(-1, 3)])
        return found[:: self._said.each] if self._last.each == 1 else found

    def watch(self, batch: pa.RecordBatch, client: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """Take in a batch: what each row is (``SINGLE`` …), and which earlier rows turn out to be ``FIRST``."""
        names = batch.schema.names
        count = batch.num_rows
        kinds = np.zeros(count, np.uint8)
        marks: list[int] = []
        first_row = self.rows
        self.rows += count
        if "prompt_id" in names:
            self.prompts.add(batch)
        if not {"session_id", "parent_id", "prefix_group"} & set(names):
            return kinds, marks

        def column(name: str, otherwise: Any) -> list[Any]:
            return batch.column(name).to_pylist() if name in names else [otherwise] * count

        if "prefix_len" in names:
            self.shares_known += count
            self.shared_tokens += int(batch.column("prefix_len").to_numpy(zero_copy_only=False).sum())
            self.prompt_tokens += int(batch.column("num_prefill_tokens").to_numpy(zero_copy_only=False).sum())
        output = column("num_decode_tokens", 1)
        rows = zip(
            batch.column("arrived_at").to_pylist(),
            batch.column("num_prefill_tokens").to_pylist(),
            output,
            column("num_answer_tokens", None) if "num_answer_tokens" in names else output,
            column("session_id", None),
            column("parent_id", -1),
            column("prefix_group", -1),
            column("prefix_len", 0),
            client.tolist(),
            strict=True,
        )
        if self._common is None and "parent_id" in names:
            self._common = _common_prefix(column("prefix_len", 0))
        by_session = "session_id" in names
        for i, (at, prompt, made, answer, session, parent, group, shared, code) in enumerate(rows):
            row = first_row + i
            key = session if by_session else self._continued(parent, shared)
            before = None if key is None else self._sessions.get(key)
            if before is None:
                key = ("row", row) if key is None else key
                self._sessions[key] = _Session(row, code, at, prompt, answer, made, 1)
                if len(self._sessions) > _OPEN:
                    _, ended = self._sessions.popitem(last=False)
                    self.turns[ended.client, ended.turns] += 1
                    if ended.turns > 1:
                        self._last.add((ended.client, ended.turns, ended.last_s))
                self._sessions[key].group = self._count_prefix(row, parent, group, shared)
            else:
                kinds[i] = LATER
                if before.turns == 1:
                    if before.row >= first_row:
                        kinds[before.row - first_row] = FIRST
                    else:
                        marks.append(before.row)
                known = shared if parent >= 0 or group >= 0 else -1
                grown = prompt - before.prompt
                said = (at - before.last_s, grown, before.answer, before.output, known, before.prompt)
                self._said.add((before.client, *said, before.last_s, before.turns))
                before.last_s, before.prompt, before.answer, before.output = at, prompt, answer, made
                before.turns += 1
                self._sessions.move_to_end(key)
            if not by_session:
                _remember(self._key_of_row, row, key)
                spoken = self._sessions[key]
                _remember(self._group_of_row, row, spoken.row if spoken.group is None else spoken.group)
        return kinds, marks

    def _continued(self, parent: int, shared: int) -> Any:
        """The session that a row with this *parent* goes on with, if any."""
        if parent < 0 or shared <= (self._common or 0):
            return None
        key = self._key_of_row.get(parent)
        before = None if key is None else self._sessions.get(key)
        return key if before is not None and before.prompt - shared < _BLOCK else None

    def _count_prefix(self, row: int, parent: int, group: int, shared: int) -> Any:
        """Whose prefix a first prompt shares; None if nobody's."""
        if group >= 0:
            whose: Any = ("group", group)
        elif parent >= 0 and shared > 0:
            whose = self._group_of_row.get(parent, parent)
            if whose not in self.groups:
                # The first prompt of a group shares nothing yet.
                self.groups[whose] += 1
        else:
            return None
        if len(self.groups) < _OPEN or whose in self.groups:
            self.groups[whose] += 1
            if len(self._shares) < _ROWS or (whose, shared) in self._shares:
                self._shares[whose, shared] += 1
        return whose

    @property
    def group_tokens(self) -> list[int]:
        """The prefix of each group: the share that most of its prompts have."""
        usual: dict[Any, tuple[int, int]] = {}
        for (whose, shared), count in self._shares.items():
            usual[whose] = max(usual.get(whose, (0, 0)), (count, shared))
        return [shared for _, shared in usual.values()]

    @property
    def first_prompts(self) -> int:
        """Sessions: first turns and queries alone."""
        return sum(self.all_turns().values())


class _Sample:
    """Up to 400,000 of the rows that are added, evenly from first to last."""

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []
        self.each, self._seen = 1, 0

    def add(self, row: tuple[float, ...]) -> None:
        self._seen += 1
        if self._seen % self.each == 0:
            self._rows.append(row)
            if len(self._rows) >= 2 * _SAID:
                self._rows = self._rows[1::2]
                self.each *= 2

    def table(self, columns: int) -> FloatArray:
        return np.array(self._rows, np.float64).reshape(-1, columns)


def _common_prefix(shared: Iterable[int]) -> int:
    """Tokens that many unrelated prompts share: a system prompt's; 0 if there is none."""
    often = Counter(value for value in shared if value)
    if not often:
        return 0
    value, count = often.most_common(1)[0]
    return int(value) if count >= _COMMON * sum(often.values()) else 0


def _remember(known: OrderedDict[int, Any], row: int, value: Any) -> None:
    known[row] = value
    if len(known) > _ROWS:
        known.popitem(last=False)


class _Prompts:
    """Sums of log lengths for each prompt; of too many prompts a sample by a hash of their names."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}
        self.each = 1
        self.rows = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the rows of a batch."""
        thought = "num_reasoning_tokens" if "num_reasoning_tokens" in batch.schema.names else "num_decode_tokens"
        said = "num_answer_tokens" if "num_answer_tokens" in batch.schema.names else thought
        logs = [
            np.log(np.maximum(batch.column(name).to_numpy(zero_copy_only=False), 1)).tolist()
            for name in (thought, said)
        ]
        self.rows += batch.num_rows
        for name, reasoning, answer in zip(batch.column("prompt_id").to_pylist(), *logs, strict=True):
            if name is None or zlib.crc32(name.encode()) % self.each:
                continue
            sums = self._sums.setdefault(name, [0.0] * 5)
            for place, value in enumerate((1.0, reasoning, reasoning**2, answer, answer**2)):
                sums[place] += value
            if len(self._sums) > _PROMPTS:
                self.each *= 2
                self._sums = {
                    one: kept for one, kept in self._sums.items() if zlib.crc32(one.encode()) % self.each == 0
                }

    @property
    def _table(self) -> FloatArray:
        return np.array(list(self._sums.values()), np.float64).reshape(-1, 5)

    @property
    def counts(self) -> FloatArray:
        """How often each of the sampled prompts was asked."""
        return np.asarray(self._table[:, 0])

    @property
    def repeats(self) -> int:
        """Rows beyond the first of each prompt, in the sample."""
        return int((self.counts - 1).sum())

    def within(self) -> tuple[float, float, float]:
        """(spread of the log of reasoning within a prompt, its and the answer's share of variance between prompts)."""
        table = self._table
        table = table[table[:, 0] >= 2]
        if not len(table):
            return float("nan"), float("nan"), float("nan")
        number, total = table[:, 0], float(table[:, 0].sum())
        shares = []
        inside = 0.0
        for place in (1, 3):
            squares = float((table[:, place + 1] - table[:, place] ** 2 / number).sum())
            within = max(squares, 0.0) / max(float((number - 1).sum()), 1.0)
            mean = float(table[:, place].sum()) / total
            whole = float(table[:, place + 1].sum()) / total - mean**2
            shares.append(float(np.clip(1.0 - within / whole, 0.0, 1.0)) if whole > 0 else 1.0)
            inside = inside or within**0.5
        return inside, shares[0], shares[1]
