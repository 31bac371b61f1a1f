"""The reference of scenario keys in Markdown (``docs/scenario.md``), written from the JSON Schema."""

from __future__ import annotations

from typing import Any

from sim.scenario.schema import schema

INTRO = """\
# Scenarios

<!-- Written by `thinkcap schema --markdown`; a test fails when it is stale. -->

A scenario is one YAML file: who asks, who answers, what must be reached, what is measured. `thinkcap
validate FILE` checks one without running it, `thinkcap validate FILE --resolved` prints it with every
default stated, `thinkcap schema > schema.json` gives editors completion (first line of the YAML: `#
yaml-language-server: $schema=schema.json`).

Rules that hold everywhere:

- **Quantities carry their unit**: `30 s`, `200 ms`, `1 h 30 min`, `4/s`, `120/min`, `45 GB` (10⁹), `20
  GiB` (2³⁰), `2.50 USD/h`. A number without one is refused. Tokens are plain numbers, or `16K tokens`
  (16,000) and `16Ki tokens` (16,384); a bare `16K` is refused, except in engine settings, which read as
  vLLM reads them (`16k` = 16,000, `16K` = 16,384).
- **Nothing is ignored.** Keys that are misspelt, twice there, or not modelled are refused, all at once,
  each with file, line and the nearest valid name. YAML is read by its 1.2 rules: `no` and `on` are
  words, `1e3` is a number. Tags and merge keys are refused.
- **`extends: FILE_OR_NAME`** builds on another scenario: maps are merged, all else is replaced, `null`
  takes a key away. A policy with another `name` replaces the old one with its options. Circles are
  refused.
- **`--set a.b.c=VALUE`** changes one key from the command line; VALUE is YAML. `--set
  workload.trace=FILE` turns any scenario into a replay of that file: the rest of its workload and the
  end of its window (`measure.duration`, `measure.queries`) no longer apply, and are named on stderr.
- **Files** are looked for beside the file that names them, then in the working directory.
- **A policy** (router, strategy, scheduler) is its name, or `{name: …, option: …}`; `thinkcap list
  policies` shows all. One of your own is `path/to/file.py:Class`.

Sections of a scenario, then of each part; without a default a key may be left out unless it is marked
required.
"""


def reference() -> str:
    """All keys of a scenario as Markdown."""
    data = schema()
    definitions = data["$defs"]
    lines = [INTRO, "## Top level", ""]
    lines += _table(data, ("name", "workload", "pools"), {"name": "the file's name"})
    done: list[str] = []
    waiting = _named(data)
    while waiting:
        name = waiting.pop(0)
        if name in done or name.endswith("-policy"):
            continue
        done.append(name)
        part = definitions[name]
        lines += ["", f"## {name}", ""]
        if part.get("description"):
            lines += [_line(part["description"]), ""]
        lines += _table(part, part.get("required", ()), {})
        waiting += _named(part)
    return "\n".join(lines) + "\n"


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


def _table(part: dict[str, Any], required: Any, stated: dict[str, str]) -> list[str]:
    rows = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key, field in part.get("properties", {}).items():
        default = field.get("default")
        if key in stated:
            said = stated[key]
        elif key in required:
            said = "required"
        elif default is None or default == "":
            said = ""
        else:
            said = f"`{str(default).lower() if isinstance(default, bool) else default}`"
        meaning = _line(field.get("description", "")).replace("|", "\\|")
        rows.append(f"| `{key}` | {_kind(field)} | {said} | {meaning} |")
    return rows if len(rows) > 2 else ["No keys."]


def _kind(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"a {name.removesuffix('-policy')}" if name.endswith("-policy") else f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{item}`" for item in field["enum"])
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_kind(item) for item in field[union]))
    kind = field.get("type")
    if isinstance(kind, list):
        return "a short form"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"by name: {_kind(inner)}" if isinstance(inner, dict) else "a map"
    if kind == "array":
        items = field.get("items") or {}
        return f"list of {_kind(items)}"
    if kind == "string":
        example = field.get("examples")
        return f"such as `{example[0]}`" if example and "pattern" in field else "text"
    bounds = [
        f"{sign} {field[bound]:g}"
        for bound, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if bound in field and abs(field[bound]) < 1e15
    ]
    word = {"integer": "whole number", "number": "number", "boolean": "true or false"}.get(str(kind), "any")
    return " ".join([word, ", ".join(bounds)]).strip()


def _named(value: Any) -> list[str]:
    """Names of the definitions that *value* refers to, in order."""
    if isinstance(value, list):
        return [name for item in value for name in _named(item)]
    if not isinstance(value, dict):
        return []
    found = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
    for key, item in value.items():
        if key not in ("$defs", "discriminator"):
            found += _named(item)
    return found
