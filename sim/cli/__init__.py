"""The ``thinkcap`` command: `main` finds the subcommand, one module here each.

A subcommand is a module with ``HELP`` (one line), ``prepare_parser(parser)`` and ``run(args) -> int``; being
here is all it takes. Names that begin with ``_`` are helpers.
"""
