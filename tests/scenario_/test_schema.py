"""The schema for editors and the reference agree with what the loader takes; no key is read by nobody."""

from __future__ import annotations

import ast
from pathlib import Path

import jsonschema
import pytest

from sim import load
from sim.scenario.load import shipped
from sim.scenario.model import Scenario
from sim.scenario.policy import PENDING
from sim.scenario.reference import reference
from sim.scenario.schema import _sections, schema
from sim.scenario.yaml_file import read_file, read_text

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_scenarios_and_their_resolved_forms_obey_the_schema(validator, name):
    written = read_file(shipped()[name]).data
    if "extends" not in written:  # what builds on another need not be whole
        validator.validate(written)
    validator.validate(load(name).resolved())


def test_the_good_scenario_obeys(validator, good):
    validator.validate(read_text(good, "good").data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("replicas: 2", "replica: 2"),
        ("replicas: 2", "replicas: 0"),
        ("rate: 2/s", "rate: 2"),
        ("warmup: 10 min", "warmup: 10"),
        ("round_robin", "round_robbin"),
        ("max_num_seqs: 256", "policy: lifo"),
        ("thinking_token_budget", "thinking_budget"),
        ("16K tokens", "16K"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(validator, good, old, new):
    assert list(validator.iter_errors(read_text(good.replace(old, new), "bad").data))


def test_the_reference_is_up_to_date():
    path = ROOT / "docs" / "scenario.md"
    if not path.is_file():
        pytest.skip("docs are not part of an installed package")
    assert path.read_text(encoding="utf-8") == reference(), "stale: run `make docs`"


def test_every_key_is_explained():
    missing = [
        f"{model.__name__}.{name}"
        for model in _sections(Scenario)
        for name, field in model.model_fields.items()
        if not field.description and model.__name__ != "Policy"
    ]
    assert not missing


def test_every_key_is_read_by_somebody():
    """A field that nothing outside its section reads would be ignored silently."""
    names = ("simulate.py", "placement.py", "run_info.py", "metrics", "cluster", "planning", "scenario/check.py")
    places = [ROOT / "sim" / name for name in names]
    read: set[str] = set()
    for place in places:
        for path in place.rglob("*.py") if place.is_dir() else [place]:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            # deployment() reads settings by their names
            read |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()
            }
    inert = {
        "schema_version",  # says how to read the rest
        "description",  # for people
        "name",  # of the results' folder and in the report, through scenario_yaml
        "currency",  # one value only
        "preemption",  # one value only
        "options",
        "Policy",
    }
    pending = {pattern[-1] for pattern in PENDING}
    targets = {"tta", "ttft", "ttfo", "tpot", "itl", "e2e", "queue_time", "slowdown"}  # by Targets.targets()
    fields = {name for model in _sections(Scenario) for name in model.model_fields}
    assert fields - read - inert - pending - targets == set()
    wired = {
        node.attr
        for node in ast.walk(ast.parse((ROOT / "sim" / "simulate.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "scenario"
    }
    assert not wired & pending, "these are simulated now: take them out of PENDING"
