"""What is known of published runs beside their rows: which identified a constant, which cannot be right, which settings
their source's launch scripts state.

A rule holds for a run when every column it names contains one of the texts, or lies between min and max.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.validation.accuracy_cases import Case


@functools.cache
def _rules(file: str, section: str) -> tuple[dict[str, Any], ...]:
    import yaml

    path = Path(__file__).with_name(f"{file}.yaml")
    return tuple(yaml.safe_load(path.read_text(encoding="utf-8"))[section])


def not_comparable(case: Case) -> str | None:
    """Why the published figures of *case* cannot be right for any cost that grows with the batch; None: they can."""
    rules = _rules("used_in_fitting", "not_comparable")
    return next((str(rule["why"]) for rule in rules if _holds(case, rule["where"])), None)


def used_in_fitting(case: Case) -> bool:
    """Whether a constant that predicts *case* was identified on it: a rule of ``used_in_fitting.yaml`` holds."""
    return any(_holds(case, rule["where"]) for rule in _rules("used_in_fitting", "runs"))


def recipe(case: Case) -> Mapping[str, Any]:
    """Settings that the launch scripts of the case's source state (``recipes.yaml``), and ``what`` they are of; empty
    where none are known.
    """
    for rule in _rules("recipes", "recipes"):
        if _holds(case, rule["where"]):
            return {"what": rule["what"], **rule["settings"]}
    return {}


def _holds(case: Case, where: Mapping[str, Any]) -> bool:
    for column, wanted in where.items():
        value = case.id if column == "id" else case.text(column)
        if isinstance(wanted, dict):
            number = case.number(column)
            if number is None or not wanted.get("min", -math.inf) <= number <= wanted.get("max", math.inf):
                return False
        else:
            options = wanted if isinstance(wanted, list) else [wanted]
            if not any(str(option).lower() in value.lower() for option in options):
                return False
    return True
