"""Finds the subcommand and runs it; turns what a user can mend into one message and exit code 2.

``--help`` imports nothing but argparse: a subcommand's help line is read from its file, and only the one that
is asked for is imported.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sim import __version__
from sim.errors import InputError, Problem, ThinkcapError, nearest

FIRST = ("run", "validate", "report", "compare", "explain", "scenarios", "list", "schema", "check")
"""Order of the best known subcommands in the help; others follow by name."""
_HELP = re.compile(r'^HELP = (?:\(\s*)?"(.*)"', re.MULTILINE)

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141


def entry() -> None:
    """What the ``thinkcap`` script calls."""
    # Imports and figures make objects that stay; Python would look through all of them again and again.
    gc.set_threshold(100_000, 10, 10)
    sys.exit(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``thinkcap`` with *argv* (default: the command line) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except ThinkcapError as error:
        print(_message(error), file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("\nthinkcap: interrupted, nothing was written", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone; python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except OSError as error:
        if error.filename is None:
            raise
        print(f"thinkcap: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return code


def commands() -> dict[str, str]:
    """Every subcommand and its line of help, in the order of the help; no subcommand is imported.

    ``trace_fit.py`` is ``thinkcap trace fit``; beside a ``trace.py``, or alone in its group, it would be
    ``thinkcap trace-fit``.
    """
    found = {}
    for module, path in _modules().items():
        match = _HELP.search(path.read_text(encoding="utf-8"))
        if match is not None:
            found[_spoken(module)] = match[1]
    rank = {name: index for index, name in enumerate(FIRST)}
    return dict(sorted(found.items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def _modules() -> dict[str, Path]:
    here = Path(__file__).parent
    return {path.stem: path for path in here.glob("*.py") if not path.stem.startswith("_") and path.stem != "main"}


def _spoken(module: str) -> str:
    group, underscore, verb = module.partition("_")
    if not underscore:
        return module
    modules = _modules()
    alone = group in modules or sum(name.startswith(f"{group}_") for name in modules) == 1
    return f"{group}{'-' if alone else ' '}{verb.replace('_', '-')}"


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of one subcommand."""
    module = importlib.import_module(f"sim.cli.{re.sub('[ -]', '_', command)}")
    parser = argparse.ArgumentParser(
        prog=f"thinkcap {command}",
        description=(module.__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.prepare_parser(parser)
    parser.set_defaults(run=module.run)
    return parser


def _dispatch(arguments: list[str]) -> int:
    known = commands()
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        wanted = " ".join(arguments[1:]) if arguments[:1] == ["help"] else ""
        if wanted in known:
            parser_of(wanted).print_help()
        else:
            print(_overview(known))
        return 0
    if arguments[0] == "--version":
        print(f"thinkcap {__version__}")
        return 0
    for words in (2, 1):
        command = " ".join(arguments[:words])
        if command in known:
            args = parser_of(command).parse_args(arguments[words:])
            code: int = args.run(args)
            return code
    group = {name: text for name, text in known.items() if name.startswith(f"{arguments[0]} ")}
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(_table(f"usage: thinkcap {arguments[0]} COMMAND …", group))
        return 0 if len(arguments) > 1 else EXIT_BAD_INPUT
    said = " ".join(arguments[: 2 if group else 1])
    what = "option" if said.startswith("-") else "command"
    raise InputError(
        Problem(
            f"unknown {what} {said!r}",
            expected="one of " + ", ".join(group or known),
            nearest=nearest(said, group or known),
        )
    )


def _table(usage: str, known: dict[str, str]) -> str:
    width = max(map(len, known))
    rows = [f"  {name:<{width}}  {help_line}" for name, help_line in known.items()]
    return "\n".join([usage, "", "commands:", *rows])


def _overview(known: dict[str, str]) -> str:
    usage = (
        "usage: thinkcap COMMAND …\n\n"
        "Capacity planning for serving reasoning LLMs: an exact, fast discrete-event simulator."
    )
    options = (
        "options:\n"
        "  -h, --help  this text; `thinkcap COMMAND --help` for one command\n"
        "  --version   the version\n\n"
        "A first run:  thinkcap run quickstart"
    )
    return f"{_table(usage, known)}\n\n{options}"


def _message(error: ThinkcapError) -> str:
    if isinstance(error, InputError):
        problems = [str(problem) for problem in error.problems]
        if len(problems) > 1:
            return "\n".join([f"thinkcap: {len(problems)} problems", *(f"  {line}" for line in problems)])
        return f"thinkcap: {problems[0]}" if problems else "thinkcap: bad input"
    return f"thinkcap: {error}"
