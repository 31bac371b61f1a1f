"""Where random numbers come from: streams by name, and draws that depend on their own coordinates alone.

Two kinds of draws:

* ``Streams.generator(name)`` is a numpy Generator for things that are sequential by nature;
* ``Streams.uniforms(name, query, sample, step)`` is a counter-based function: the value belongs to its
  coordinates, so it is the same however the work is cut into blocks, in whatever order it is asked for, and
  whatever other streams exist. Two configurations that draw from the same coordinates therefore face the same
  luck (common random numbers).

The counter-based generator is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
1, 2, 3", SC 2011), vectorised over numpy uint64; it is checked against the authors' known answers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    IntLike = int | npt.NDArray[np.integer]

UInt64Array = npt.NDArray[np.uint64]
FloatArray = npt.NDArray[np.float64]

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = 0x9E3779B9
_WEYL_1 = 0xBB67AE85
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ROUNDS = 10


def philox4x32(
    c0: UInt64Array, c1: UInt64Array, c2: UInt64Array, c3: UInt64Array, *, key: tuple[int, int]
) -> tuple[UInt64Array, UInt64Array, UInt64Array, UInt64Array]:
    """Philox4x32-10 of the counters (*c0*, *c1*, *c2*, *c3*) under *key*; a word is 32 bits in a uint64."""
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = _MULTIPLIER_0 * c0
        product_1 = _MULTIPLIER_1 * c2
        c0 = (product_1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c2 = (product_0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c1 = product_1 & _LOW
        c3 = product_0 & _LOW
        k0 = (k0 + _WEYL_0) & 0xFFFFFFFF
        k1 = (k1 + _WEYL_1) & 0xFFFFFFFF
    return c0, c1, c2, c3


class Streams:
    """The random numbers of one run: *seed* and *replication* fix all of them.

    *seed* is any non-negative integer. A stream is known by its name; streams are independent of each other,
    and using a new one shifts no other.

    >>> streams = Streams(7)
    >>> whole = streams.uniforms("length", np.arange(6))
    >>> bool((whole[4:] == streams.uniforms("length", np.arange(4, 6))).all())
    True
    """

    def __init__(self, seed: int, replication: int = 0) -> None:
        if seed < 0 or replication < 0:
            raise ValueError(f"seed and replication must be >= 0, got {seed} and {replication}")
        self.seed = seed
        self.replication = replication
        self._keys: dict[str, tuple[int, int]] = {}

    def _sequence(self, name: str, *index: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(zlib.crc32(name.encode()), self.replication, *index))

    def generator(self, name: str, *index: int) -> np.random.Generator:
        """A fresh Generator for stream *name*, or part *index* of it (a window, a client); starts anew."""
        return np.random.Generator(np.random.PCG64(self._sequence(name, *index)))

    def uniforms(self, name: str, query: IntLike, sample: IntLike = 0, step: IntLike = 0) -> FloatArray:
        """Uniform draws in the open interval (0, 1), one for each (*query*, *sample*, *step*), broadcast.

        Coordinates are integers: *query* in 0..2**64-1, *sample* and *step* in 0..2**32-1.
        """
        key = self._keys.get(name)
        if key is None:
            words = self._sequence(name).generate_state(2, np.uint32)
            key = self._keys[name] = (int(words[0]), int(words[1]))
        queries, samples, steps = np.broadcast_arrays(
            np.asarray(query).astype(np.uint64),
            np.asarray(sample).astype(np.uint64),
            np.asarray(step).astype(np.uint64),
        )
        w0, w1, _, _ = philox4x32(queries & _LOW, queries >> _SHIFT, samples, steps, key=key)
        # 52 bits and a half keep both ends out: the largest value is 1 - 2**-53.
        bits = ((w1 << _SHIFT) | w0) >> np.uint64(12)
        return np.asarray((bits.astype(np.float64) + 0.5) * 2.0**-52)

    def normals(self, name: str, query: IntLike, sample: IntLike = 0, step: IntLike = 0) -> FloatArray:
        """Standard normal draws: ``uniforms`` of the same coordinates through the normal quantiles."""
        from scipy.special import ndtri

        return np.asarray(ndtri(self.uniforms(name, query, sample, step)), dtype=np.float64)


class QueryDraws:
    """Draws of single queries, made in blocks: one by one they take a hundred times as long.

    *draw* is ``uniforms`` or ``normals`` of some Streams.

    >>> streams = Streams(7)
    >>> QueryDraws(streams.uniforms).of("length", 5000) == streams.uniforms("length", 5000)
    True
    """

    __slots__ = ("_blocks", "_draw")

    BLOCK = 512
    KEPT = 512
    """Blocks kept at most, the latest ones."""

    def __init__(self, draw: Callable[[str, IntLike, IntLike, IntLike], FloatArray]) -> None:
        self._draw = draw
        self._blocks: dict[tuple[str, int, int, int], list[float]] = {}

    def of(self, name: str, query: int, sample: int = 0, step: int = 0) -> float:
        """The draw of stream *name* with these coordinates."""
        number, place = divmod(query, self.BLOCK)
        key = (name, number, sample, step)
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= self.KEPT:
                del self._blocks[next(iter(self._blocks))]
            queries = np.arange(number * self.BLOCK, (number + 1) * self.BLOCK)
            block = self._blocks[key] = self._draw(name, queries, sample, step).tolist()
        return block[place]
