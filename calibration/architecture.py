"""What a model is made of: its shapes, and the bytes and operations that follow from them.

Everything here is counting, exact to the parameter; nothing is measured. A model's shapes come from
``calibration/models`` (facts of its published ``config.json``) or from such a file directly.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from calibration.dtypes import BYTES
from calibration.files import read_yaml
from sim.errors import InputError, Problem, nearest

MODELS = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Moe:
    """Mixture of experts in a layer: *experts* routed ones, *active* a token, each of *ffn* inner width."""

    experts: int
    active: int
    ffn: int
    shared: int = 0
    """Experts that every token uses beside the routed ones."""
    shared_ffn: int = 0
    """Inner width of a shared expert; 0 means as a routed one."""
    dense_layers: int = 0
    """First layers that have an ordinary MLP instead."""
    bias: bool = False
    """Biases in the experts and the router (gpt-oss)."""
    even: bool = False
    """Whether tokens spread about evenly over the experts, as published; elsewhere a few experts get most of them."""

    @property
    def shared_width(self) -> int:
        """Inner width of all shared experts together."""
        return self.shared * (self.shared_ffn or self.ffn)


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention (DeepSeek-V2, -V3): the cache holds one latent and one rotary key a
    token."""

    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int

    @property
    def latent(self) -> int:
        """Numbers cached a token and layer, whatever the number of heads."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True)
class Architecture:
    """A decoder-only transformer. Shapes as in a Hugging Face ``config.json``; bytes and FLOPs by method."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_context: int
    """Largest context the model is made for, in tokens (``max_position_embeddings`` with its RoPE
    scaling)."""
    title: str = ""
    hf: tuple[str, ...] = ()
    """Repositories on the Hugging Face hub with these shapes, first the usual one; they serve as aliases."""
    native_dtype: str = "bf16"
    """Format of the published weights, which ``dtype: auto`` means."""
    tied_embeddings: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: bool = False
    gated: bool = True
    """Three matrices in an MLP (SwiGLU) instead of two."""
    sliding_window: int = 0
    """Tokens that a sliding-window layer looks back, 0 when there is none."""
    sliding_layers: int = 0
    """How many layers look back over the window only."""
    attention_sinks: bool = False
    """One learned number a head (gpt-oss)."""
    moe: Moe | None = None
    mla: Mla | None = None
    source: str = ""
    """Where the shapes are stated."""
    shape_of: str = ""
    """Name of the model whose measurements hold for this one too, because all shapes that cost time are
    equal."""
    notes: str = field(default="", repr=False)

    # ---- parameters ----------------------------------------------------------------------------------------

    @property
    def attention_parameters(self) -> int:
        """Parameters of one layer's attention matrices, biases included."""
        h = self.hidden
        if self.mla:
            m = self.mla
            qk = m.qk_nope_head_dim + m.qk_rope_head_dim
            query = (
                h * m.q_lora_rank + m.q_lora_rank + m.q_lora_rank * self.heads * qk
                if m.q_lora_rank
                else h * self.heads * qk
            )
            latent = h * m.latent + m.kv_lora_rank
            expand = m.kv_lora_rank * self.heads * (m.qk_nope_head_dim + m.v_head_dim)
            return query + latent + expand + self.heads * m.v_head_dim * h
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        count = h * (q + 2 * kv) + q * h
        if self.qkv_bias:
            count += q + 2 * kv
        if self.out_bias:
            count += h
        if self.qk_norm:
            count += 2 * self.head_dim
        if self.attention_sinks:
            count += self.heads
        return count

    @property
    def matrices(self) -> int:
        """Matrices of one MLP or expert."""
        return 3 if self.gated else 2

    @property
    def dense_mlp_layers(self) -> int:
        """Layers with an ordinary MLP."""
        return self.moe.dense_layers if self.moe else self.layers

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_mlp_layers

    @property
    def expert_parameters(self) -> int:
        """Parameters of one routed expert, biases included."""
        if not self.moe:
            return 0
        count = self.matrices * self.hidden * self.moe.ffn
        return count + (2 * self.moe.ffn + self.hidden if self.moe.bias else 0)

    @property
    def mlp_parameters(self) -> int:
        """Parameters of one ordinary MLP."""
        return self.matrices * self.hidden * self.ffn

    @property
    def shared_parameters(self) -> int:
        """Parameters of one layer's shared experts and router."""
        if not self.moe:
            return 0
        router = self.hidden * self.moe.experts
        if self.moe.bias or self.mla:  # DeepSeek-V3 corrects its router's scores by a bias an expert
            router += self.moe.experts
        return router + self.matrices * self.hidden * self.moe.shared_width

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding table, which a step reads row by row only."""
        return self.vocab * self.hidden

    @property
    def lm_head_parameters(self) -> int:
        """Numbers read to compute the logits; stored once with the embeddings when tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All stored parameters."""
        norms = (2 * self.layers + 1) * self.hidden
        embeddings = self.embedding_parameters * (1 if self.tied_embeddings else 2)
        experts = self.moe_layers * (self.expert_parameters * self.moe.experts if self.moe else 0)
        return (
            embeddings
            + norms
            + self.layers * self.attention_parameters
            + self.dense_mlp_layers * self.mlp_parameters
            + self.moe_layers * self.shared_parameters
            + experts
        )

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: those of its experts only, lm_head included, embedding table
        left out."""
        idle = 0
        if self.moe:
            idle = self.moe_layers * self.expert_parameters * (self.moe.experts - self.moe.active)
        return self.parameters - idle - (0 if self.tied_embeddings else self.embedding_parameters)

    # ---- bytes ---------------------------------------------------------------------------------------------

    def dtype_or_native(self, dtype: str) -> str:
        """*dtype*, or the published weights' format for "auto"."""
        return self.native_dtype if dtype == "auto" else dtype

    def part_bytes(self, dtype: str) -> dict[str, float]:
        """Bytes of a number in each part for weights of *dtype*.

        Quantised formats hold the matrices of attention and MLP; embeddings, lm_head and norms stay in 16
        bits. ``mxfp4`` (gpt-oss) holds the experts alone.
        """
        width = BYTES[dtype]
        rest = max(2.0, width)
        attention = rest if dtype == "mxfp4" else width
        return {
            "attention": attention,
            "mlp": attention,
            "experts": width,
            "rest": rest if width < 2 else width,
        }

    def weight_bytes(self, dtype: str = "auto", *, tp: int = 1, pp: int = 1, ep: int = 1) -> float:
        """Bytes of weights on one GPU (of the fullest pipeline stage).

        *tp* GPUs share attention, dense MLPs and embeddings; experts are shared by *ep* x *tp* groups when
        *ep* > 1 means whole experts on each of *ep* GPUs. KV heads are replicated when *tp* exceeds them,
        MLA's down-projections always.
        """
        dtype = self.dtype_or_native(dtype)
        width = self.part_bytes(dtype)
        layers = -(-self.layers // pp)
        share = layers / self.layers
        expert_gpus = ep if ep > 1 else tp
        total = layers * self.attention_parameters_per_gpu(tp) * width["attention"]
        total += self.dense_mlp_layers * share * self.mlp_parameters / tp * width["mlp"]
        if self.moe:
            total += (
                self.moe_layers
                * share
                * (
                    self.expert_parameters * self.moe.experts / expert_gpus * width["experts"]
                    + self.hidden * self.moe.experts * width["rest"]
                    + self.matrices * self.hidden * self.moe.shared_width / tp * width["mlp"]
                )
            )
        ends = 1 if self.tied_embeddings or pp > 1 else 2
        total += ends * self.embedding_parameters / tp * width["rest"]
        total += (2 * layers + 1) * self.hidden * width["rest"]
        return total

    def attention_parameters_per_gpu(self, tp: int) -> float:
        """Attention parameters of one layer on each of *tp* GPUs, replicated parts in full."""
        if self.mla:
            m = self.mla
            shared = self.hidden * (m.q_lora_rank + m.latent) + m.q_lora_rank + m.kv_lora_rank
            return shared + (self.attention_parameters - shared) / tp
        kv = self.kv_heads * self.head_dim
        extra = self.hidden * 2 * kv * (self.kv_copies(tp) - 1) / tp
        return self.attention_parameters / tp + extra

    def kv_copies(self, tp: int) -> float:
        """How many GPUs hold the same KV head: 1, more when *tp* exceeds the KV heads; every GPU under
        MLA."""
        return float(tp) if self.mla else max(1.0, tp / self.kv_heads)

    def kv_numbers_per_layer(self) -> int:
        """Numbers cached a token and layer over all KV heads."""
        return self.mla.latent if self.mla else 2 * self.kv_heads * self.head_dim

    def kv_bytes_per_token(self, kv_dtype: str = "auto", *, tp: int = 1, pp: int = 1) -> float:
        """KV bytes that one more token of a long context takes on one GPU (sliding layers take none past
        the window)."""
        layers = self.full_layers if pp == 1 else -(-self.full_layers // pp)
        return layers * self.kv_numbers_per_layer() * self.kv_width(kv_dtype) * self.kv_copies(tp) / tp

    def kv_width(self, kv_dtype: str) -> float:
        """Bytes of a cached number."""
        if kv_dtype == "auto":
            return BYTES["fp32"] if self.native_dtype == "fp32" else 2.0
        return BYTES[kv_dtype]

    @property
    def full_layers(self) -> int:
        """Layers that attend to the whole context."""
        return self.layers - self.sliding_layers

    @property
    def sliding_groups(self) -> int:
        """Groups of sliding-window layers in the KV cache, each of as many layers as attend to the whole context; one where there
        are not many more (vLLM: less than half as many again)."""
        full, sliding = self.full_layers, self.sliding_layers
        return -(-sliding // full) if full and 2 * sliding >= 3 * full else 1

    # ---- operations ----------------------------------------------------------------------------------------

    def experts_touched(self, tokens: float) -> float:
        """Expected number of different experts in a layer that *tokens* tokens use, routed uniformly."""
        if not self.moe:
            return 0.0
        miss: float = (1.0 - self.moe.active / self.moe.experts) ** tokens
        return self.moe.experts * (1.0 - miss)

    def attention_flops_per_pair(self, *, absorbed: bool = False) -> float:
        """FLOPs of one (query token, key token) pair over all heads of one layer.

        Under MLA a decode works on the latents themselves (*absorbed*), a prefill on keys and values expanded
        from them.
        """
        if self.mla:
            m = self.mla
            if absorbed:
                return 2.0 * self.heads * (m.latent + m.kv_lora_rank)
            return 2.0 * self.heads * (m.qk_nope_head_dim + m.qk_rope_head_dim + m.v_head_dim)
        return 4.0 * self.heads * self.head_dim

    # ---- identity ------------------------------------------------------------------------------------------

    def shape(self) -> tuple[object, ...]:
        """All that step time and memory depend on; models with equal shapes cost the same."""
        return (
            self.layers,
            self.hidden,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.vocab,
            self.gated,
            self.sliding_window,
            self.sliding_layers,
            self.moe,
            self.mla,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, defaults left out."""
        blank = {item.name: item.default for item in fields(self)}
        return {key: value for key, value in asdict(self).items() if value != blank.get(key)}


# ---- reading -----------------------------------------------------------------------------------------------


def architecture(name: str, *, base: Path | None = None) -> Architecture:
    """The architecture called *name*: a shipped model, a hub name of one, or a path to a ``config.json`` or
    YAML file.

    Paths are relative to *base*. Raise an InputError naming the nearest known model.
    """
    wanted = name.strip().lower()
    aliases = _aliases()
    if wanted in aliases:
        return _shipped(aliases[wanted])
    path = (base or Path()) / name
    if path.suffix in {".json", ".yaml", ".yml"}:
        if path.suffix == ".json":
            return _from_hf_config(path)
        return _from_yaml(path)
    if path.is_dir() and (path / "config.json").is_file():
        return _from_hf_config(path / "config.json")
    raise InputError(
        Problem(
            f"unknown model {name!r}",
            key="model",
            expected="one of " + ", ".join(names()) + ", or a path to a config.json",
            nearest=nearest(wanted, aliases),
        )
    )


def _from_hf_config(path: Path) -> Architecture:
    from calibration.hf_config import from_hf_config

    return from_hf_config(path)


@functools.cache
def names() -> tuple[str, ...]:
    """All shipped models, sorted."""
    return tuple(sorted(path.stem for path in MODELS.glob("*.yaml")))


@functools.cache
def _aliases() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names():
        for hub in _shipped(name).hf:
            found.setdefault(hub.lower(), name)
            found.setdefault(hub.lower().rpartition("/")[2], name)
    return found | {name: name for name in names()}


@functools.cache
def _shipped(name: str) -> Architecture:
    return _from_yaml(MODELS / f"{name}.yaml")


def _from_yaml(path: Path) -> Architecture:
    import yaml

    try:
        raw = read_yaml(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(Problem("no such model file", source=str(path), key="model")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(Problem(f"not valid YAML: {error}", source=str(path))) from None
    if not isinstance(raw, dict):
        raise InputError(Problem("not a mapping", source=str(path), expected="the keys of a model"))
    return _build({"name": path.stem, **raw}, source=str(path))


def from_dict(raw: Any, *, source: str) -> Architecture:
    """The architecture that `Architecture.to_dict` gave *raw* of; raise an InputError naming what is wrong in it."""
    if not isinstance(raw, dict) or not isinstance(raw.get("name"), str):
        raise InputError(Problem(f"{raw!r}"[:80], source=source, key="architecture", expected="the keys of a model"))
    return _build(raw, source=source)


def is_shipped(arch: Architecture) -> bool:
    """Whether *arch* is one that its name alone tells: a shipped model of these very shapes."""
    return arch.name in names() and _shipped(arch.name).shape() == arch.shape()


def _build(raw: dict[str, Any], *, source: str) -> Architecture:
    known = {item.name: item for item in fields(Architecture)}
    problems = [
        Problem("unknown key", source=source, key=str(key), nearest=nearest(str(key), known))
        for key in raw
        if key not in known
    ]
    required = ["layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "max_context"]
    for name in required:
        value = raw.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < (0 if name == "ffn" else 1):
            problems.append(Problem(f"{value!r}", source=source, key=name, expected="a positive whole number"))
    if problems:
        raise InputError(problems)
    values = dict(raw)
    for key, kind in (("moe", Moe), ("mla", Mla)):
        if values.get(key):
            try:
                values[key] = kind(**values[key])
            except TypeError as error:
                raise InputError(Problem(str(error), source=source, key=key)) from None
    if isinstance(values.get("hf"), str):
        values["hf"] = (values["hf"],)
    values["hf"] = tuple(values.get("hf", ()))
    return Architecture(**values)
