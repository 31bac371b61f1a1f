"""What the commands on economics share: prices of operations, and amounts that must be above zero."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.planning.economics import Prices


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Declare the GPU, its price and the shares of its peak on *parser*."""
    parser.add_argument("--hardware", default="h100-sxm", help="GPU (default: h100-sxm); its 16-bit peak counts")
    parser.add_argument("--price", type=float, metavar="USD", help="of a GPU-hour (default: the GPU's list price)")
    parser.add_argument(
        "--training-utilization", type=float, default=0.4, metavar="SHARE", help="of the peak (default: 0.4)"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--inference-utilization",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="of the peak while answering (default: 0.1, an assumption)",
    )
    way.add_argument(
        "--usd-per-million-tokens",
        type=float,
        metavar="USD",
        help="of the model given, from a run's summary; instead of a share of the peak",
    )


def prices_of(args: argparse.Namespace, *, parameters: float) -> Prices:
    """The prices that *args* state; raise an InputError where there are none."""
    from dataclasses import replace

    from calibration.hardware import hardware
    from sim.errors import InputError, Problem
    from sim.planning.economics import Prices

    gpu = hardware(args.hardware)
    price = args.price if args.price is not None else gpu.price.usd_per_gpu_hour if gpu.price else None
    if price is None:
        raise InputError(Problem(f"{gpu.name} has no list price", key="--price", expected="US dollars a GPU-hour"))
    made = Prices(gpu.peak_flops("bf16"), price, args.training_utilization, args.inference_utilization)
    if args.usd_per_million_tokens is not None:
        if args.usd_per_million_tokens <= 0:
            raise InputError(
                Problem(f"{args.usd_per_million_tokens:g}", key="--usd-per-million-tokens", expected="> 0")
            )
        made = replace(made, inference_utilization=made.utilization_of(args.usd_per_million_tokens, parameters))
    return made


def positive(args: argparse.Namespace, *names: str) -> None:
    """Raise an InputError naming every option of *names* that is given and not above zero."""
    from sim.errors import InputError, Problem

    problems = [
        Problem(f"{getattr(args, name):g}", key="--" + name.replace("_", "-"), expected="above 0")
        for name in names
        if getattr(args, name) is not None and getattr(args, name) <= 0
    ]
    if problems:
        raise InputError(problems)
