"""From how many queries on a dearer training pays.

Each choice is NAME:KEY=VALUE,… with

  train=USD                 what the model cost to make (0 where it was given)
  parameters=N, trained=D   … or 6 N D operations at the GPU's price
  query=USD                 what a query costs
  tokens=T, parameters=N    … or 2 N operations a token
  run=DIR                   … or cost and accuracy of a simulated run
  accuracy=A                share of right answers, for costs of a right answer and for values

  thinkcap economics break-even large:train=5e6,query=0.004,accuracy=0.87 small:train=2e5,query=0.012,accuracy=0.86
  thinkcap economics break-even distilled:train=2e6,run=runs/distilled voting:train=0,run=runs/voting --value 0.05
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.planning.economics import Choice

HELP = "training amortised over queries: which model is cheapest at which volume, and where they cross"
KEYS = ("train", "parameters", "trained", "query", "tokens", "run", "accuracy")
VOLUMES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    from sim.cli._economics import add_prices

    parser.add_argument("choices", nargs="+", metavar="NAME:KEY=VALUE,…", help="models to choose from")
    parser.add_argument("--queries", type=float, action="append", help="a volume to show; often (default: 1e3 … 1e10)")
    parser.add_argument("--value", type=float, default=0.0, metavar="USD", help="of a right answer")
    parser.add_argument("--wrong", type=float, default=0.0, metavar="USD", help="cost of a wrong answer")
    add_prices(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Compute and print."""
    from sim.errors import InputError, Problem
    from sim.planning import economics

    choices = [_choice(text, args) for text in args.choices]
    if len({each.name for each in choices}) < len(choices):
        raise InputError(Problem("two choices have the same name", expected="a name for each"))
    volumes = sorted(args.queries or VOLUMES)
    if volumes[0] <= 0:
        raise InputError(Problem(f"{volumes[0]:g}", key="--queries", expected="above 0"))
    worth = {"value": args.value, "wrong": args.wrong}
    pairs = [
        (one.name, other.name, economics.break_even(one, other, **worth))
        for place, one in enumerate(choices)
        for other in choices[place + 1 :]
    ]
    table = [
        {
            "queries": volume,
            "best": economics.cheapest(choices, volume, **worth).name,
            **{
                each.name: {
                    "usd_per_query": each.per_query(volume),
                    "usd_per_correct_answer": each.per_correct(volume),
                    "gain_usd": each.worth(volume, **worth),
                }
                for each in choices
            },
        }
        for volume in volumes
    ]
    pays = {each.name: economics.pays_from(each, **worth) for each in choices} if any(worth.values()) else {}
    if args.json:
        import json

        crossings = [{"one": one, "other": other, "queries": at} for one, other, at in pairs]
        print(json.dumps({"break_even": crossings, "pays_from": pays, "volumes": table}, indent=2))
        return 0
    print(f"{'queries':>10}  " + "  ".join(f"{each.name:>14}" for each in choices) + "   US dollars a query")
    for volume in volumes:
        best = economics.cheapest(choices, volume, **worth)
        cells = [f"{each.per_query(volume):>13.4g}{'*' if each is best else ' '}" for each in choices]
        print(f"{volume:>10.3g}  " + "  ".join(cells))
    print(f"\n* the {'largest gain' if any(worth.values()) else 'cheapest'} at that volume")
    for one, other, at in pairs:
        print(f"{one} and {other}: " + (f"equal at {at:,.0f} queries" if at else "one is better at every volume"))
    for name, at in pays.items():
        print(f"{name}: " + (f"earns back its training after {at:,.0f} queries" if at is not None else "never pays"))
    return 0


def _choice(text: str, args: argparse.Namespace) -> Choice:
    from sim.cli._economics import prices_of
    from sim.errors import InputError, Problem, nearest
    from sim.planning.economics import INFERENCE_FLOPS, TRAINING_FLOPS, Choice

    name, colon, rest = text.partition(":")
    problems, given = [], {}
    for part in rest.split(",") if colon else [""]:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in KEYS:
            expected = "NAME:KEY=VALUE,… with keys " + ", ".join(KEYS)
            problems.append(Problem(f"{text!r}: {part!r}", expected=expected, nearest=nearest(key, KEYS)))
            continue
        given[key] = value
    numbers = {}
    for key, value in given.items():
        if key == "run":
            continue
        try:
            numbers[key] = float(value)
        except ValueError:
            problems.append(Problem(f"{text!r}: {key}={value}", expected="a number"))
            continue
        if numbers[key] < 0 or (key == "accuracy" and numbers[key] > 1):
            problems.append(Problem(f"{text!r}: {key}={value}", expected="at least 0, an accuracy at most 1"))
    if problems:
        raise InputError(problems)
    query, accuracy = numbers.get("query"), numbers.get("accuracy")
    if "run" in given:
        found = _of_run(Path(given["run"]))
        query = found[0] if query is None else query
        accuracy = found[1] if accuracy is None else accuracy
    parameters = numbers.get("parameters")
    prices = prices_of(args, parameters=parameters) if parameters else None
    if query is None and prices is not None and parameters and "tokens" in numbers:
        query = prices.inference_usd(INFERENCE_FLOPS * parameters * numbers["tokens"])
    train = numbers.get("train")
    if train is None and prices is not None and parameters and "trained" in numbers:
        train = prices.training_usd(TRAINING_FLOPS * parameters * numbers["trained"])
    if query is None:
        problems.append(
            Problem(f"{text!r}: what a query costs is missing", expected="query, run, or tokens, parameters")
        )
    if train is None:
        problems.append(Problem(f"{text!r}: what training cost is missing", expected="train, or parameters, trained"))
    if query is None or train is None:
        raise InputError(problems)
    return Choice(name, train, query, accuracy)


def _of_run(folder: Path) -> tuple[float | None, float | None]:
    import json

    from sim.errors import InputError, Problem

    path = folder / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        return summary["cost"]["cost_per_query"], summary["quality"]["accuracy"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(Problem(f"is no run's summary: {error}", source=str(path))) from None
