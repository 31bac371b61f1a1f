"""What the ``thinkcap trace`` commands share: opening traces and generators, telling what was noticed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from workloads.formats import Report
    from workloads.spec import WorkloadSpec


def add_input(parser: argparse.ArgumentParser) -> None:
    """Declare ``TRACE`` and ``--from-format``."""
    parser.add_argument("trace", metavar="TRACE", help="a trace file; its format is told from its content")
    add_format(parser)


def add_format(parser: argparse.ArgumentParser) -> None:
    """Declare ``--format``."""
    parser.add_argument("--format", metavar="NAME", help="read it as this format, whatever it looks like")


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare ``--out`` and ``--to``."""
    parser.add_argument("--out", metavar="FILE", required=True, help="where to write")
    parser.add_argument(
        "--to",
        metavar="FORMAT",
        help="csv, jsonl, parquet (default: by the suffix of FILE), or for load generators: mooncake (aiperf)"
        ", burstgpt and vllm-custom (vllm bench serve), guidellm, azure (inference-perf)",
    )


class Input:
    """A trace on disk that can be read again and again."""

    def __init__(self, name: str, kind: str | None, *, any_order: bool = False) -> None:
        from workloads.formats import Report, detect, trace_format
        from workloads.replay import locate

        self.path = locate(name, None, key="TRACE")
        self.kind = kind if kind is not None else detect(self.path)[0]
        self.title = trace_format.make(self.kind).title
        self.any_order = any_order
        self.report: Report = Report(str(self.path), any_order=any_order)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Its rows, from the start."""
        from workloads.formats import Report, read

        self.report = Report(str(self.path), any_order=self.any_order)
        return read(self.path, self.report, name=self.kind)

    def tell(self) -> None:
        """Say on stderr what was noticed while reading."""
        for line in self.report.lines():
            print(f"note: {self.path.name}: {line}", file=sys.stderr)


def load_workload(name: str) -> tuple[WorkloadSpec, Path]:
    """The spec that *name* means, a preset or a YAML file with a ``workload`` section, and the file's
    folder."""
    from pydantic import ValidationError

    from sim.errors import InputError, Problem, nearest
    from sim.scenario.problems import document_problems
    from sim.scenario.yaml_file import read_file
    from workloads.presets import preset
    from workloads.spec import WorkloadSpec

    path = Path(name)
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        if name in preset.names():
            return WorkloadSpec(preset=name), Path()
        near = nearest(name, preset.names())
        raise InputError(Problem(f"{name!r} is neither a file nor a preset", expected="workload.yaml", nearest=near))
    document = read_file(path)
    section = document.data.get("workload")
    if not isinstance(section, dict):
        raise InputError(document.problem((), "has no section workload", expected="what `thinkcap trace fit` writes"))
    marks = {key[1:]: mark for key, mark in document.marks.items() if key[:1] == ("workload",)}
    part = replace(document, data=section, marks=marks)
    try:
        return WorkloadSpec.model_validate(section), path.parent
    except ValidationError as error:
        raise InputError(document_problems(error, part, WorkloadSpec)) from None
