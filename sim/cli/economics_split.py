"""How large a model to train, and how long, when so many queries will be asked of it.

A model of the same quality (loss) can be small and trained long, or large and trained short. Training takes 6 N D
operations, answering 2 N a token, so the more is asked the smaller the best model is. Sources: the module
sim/planning/economics.py.

  thinkcap economics split --parameters 70e9 --queries 1e9 --tokens 5000
  thinkcap economics split --parameters 70e9 --queries 1e9 --tokens 5000 --usd-per-million-tokens 1.2
"""

from __future__ import annotations

import argparse

HELP = "split a budget between training and inference: the best model size for a number of queries"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments on *parser*."""
    from sim.cli._economics import add_prices

    parser.add_argument(
        "--parameters", type=float, required=True, metavar="N", help="of the model whose quality is wanted"
    )
    parser.add_argument(
        "--training-tokens", type=float, metavar="D", help="it is trained on (default: compute-optimal for N)"
    )
    parser.add_argument("--queries", type=float, required=True, help="asked over the model's life")
    parser.add_argument("--tokens", type=float, required=True, help="a query: prompt, reasoning and answer")
    add_prices(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Compute and print."""
    from dataclasses import asdict

    from sim.cli._economics import positive, prices_of
    from sim.planning import economics

    positive(args, "parameters", "queries", "tokens", "training_tokens")
    prices = prices_of(args, parameters=args.parameters)
    trained = args.training_tokens or economics.compute_optimal_tokens(args.parameters)
    target = economics.loss(args.parameters, trained)
    inference = args.queries * args.tokens
    rows = {
        "as given": economics.life(args.parameters, trained, inference, prices),
        "compute-optimal in training": economics.moved(economics.best_split(target, 0.0, prices), inference, prices),
        "best for these queries": economics.best_split(target, inference, prices),
    }
    if args.json:
        import json

        said = {name: {**asdict(row), "total_usd": row.total_usd} for name, row in rows.items()}
        print(json.dumps({"loss": target, "prices": asdict(prices), "choices": said}, indent=2))
        return 0
    print(f"loss {target:.4f}, {inference:.4g} tokens answered over its life\n")
    head = ("", "parameters", "trained on", "training", "inference", "total", "training's share")
    lines = [head]
    for name, row in rows.items():
        lines.append(
            (
                name,
                f"{row.parameters / 1e9:,.2f} B",
                f"{row.training_tokens / 1e12:,.2f} T",
                f"${row.training_usd:,.0f}",
                f"${row.inference_usd:,.0f}",
                f"${row.total_usd:,.0f}",
                f"{row.training_usd / row.total_usd:.1%}" if row.total_usd else "-",
            )
        )
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in enumerate(
            zip(line, widths, strict=True))]  # fmt: skip
        print("  ".join(cells).rstrip())
    print(f"\nThe law of losses was fitted up to {economics.FITTED_UP_TO / 1e9:g} billion parameters: beyond, ", end="")
    print("and far from the compute-optimal number of tokens, it is an extrapolation.")
    return 0
