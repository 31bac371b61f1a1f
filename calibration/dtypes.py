"""Number formats: names as engines write them, and the bytes a number takes with its scales."""

from __future__ import annotations

from sim.errors import InputError, Problem, nearest

BYTES: dict[str, float] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "mxfp4": 0.5 + 1 / 32,  # an 8-bit scale for each 32 numbers (OCP MX specification)
    "nvfp4": 0.5 + 1 / 16,  # an 8-bit scale for each 16 numbers
    "int4": 0.5 + 2.5 / 128,  # a 16-bit scale and a 4-bit zero for each 128 numbers (AWQ, GPTQ)
}
"""Bytes of one number, its share of the scales included."""

_ALIASES = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "float": "fp32",
    "float32": "fp32",
    "float8": "fp8",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "fp8_block": "fp8",
    "awq": "int4",
    "gptq": "int4",
    "w4a16": "int4",
    "w8a8": "int8",
    "fp4": "nvfp4",
}

KV_DTYPES = ("bf16", "fp16", "fp8", "fp32", "int8")


def dtype_name(name: str, *, key: str = "dtype") -> str:
    """The one name used here for a number format; raise an InputError for an unknown one.

    >>> dtype_name("bfloat16")
    'bf16'
    """
    found = _ALIASES.get(name.lower(), name.lower())
    if found not in BYTES:
        known = [*BYTES, *_ALIASES]
        raise InputError(
            Problem(
                f"unknown number format {name!r}",
                key=key,
                expected="auto, " + ", ".join(BYTES),
                nearest=nearest(name.lower(), known),
            )
        )
    return found


def compute_dtype(weights: str) -> str:
    """The format that multiplications run in for *weights* of a format: weight-only formats multiply in
    bf16."""
    return {"int4": "bf16", "mxfp4": "bf16", "fp16": "bf16"}.get(weights, weights)
