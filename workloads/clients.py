"""When the clients of a mixture ask: each a bursty process of its own, window by window, merged in order of
time.

After ServeGen (Xiang et al., 2025; Apache-2.0 data): in each window a client has a rate and a coefficient of
variation. Its queries of a window are as many as its rate says (the fraction is drawn), and their gaps,
taken around the circle of the window, are Gamma or Weibull with exactly that spread in the mean, or follow a
law of their own; a random turn of the circle makes the window start anywhere.

A mean rate can be set in two ways. In *steady* traffic every client has its mean rate all the time, and
another rate plays the same queries faster or slower: who asks what, and how bunched, stays as it was. With
the shape of the day, windows keep their length and hold more or fewer queries of the same burstiness.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sim.rng import Streams
from workloads.arrivals import PS, Chunk, to_ps, weibull_shape
from workloads.spec import Clients

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_GOLDEN = 0.6180339887498949
"""Steps of this size around a circle leave no large gap on it."""


@dataclass(frozen=True)
class _State:
    """The next window, and what of the last one made is still to be handed out."""

    window: int
    times: Int64Array
    client: npt.NDArray[np.int32]


class ClientArrivals:
    """Arrivals of a client mixture; the windows repeat for ever."""

    closed_loop: int | None = None
    total: int | None = None

    def __init__(self, clients: Clients, *, rate: float | None, steady: bool, streams: Streams) -> None:
        members = list(clients.members.values())
        count = max(len(member.rates) for member in members)
        rates = np.stack([np.broadcast_to(member.rates, count) for member in members])
        cvs = np.stack([np.broadcast_to(member.cvs, count) for member in members])
        weibull = np.zeros(rates.shape, np.bool_)
        for row, member in enumerate(members):
            weibull[row, list(member.weibull)] = True
        mean = float(rates.sum(axis=0).mean())
        self._stretch = 1.0
        if steady:
            share = rates / np.maximum(rates.sum(axis=1, keepdims=True), 1e-300)
            cvs = (cvs * share).sum(axis=1, keepdims=True)
            cvs[cvs == 0] = 1.0
            weibull = (weibull * share).sum(axis=1, keepdims=True) > 0.5
            rates = rates.mean(axis=1, keepdims=True)
            self._stretch = mean / rate if rate is not None else 1.0
        elif rate is not None:
            rates = rates * (rate / mean)
        self._expected = rates * clients.window
        self._cvs = cvs
        self._weibull = weibull
        self._laws = [(row, member.gaps) for row, member in enumerate(members) if member.gaps is not None]
        self._window_s = clients.window
        self._streams = streams
        self.mean_rate = mean if rate is None else rate

    def start(self) -> _State:
        return _State(0, np.empty(0, np.int64), np.empty(0, np.int32))

    def step(self, state: _State, first: int, count: int) -> tuple[Chunk, _State]:
        times, owner, ready, window = [state.times], [state.client], len(state.times), state.window
        while ready < count:
            more, whose = self.window(window)
            times.append(more)
            owner.append(whose)
            ready += len(more)
            window += 1
        joined, client = np.concatenate(times), np.concatenate(owner)
        return Chunk(joined[:count], client[:count]), _State(window, joined[count:], client[count:])

    def window(self, index: int) -> tuple[Int64Array, npt.NDArray[np.int32]]:
        """All arrivals of window *index*, in order of time."""
        column = index % self._expected.shape[1]
        expected, cvs, weibull = self._expected[:, column], self._cvs[:, column], self._weibull[:, column]
        rng = self._streams.generator("arrivals.clients", index)
        counts = np.floor(expected + rng.random(len(expected))).astype(np.int64)
        turn = rng.random(len(expected))
        owner = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        if not len(owner):
            return np.empty(0, np.int64), owner
        gaps = np.empty(len(owner))
        gamma = ~weibull[owner]
        wanted = _population_cv2(cvs, counts)
        gaps[gamma] = rng.standard_gamma((1.0 / wanted)[owner[gamma]])
        for client in np.flatnonzero(weibull & (counts > 0)):
            shape = weibull_shape(float(min(np.sqrt(wanted[client]), 40.0)))
            gaps[owner == client] = rng.standard_exponential(int(counts[client])) ** (1.0 / shape)
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        for row, law in self._laws:
            size = int(counts[row])
            # Spread evenly over the law, in random order; the longest gaps take turns from window to window.
            offset = float(np.mod(self._streams.uniforms("arrivals.gaps", row)[()] + index * _GOLDEN, 1.0))
            drawn = law.quantile((np.arange(size) + max(offset, 1e-9)) / size) if size else np.empty(0)
            gaps[first[row] : first[row] + size] = rng.permutation(drawn)
        alive = counts > 0
        whole = np.zeros(len(counts))
        whole[alive] = np.add.reduceat(gaps, first[alive])
        # A window of tiny shapes can underflow to nothing; one gap then holds it all.
        gaps[first[alive & (whole <= 0)]] = 1.0
        whole[alive & (whole <= 0)] = 1.0
        reached = np.cumsum(gaps / whole[owner])
        before = reached[first[alive] - 1] if first[alive].any() else np.zeros(int(alive.sum()))
        before = np.where(first[alive] == 0, 0.0, before)
        start = np.zeros(len(counts))
        start[alive] = before
        place = np.mod(reached - start[owner] + turn[owner], 1.0)
        order = np.argsort(place, kind="stable")
        window_s = self._window_s * self._stretch
        begin_ps, end_ps = round(index * window_s * PS), round((index + 1) * window_s * PS)
        return np.minimum(begin_ps + to_ps(place[order] * window_s), end_ps), owner[order]


def _population_cv2(cvs: FloatArray, counts: Int64Array) -> FloatArray:
    """Squared CV that gaps must be drawn with for the gaps of a window to show *cvs*.

    n gaps that are scaled to fill a window spread less than the law they are drawn from: for Gamma gaps of
    shape k the mean squared CV is (n - 1) / (n k + 1), a fact of the Dirichlet law, so k follows from what
    shall be shown. Published CVs are measured on windows, and n gaps can show at most sqrt(n - 1).
    """
    shown = np.minimum(cvs**2, 0.98 * np.maximum(counts - 1, 1))
    return np.asarray(counts * shown / np.maximum(counts - 1 - shown, 0.02 * shown + 1e-9)).clip(1e-6, 1e4)


def read_windows(name: str, base: Path | None) -> tuple[dict[str, dict[str, Any]], float]:
    """Clients' rates, spreads of gaps and Weibull windows from a CSV of windows, and the length of a window
    in s.

    Columns: client_id, window_start_s, req_per_s, iat_cv, iat_family (Gamma or Weibull). The first window is
    the earliest one of the file; a client that a window does not name is silent in it.
    """
    from workloads.formats.columns import Faults, numbers, require, texts
    from workloads.formats.files import csv_rows, fail, look
    from workloads.replay import locate

    path = locate(name, base, key="workload.windows")
    needed = ["client_id", "window_start_s", "req_per_s", "iat_cv", "iat_family"]
    require(look(path), needed, needed)
    faults = Faults(str(path))
    rows: list[tuple[str, float, float, float, str]] = []
    for raw in csv_rows(path):
        column = {
            key: numbers(raw.columns[key], first=raw.first, column=key, faults=faults).tolist() for key in needed[1:4]
        }
        for key, values in column.items():
            for i, value in enumerate(values):
                if value < 0 or (key == "iat_cv" and value == 0 and column["req_per_s"][i] > 0):
                    faults.add(raw.first + i, key, f"{value:g} is not above zero")
        faults.stop()
        client = texts(raw.columns["client_id"]).to_pylist()
        family = texts(raw.columns["iat_family"]).to_pylist()
        rows += zip(client, *column.values(), family, strict=True)
    starts = sorted({row[1] for row in rows})
    gaps = [b - a for a, b in pairwise(starts)]
    window_s = min(gaps, default=600.0)
    if any(abs(gap / window_s - round(gap / window_s)) > 1e-6 for gap in gaps):
        raise fail(path, "windows are not evenly spaced", expected=f"starts {window_s:g} s apart")
    count = round((starts[-1] - starts[0]) / window_s) + 1
    members: dict[str, dict[str, Any]] = {}
    for client_id, start, rate, cv, kind in rows:
        if rate <= 0:
            continue
        empty = {"rates": [0.0] * count, "cvs": [1.0] * count, "weibull": []}
        member = members.setdefault(client_id, empty)
        window = round((start - starts[0]) / window_s)
        member["rates"][window] = rate
        member["cvs"][window] = cv
        if kind.lower() == "weibull":
            member["weibull"].append(window)
    return members, window_s
