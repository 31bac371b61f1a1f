"""Counter-based draws: known answers, independence of chunking, of other streams, of the order of asking."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.rng import QueryDraws, Streams, philox4x32


def _words(*values):
    return [np.array([value], np.uint64) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Known answers of Random123, the reference implementation."""
    assert tuple(int(word[0]) for word in philox4x32(*_words(*counter), key=key)) == expected


@given(st.integers(0, 2**40), st.integers(1, 50), st.integers(0, 50), st.integers(0, 9))
def test_uniforms_do_not_depend_on_chunks(first, count, cut, sample):
    streams = Streams(3)
    whole = streams.uniforms("x", np.arange(first, first + count), sample)
    cut = min(cut, count)
    parts = [
        Streams(3).uniforms("x", np.arange(first + cut, first + count), sample),
        Streams(3).uniforms("x", np.arange(first, first + cut), sample),
    ]
    assert np.array_equal(whole, np.concatenate(parts[::-1]))
    assert ((whole > 0) & (whole < 1)).all()


def test_streams_samples_steps_seeds_and_replications_differ():
    ids = np.arange(1000)
    base = Streams(1).uniforms("a", ids)
    others = [
        Streams(1).uniforms("b", ids),
        Streams(2).uniforms("a", ids),
        Streams(1, replication=1).uniforms("a", ids),
        Streams(1).uniforms("a", ids, 1),
        Streams(1).uniforms("a", ids, 0, 1),
    ]
    for other in others:
        assert not np.isin(base, other).any()
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.12


def test_normals_are_standard():
    z = Streams(5).normals("z", np.arange(200_000))
    assert abs(z.mean()) < 0.01
    assert abs(z.std() - 1) < 0.01
    assert abs((z > 3).mean() - 0.00135) < 0.0004


def test_generators_start_anew_and_differ_by_index():
    streams = Streams(9)
    assert streams.generator("g").random() == streams.generator("g").random()
    assert streams.generator("g", 1).random() != streams.generator("g", 2).random()


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="seed"):
        Streams(-1)


@given(st.integers(0, 2**40), st.integers(0, 5), st.integers(0, 5))
def test_draws_of_single_queries_are_those_of_all(query, sample, step):
    streams = Streams(3)
    uniform, normal = QueryDraws(streams.uniforms), QueryDraws(streams.normals)
    for _ in range(2):  # made, and kept
        assert uniform.of("x", query, sample, step) == streams.uniforms("x", query, sample, step)
        assert normal.of("x", query, sample, step) == streams.normals("x", query, sample, step)


def test_blocks_of_draws_are_let_go():
    draws = QueryDraws(Streams(3).uniforms)
    first = draws.of("x", 0)
    for number in range(1, QueryDraws.KEPT + 3):
        draws.of("x", number * QueryDraws.BLOCK)
    assert len(draws._blocks) == QueryDraws.KEPT
    assert draws.of("x", 0) == first
