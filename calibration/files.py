"""Reading the YAML files that ship with the calibration."""

from __future__ import annotations

from typing import Any


def read_yaml(text: str | bytes) -> Any:
    """The data in *text*, by libyaml where it is there: profiles and models are read in milliseconds then."""
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
