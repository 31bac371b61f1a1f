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

from sim.errors import InputError, Problem, nearest
from sim.rng import Streams
from workloads.arrivals import PS, Chunk, to_ps, weibull_shape
from workloads.even_gaps import GOLDEN, levels, shown_shape
from workloads.even_gaps import weibull as even_weibull
from workloads.spec import Client, Clients

FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


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

    def __init__(
        self,
        clients: Clients,
        *,
        rate: float | None,
        steady: bool,
        streams: Streams,
        turns: FloatArray | None = None,
    ) -> None:
        """*turns* a session has in the mean, by member: rates count turns, and what arrives are sessions."""
        members = list(clients.members.values())
        count = max(len(member.rates) for member in members)
        rates = np.stack([np.broadcast_to(member.rates, count) for member in members])
        cvs = np.stack([np.broadcast_to(member.cvs, count) for member in members])
        weibull = np.zeros(rates.shape, np.bool_)
        for row, member in enumerate(members):
            weibull[row, list(member.weibull)] = True
        mean = float(rates.sum(axis=0).mean())
        self._stretch = 1.0
        self._steady = steady
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
        if turns is not None:
            self._expected = self._expected / turns[:, None]
        self._cvs = cvs
        self._weibull = weibull
        self._laws = {row: member.gaps for row, member in enumerate(members) if member.gaps is not None}
        self._has_law = np.array([member.gaps is not None for member in members])
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
        wanted = _population_cv2(cvs, counts, mean=not self._steady)
        gaps[gamma] = rng.standard_gamma((1.0 / wanted)[owner[gamma]])
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])
        even = np.zeros(len(counts), np.bool_)
        for row in np.flatnonzero((weibull | self._has_law) & (counts > 0)).tolist():
            law, size, part = self._laws.get(row), int(counts[row]), slice(first[row], first[row] + counts[row])
            if law is None and self._steady:
                shape = weibull_shape(float(min(np.sqrt(wanted[row]), 40.0)))
                gaps[part] = rng.standard_exponential(size) ** (1.0 / shape)
                continue
            # Spread evenly over the law, in random order; the longest gaps take turns from window to window.
            at = levels(size, float(np.mod(self._streams.uniforms("arrivals.gaps", row)[()] + index * GOLDEN, 1.0)))
            drawn = law.quantile(at) if law is not None else even_weibull(at, shown_shape(float(cvs[row]), size))
            gaps[part] = rng.permutation(drawn)
            even[row] = True
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
        for row in np.flatnonzero(even & (counts >= 3)).tolist():
            # What is spread evenly has all it shows in its longest gap: the window must not end inside it.
            ends = reached[first[row] : first[row] + counts[row]] - start[row]
            longest = int(np.argmax(np.diff(ends, prepend=0.0)))
            begin, end = (ends[longest - 1] if longest else 0.0), ends[longest]
            turn[row] = np.mod(1.0 - end - turn[row] * (1.0 - (end - begin)), 1.0)
        place = np.mod(reached - start[owner] + turn[owner], 1.0)
        order = np.argsort(place, kind="stable")
        window_s = self._window_s * self._stretch
        begin_ps, end_ps = round(index * window_s * PS), round((index + 1) * window_s * PS)
        return np.minimum(begin_ps + to_ps(place[order] * window_s), end_ps), owner[order]


def _population_cv2(cvs: FloatArray, counts: Int64Array, *, mean: bool) -> FloatArray:
    """Squared CV that gaps must be drawn with for the gaps of a window to show *cvs*.

    n gaps that are scaled to fill a window spread less than the law they are drawn from: for Gamma gaps of
    shape k the mean squared CV is (n - 1) / (n k + 1), a fact of the Dirichlet law, so k follows from what
    shall be shown. Published CVs are measured on windows, and n gaps can show at most sqrt(n - 1).

    With *mean* it is the CV's own mean over windows that is met, rather than that of its square, which differs where
    gaps are wild; and one gap fewer counts, as the window's edge cuts one (what is left is Dirichlet again).
    """
    gaps = np.maximum(counts - 1, 1) if mean else counts
    squares = cvs**2
    wanted = _solved(squares, gaps)
    for _ in range(4 if mean else 0):
        shape = 1.0 / wanted
        whole = gaps * shape
        second = (shape + 1) / (whole + 1)
        fourth = (
            (shape + 1)
            * ((shape + 2) * (shape + 3) + (gaps - 1) * shape * (shape + 1))
            / ((whole + 1) * (whole + 2) * (whole + 3))
        )
        shown = np.maximum(gaps * second - 1, 1e-9)
        relative = np.maximum(gaps**2 * (fourth - second**2), 0.0) / shown**2
        # The mean of a square root, to second order.
        wanted = _solved(squares / np.clip(1 - relative / 8, 0.6, 1.0) ** 2, gaps)
    return wanted


def _solved(squares: FloatArray, gaps: npt.NDArray[Any]) -> FloatArray:
    """Squared CV of a law of which so many *gaps*, scaled to a sum, show *squares* in the mean."""
    shown = np.minimum(squares, 0.98 * np.maximum(gaps - 1, 1))
    return np.asarray(gaps * shown / np.maximum(gaps - 1 - shown, 0.02 * shown + 1e-9)).clip(1e-6, 1e4)


def with_windows(clients: Clients, name: str, base: Path | None) -> Clients:
    """The same clients with the rates, spreads of gaps and windows of the CSV *name* (`read_windows`).

    A client that is several members (conversations and single queries, say) splits its rate among them as before. One
    that is not known has the lengths of a member called ``others``; without one it is an error.
    """
    rows, window_s, _ = read_windows(name, base)
    if not rows:
        raise InputError(Problem("holds no window with traffic", source=name, key="workload.windows"))
    whose: dict[str, list[tuple[str, Client]]] = {}
    for key, member in clients.members.items():
        whose.setdefault(member.client or key, []).append((key, member))
    members: dict[str, Client] = {}
    for client, row in rows.items():
        parts = whose.get(client, whose.get("others"))
        if parts is None:
            expected = "clients of the workload, or a member others for those it does not know"
            near = nearest(client, list(whose))
            raise InputError(
                Problem(f"unknown client {client!r}", source=name, key="client_id", expected=expected, nearest=near)
            )
        total = sum(sum(member.rates) / len(member.rates) for _, member in parts)
        for key, member in parts:
            share = sum(member.rates) / len(member.rates) / total if total else 1.0 / len(parts)
            changed: dict[str, Any] = {
                "rates": tuple(rate * share for rate in row["rates"]),
                "cvs": tuple(row["cvs"]),
                "weibull": tuple(row["weibull"]),
                "gaps": None,
                "client": client,
            }
            members[key if client in whose else f"{client}, {key}"] = member.model_copy(update=changed)
    return clients.model_copy(update={"window": window_s, "members": members})


def read_windows(name: str, base: Path | None) -> tuple[dict[str, dict[str, Any]], float, float]:
    """Clients' rates, spreads of gaps and Weibull windows from a CSV of windows; the length of a window and the
    start of the first one in s.

    Columns: client_id, window_start_s, req_per_s, iat_cv, iat_family (Gamma or Weibull). The first window is
    the earliest one of the file; a client that a window does not name is silent in it.
    """
    from workloads.formats.cells import Faults, numbers, texts
    from workloads.formats.columns import require
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
    return members, window_s, starts[0]
