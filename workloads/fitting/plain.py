"""Fitted figures as plain data, no more exact than a fit is."""

from __future__ import annotations

from typing import Any


def plain(law: Any) -> dict[str, Any]:
    """A law as plain data, without what is left at its default."""
    data: dict[str, Any] = {"law": law.law, **law.model_dump(mode="json", exclude_none=True, exclude={"law"})}
    return {key: value for key, value in data.items() if value not in ([], ())}


def digits(value: float, count: int) -> float:
    """*value* with *count* significant digits."""
    return float(f"{value:.{count}g}")
