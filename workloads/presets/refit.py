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
        if not blocks:
            continue
        if sum(weight.values()) == 0:
            weight = dict.fromkeys(blocks, 1.0)
        values = {block: _values(levels, table) for block, table in blocks.items()}
        fields, weights = _joined(values, weight)
        requests = sum(weight.values()) * window_s
        if requests < 0.02 * total:
            small.append((fields, weights * window_s / _POINTS))
        member: dict[str, Any] = {"rates": [float(f"{rate:.3g}") for rate in rates] if rates.any() else [0.0]}
        member |= _burstiness(rows, family) | _laws(fields, weights, requests)
        if len(blocks) > 1:
            member["blocks"] = {
                block: _burstiness(rows[inside], [f for f, i in zip(family, inside.tolist(), strict=True) if i])
                | _laws(*_joined({block: values[block]}, {block: 1.0}), weight[block] * window_s)
                for block in blocks
                for inside in [(rows[:, 1] >= float(block)) & (rows[:, 1] < float(block) + block_s)]
                if weight[block] > 0
            }
        members[client] = member
    pooled = {name: np.concatenate([fields[name] for fields, _ in small]) for name in FIELDS}
    weights = np.concatenate([weight for _, weight in small])
    others = _laws(pooled, weights, 6000.0)
    return {"window_s": window_s, "block_s": block_s, "clients": members, "others": others}


def _values(levels: FloatArray, table: dict[str, Any]) -> dict[str, FloatArray]:
    return {name: spread(levels, np.array(table[name]), log=name != "reason_ratio") for name in FIELDS}


def _joined(
    values: dict[str, dict[str, FloatArray]], weight: dict[str, float]
) -> tuple[dict[str, FloatArray], FloatArray]:
    """Values of several blocks and the weight of each."""
    fields = {name: np.concatenate([values[block][name] for block in values]) for name in FIELDS}
    return fields, np.repeat([weight[block] for block in values], _POINTS)


def _burstiness(rows: FloatArray, family: list[str]) -> dict[str, Any]:
    """Mean spread of gaps over windows, by requests, and whether most of these are Weibull."""
    shares = rows[:, 2] / max(rows[:, 2].sum(), 1e-300)
    weibull = sum(share for share, name in zip(shares.tolist(), family, strict=True) if name == "Weibull")
    return {"cv": float(f"{float((rows[:, 3] * shares).sum()) or 1.0:.3g}"), "weibull": bool(weibull > 0.5)}


def _laws(fields: dict[str, FloatArray], weights: FloatArray, requests: float) -> dict[str, Any]:
    """The laws of a client; so many *requests* say how fine they may be."""
    size = float(np.clip(requests, 200.0, 6000.0))
    weights = weights / weights.sum() * size
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
    head = {name: fitted[name] for name in ("window_s", "block_s", "others")}
    text = json.dumps(head)[:-1] + ', "clients": {\n'
    text += ",\n".join(lines) + "\n}}\n"
    options.out.write_text(text)


if __name__ == "__main__":
    main()
