"""Say what is in a trace: sizes, tails, bursts, clients, and what they ask of a cluster, before any
simulation."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from sim.cli._trace import Input, add_input

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP = "say what is in a trace: lengths, tail, bursts, clients, capacity hints"

KV_BYTES = (("8B class", 131_072), ("70B class", 327_680))
"""KV bytes a token of Llama-3 8B and 70B in bf16: layers x KV heads x 128 x 2 x 2 bytes."""


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    add_input(parser)
    parser.add_argument("--html", metavar="FILE", help="write a page with figures, too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON instead")
    parser.add_argument(
        "--tpot",
        metavar="TIME",
        default="30 ms",
        help="time per output token assumed for the capacity hints (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Read once, print, and write the page."""
    import json
    import math
    from pathlib import Path

    from sim.errors import InputError, Problem
    from sim.units import UnitError, parse_seconds
    from workloads.held import Held, off_grid
    from workloads.measures import describe, describe_structure
    from workloads.portrait import portrait

    try:
        tpot_s = parse_seconds(args.tpot)
    except UnitError as error:
        raise InputError(Problem(error.message, key="--tpot", expected=error.expected)) from None
    source = Input(args.trace, args.format)
    held = Held.of(source.batches())
    if not len(held):
        raise InputError(Problem("holds no rows with output", source=str(source.path)))
    held, grid = off_grid(held)
    of, structure = portrait(held), held.structure
    del held
    found = describe(of)
    found |= {} if structure is None else describe_structure(structure)
    if grid is not None:
        source.report.note(grid)
    told = hints(found, tpot_s)
    if args.json:

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            if isinstance(value, list):
                return [plain(item) for item in value]
            return None if isinstance(value, float) and not math.isfinite(value) else value

        print(json.dumps(plain(found), indent=2))
    else:
        print("\n".join([f"{source.path.name} ({source.title})", *text(found), *told]))
    source.tell()
    if args.html:
        from sim.report.traces import describe_page
        from workloads import curves

        tables = {
            name: getattr(curves, name)(of)
            for name in ("survival", "concentration", "tail_index", "traffic", "daily", "burstiness")
        }
        if of.split_known:
            tables["splits"] = curves.splits(of)
        page = describe_page(
            source.path.name, found, tables, notes=source.report.lines(), hints=told, together=together(found)
        )
        Path(args.html).write_text(page, encoding="utf-8", errors="replace")
        if not args.json:
            print(f"page     {args.html}")
    return 0


def hints(found: Mapping[str, Any], tpot_s: float) -> list[str]:
    """What the trace asks of a cluster by Little's law, at *tpot_s* a token and mean traffic."""
    from sim.report import formats

    output = found["lengths"]["output"]["mean"]
    resident = found["resident_tokens"]
    lines = [
        f"a query holds {formats.count(resident)} KV tokens in the mean while it decodes (its prompt "
        "and half of a "
        f"size-biased output)"
    ]
    rate = found["rate_per_s"]
    if rate != float("inf"):
        at_once = rate * output * tpot_s
        lines.append(
            f"at {formats.duration(tpot_s)} a token {formats.number(at_once, 3)} queries decode at once "
            f"({formats.number(rate * output, 3)} output tokens/s): "
            f"{formats.count(at_once * resident)} KV tokens"
        )
        for name, size in KV_BYTES:
            lines.append(f"  {name}, bf16 KV: {formats.size(at_once * resident * size)}")
    return lines


def text(found: Mapping[str, Any]) -> list[str]:
    """The figures as lines for a terminal."""
    from sim.report import formats

    lines = [
        f"{formats.count(found['queries'])} queries in {formats.duration(found['seconds'])}, "
        f"{formats.number(found['rate_per_s'], 3)}/s",
        "",
    ]
    names = list(found["lengths"])
    lines.append(f"{'tokens':<10}" + "".join(f"{name:>12}" for name in names))
    for key in found["lengths"]["output"]:
        cells = "".join(f"{formats.count(found['lengths'][name][key]):>12}" for name in names)
        lines.append(f"{key:<10}{cells}")
    tops = ", ".join(
        f"top {formats.percent(float(top))}: {formats.percent(share, 3)}" for top, share in found["top_shares"].items()
    )
    lines += [
        "",
        f"share of output tokens   {tops}",
        f"tail index of outputs    {formats.number(found['hill_output'], 3)} (Hill, top 5 %)",
    ]
    if found["reasoning_share"] is not None:
        lines.append(f"reasoning                {formats.percent(found['reasoning_share'], 3)} of output tokens")
    spread = ", ".join(
        f"{formats.duration(float(scale))}: {formats.number(value, 3)}" for scale, value in found["dispersion"].items()
    )
    rates = found["rate_by_window"]
    lines += [
        f"gaps                     CV {formats.number(found['gap_cv'], 3)}; of one {_one(found)} in a window "
        f"{formats.number(found['client_cv'], 3)}",
        f"dispersion of counts     {spread} (Poisson: 1)",
        f"traffic                  {formats.number(min(rates), 3)} to "
        f"{formats.number(max(rates), 3)}/s in windows of "
        f"{formats.duration(found['window_s'])}",
    ]
    if found["rate_by_hour"] is not None:
        busy, quiet = max(found["rate_by_hour"]), min(found["rate_by_hour"])
        lines.append(
            f"day                      {formats.number(busy, 3)}/s in the busiest hour of the day, "
            f"{formats.number(quiet, 3)}/s in the quietest"
        )
    if found["group_count"] > 1:
        largest = found["groups"][0]
        lines.append(
            f"{found['grouped_by']:<24} {found['group_count']:,} of them; {largest['name']} asks "
            f"{formats.percent(largest['share'], 3)} of all, the ten largest "
            f"{formats.percent(sum(group['share'] for group in found['groups'][:10]), 3)}"
        )
    return [*lines, *together(found), ""]


def together(found: Mapping[str, Any]) -> list[str]:
    """Conversations, shared prefixes and recurring prompts as lines."""
    from sim.report import formats

    lines = []
    if "sessions" in found:
        lines.append(
            f"conversations            {formats.count(found['sessions'])} sessions, "
            f"{formats.percent(found['sessions_of_one_turn'], 3)} with one turn, {formats.number(found['mean_turns'], 3)} "
            f"turns in the mean, {formats.number(found['p99_turns'], 3)} at p99; pauses "
            f"{formats.duration(found['pause_p50_s'])} in the median, {formats.duration(found['pause_p90_s'])} at p90"
        )
    if "shared_prompt_tokens" in found:
        share = formats.percent(found["shared_prompt_tokens"], 3)
        lines.append(f"shared prefixes          {share} of prompt tokens stood in earlier prompts")
    if "queries_per_prompt" in found:
        lines.append(
            f"same prompts             each asked {formats.number(found['queries_per_prompt'], 3)} times; lengths of one "
            f"spread by {formats.number(found['sigma_within_prompt'], 2)} in the log, "
            f"{formats.percent(found['variance_between_prompts'], 2)} of the variance lies between prompts"
        )
    return lines


def _one(found: Mapping[str, Any]) -> str:
    return {"client_id": "client", "category": "category"}.get(str(found["grouped_by"]), "trace")
