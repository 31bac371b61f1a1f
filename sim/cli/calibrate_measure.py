"""``thinkcap calibrate measure``: time a model's steps on the device at hand."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sim.cli._arguments import add_json, print_json

if TYPE_CHECKING:
    from calibration.profiler.run import Progress

HELP = "time the steps of a model on this machine with a decoder built in PyTorch"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument("--model", required=True, metavar="NAME", help="a shipped model, or a config.json")
    parser.add_argument("--out", required=True, metavar="FILE", help="table to write, such as m.parquet")
    parser.add_argument("--tp", type=int, default=1, metavar="N", help="GPUs; more than one run under torchrun")
    parser.add_argument("--dtype", default="auto", help="auto, bf16, fp16, fp32, or fp8 on Hopper and newer")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps")
    parser.add_argument("--layers", metavar="N", help="layers of a kind to build (default: all that fit)")
    lists = "numbers such as 1,4,16K or 1:256 (by doubling)"
    parser.add_argument("--batches", metavar="LIST", help=f"decodes in a step: {lists}")
    parser.add_argument("--contexts", metavar="LIST", help=f"context of each decode: {lists}")
    parser.add_argument("--chunks", metavar="LIST", help=f"new tokens of a prefill: {lists}")
    parser.add_argument("--cached", metavar="LIST", help=f"tokens before a prefill: {lists}, 0 allowed")
    parser.add_argument("--no-mixed", action="store_true", help="no steps of decodes beside a prefill")
    parser.add_argument("--budget", metavar="TIME", default="10 min", help="time to spend (default: %(default)s)")
    parser.add_argument("--repeats", type=int, metavar="N", help="timings of each point")
    parser.add_argument("--attention", default="auto", help="auto, varlen, flex, batched or loop")
    parser.add_argument("--no-graphs", action="store_true", help="launch decode kernels one by one")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="fuse elementwise kernels with torch.compile (default: where Triton is there)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights and inputs")
    parser.add_argument("--shard", action="store_true", help="with --tp: one GPU's share, without all-reduces")
    parser.add_argument("--restart", action="store_true", help="forget the points of an earlier, unfinished run")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Measure; raise InputError or DoesNotFit for what cannot be measured here."""
    from calibration.architecture import architecture
    from calibration.profiler import require_torch
    from calibration.profiler.points import parse_counts
    from calibration.profiler.session import Settings, measure
    from sim.errors import InputError, Problem

    require_torch()
    out = Path(args.out)
    problems = [
        Problem(f"{value}", key=f"--{name}", expected="at least 1")
        for name in ("tp", "repeats", "threads")
        if (value := getattr(args, name)) is not None and value < 1
    ]
    if out.suffix != ".parquet":
        problems.append(Problem(f"{args.out!r}", key="--out", expected="a file that ends in .parquet"))
    if not out.parent.is_dir():
        problems.append(Problem(f"there is no folder {str(out.parent)!r}", key="--out"))
    if problems:
        raise InputError(problems)

    def counts(name: str, low: int = 1) -> tuple[int, ...] | None:
        text = getattr(args, name)
        return None if text is None else tuple(parse_counts(text, key=f"--{name}", low=low))

    settings = Settings(
        architecture=architecture(args.model),
        tp=args.tp,
        dtype=args.dtype,
        device=args.device,
        layers=_layers(args.layers),
        batches=counts("batches"),
        contexts=counts("contexts", low=0),
        chunks=counts("chunks"),
        cached=counts("cached", low=0),
        mixed=not args.no_mixed,
        repeats=args.repeats,
        budget_s=budget_seconds(args.budget),
        attention=args.attention,
        graphs=not args.no_graphs,
        compiled=args.compile,
        threads=args.threads,
        seed=args.seed,
        shard=args.shard,
    )
    if args.restart:
        out.with_name(out.name + ".journal").unlink(missing_ok=True)
    command = "thinkcap calibrate measure " + shlex.join(_given(args))
    try:
        outcome = measure(settings, out=out, command=command, say=show, note=lambda text: print(text, file=sys.stderr))
    except KeyboardInterrupt:
        print("\ninterrupted: finished points are kept, the same command goes on", file=sys.stderr)
        return 130
    if args.json:
        print_json(
            {
                "written": str(out) if outcome.rows else None,
                "rows": len(outcome.rows),
                "resumed": outcome.resumed,
                "left_out": len(outcome.left_out),
                "failed": {point.key: reason for point, reason in outcome.failed},
            }
        )
    elif outcome.rows:
        tail = f", {outcome.resumed} of an earlier run" if outcome.resumed else ""
        print(f"{out}: {len(outcome.rows)} rows{tail}")
        if outcome.left_out:
            count = len(outcome.left_out)
            print(f"{count} points were left out for want of time; run it again with a larger --budget to go on")
        for point, reason in outcome.failed:
            print(f"{point.key} failed: {reason}")
    return 0


def budget_seconds(text: str) -> float:
    """The time budget; raise an InputError when it is no duration."""
    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_seconds

    try:
        seconds = parse_seconds(text)
    except UnitError as error:
        raise InputError(Problem(str(error), key="--budget", expected="a duration such as 10 min")) from None
    if seconds <= 0:
        raise InputError(Problem(f"{text!r}", key="--budget", expected="a time above zero"))
    return seconds


def show(progress: Progress) -> None:
    """One line a point: how far, what, how long, how much longer."""
    from sim.units import format_duration

    left = "" if progress.left_s is None else f", about {format_duration(progress.left_s)} left"
    if progress.point is None:
        if progress.done:
            print(f"{progress.done} of {progress.total} points are there from an earlier run", file=sys.stderr)
        return
    point = progress.point
    words = []
    if point.decodes:
        words.append(f"{point.decodes} decode{'s' if point.decodes > 1 else ''} of {point.context:,}")
    if point.chunks:
        words.append(f"{point.chunks} x {point.chunk_tokens:,} new on {point.chunk_cached:,}")
    what = " + ".join(words)
    print(f"[{progress.done}/{progress.total}] {what}: {progress.measured_ms:.3f} ms{left}", file=sys.stderr)


def _layers(text: str | None) -> int | None:
    from sim.errors import InputError, Problem

    if text is None:
        return None
    if text == "all":
        return 10**6
    if not text.isdigit() or int(text) < 1:
        raise InputError(Problem(f"{text!r}", key="--layers", expected="a whole number, or all"))
    return int(text)


def _given(args: argparse.Namespace) -> list[str]:
    """The arguments as they would be typed, those left at nothing omitted."""
    words: list[str] = []
    for name, value in sorted(vars(args).items()):
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif isinstance(value, int | float | str) and not isinstance(value, bool) and name in _NAMES:
            words += [flag, str(value)]
    return words


_NAMES = {
    *("model", "out", "tp", "dtype", "device", "layers", "batches", "contexts", "chunks", "cached", "budget"),
    *("repeats", "attention", "threads", "seed"),
}
