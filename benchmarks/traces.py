"""What a trace costs by its rows: time and peak memory of each ``thinkcap trace`` command.

    python -m benchmarks.traces [--rows 100000,400000] [--kinds csv,parquet] [--commands convert,fit] [--dir FOLDER]

A trace of five clients with reasoning is written once for each number of rows and each kind of file, every command
runs on it in a process of its own, and the files are removed. Bytes a row are the growth of peak memory from one
number of rows to the next: what every process holds anyway (libraries, one batch) drops out. Convert, scale and
splice may keep none, describe, fit and sample 16. ``--rows 1000000,4000000,10000000`` is the full measurement.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from workloads.formats.write import write

_BATCH = 100_000
_CLIENTS = np.array(["assistant", "search", "code", "batch", "mobile"])
_RATE = 120.0

COMMANDS = {
    "convert": ["convert", "TRACE", "--out", "OUT"],
    "sort": ["convert", "TRACE", "--sort", "--out", "OUT"],
    "scale": ["scale", "TRACE", "--rate", "50/s", "--reasoning", "1.5", "--out", "OUT"],
    "splice": ["splice", "TRACE", "TRACE", "--merge", "--out", "OUT"],
    "describe": ["describe", "TRACE", "--html", "OUT.html"],
    "fit": ["fit", "TRACE", "--out", "OUT.yaml", "--html", "OUT.html"],
    "sample": ["sample", "deepseek-r1-production", "--queries", "ROWS", "--out", "OUT"],
}


def batches(rows: int) -> Iterator[pa.RecordBatch]:
    """A trace of so many *rows*: lognormal lengths with a heavy tail, gaps of CV 1.6, a day that swells and ebbs."""
    begin = 0.0
    for index, first in enumerate(range(0, rows, _BATCH)):
        rng = np.random.default_rng([5, index])
        size = min(_BATCH, rows - first)
        level = 1.0 + 0.5 * np.sin(index / 8)
        arrived = begin + np.cumsum(rng.gamma(0.4, 2.5, size)) / (_RATE * level)
        begin = float(arrived[-1])
        output = np.clip(rng.lognormal(6.6, 0.95, size), 1, 32_768).astype(np.int64)
        reasoning = np.rint(output * rng.beta(4.6, 1.2, size)).astype(np.int64)
        yield pa.RecordBatch.from_pydict(
            {
                "arrived_at": np.round(arrived, 6),
                "num_prefill_tokens": np.clip(rng.lognormal(5.3, 1.6, size), 1, 60_000).astype(np.int64),
                "num_decode_tokens": output,
                "num_reasoning_tokens": reasoning,
                "num_answer_tokens": output - reasoning,
                "client_id": _CLIENTS[rng.choice(5, size, p=[0.4, 0.3, 0.15, 0.1, 0.05])],
            }
        )


_RUN = """
import sys
from sim.cli.main import main
code = main(sys.argv[1:])
with open("/proc/self/status") as status:
    print(next(line for line in status if line.startswith("VmHWM")).split()[1])
sys.exit(code)
"""
"""The high-water mark that the kernel keeps of the process itself: that of a parent's children starts with the parent's."""


def measured(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak MB of ``thinkcap trace`` with *arguments*, in a process of its own."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _RUN, "trace", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"thinkcap trace {' '.join(arguments)} failed:\n{done.stderr}")
    return time.perf_counter() - start, int(done.stdout.split()[-1]) * 1024 / 1e6


def main() -> None:
    """Print seconds, peak MB and bytes a row, for each command, kind of file and number of rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip())
    parser.add_argument("--rows", default="100000,400000", help="numbers of rows, rising")
    parser.add_argument("--kinds", default="csv,parquet", help="csv, parquet, jsonl, csv.gz")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--dir", default=None, help="where the files are for the time being")
    args = parser.parse_args()
    numbers = [int(text) for text in args.rows.split(",")]
    print(f"{'command':<10}{'file':<9}{'rows':>12}{'seconds':>9}{'peak MB':>9}{'bytes a row':>13}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.dir, prefix="traces-") as folder:
        for kind in args.kinds.split(","):
            before: dict[str, tuple[int, float]] = {}
            for rows in numbers:
                trace, out = Path(folder) / f"trace.{kind}", Path(folder) / f"out.{kind}"
                write(trace, batches(rows))
                for command in args.commands.split(","):
                    fill = {"TRACE": str(trace), "OUT": str(out), "ROWS": str(rows)}
                    arguments = [fill.get(text, text.replace("OUT.", f"{folder}/out.")) for text in COMMANDS[command]]
                    seconds, peak = measured(arguments)
                    growth = "—"
                    if command in before:
                        known, then = before[command]
                        growth = f"{(peak - then) * 1e6 / (rows - known):.1f}"
                    before[command] = rows, peak
                    print(f"{command:<10}{kind:<9}{rows:>12,}{seconds:>9.1f}{peak:>9.0f}{growth:>13}", flush=True)
                    out.unlink(missing_ok=True)
                trace.unlink()


if __name__ == "__main__":
    main()
