"""Curves of a trace as tables, for figures: survival of lengths, tail index, dispersion, traffic over
time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from workloads.measures import Held, counts, window_for

if TYPE_CHECKING:
    import pandas as pd

POINTS = 250


def lengths(held: Held) -> dict[str, npt.NDArray[Any]]:
    """Token counts by name: prompt, output, and reasoning and answer where the split is known."""
    found: dict[str, npt.NDArray[Any]] = {"prompt": held.prompt, "output": held.output}
    if held.split_known:
        reasoning = held.reasoning
        found |= {"reasoning": reasoning, "answer": held.output - reasoning}
    return found


def survival(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, length, tokens, share``: the share of queries with more than so many tokens."""
    import pandas as pd

    frames = []
    for name, values in lengths(held).items():
        ordered = np.sort(values)
        place = np.unique(len(ordered) - 1 - np.round(np.geomspace(1, len(ordered), POINTS)).astype(np.int64) + 1)
        place = place[place >= 0]
        tokens = ordered[place]
        share = 1.0 - np.searchsorted(ordered, tokens, side="right") / len(ordered)
        frame = pd.DataFrame({"whose": whose, "length": name, "tokens": tokens, "share": share})
        frames.append(frame[(frame["share"] > 0) & (frame["tokens"] > 0)])
    return pd.concat(frames, ignore_index=True)


def concentration(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, top, share``: the share of output tokens that the longest *top* of the queries make."""
    import pandas as pd

    ordered = np.sort(held.output)[::-1].astype(np.float64)
    place = np.unique(np.round(np.geomspace(1, len(ordered), POINTS)).astype(np.int64)) - 1
    share = np.cumsum(ordered)[place] / ordered.sum()
    return pd.DataFrame({"whose": whose, "top": (place + 1) / len(ordered), "share": share})


def tail_index(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, top, alpha``: Hill's index of the output, by how much of the top it is taken from."""
    import pandas as pd

    logs = np.log(np.sort(held.output)[::-1].astype(np.float64))
    place = np.unique(np.round(np.geomspace(min(20, len(logs) - 1), max(len(logs) * 0.3, 21), 120)).astype(int))
    place = place[(place >= 2) & (place < len(logs))]
    excess = np.cumsum(logs)[place - 1] / place - logs[place]
    good = excess > 0
    return pd.DataFrame({"whose": whose, "top": place[good] / len(logs), "alpha": 1.0 / excess[good]})


def burstiness(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, scale_s, dispersion``: variance over mean of counts, by the length of the interval."""
    import pandas as pd

    arrived = held.arrived
    seconds = float(arrived[-1] - arrived[0]) if len(arrived) else 0.0
    rows = []
    for scale in np.geomspace(max(0.1, seconds / 3e6), max(seconds / 20, 0.2), 24).tolist():
        number = counts(arrived, scale)
        if len(number) >= 20 and number.mean() > 0:
            rows.append((whose, scale, float(number.var() / number.mean())))
    return pd.DataFrame(rows, columns=["whose", "scale_s", "dispersion"])


def traffic(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, time_s, rate``: arrivals per second by window."""
    import pandas as pd

    arrived = held.arrived
    seconds = float(arrived[-1] - arrived[0]) if len(arrived) else 0.0
    window_s = window_for(seconds) if seconds > 0 else 1.0
    number = np.bincount(((arrived - arrived[0]) / window_s).astype(np.int64))
    return pd.DataFrame({"whose": whose, "time_s": np.arange(len(number)) * window_s, "rate": number / window_s})


def splits(held: Held, whose: str = "trace") -> pd.DataFrame:
    """``whose, reasoning, density``: how the share of reasoning in an output is spread."""
    import pandas as pd

    share = held.reasoning / np.maximum(held.output, 1)
    density, edges = np.histogram(share, bins=50, range=(0.0, 1.0), density=True)
    return pd.DataFrame({"whose": whose, "reasoning": (edges[:-1] + edges[1:]) / 2, "density": density})
