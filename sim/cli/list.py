"""What a scenario can name: policies of each kind, models, hardware, profiles, presets."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterable
from functools import partial

HELP = "list what a scenario can name: models, hardware, presets, policies"

POLICIES = {
    "schedulers": "scheduler",
    "routers": "router",
    "strategies": "strategy",
    "admission": "admission",
    "autoscalers": "autoscaler",
    "predictors": "predictor",
    "kv": "kv",
}


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    parser.add_argument(
        "what",
        metavar="KIND",
        nargs="?",
        choices=[*KINDS, "policies"],
        help="one of " + ", ".join([*KINDS, "policies"]) + " (default: how many there are of each)",
    )
    parser.add_argument("--names", action="store_true", help="names only, one a line")
    parser.add_argument("--json", action="store_true", help="print names and descriptions as JSON, by kind")


def run(args: argparse.Namespace) -> int:
    """List them."""
    if args.json:
        import json

        wanted = KINDS if args.what is None else POLICIES if args.what == "policies" else [args.what]
        print(json.dumps({kind: dict(KINDS[kind]()) for kind in wanted}, indent=2))
        return 0
    if args.what is None:
        for kind, rows in KINDS.items():
            print(f"{kind:<12}{len(list(rows())):>4}   thinkcap list {kind}")
        return 0
    kinds = list(POLICIES) if args.what == "policies" else [args.what]
    headed = len(kinds) > 1 and not args.names
    for kind in kinds:
        entries = list(KINDS[kind]())
        if headed:
            print(f"{kind}:")
        width = max((len(name) for name, _ in entries), default=0)
        for name, what in entries:
            line = name if args.names else f"{name:<{width}}  {what}".rstrip()
            print(f"  {line}" if headed else line)
    return 0


Rows = Iterable[tuple[str, str]]


def _policies(kind: str) -> Rows:
    from sim.scenario.policy import option_types, registry

    found = registry(kind)
    for name in found.names():
        cls = found.get(name)
        options = ", ".join(option_types(cls))
        yield name, _sentence(inspect.getdoc(cls) or "") + (f"  [{options}]" if options else "")


def _sentence(text: str) -> str:
    """The first sentence of *text*, on one line, up to a full stop, colon or semicolon outside parentheses."""
    line, depth = " ".join(text.partition("\n\n")[0].split()), 0
    for at, sign in enumerate(line):
        depth += (sign == "(") - (sign == ")")
        if sign in ".:;" and not depth and line[at + 1 : at + 2] in ("", " "):
            return line[:at]
    return line


def _models() -> Rows:
    from calibration.architecture import architecture, names

    for name in names():
        model = architecture(name)
        hub = f" ({model.hf[0]})" if model.hf else ""
        yield name, f"{model.title}{hub}, {model.native_dtype}, {model.max_context:,} tokens"


def _hardware() -> Rows:
    from calibration.hardware import hardware, names
    from sim.units import format_number

    for name in names():
        gpu = hardware(name)
        price = f", {gpu.price.usd_per_gpu_hour:.2f} USD/h" if gpu.price else ""
        bandwidth = format_number(gpu.bandwidth_bytes_per_s / 1e9)
        yield name, f"{gpu.title}, {gpu.memory_bytes / 2**30:.0f} GiB, {bandwidth} GB/s{price}"


def _profiles() -> Rows:
    from calibration.profile import get, shipped

    for name in shipped():
        yield name, str(get(name).provenance.get("source", ""))


def _presets() -> Rows:
    from workloads.presets import about, preset

    for name in preset.names():
        yield name, _sentence(about(name))


KINDS: dict[str, Callable[[], Rows]] = {
    "models": _models,
    "hardware": _hardware,
    "profiles": _profiles,
    "presets": _presets,
    **{kind: partial(_policies, name) for kind, name in POLICIES.items()},
}
