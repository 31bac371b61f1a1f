"""Which earlier request a prompt continues, from the hashes of its blocks."""

from __future__ import annotations

from typing import Any

_MOST_HASHES = 4_000_000


class PrefixFinder:
    """Turns chained block hashes into (parent row, shared tokens); remembers the last four million hashes.

    A hash stands for its block and everything before it, so the longest run of known hashes is the longest
    prefix shared with an earlier request, which is the parent.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._seen: dict[Any, int] = {}
        self._row = 0
        self._prompts: dict[int, int] = {}

    def parent(self, hashes: Any, prompt_tokens: Any) -> tuple[int, int]:
        """(row, tokens) of the request before that shares most, (-1, 0) if none; call once a row, in
        order."""
        row, shared, parent = self._row, 0, -1
        self._row += 1
        if not isinstance(hashes, list) or not isinstance(prompt_tokens, int) or prompt_tokens < 1:
            return -1, 0
        for depth, value in enumerate(hashes):
            known = self._seen.get(value) if isinstance(value, int | str) else None
            if known is None:
                break
            parent, shared = known, depth + 1
        tokens = shared * self._block_tokens
        if parent >= 0:
            tokens = min(tokens, prompt_tokens, self._prompts[parent])
        for value in hashes:
            if isinstance(value, int | str):
                self._seen[value] = row
        self._prompts[row] = prompt_tokens
        if len(self._seen) > _MOST_HASHES:
            for value in list(self._seen)[: _MOST_HASHES // 4]:
                del self._seen[value]
            alive = set(self._seen.values())
            self._prompts = {at: size for at, size in self._prompts.items() if at in alive}
        return (parent, tokens) if tokens > 0 else (-1, 0)
