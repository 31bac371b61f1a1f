"""Which steps are measured: a point is the composition of one step, a grid is a list of them that memory and
time allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

from sim.errors import InputError, Problem
from sim.units import UnitError, parse_engine_count


@dataclass(frozen=True, order=True)
class Point:
    """One step: *decodes* sequences of *context* tokens each, beside *chunks* of *chunk_tokens* new on
    *chunk_cached* old."""

    decodes: int = 0
    context: int = 0
    chunks: int = 0
    chunk_tokens: int = 0
    chunk_cached: int = 0

    @property
    def kind(self) -> str:
        """``decode``, ``prefill`` or ``mixed``."""
        return "decode" if not self.chunks else "mixed" if self.decodes else "prefill"

    @property
    def tokens(self) -> int:
        """Tokens computed in the step."""
        return self.decodes + self.chunks * self.chunk_tokens

    @property
    def kv_tokens(self) -> int:
        """KV slots that the step needs, its own tokens included, apart from rounding to blocks."""
        return self.decodes * (self.context + 1) + self.chunks * (self.chunk_tokens + self.chunk_cached)

    @property
    def longest(self) -> int:
        """The longest sequence in the step."""
        return max(
            self.context + 1 if self.decodes else 0,
            self.chunk_tokens + self.chunk_cached if self.chunks else 0,
        )

    @property
    def features(self) -> tuple[float, float, float, float]:
        """(1, tokens, context read, query-key pairs): what a first estimate of its time is linear in."""
        pairs = self.chunks * (self.chunk_tokens**2 / 2 + self.chunk_tokens * self.chunk_cached)
        return (1.0, float(self.tokens), float(self.decodes * self.context), pairs)

    @property
    def key(self) -> str:
        """A name for the journal, equal for equal points."""
        return f"d{self.decodes}x{self.context}+c{self.chunks}x{self.chunk_tokens}@{self.chunk_cached}"

    def to_dict(self) -> dict[str, int]:
        """Its columns in a measurement table."""
        return asdict(self)


@dataclass(frozen=True)
class Limits:
    """What the device and the model allow."""

    kv_tokens: int
    """Slots of the KV pool."""
    max_context: int
    """Longest sequence, in tokens."""
    max_tokens: int
    """Most tokens a step."""
    block_size: int = 16

    def allow(self, point: Point) -> bool:
        """Whether the point fits the pool (blocks rounded up), the longest context and the most tokens a
        step."""
        blocks = point.decodes * _blocks(point.context + 1, self.block_size)
        blocks += point.chunks * _blocks(point.chunk_tokens + point.chunk_cached, self.block_size)
        return (
            blocks * self.block_size <= self.kv_tokens
            and point.longest <= self.max_context
            and point.tokens <= self.max_tokens
        )


def _blocks(tokens: int, block_size: int) -> int:
    return -(-tokens // block_size)


KNOTS = (
    1,
    2,
    4,
    8,
    16,
    24,
    32,
    48,
    64,
    80,
    96,
    112,
    128,
    160,
    192,
    224,
    256,
    257,
    288,
    320,
    384,
    448,
    512,
    768,
    1024,
)
"""Token counts where the table of linear work bends: fine while weights are read, then at the edges of
kernel tiles."""

COARSE_BATCHES = (1, 4, 16, 64, 128, 256, 512)
CONTEXTS = (128, 512, 2048, 8192, 32768, 131072)
CHUNKS = (16, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384)
CACHED = (0, 1024, 4096, 16384, 65536)
MIXED_DECODES = (4, 16, 64, 192)
MIXED_CONTEXTS = (512, 4096)
MIXED_CHUNKS = (64, 256, 512, 2048)
MIXED_CACHED = (0, 4096)


def default_grid(limits: Limits) -> list[Point]:
    """The grid for a real GPU, most telling points first, so that a run cut short is still worth fitting.

    Decode: coarse batches over all contexts, then every knot at two contexts. Prefill: every chunk from
    scratch, then on cached context, then several chunks in a step. Mixed: decodes beside one chunk.
    """
    corners = [Point(decodes=b, context=c) for b in (1, 16, 128) for c in (128, 2048)]
    corners += [Point(chunks=1, chunk_tokens=n) for n in (128, 512, 2048)]
    coarse = [Point(decodes=b, context=c) for c in CONTEXTS for b in COARSE_BATCHES]
    fine = [Point(decodes=b, context=c) for c in (512, 2048) for b in KNOTS]
    prefill = [Point(chunks=1, chunk_tokens=n, chunk_cached=c) for c in CACHED for n in CHUNKS]
    several = [Point(chunks=m, chunk_tokens=n) for m in (2, 8) for n in (128, 512, 1024)]
    several += [
        Point(chunks=m, chunk_tokens=n, chunk_cached=c) for c in (4096, 16384, 65536) for m in (4, 16) for n in (8, 32)
    ]
    mixed = [
        Point(decodes=d, context=k, chunks=1, chunk_tokens=n, chunk_cached=c)
        for c in MIXED_CACHED
        for n in MIXED_CHUNKS
        for k in MIXED_CONTEXTS
        for d in MIXED_DECODES
    ]
    return select(
        _interleave(corners, [coarse, prefill[: len(CHUNKS)], mixed, fine, prefill[len(CHUNKS) :], several]),
        limits,
    )


def custom_grid(
    limits: Limits,
    *,
    batches: Sequence[int],
    contexts: Sequence[int],
    chunks: Sequence[int] = (),
    cached: Sequence[int] = (0,),
    mixed: bool = True,
) -> list[Point]:
    """The cross of what the user named: decode, then prefill, then (with *mixed*) the largest batch beside
    each chunk.

    Raise an InputError when nothing of it, or no decode, fits.
    """
    points = [Point(decodes=b, context=c) for b in batches for c in contexts]
    points += [Point(chunks=1, chunk_tokens=n, chunk_cached=c) for n in chunks for c in cached]
    if mixed and chunks and batches:
        sizes = sorted({max(batches), sorted(batches)[len(batches) // 2]})
        points += [
            Point(decodes=b, context=c, chunks=1, chunk_tokens=n) for b in sizes for c in contexts[:1] for n in chunks
        ]
    chosen = select(points, limits)
    decodes = [point for point in points if point.kind == "decode"]
    if not chosen or (decodes and not set(decodes) & set(chosen)):
        raise InputError(
            Problem(
                f"none of the {len(decodes or points)} points fits: the KV pool holds "
                f"{limits.kv_tokens} tokens, a sequence at most {limits.max_context}, "
                f"a step at most {limits.max_tokens}",
                key="--batches",
                expected="smaller batches or contexts",
            )
        )
    return chosen


def select(points: Iterable[Point], limits: Limits) -> list[Point]:
    """The points that fit, each once, in order."""
    return [point for point in dict.fromkeys(points) if limits.allow(point)]


def _interleave(first: list[Point], groups: list[list[Point]]) -> list[Point]:
    """*first*, then one point of each group in turn, spread so that all groups end together."""
    longest = max(map(len, groups))
    placed = [
        (index * longest / len(group), order, point)
        for order, group in enumerate(groups)
        for index, point in enumerate(group)
    ]
    return first + [point for *_, point in sorted(placed, key=lambda item: item[:2])]


def within_budget(
    points: Sequence[Point], seconds: Callable[[Point], float], budget_s: float, *, keep: int = 12
) -> tuple[list[Point], list[Point]]:
    """(points to measure, points left out) so that the estimated *seconds* add up to no more than *budget_s*.

    Points are taken in order while they fit; dear ones that do not fit are passed over for cheaper ones
    further on. The first *keep* are always taken: fewer cannot be fitted.
    """
    chosen: list[Point] = []
    left: list[Point] = []
    spent = 0.0
    for index, point in enumerate(points):
        cost = seconds(point)
        if index < keep or spent + cost <= budget_s:
            chosen.append(point)
            spent += cost
        else:
            left.append(point)
    return chosen, left


def parse_counts(text: str, *, key: str, low: int = 1) -> list[int]:
    """Numbers of a list such as ``1,4,16K`` or ``1:8`` (1 to 8 by doubling); K and k as vLLM reads them.

    Raise an InputError naming *key*.

    >>> parse_counts("1:8,3,2K", key="--batches")
    [1, 2, 3, 4, 8, 2048]
    """
    found: set[int] = set()
    problems: list[Problem] = []

    def number(part: str) -> int:
        value = parse_engine_count(part.strip())
        if value < low:
            raise ValueError(part)
        return value

    for part in text.split(","):
        try:
            if ":" in part:
                value, last = (number(end) for end in part.split(":"))
                while value < last:
                    found.add(value)
                    value = max(1, 2 * value)
                found.add(last)
            else:
                found.add(number(part))
        except (ValueError, UnitError):
            problems.append(
                Problem(f"{part!r}", key=key, expected=f"whole numbers from {low}, such as 1,4,16 or 1:256")
            )
    if problems:
        raise InputError(problems)
    return sorted(found)
