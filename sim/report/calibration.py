"""What a profile looks like: step time against batch, context and tokens, with the roofline and measured
points.

Figures are built from a profile's own figures and, where there are any, from the rows of its measurement
table; the two pages are written by ``thinkcap calibrate show`` and ``thinkcap calibrate fit --residuals``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.fitting import Fit, Rows, rows_of
from calibration.hardware import hardware
from calibration.prior import hardware_cost
from calibration.profile import Profile
from sim.errors import InputError
from sim.report import formats, theme
from sim.report.html import Exhibit, Fold, Page, Section, Table, Tile, render

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from calibration.parts import HardwareCost

BATCHES = (1, 8, 32, 128, 512)
"""Batches whose lines are drawn against context."""
CONTEXTS = (256, 2048, 8192, 32768)
"""Contexts whose lines are drawn against batch."""
_STYLES = (theme.BLUE, theme.VERMILLION, theme.GREEN, theme.PURPLE, theme.ORANGE)


def roofline(profile: Profile) -> HardwareCost | None:
    """The prior of the same model, GPU and parallelism; None where the GPU or the model is not known."""
    try:
        arch, gpu = profile.shapes(), hardware(profile.hardware)
    except InputError:
        return None
    return hardware_cost(
        arch,
        gpu,
        tp=profile.tensor_parallel_size,
        dp=profile.data_parallel_size,
        ep=profile.enable_expert_parallel,
        dtype=profile.dtype,
        kv_dtype=profile.kv_cache_dtype if profile.kv_cache_dtype in ("fp8", "int8") else "auto",
    )


def _decode_ms(cost: HardwareCost, batch: Any, context: Any) -> Any:
    batch, context = np.asarray(batch, float), np.asarray(context, float)
    return 1e3 * (cost.linear(batch) + cost.seq_s * batch + cost.kv_s * batch * context)


def decode_table(profile: Profile, *, across: str = "batch") -> pd.DataFrame:
    """``batch, context, step_ms, roofline_ms`` of pure decode steps: lines over batch, or over context."""
    import pandas as pd

    prior = roofline(profile)
    if across == "batch":
        lines = [c for c in CONTEXTS if c <= profile.context[1]] or [profile.context[1]]
        at = [b for b in profile.cost.tokens if profile.batch[0] <= b <= profile.batch[1]]
        pairs = [(b, c) for c in lines for b in at]
    else:
        lines = [b for b in BATCHES if b <= profile.batch[1]] or [profile.batch[1]]
        low, high = max(16, profile.context[0]), profile.context[1]
        at = np.unique(np.geomspace(low, max(high, low + 1), 24).astype(int)).tolist()
        pairs = [(b, c) for b in lines for c in at]
    frame = pd.DataFrame(pairs, columns=["batch", "context"])
    frame["step_ms"] = _decode_ms(profile.cost, frame["batch"], frame["context"])
    frame["roofline_ms"] = _decode_ms(prior, frame["batch"], frame["context"]) if prior else np.nan
    return frame


def decode_figure(profile: Profile, rows: Rows | None = None, *, across: str = "batch") -> go.Figure:
    """Decode step time over *across* ("batch" or "context"), a line for each value of the other one."""
    import plotly.graph_objects as go

    data = decode_table(profile, across=across)
    other = "context" if across == "batch" else "batch"
    fig = theme.new_figure(420)
    for style, (value, line) in zip(_STYLES, data.groupby(other), strict=False):
        name = f"{value:,} tokens of context" if other == "context" else _sequences(int(str(value)))
        fig.add_trace(
            go.Scatter(
                x=line[across].tolist(),
                y=_round(line["step_ms"]),
                mode="lines",
                name=name,
                line={"color": style.color, "dash": "solid"},
                hovertemplate="%{x:,}: %{y:.4~g} ms<extra>%{fullData.name}</extra>",
            )
        )
        if line["roofline_ms"].notna().all():
            fig.add_trace(
                go.Scatter(
                    x=line[across].tolist(),
                    y=_round(line["roofline_ms"]),
                    mode="lines",
                    name=f"roofline, {name}",
                    showlegend=False,
                    line={"color": style.color, "dash": "dot", "width": 1},
                    hovertemplate="%{x:,}: %{y:.4~g} ms<extra>%{fullData.name}</extra>",
                )
            )
        if rows is not None:
            decode = rows.decode & (_other(rows, other) == value)
            if decode.any():
                fig.add_trace(
                    go.Scatter(
                        x=(rows.batch if across == "batch" else rows.each_context)[decode].tolist(),
                        y=_round(1e3 * rows.time_s[decode]),
                        mode="markers",
                        name=f"measured, {name}",
                        showlegend=False,
                        marker={"color": style.color, "symbol": style.symbol, "size": 6},
                        hovertemplate="%{x:,}: %{y:.4~g} ms<extra>%{fullData.name}</extra>",
                    )
                )
    fig.update_xaxes(title_text="sequences decoding" if across == "batch" else "context of each sequence, tokens")
    fig.update_yaxes(title_text="kernels of a step, ms")
    _log_axes(fig, "x", "y")
    first, last = data.iloc[0], data.iloc[-1]
    title = (
        f"A decode step takes {_ms(first['step_ms'])} of kernels at least and "
        f"{_ms(data['step_ms'].max())} in the largest batch and context drawn"
    )
    return theme.describe(
        fig,
        title=title,
        caption="Solid: the profile. "
        + (
            "Dotted: the roofline prior for the same model and GPU. "
            if data["roofline_ms"].notna().all()
            else "No roofline beside it: the device is not a known GPU. "
        )
        + ("Marks: what was measured. " if rows is not None else "")
        + "The engine's own time (host, layers, rows) comes on top; lines go on past what fits in memory.",
        alt=f"Lines of decode step time over {across}, from batch {first['batch']:g} and context "
        f"{first['context']:g} to batch {last['batch']:g} and context {last['context']:g}.",
    )


def _log_axes(fig: go.Figure, *names: str) -> None:
    """Make these axes logarithmic, with ticks that people read, around what is drawn."""
    for name in names:
        values = [float(value) for trace in fig.data for value in (getattr(trace, name, None) or ()) if value]
        low, high = min(values) / 1.1, max(values) * 1.1
        ticks, labels = formats.log_ticks(low, high, most=8)
        update = fig.update_xaxes if name == "x" else fig.update_yaxes
        update(type="log", range=[float(np.log10(low)), float(np.log10(high))], tickvals=ticks, ticktext=labels)


def _other(rows: Rows, name: str) -> Any:
    return rows.each_context if name == "context" else rows.batch


def prefill_figure(profile: Profile, rows: Rows | None = None) -> go.Figure:
    """Time of one prefill chunk of so many tokens, nothing cached, split into matrices and attention."""
    import plotly.graph_objects as go

    cost, prior = profile.cost, roofline(profile)
    at = np.asarray([t for t in cost.tokens if profile.tokens[0] <= t <= profile.tokens[1]], float)
    linear = 1e3 * (cost.linear(at) + cost.seq_s)
    whole = linear + 1e3 * cost.pair_s * at**2 / 2
    fig = theme.new_figure(420)
    for name, values, style in (("whole chunk", whole, theme.BLUE), ("matrices alone", linear, theme.GREEN)):
        fig.add_trace(
            go.Scatter(
                x=at.tolist(),
                y=_round(values),
                mode="lines",
                name=name,
                line={"color": style.color, "dash": style.dash},
                hovertemplate="%{x:,} tokens: %{y:.4~g} ms<extra>%{fullData.name}</extra>",
            )
        )
    if prior:
        values = 1e3 * (prior.linear(at) + prior.seq_s + prior.pair_s * at**2 / 2)
        fig.add_trace(
            go.Scatter(
                x=at.tolist(),
                y=_round(values),
                mode="lines",
                name="roofline",
                line={"color": theme.GREY.color, "dash": "dot"},
                hovertemplate="%{x:,} tokens: %{y:.4~g} ms<extra>roofline</extra>",
            )
        )
    if rows is not None:
        one = (rows.batch == 1) & ~rows.decode & (rows.cached == 0)
        fig.add_trace(
            go.Scatter(
                x=rows.tokens[one].tolist(),
                y=_round(1e3 * rows.time_s[one]),
                mode="markers",
                name="measured",
                marker={"color": theme.BLUE.color, "size": 6},
                hovertemplate="%{x:,} tokens: %{y:.4~g} ms<extra>measured</extra>",
            )
        )
    fig.update_xaxes(title_text="tokens of the chunk")
    fig.update_yaxes(title_text="kernels of the step, ms")
    _log_axes(fig, "x", "y")
    rate = float(at[-1] / whole[-1] * 1e3)
    return theme.describe(
        fig,
        title=f"A prefill of {at[-1]:,.0f} tokens takes {_ms(whole[-1])} of kernels: {rate:,.0f} tokens/s",
        caption="One chunk, nothing cached; what attention adds grows with the square of its tokens.",
        alt=f"Prefill time from {at[0]:,.0f} to {at[-1]:,.0f} tokens: {whole[0]:.3g} to {whole[-1]:.3g} ms.",
    )


def residual_figure(predicted_s: Any, rows: Rows) -> go.Figure:
    """Signed error of the fit over measured time, one mark a row, by kind of step."""
    import plotly.graph_objects as go

    off = 100 * (np.asarray(predicted_s) / rows.time_s - 1)
    decode, mixed = rows.decode, rows.mixed > 0
    kinds = (
        ("decode", decode, theme.BLUE),
        ("prefill", ~decode & ~mixed & ~rows.has_cached, theme.ORANGE),
        ("prefill on cached context", rows.has_cached & ~mixed, theme.GREEN),
        ("mixed", mixed, theme.VERMILLION),
    )
    fig = theme.new_figure(420)
    for name, mask, style in kinds:
        if mask.any():
            fig.add_trace(
                go.Scatter(
                    x=_round(1e3 * rows.time_s[mask]),
                    y=_round(off[mask]),
                    mode="markers",
                    name=name,
                    marker={"color": style.color, "symbol": style.symbol, "size": 5, "opacity": 0.7},
                    customdata=np.column_stack([rows.batch[mask], rows.tokens[mask], rows.each_context[mask]]).tolist(),
                    hovertemplate="%{x:.4~g} ms measured, %{y:+.2f} %<br>%{customdata[0]:,} sequences, "
                    "%{customdata[1]:,} tokens, context %{customdata[2]:,}<extra>%{fullData.name}</extra>",
                )
            )
    fig.add_hline(y=0, line={"color": theme.GREY.color, "dash": "dot"})
    fig.update_xaxes(title_text="measured, ms")
    _log_axes(fig, "x")
    fig.update_yaxes(title_text="fitted over measured", ticksuffix=" %")
    median, p95 = float(np.median(np.abs(off))), float(np.quantile(np.abs(off), 0.95))
    return theme.describe(
        fig,
        title=f"Half of {len(off):,} steps are fitted within {median:.2g} %, 95 % of them within {p95:.2g} %",
        caption="Above zero the fit is slower than what was measured.",
        alt=f"Scatter of fit errors: median {median:.2g} %, 95th percentile {p95:.2g} %.",
    )


def page(profile: Profile, rows: Rows | None = None, fit: Fit | None = None) -> Page:
    """A profile as a page; *rows* are drawn as points, and with *fit* their residuals as well."""
    import pandas as pd

    median, p95, basis = profile.headline()
    exhibits = [
        Exhibit("decode_batch", decode_figure(profile, rows), decode_table(profile), "half"),
        Exhibit(
            "decode_context",
            decode_figure(profile, rows, across="context"),
            decode_table(profile, across="context"),
            "half",
        ),
        Exhibit(
            "prefill",
            prefill_figure(profile, rows),
            pd.DataFrame({"tokens": profile.cost.tokens, "linear_ms": 1e3 * np.asarray(profile.cost.linear_s)}),
        ),
    ]
    sections = [Section("steps", "How long does a step take?", exhibits)]
    if rows is not None and fit is not None:
        predicted = fit.predict(rows)
        data = pd.DataFrame(
            {
                "tokens": rows.tokens,
                "sequences": rows.batch,
                "context": rows.each_context,
                "measured_ms": 1e3 * rows.time_s,
                "fitted_ms": 1e3 * predicted,
            }
        )
        sections.append(
            Section(
                "residuals",
                "How well is it fitted?",
                [Exhibit("residuals", residual_figure(predicted, rows), data)],
            )
        )
    errors = Table(
        ("steps", "median", "95th percentile", "bias", "n"),
        [
            (name.replace("_", " "), f"{e.median:.2%}", f"{e.p95:.2%}", f"{e.bias:+.2%}", f"{e.n:,}")
            for name, e in profile.error.items()
        ],
        numeric=frozenset({1, 2, 3, 4}),
        caption="absolute error relative to what was measured; bias is the signed median",
    )
    about = Table(
        ("what", "value"),
        [(str(key), str(value)) for key, value in profile.provenance.items()],
        caption="provenance",
    )
    physics = Table(
        ("share of the peak", "value"),
        [(key, f"{value:.0%}") for key, value in profile.physics.items()],
        numeric=frozenset({1}),
    )
    return Page(
        title=f"Profile {profile.name}",
        kicker="calibration profile",
        answer=f"Steps of {profile.model} on {profile.tensor_parallel_size} x {profile.hardware} "
        f"in {profile.dtype}, {profile.kind}: error {median:.1%} in the median "
        f"and {p95:.1%} at the 95th percentile, on {basis}.",
        verdict=profile.kind,
        tone="none",
        tiles=[
            Tile("Decode error", f"{median:.1%}", basis),
            Tile("Batches", f"{profile.batch[0]:,} to {profile.batch[1]:,}", "sequences measured"),
            Tile("Contexts", f"{profile.context[0]:,} to {profile.context[1]:,}", "tokens a sequence"),
            Tile("Prefill", f"to {profile.tokens[1]:,}", "tokens a step"),
        ],
        sections=sections,
        folds=[
            Fold("error", "Errors", [errors]),
            Fold("physics", "Shares of the GPU's peaks", [physics]),
            Fold("provenance", "Provenance", [about]),
        ],
        footer="ThinkCap",
    )


def write_profile(profile: Profile, path: str | Path, table: pd.DataFrame | None = None) -> None:
    """Write the page of *profile*, with the points of a measurement *table* when given."""
    rows = rows_of(table) if table is not None else None
    fit = Fit(profile.cost) if rows is not None else None
    Path(path).write_text(render(page(profile, rows, fit)), encoding="utf-8")


def write_residuals(profile: Profile, fit: Fit, rows: Rows, path: str | Path) -> None:
    """Write the page of *profile* with the residuals of its *fit*."""
    Path(path).write_text(render(page(profile, rows, fit)), encoding="utf-8")


def _sequences(count: int) -> str:
    return "1 sequence" if count == 1 else f"{count:,} sequences"


def _ms(value: float) -> str:
    """Milliseconds in three digits, without an exponent."""
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _round(values: Any) -> list[float]:
    return [float(f"{value:.5g}") for value in np.asarray(values, float)]
