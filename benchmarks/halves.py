"""How well one half of a trace foretells the other, given how often each client asks in it.

    python -m benchmarks.halves TRACE…

A generator is fitted to the rows before the middle of each trace's time, gets the client rates of the rows after it
(by window, as ``windows: FILE.csv``), and draws as many queries; what it draws is compared with those rows. Beside it
stands how far the first half itself is from the second: what changes within a client nobody can know beforehand.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from workloads.bursts import GapMeter
from workloads.drawn import drawn_portrait
from workloads.fitting.fit import fit
from workloads.formats import read
from workloads.held import Held, off_grid
from workloads.measures import Comparison, compare
from workloads.portrait import Portrait, portrait
from workloads.source import build
from workloads.spec import WorkloadSpec
from workloads.transform import cut


def windows_of(held: Held, window_s: float) -> pd.DataFrame:
    """Rates and spreads of gaps of each client by window, as a CSV of windows has them."""
    meter = GapMeter(window_s, tables=True)
    for chunk in held.chunks():
        meter.add(chunk.arrived, chunk.client)
    window, client, size, cv = meter.groups()
    return pd.DataFrame(
        {
            "client_id": [held.names[code] for code in client.tolist()],
            "window_start_s": window * window_s,
            "req_per_s": size / window_s,
            "iat_cv": np.where(np.isfinite(cv) & (cv > 0), cv, 1.0),
            "iat_family": "Gamma",
        }
    )


def half(path: Path, begin_s: float, end_s: float) -> Held:
    """The rows of *path* in that time, off the grid of its clock."""
    return off_grid(Held.of(cut(read(path), begin_s=begin_s, end_s=end_s)))[0]


def foretold(path: Path) -> tuple[Portrait, Portrait, Portrait]:
    """The first half, the second, and what the first foretells of the second."""
    last_s = Held.of(read(path)).last_s
    first, second = half(path, 0.0, last_s / 2), half(path, last_s / 2, float("inf"))
    real = portrait(second)
    workload = fit(first, keep_names=True).workload | {"queries": len(second)}
    with tempfile.TemporaryDirectory() as folder:
        if len(second.names) == 1:
            # One stream has no clients to be named.
            name, member = next(iter(workload["clients"]["members"].items()))
            second.names = (member.get("client", name),)
        windows_of(second, real.window_s).to_csv(Path(folder) / "windows.csv", index=False)
        spec = WorkloadSpec.model_validate(workload | {"windows": "windows.csv"})
        drawn = drawn_portrait(build(spec, seed=5, base=Path(folder)), beside=real)
    return portrait(first, beside=real), real, drawn


def show(rows: list[Comparison], naive: list[Comparison]) -> None:
    """The figures that a generator must keep: second half, as foretold, and as the first half was."""
    print(f"{'':<36}{'second half':>12}{'foretold':>12}{'off by':>9}{'first half off by':>19}")
    for row, plain in zip(rows, naive, strict=True):
        if row.name.startswith(
            ("output", "reasoning, mean", "answer, mean", "prompt, mean", "rate", "gaps of", "counts")
        ):
            texts = [f"{one.distance:+.3f}" if one.absolute else f"{one.distance:+.1%}" for one in (row, plain)]
            print(f"{row.name:<36}{row.real:>12.4g}{row.generated:>12.4g}{texts[0]:>9}{texts[1]:>19}")


def main() -> None:
    """Print the comparison of each trace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("traces", nargs="+", type=Path)
    for path in parser.parse_args().traces:
        first, second, drawn = foretold(path)
        print(f"\n{path.name}: {first.queries:,} and {second.queries:,} queries")
        show(compare(second, drawn), compare(second, first))


if __name__ == "__main__":
    main()
