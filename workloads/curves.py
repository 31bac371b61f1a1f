"""Curves of a trace as tables, for figures: survival of lengths, tail index, dispersion, traffic over
time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workloads.portrait import SPLIT_BINS, Portrait

if TYPE_CHECKING:
    import pandas as pd

POINTS = 250
_STEEPEST = 20.0
"""A steeper tail index is that of a cap."""


def survival(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, length, tokens, share``: the share of queries with more than so many tokens."""
    import pandas as pd

    frames = []
    for name, tally in of.lengths.items():
        place = np.unique(tally.total - np.round(np.geomspace(1, tally.total, POINTS)).astype(np.int64))
        tokens = np.unique(tally.at(place))
        frame = pd.DataFrame({"whose": whose, "length": name, "tokens": tokens, "share": tally.share_above(tokens)})
        frames.append(frame[(frame["share"] > 0) & (frame["tokens"] > 0)])
    return pd.concat(frames, ignore_index=True)


def concentration(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, top, share``: the share of output tokens that the longest *top* of the queries make."""
    import pandas as pd

    output = of.output
    told = [max(1, round(output.total * share)) for share in (0.01, 0.1)]
    count = np.unique(np.append(np.round(np.geomspace(1, output.total, POINTS)).astype(np.int64), told))
    return pd.DataFrame({"whose": whose, "top": count / output.total, "share": output.largest(count) / output.sum})


def tail_index(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, top, alpha``: Hill's index of the output, by how much of the top it is taken from."""
    import pandas as pd

    total = of.output.total
    count = np.round(np.geomspace(min(20, max(total - 1, 1)), max(total * 0.3, 21), 120)).astype(int)
    count = np.unique(np.append(count, max(2, round(total * 0.05))))
    count = count[(count >= 2) & (count < total)]
    alpha = of.output.hills(count) if len(count) else np.empty(0)
    good = alpha <= _STEEPEST
    return pd.DataFrame({"whose": whose, "top": count[good] / total, "alpha": alpha[good]})


def burstiness(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, scale_s, dispersion``: variance over mean of counts, by the length of the interval."""
    import pandas as pd

    rows = [(whose, meter.scale_s, meter.dispersion(20)) for meter in of.curve]
    known = [row for row in rows if np.isfinite(row[2])]
    return pd.DataFrame(known, columns=["whose", "scale_s", "dispersion"])


def traffic(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, time_s, rate``: arrivals per second by window."""
    import pandas as pd

    rates = of.rates
    time_s = np.arange(len(rates) + 1) * of.window_s
    # The last rate holds until the trace ends.
    time_s[-1] = min(time_s[-1], max(of.last_s - of.first_window * of.window_s, time_s[-2]))
    return pd.DataFrame({"whose": whose, "time_s": time_s, "rate": np.append(rates, rates[-1:])})


def daily(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, time_s, rate``: arrivals per second by the hour of the day; no rows for traces of hardly a day."""
    import pandas as pd

    rates = of.hourly_rates
    table = pd.DataFrame({"whose": whose, "time_s": np.arange(25) * 3600.0, "rate": 0.0})
    if rates is None:
        return table.iloc[:0]
    table["rate"] = np.append(rates, rates[-1:])
    return table


def splits(of: Portrait, whose: str = "trace") -> pd.DataFrame:
    """``whose, reasoning, density``: how the share of reasoning in an output is spread."""
    import pandas as pd

    share = (np.arange(SPLIT_BINS) + 0.5) / SPLIT_BINS
    density = of.splits / max(of.splits.sum(), 1) * SPLIT_BINS
    return pd.DataFrame({"whose": whose, "reasoning": share, "density": density})
