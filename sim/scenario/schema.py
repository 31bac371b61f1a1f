"""The JSON Schema of scenarios, from the models and from every policy that is installed."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from sim import units
from sim.scenario.base import Section
from sim.scenario.model import Scenario
from sim.scenario.policy import PENDING, PLACES, option_types, registry

_NUMBER = r"^\s*[-+]?[0-9.,_eE+-]+\s*"
QUANTITIES: dict[Callable[[Any], Any], JsonSchemaValue] = {
    units.parse_seconds: {"type": "string", "pattern": _NUMBER + "[a-zµ]", "examples": ["10 min"]},
    units.parse_ps: {"type": "string", "pattern": _NUMBER + "[a-zµ]", "examples": ["10 min"]},
    units.parse_per_second: {"type": "string", "pattern": _NUMBER + ".*/", "examples": ["4/s"]},
    units.parse_bytes: {"type": "string", "pattern": _NUMBER + ".*B$", "examples": ["45 GB"]},
    units.parse_bytes_per_second: {"type": "string", "pattern": _NUMBER + ".*/s$", "examples": ["50 GB/s"]},
    units.parse_grams_per_kwh: {"type": "string", "pattern": _NUMBER + "k?g/kWh$", "examples": ["445 g/kWh"]},
    units.parse_usd_per_hour: {"type": "string", "pattern": _NUMBER + "USD/", "examples": ["2.50 USD/h"]},
}
"""What is written as text with a unit, by the function that reads it."""
COUNTS: dict[Callable[[Any], Any], JsonSchemaValue] = {
    units.parse_engine_count: {"type": "string", "pattern": _NUMBER + "[kKmMgGtT]?$", "examples": ["16K"]},
    units.parse_tokens: {"type": "string", "pattern": _NUMBER + ".*tokens?$", "examples": ["16K tokens"]},
    units.parse_share: {"type": "string", "pattern": _NUMBER + "%$", "examples": ["95 %"]},
}
"""Numbers that may be written as text too."""


class _Generator(GenerateJsonSchema):
    """Knows what a field takes before the function that reads it makes a number of it."""

    def function_before_schema(self, schema: Any) -> JsonSchemaValue:
        function = schema["function"]["function"]
        if function in QUANTITIES:
            return dict(QUANTITIES[function])
        inner = self.generate_inner(schema["schema"])
        if function in COUNTS:
            return {"anyOf": [inner, dict(COUNTS[function])]}
        if function.__module__.startswith("workloads."):  # short forms: a name, a number, a quantity
            return {"anyOf": [inner, {"type": ["string", "number"]}]}
        return inner

    def default_schema(self, schema: Any) -> JsonSchemaValue:
        """Without the default, which is in the form that Python sees; `_defaults` adds it as YAML says it."""
        return self.generate_inner(schema["schema"])


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a scenario file."""
    data = Scenario.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    definitions = data["$defs"]
    for pattern, kind in PLACES.items():
        owner = {"engine": "Engine", "autoscaling": "Autoscaling"}.get(pattern[-2] if len(pattern) > 1 else "")
        section = definitions[owner]["properties"] if owner else data["properties"]
        old = section.pop(pattern[-1])
        if pattern not in PENDING:
            section[pattern[-1]] = {
                "$ref": f"#/$defs/{kind}-policy",
                "description": old["description"],
            }
            definitions[f"{kind}-policy"] = _policy_schema(kind)
    definitions.pop("Policy", None)
    for model in _sections(Scenario):
        place = definitions.get(model.__name__, data if model is Scenario else {})
        _defaults(model, place.get("properties", {}))
    _list_presets(definitions["WorkloadSpec"]["properties"]["preset"])
    data["properties"]["extends"] = {
        "type": "string",
        "description": "a scenario that this one builds on: maps are merged, lists replaced, null takes away",
    }
    data.pop("required", None)  # what a scenario lacks, the one that it extends may have
    tidied: dict[str, Any] = _tidy(data)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ThinkCap scenario",
        **tidied,
    }


def schema_text() -> str:
    """`schema` as JSON text."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    """*model* and all sections of ours below it."""
    from sim.scenario.problems import models_of

    found = [model]
    for field in model.model_fields.values():
        hints = [field.annotation, *getattr(field.annotation, "__args__", ())]
        for hint in hints:
            for inner in models_of(hint):
                if issubclass(inner, Section) and inner not in found:
                    found += [one for one in _sections(inner) if one not in found]
    return found


def _defaults(model: type[BaseModel], properties: dict[str, Any]) -> None:
    """Add defaults to *properties* as YAML would say them."""
    stated = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in model.model_fields.items()
        if not field.is_required()
    }
    said = model.model_construct(**stated).model_dump(
        mode="json", by_alias=True, exclude_none=True, include=set(stated)
    )
    for key, value in said.items():
        if key in properties and value != {} and not isinstance(value, dict):
            properties[key]["default"] = value


def _list_presets(field: dict[str, Any]) -> None:
    from workloads.presets import preset

    field["examples"] = preset.names()


_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def _tidy(value: Any) -> Any:
    """Without titles, nulls that say no more than "may be left out", and bounds on what is text."""
    if isinstance(value, list):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    tidy: dict[str, Any] = {}
    for key, item in value.items():
        if key == "properties":
            tidy[key] = {name: _tidy(inner) for name, inner in item.items()}
        elif key in _BOUNDS:
            if value.get("type") in ("integer", "number"):
                tidy[_BOUNDS[key]] = item
        elif key == "description":
            tidy[key] = item.partition("\n\n")[0].replace("\n", " ")
        elif not (key == "title" and isinstance(item, str)):
            tidy[key] = _tidy(item)
    members = [item for item in tidy.get("anyOf", []) if item != {"type": "null"}]
    if len(members) == 1:
        del tidy["anyOf"]
        tidy = {**members[0], **tidy}
    elif members:
        tidy["anyOf"] = members
    return tidy


# -- policies ------------------------------------------------------------------------------------------


def _policy_schema(kind: str) -> dict[str, Any]:
    found = registry(kind)
    choices: list[dict[str, Any]] = []
    plain = []
    for name in found.names():
        cls = found.get(name)
        required = [
            field.name
            for field in dataclasses.fields(cls)
            if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
        if not required:
            plain.append(name)
        choices.append(
            {
                "type": "object",
                "description": inspect.getdoc(cls) or "",
                "properties": {
                    "name": {"const": name},
                    **{option: _option_schema(option, hint) for option, hint in option_types(cls).items()},
                },
                "required": ["name", *required],
                "additionalProperties": False,
            }
        )
    own = {"type": "string", "pattern": r"\.py:\w+$"}
    return {
        "description": f"a {kind}, by its name or with options",
        "anyOf": [
            {"enum": plain},
            *choices,
            own,
            {"type": "object", "properties": {"name": own}, "required": ["name"]},
        ],
    }


def _option_schema(option: str, hint: Any) -> dict[str, Any]:
    try:
        found = TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticUserError):
        return {}
    if "$defs" in found:
        return {}
    if option.endswith(("_s", "_bytes", "_per_s")):
        return {"anyOf": [found, {"type": "string"}]}
    if "integer" in json.dumps(found):
        return {"anyOf": [found, dict(COUNTS[units.parse_tokens])]}
    return found
