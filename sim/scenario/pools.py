"""The ``pools`` section: replicas of one model on one hardware, in one configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sim.scenario.autoscaling import Autoscaling
from sim.scenario.base import Count, Name, Section, UsdPerHour
from sim.scenario.engine import Engine

Parallel = Annotated[Count, Field(ge=1, le=4096)]


class Pool(Section):
    """Replicas that are all alike."""

    model: Name = Field(description="a known model (`thinkcap list models`), or the path of a config.json")
    hardware: Name = Field(description="a known GPU (`thinkcap list hardware`), or the path of a YAML file")
    tensor_parallel_size: Parallel = Field(default=1, description="GPUs that share each layer")
    pipeline_parallel_size: Parallel = Field(default=1, description="groups of GPUs that each have some layers")
    data_parallel_size: Parallel = Field(default=1, description="attention replicas beside shared experts")
    enable_expert_parallel: bool = Field(default=False, description="experts are spread over the GPUs")
    replicas: Annotated[Count, Field(ge=1, le=100_000)] = Field(default=1, description="engines of this kind")
    dtype: str = Field(default="auto", description="number format of the weights; auto: as published")
    profile: Name | None = Field(
        default=None, description="calibration profile, its file, or prior; default: the best there is"
    )
    price: UsdPerHour | None = Field(
        default=None, description="of one GPU; default: the cost section's, else the hardware's list price"
    )
    role: Literal["generate", "verify", "prefill", "decode"] = Field(
        default="generate",
        description="what the pool is for; prefill: computes prompts whose KV then goes to a decode pool of the "
        "same model",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="replicas come and go, beginning with `replicas`; default: they stay"
    )
    engine: Engine = Field(default_factory=Engine, description="settings of each replica's engine")
