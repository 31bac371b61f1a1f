"""Fit the client mixture of DeepSeek-R1 production traffic again, from published client figures.

    python -m workloads.presets.refit --quantiles QUANTILES.json --windows WINDOWS.csv --out FILE.json

Quantiles: for each client and block of six hours, quantiles of input tokens, output tokens and reasoning
share. Windows: client_id, window_start_s, req_per_s, iat_cv, iat_family. Both are derived from ServeGen
(github.com/alibaba/ServeGen, Apache-2.0). What is written are fitted figures: mixtures, mean spreads of
gaps, rates to three digits.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.fitting.em import fit_lengths, fit_shares

FloatArray = npt.NDArray[np.float64]

_POINTS = 2000
FIELDS = ("input_tokens", "output_tokens", "reason_ratio")


def spread(levels: FloatArray, heights: FloatArray, *, log: bool) -> FloatArray:
    """Evenly weighted values whose quantiles are *heights* at *levels*."""
    u = (np.arange(_POINTS) + 0.5) / _POINTS
    if log:
        return np.asarray(np.rint(np.exp(np.interp(u, levels, np.log(np.maximum(heights, 1.0))))))
    return np.asarray(np.interp(u, levels, heights))


def refit(quantiles: dict[str, Any], windows: FloatArray, families: list[str]) -> dict[str, Any]:
    """The preset's figures: window length, and for each client rates, spread of gaps, and three laws."""
    levels = np.array(quantiles["quantile_levels"])
    starts = np.unique(windows[:, 1])
    window_s = float(np.diff(starts).min())
    count = round(float(starts[-1]) / window_s) + 1
    block_s = float(quantiles["block_seconds"])
    members: dict[str, Any] = {}
    total = float(windows[:, 2].sum()) * window_s
    small: list[tuple[dict[str, FloatArray], FloatArray]] = []
    for client, blocks in sorted(quantiles["clients"].items(), key=lambda item: int(item[0])):
        mine = windows[:, 0] == int(client)
        rows, family = windows[mine], [f for f, m in zip(families, mine, strict=True) if m]
        rates = np.zeros(count)
        rates[np.rint(rows[:, 1] / window_s).astype(int)] = rows[:, 2]
        weight = {
            block: float(rates[int(float(block) // window_s) : int((float(block) + block_s) // window_s)].sum())
            for block in blocks
        }
        if sum(weight.values()) == 0:
            weight = dict.fromkeys(blocks, 1.0)
        if not blocks:
            continue
        fields = {
            name: np.concatenate(
                [spread(levels, np.array(table[name]), log=name != "reason_ratio") for table in blocks.values()]
            )
            for name in FIELDS
        }
        weights = np.repeat([weight[block] for block in blocks], _POINTS)
        requests = sum(weight.values()) * window_s
        size = float(np.clip(requests, 200.0, 6000.0))
        laws = _laws(fields, weights / weights.sum() * size, size)
        if requests < 0.02 * total:
            small.append((fields, weights * window_s / _POINTS))
        shares = rows[:, 2] / max(rows[:, 2].sum(), 1e-300)
        members[client] = {
            "rates": [float(f"{rate:.3g}") for rate in rates] if rates.any() else [0.0],
            "cv": float(f"{float((rows[:, 3] * shares).sum()) or 1.0:.3g}"),
            "weibull": bool(sum(s for s, f in zip(shares.tolist(), family, strict=True) if f == "Weibull") > 0.5),
            **laws,
        }
    pooled = {name: np.concatenate([fields[name] for fields, _ in small]) for name in FIELDS}
    weights = np.concatenate([weight for _, weight in small])
    others = _laws(pooled, weights / weights.sum() * 6000.0, 6000.0)
    return {"window_s": window_s, "clients": members, "others": others}


def _laws(fields: dict[str, FloatArray], weights: FloatArray, size: float) -> dict[str, Any]:
    share = fit_shares(fields["reason_ratio"], weights, most=3, rows=size)
    return {
        "output": _parts(fit_lengths(fields["output_tokens"], weights, most=4, rows=size)),
        "prompt": _parts(fit_lengths(fields["input_tokens"], weights, most=4, rows=size)),
        "share": {
            "components": [[part.weight, part.a, part.b] for part in share.components],
            "atoms": [[atom.weight, atom.value] for atom in share.atoms],
        },
    }


def _parts(law: Any) -> dict[str, Any]:
    return {
        "components": [[part.weight, part.median, part.sigma] for part in law.components],
        "atoms": [[atom.weight, atom.value] for atom in law.atoms],
        "min": law.min if law.min is not None else law.max,
        "max": law.max,
    }


def main() -> None:
    """Command line."""
    import pandas as pd

    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("quantiles", "windows", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    table = pd.read_csv(options.windows)
    figures = table[["client_id", "window_start_s", "req_per_s", "iat_cv"]].to_numpy(dtype=np.float64)
    fitted = refit(json.loads(options.quantiles.read_text()), figures, table["iat_family"].fillna("").tolist())
    lines = [f"  {json.dumps(name)}: {json.dumps(member)}" for name, member in fitted["clients"].items()]
    text = f'{{"window_s": {fitted["window_s"]}, "others": {json.dumps(fitted["others"])}, "clients": {{\n'
    text += ",\n".join(lines) + "\n}}\n"
    options.out.write_text(text)


if __name__ == "__main__":
    main()
