"""``thinkcap calibrate selfcheck``: the whole chain, measured, fitted, simulated and compared, on this
machine."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calibration.architecture import Architecture
    from sim.validation.selfcheck import Report

HELP = "measure, fit, simulate and compare on this machine: does the chain hold?"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="model or config.json (default: Qwen3-0.6B's layers, a small vocabulary)",
    )
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="layers of a kind (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", help="auto, fp32, bf16, fp16, fp8")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of a CPU")
    parser.add_argument(
        "--clock",
        choices=("wall", "process"),
        default="wall",
        help="process: CPU time, which leaves out what others on this machine take (cpu only)",
    )
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="rounds, at least 5")
    parser.add_argument("--requests", type=int, default=10, metavar="N", help="requests of the serving loop")
    parser.add_argument("--seats", type=int, default=6, metavar="N", help="requests at once")
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="a device of known costs instead of torch: are they recovered?",
    )
    parser.add_argument("--noise", type=float, default=0.01, help="of the synthetic device (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", help="keep the measurements and selfcheck.json there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Check and print; 0 when every metric is within the larger of 5 % and the noise, else 1."""
    from sim.errors import InputError, Problem
    from sim.validation.selfcheck import FEWEST_REPEATS

    problems = [
        Problem(f"{getattr(args, name)}", key=f"--{name}", expected=f"at least {low}")
        for name, low in (
            ("repeats", FEWEST_REPEATS),
            ("layers", 1),
            ("requests", 2),
            ("seats", 2),
            ("threads", 1),
        )
        if getattr(args, name) is not None and getattr(args, name) < low
    ]
    if not 0 <= args.noise < 1:
        problems.append(Problem(f"{args.noise}", key="--noise", expected="a share from 0 to 1"))
    if problems:
        raise InputError(problems)
    if args.out:
        folder = Path(args.out)
        folder.mkdir(parents=True, exist_ok=True)
        return _finish(args, *_check(args, folder / "selfcheck.parquet"), folder)
    with tempfile.TemporaryDirectory() as name:
        return _finish(args, *_check(args, Path(name) / "selfcheck.parquet"), None)


def _check(args: argparse.Namespace, out: Path) -> tuple[Report, dict[str, float]]:
    from sim.validation.selfcheck import schedule, selfcheck

    load = schedule(args.requests, seats=args.seats)

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    command = "thinkcap calibrate selfcheck"
    if args.synthetic:
        from calibration.profiler.synthetic import SyntheticBench, SyntheticExecutor, example_cost
        from sim.validation.selfcheck import recover

        bench = SyntheticBench(example_cost(), noise=args.noise)
        report = selfcheck(
            bench,
            lambda: SyntheticExecutor(bench),
            load,
            out=out,
            repeats=args.repeats,
            command=command,
            say=say,
        )
        return report, recover(SyntheticBench(example_cost(), noise=args.noise), out.with_name("recovery.parquet"))
    from calibration.profiler import require_torch

    require_torch()
    from calibration.profiler.executor import TorchExecutor
    from calibration.profiler.session import whole_bench

    real = whole_bench(
        _model(args.model),
        layers=args.layers,
        dtype=args.dtype,
        device=args.device,
        threads=args.threads,
        clock=args.clock,
        max_tokens=load.budget + load.seats,
        longest=load.longest + 1,
        kv_tokens=load.kv_tokens,
    )
    report = selfcheck(real, lambda: TorchExecutor(real), load, out=out, repeats=args.repeats, command=command, say=say)
    return report, {}


def _model(name: str | None) -> Architecture:
    """The model to check with; by default one whose steps are short on a CPU and yet larger than its
    caches."""
    from dataclasses import replace

    from calibration.architecture import architecture

    if name:
        return architecture(name)
    return replace(architecture("qwen3-0.6b"), name="qwen3-0.6b-vocab-32k", vocab=32_768)


def _finish(args: argparse.Namespace, report: Report, recovered: dict[str, float], folder: Path | None) -> int:
    found = {**report.to_dict(), "recovered": recovered}
    if folder:
        (folder / "selfcheck.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(report.lines()))
        for name, error in recovered.items():
            print(f"known cost {name}: off by {error:+.2%}")
    bad = any(abs(error) > 0.01 for error in recovered.values())
    return 0 if report.passed and not bad else 1
