"""Kernel times that the package ``aiconfigurator-core`` publishes, interpolated to any size.

The package (Apache-2.0, optional extra ``kernels``) holds measured times of matrix multiplications,
attention, mixtures of experts and all-reduces on eight GPUs, by engine and version.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from calibration.architecture import Architecture
from calibration.hardware import Hardware
from sim.errors import InputError, Problem

if TYPE_CHECKING:
    import pandas as pd

Array = npt.NDArray[np.float64]

SYSTEMS = {
    "a100": "a100_sxm",
    "h100-sxm": "h100_sxm",
    "h200": "h200_sxm",
    "b200": "b200_sxm",
    "b300": "b300_sxm",
    "gb200": "gb200",
    "l40s": "l40s",
    "rtx-pro-6000": "rtx_pro_6000_server",
}
"""Our hardware names and the package's."""

_GEMM = {"bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "nvfp4": "nvfp4"}
_MOE = _GEMM | {"mxfp4": "w4a16_mxfp4", "fp8": "fp8_block", "int4": "int4_wo"}
_KV = {"auto": "bfloat16", "bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8"}
BADLY_TIMED = 1.25
"""Experts over twice as many GPUs that take so many times as long were timed badly."""
_SPREAD = {True: "balanced", False: "power_law_1.2"}
"""How tokens spread over experts in the MoE kernels used, by ``Moe.even``: unevenly, as most real routing does."""
FUSED_ALLREDUCE = ("b200", "b300", "gb200")
"""GPUs on which vLLM fuses all-reduces with the norm."""
_SLOW = 1.25
"""A matrix multiplication is timed badly where it takes so many times as long as one of more rows; samples scatter by
less."""
_MOST_N = 65_536
"""Widest matrix in the tables; lm_head is computed as several of them."""


def _root() -> Path:
    try:
        import aiconfigurator_core
    except ImportError:
        raise InputError(
            Problem(
                "the package aiconfigurator-core is not installed",
                expected="pip install 'thinkcap[kernels]'",
            )
        ) from None
    return Path(aiconfigurator_core.__file__).parent / "systems" / "data"


def package_version() -> str:
    """The installed package's version."""
    from importlib.metadata import version

    return version("aiconfigurator-core")


class Kernels:
    """Kernel times of one GPU; every method returns seconds for arrays of sizes."""

    def __init__(self, hardware: Hardware) -> None:
        if hardware.name not in SYSTEMS:
            raise InputError(
                Problem(
                    f"aiconfigurator-core holds no kernels of {hardware.name}",
                    key="hardware",
                    expected="one of " + ", ".join(SYSTEMS),
                )
            )
        self.hardware = hardware
        self.folder = _root() / SYSTEMS[hardware.name]

    @functools.cached_property
    def version(self) -> str:
        """The vLLM version whose kernels are used."""
        return self._latest("gemm", "gemm_perf").parent.name

    def _latest(self, kind: str, name: str, engine: str = "vllm") -> Path:
        found = sorted(
            self.folder.glob(f"{kind}/{engine}/*/{name}.parquet"),
            key=lambda path: [int(part) for part in path.parent.name.split(".")[:3] if part.isdigit()],
        )
        if not found:
            raise InputError(
                Problem(f"aiconfigurator-core holds no {name} of {engine} on {self.hardware.name}", key="hardware")
            )
        return found[-1]

    @functools.cached_property
    def _tables(self) -> dict[str, Any]:
        return {}

    def _table(self, key: str, build: Any) -> Any:
        if key not in self._tables:
            self._tables[key] = build()
        return self._tables[key]

    # ---- matrix multiplications ---------------------------------------------------------------------------

    def gemm(self, m: Array, n: float, k: float, dtype: str) -> Array:
        """Multiply (m, k) by (k, n), interpolated in log n and log k, straight in m between the sizes
        measured."""
        wide = max(1.0, n / _MOST_N)
        name = _GEMM.get(dtype)
        if name is None:
            raise InputError(Problem(f"no matrix multiplications in {dtype!r}", key="dtype"))
        ms, ns, ks, log_time = self._table(f"gemm {name}", lambda: self._gemm_table(name))
        column = _bilinear(log_time, np.log(ns), np.log(ks), np.log(n / wide), np.log(k))
        return wide * _straight(m, ms, np.exp(column))

    def _gemm_table(self, dtype: str) -> tuple[Array, Array, Array, Array]:
        import pandas as pd

        path = self._latest("gemm", "gemm_perf")
        frame = pd.read_parquet(path, columns=["gemm_dtype", "m", "n", "k", "latency"])
        frame = frame[frame["gemm_dtype"] == dtype]
        if frame.empty:
            raise InputError(
                Problem(f"no {dtype} matrix multiplications measured on {self.hardware.name}", key="dtype")
            )
        # several kernels for one size: an engine picks the fastest
        cube = frame.groupby(["m", "n", "k"])["latency"].min()
        ms, ns, ks = (np.unique(cube.index.get_level_values(level)) for level in range(3))
        full = cube.reindex(pd.MultiIndex.from_product([ms, ns, ks]))
        log_time = _fill(np.log(full.to_numpy(float).reshape(len(ms), len(ns), len(ks)) * 1e-3))
        # Fewer rows never need longer: a kernel for more rows does them as well. What is slower than noise explains (Blackwell's
        # fp8 kernels take twice as long for one row as for two at some sizes) was timed badly, and no engine has such steps.
        at_most = np.minimum.accumulate(log_time[::-1], axis=0)[::-1]
        log_time = np.where(log_time > at_most + np.log(_SLOW), at_most, log_time)
        return ms.astype(float), ns.astype(float), ks.astype(float), log_time

    # ---- attention ----------------------------------------------------------------------------------------

    def decode_attention(
        self,
        batch: Array,
        context: Array,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        kv_dtype: str,
    ) -> Array:
        """One layer's decode attention of *batch* sequences with *context* tokens each."""
        if kv_heads > 8:  # KV heads work apart, like sequences: (32 of 32) costs as (8 of 8) for four times the batch
            split = kv_heads / 8
            return self.decode_attention(
                batch * split,
                context,
                heads=round(heads / split),
                kv_heads=8,
                head_dim=head_dim,
                window=window,
                kv_dtype=kv_dtype,
            )
        out = np.zeros_like(batch)
        for count, weight in self._head_counts("generation", heads, kv_heads, head_dim, window, kv_dtype):
            batches, contexts, log_time = self._table(
                f"generation {count} {kv_heads} {head_dim} {window} {kv_dtype}",
                lambda count=count: self._attention_table("generation", count, kv_heads, head_dim, window, kv_dtype),
            )
            at = np.stack([np.log(batch), np.log(context)], axis=-1)
            out = out + weight * np.exp(_points(log_time, np.log(batches), np.log(contexts), at))
        return np.asarray(out)

    def prefill_attention(
        self,
        chunks: Array,
        length: Array,
        *,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        kv_dtype: str,
    ) -> Array:
        """One layer's causal attention of *chunks* prompts of *length* tokens each, nothing cached."""
        out = np.zeros_like(chunks)
        for count, weight in self._head_counts("context", heads, kv_heads, head_dim, window, kv_dtype):
            batches, lengths, log_time = self._table(
                f"context {count} {kv_heads} {head_dim} {window} {kv_dtype}",
                lambda count=count: self._attention_table("context", count, kv_heads, head_dim, window, kv_dtype),
            )
            at = np.stack([np.log(chunks), np.log(length)], axis=-1)
            out = out + weight * np.exp(_points(log_time, np.log(batches), np.log(lengths), at))
        return np.asarray(out)

    def _attention_frame(self, phase: str) -> pd.DataFrame:
        import pandas as pd

        def read() -> pd.DataFrame:
            found = pd.read_parquet(self._latest("attention", f"{phase}_attention_perf"))
            return found if "window_size" in found else found.assign(window_size=0)

        frame: pd.DataFrame = self._table(f"frame {phase}", read)
        return frame

    def _head_counts(
        self, phase: str, heads: int, kv_heads: int, head_dim: int, window: int, kv_dtype: str
    ) -> list[tuple[int, float]]:
        """Numbers of query heads measured around *heads*, with their weights."""
        frame = self._attention_frame(phase)
        known = frame[
            (frame["num_key_value_heads"] == kv_heads)
            & (frame["head_dim"] == head_dim)
            & (frame["window_size"] == window)
            & (frame["kv_cache_dtype"] == _KV[kv_dtype])
        ]["num_heads"].unique()
        known = np.sort(known)
        if not len(known):
            raise InputError(
                Problem(
                    f"no {phase} attention of {kv_heads} KV heads of {head_dim} (window {window}, "
                    f"KV {kv_dtype}) measured on {self.hardware.name}",
                    key="model",
                )
            )
        if heads in known:
            return [(heads, 1.0)]
        above = known[known > heads]
        below = known[known < heads]
        if not len(above) or not len(below):
            raise InputError(
                Problem(f"no {phase} attention of {heads} heads measured on {self.hardware.name}", key="model")
            )
        low, high = int(below[-1]), int(above[0])
        share = (heads - low) / (high - low)
        return [(low, 1.0 - share), (high, share)]

    def _attention_table(
        self, phase: str, heads: int, kv_heads: int, head_dim: int, window: int, kv_dtype: str
    ) -> tuple[Array, Array, Array]:
        frame = self._attention_frame(phase)
        frame = frame[
            (frame["num_heads"] == heads)
            & (frame["num_key_value_heads"] == kv_heads)
            & (frame["head_dim"] == head_dim)
            & (frame["window_size"] == window)
            & (frame["kv_cache_dtype"] == _KV[kv_dtype])
        ]
        size = frame["isl"] + frame["step"]
        grid = frame.assign(size=size).groupby(["batch_size", "size"])["latency"].min().unstack()
        log_time = np.log(grid.to_numpy(float) * 1e-3)
        return grid.index.to_numpy(float), grid.columns.to_numpy(float), _fill_tail(log_time, grid)

    # ---- mixtures of experts ------------------------------------------------------------------------------

    def moe(self, tokens: Array, arch: Architecture, *, tp: int, ep: int, dtype: str) -> Array:
        """One layer's routed experts for *tokens* tokens over the GPUs that share them."""
        at, seconds = self._experts(arch, tp=tp, ep=ep, dtype=dtype)
        if tp > 1:
            try:
                wider, longer = self._experts(arch, tp=tp // 2, ep=ep, dtype=dtype)
            except InputError:
                return _straight(tokens, at, seconds)
            many = at >= 64
            if np.median(seconds[many] / _straight(at[many], wider, longer)) > BADLY_TIMED:
                raise InputError(
                    Problem(
                        f"{dtype} experts of {arch.name} over {tp * ep} GPUs were timed badly on {self.hardware.name}: "
                        f"longer than over {tp // 2 * ep}, each GPU of which computes twice as much",
                        key="model",
                    )
                )
        return _straight(tokens, at, seconds)

    def _experts(self, arch: Architecture, *, tp: int, ep: int, dtype: str) -> tuple[Array, Array]:
        """Numbers of tokens timed, and the seconds that one layer's experts took."""
        import pandas as pd

        assert arch.moe is not None
        moe = arch.moe
        name = _MOE.get(dtype, dtype)

        def read() -> pd.DataFrame:
            folders = sorted(self.folder.glob("moe/vllm/*/moe_perf.parquet"), reverse=True)
            return pd.concat([pd.read_parquet(path) for path in folders], ignore_index=True)

        frame = self._table("moe", read)
        chosen = frame[
            (frame["hidden_size"] == arch.hidden)
            & (frame["inter_size"] == moe.ffn)
            & (frame["topk"] == moe.active)
            & (frame["num_experts"] == moe.experts)
            & (frame["moe_tp_size"] == tp)
            & (frame["moe_ep_size"] == ep)
        ]
        as_routed = chosen[chosen["distribution"] == _SPREAD[moe.even]]
        chosen = as_routed if len(as_routed) else chosen[chosen["distribution"] == _SPREAD[not moe.even]]
        kinds = [name, "fp8"] if name == "fp8_block" else [name]
        for kind in kinds:
            if (chosen["moe_dtype"] == kind).any():
                chosen = chosen[chosen["moe_dtype"] == kind]
                break
        else:
            raise InputError(
                Problem(
                    f"no {dtype} experts of {arch.name} over {tp * ep} GPUs measured on {self.hardware.name}",
                    key="model",
                )
            )
        chosen = chosen[chosen["version"] == chosen["version"].iloc[0]]  # the newest version comes first
        column = chosen.groupby("num_tokens")["latency"].min() * 1e-3
        return column.index.to_numpy(float), column.to_numpy(float)

    # ---- latent attention ---------------------------------------------------------------------------------

    def mla(self, phase: str, batch: Array, length: Array, *, heads: int, kv_dtype: str, dtype: str) -> Array:
        """One layer's whole latent attention, projections included: decodes of *length* context, or
        prompts."""
        import pandas as pd

        name = "generation" if phase == "decode" else "context"
        frame = self._table(f"mla {name}", lambda: pd.read_parquet(self._latest("mla", f"mla_{name}_module_perf")))
        frame = frame[
            (frame["num_heads"] == heads)
            & (frame["kv_cache_dtype"] == _KV[kv_dtype])
            & (frame["gemm_type"] == ("fp8_block" if dtype == "fp8" else "bfloat16"))
        ]
        if frame.empty:
            raise InputError(
                Problem(f"no latent attention of {heads} heads measured on {self.hardware.name}", key="model")
            )
        size = frame["isl"] * (name == "context") + frame["step"]
        grid = frame.assign(size=size).groupby(["batch_size", "size"])["latency"].min().unstack()
        log_time = _fill_tail(np.log(grid.to_numpy(float) * 1e-3), grid)
        at = np.stack([np.log(batch), np.log(length)], axis=-1)
        batches, sizes = grid.index.to_numpy(float), grid.columns.to_numpy(float)
        return np.exp(_points(log_time, np.log(batches), np.log(sizes), at))

    # ---- communication ------------------------------------------------------------------------------------

    def allreduce(self, message_bytes: Array, gpus: int) -> Array:
        """All-reduce of *message_bytes* over *gpus* of one node, by the kernel vLLM picks, in a CUDA graph.

        That is its own kernel; on Blackwell under NVLink it fuses all-reduces with the norm by default, through FlashInfer, whose
        kernels are TensorRT-LLM's (docs.vllm.ai, Fusion torch.compile passes): the faster of the two.
        """
        if gpus == 1:
            return np.zeros_like(message_bytes)
        sizes, times = self._table(f"allreduce {gpus}", lambda: self._allreduce_table("vllm", gpus))
        if not len(sizes):
            raise InputError(
                Problem(f"no all-reduce over {gpus} x {self.hardware.name} measured", key="tensor_parallel_size")
            )
        found = np.exp(np.interp(np.log(message_bytes), np.log(sizes), np.log(times)))
        if self.hardware.name in FUSED_ALLREDUCE:
            sizes, times = self._table(f"fused {gpus}", lambda: self._allreduce_table("trtllm", gpus))
            if len(sizes):
                found = np.minimum(found, np.exp(np.interp(np.log(message_bytes), np.log(sizes), np.log(times))))
        return np.asarray(found)

    def _allreduce_table(self, engine: str, gpus: int) -> tuple[Array, Array]:
        """Bytes and seconds, by growing size; empty where nothing was measured."""
        import pandas as pd

        try:
            frame = pd.read_parquet(self._latest("comm", "custom_allreduce_perf", engine))
        except InputError:
            return np.zeros(0), np.zeros(0)
        if "backend" in frame:
            frame = frame[frame["backend"] == f"{engine}_graph"]
        frame = frame[frame["num_gpus"] == gpus].sort_values("message_size")
        # sizes are numbers of 16-bit elements
        return frame["message_size"].to_numpy(float) * 2, frame["latency"].to_numpy(float) * 1e-3


# ---- interpolation -----------------------------------------------------------------------------------------


def _straight(at: Array, known: Array, values: Array) -> Array:
    """Straight lines between *known* points, the last slope beyond them."""
    inside = np.interp(at, known, values)
    slope = (values[-1] - values[-2]) / (known[-1] - known[-2])
    return np.asarray(np.where(at > known[-1], values[-1] + slope * (at - known[-1]), inside))


def _bilinear(cube: Array, ns: Array, ks: Array, n: float, k: float) -> Array:
    """The column over m of a cube (m, n, k) at (n, k), straight in both, the outer slope beyond."""
    i, u = _cell(ns, n)
    j, v = _cell(ks, k)
    return np.asarray(
        cube[:, i, j] * (1 - u) * (1 - v)
        + cube[:, i + 1, j] * u * (1 - v)
        + cube[:, i, j + 1] * (1 - u) * v
        + cube[:, i + 1, j + 1] * u * v
    )


def _cell(known: Array, at: float) -> tuple[int, float]:
    i = int(np.clip(np.searchsorted(known, at) - 1, 0, len(known) - 2))
    return i, float((at - known[i]) / (known[i + 1] - known[i]))


def _points(grid: Array, rows: Array, columns: Array, at: Array) -> Array:
    """Bilinear values of *grid* at points (row, column), the outer slope beyond."""
    i = np.clip(np.searchsorted(rows, at[..., 0]) - 1, 0, len(rows) - 2)
    j = np.clip(np.searchsorted(columns, at[..., 1]) - 1, 0, len(columns) - 2)
    u = (at[..., 0] - rows[i]) / (rows[i + 1] - rows[i])
    v = (at[..., 1] - columns[j]) / (columns[j + 1] - columns[j])
    return np.asarray(
        grid[i, j] * (1 - u) * (1 - v)
        + grid[i + 1, j] * u * (1 - v)
        + grid[i, j + 1] * (1 - u) * v
        + grid[i + 1, j + 1] * u * v
    )


def _fill(cube: Array) -> Array:
    """The few sizes missing in a table, straight along the last axis, then along the middle one."""
    out = cube.copy()
    for axis in (2, 1):
        moved = np.moveaxis(out, axis, -1)
        flat = moved.reshape(-1, moved.shape[-1])
        for line in flat[np.isnan(flat).any(axis=1)]:
            seen = np.isfinite(line)
            if seen.sum() > 1:
                line[~seen] = np.interp(np.flatnonzero(~seen), np.flatnonzero(seen), line[seen])
        flat_filled = [
            np.interp(np.arange(len(line)), np.flatnonzero(np.isfinite(line)), line[np.isfinite(line)])
            if np.isnan(line).any() and np.isfinite(line).sum() > 1
            else line
            for line in flat
        ]
        out = np.moveaxis(np.asarray(flat_filled).reshape(moved.shape), -1, axis)
    return out


def _fill_tail(log_time: Array, grid: Any) -> Array:
    """Large batches were not measured on long contexts (they do not fit): go on with time proportional to
    tokens.

    Such corners are only reached by interpolation next to the edge of what fits.
    """
    out = log_time.copy()
    sizes = np.log(grid.columns.to_numpy(float))
    for row in out:
        seen = np.flatnonzero(np.isfinite(row))
        for j in range(len(row)):
            if not np.isfinite(row[j]) and len(seen) and j > seen[-1]:
                row[j] = row[j - 1] + (sizes[j] - sizes[j - 1])
            elif not np.isfinite(row[j]) and len(seen):
                row[j] = np.interp(sizes[j], sizes[seen], row[seen])
    return out
