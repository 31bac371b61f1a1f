"""What a scenario is, once read: one frozen object, every default stated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from sim.scenario.base import Count, Name, Section, freeze
from sim.scenario.cost import Cost
from sim.scenario.energy import Energy
from sim.scenario.failures import Failures
from sim.scenario.gateway import Gateway
from sim.scenario.kv_transfer import KvTransfer
from sim.scenario.measure import Measure
from sim.scenario.plan import Plan
from sim.scenario.policy import Policy, PolicyRef
from sim.scenario.pools import Pool
from sim.scenario.slo import Slo
from sim.scenario.sweep import Sweep
from sim.scenario.trace_cache import TraceCache
from workloads.quality.spec import QualitySpec
from workloads.spec import WorkloadSpec

SCHEMA_VERSION = 1
"""Of scenarios; grows when a key changes its meaning or goes away."""


class Scenario(Section):
    """Who asks, who answers, what must be reached, and what is measured.

    Loaded by `sim.load`; two are equal when they say the same, wherever they were read.
    """

    schema_version: Literal[1] = Field(default=1, description="of this format")
    name: Name = Field(description="what the scenario is called; names its results")
    description: str = Field(default="", description="what it is for")
    seed: Annotated[Count, Field(ge=0, lt=2**63)] = Field(default=0, description="fixes all random numbers")
    workload: WorkloadSpec = Field(description="which queries arrive")
    strategy: PolicyRef = Field(
        default=Policy(name="single"), description="how a query becomes requests; `thinkcap list strategies`"
    )
    pools: Annotated[dict[Name, Pool], Field(min_length=1), freeze] = Field(description="the replicas, by pool")
    router: PolicyRef = Field(
        default=Policy(name="least_outstanding_requests"),
        description="which replica a request goes to; `thinkcap list routers`",
    )
    gateway: Gateway = Field(default_factory=Gateway, description="timeouts and the router's view")
    kv_transfer: KvTransfer = Field(default_factory=KvTransfer, description="links between prefill and decode pools")
    failures: Failures = Field(default_factory=Failures, description="what goes wrong with replicas")
    admission: PolicyRef | None = Field(default=None, description="who is turned away; default: nobody")
    predictor: PolicyRef | None = Field(default=None, description="who guesses output lengths; default: nobody")
    quality: QualitySpec | None = Field(
        default=None, description="how often answers are right; default: nothing is said about it"
    )
    trace_cache: TraceCache | None = Field(
        default=None, description="answers that are kept for problems that come again; default: none"
    )
    slo: Slo = Field(default_factory=Slo, description="what must be reached")
    energy: Energy = Field(default_factory=Energy, description="what a kilowatt-hour of GPUs is on site, and emits")
    cost: Cost = Field(default_factory=Cost, description="what is paid")
    measure: Measure = Field(default_factory=Measure, description="what counts")
    plan: Plan | None = Field(default=None, description="what `thinkcap plan` may choose from")
    sweep: Sweep | None = Field(default=None, description="what `thinkcap sweep` varies")

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default stated, as its YAML says it; reading it gives an equal scenario."""
        data: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return {key: value for key, value in data.items() if value != {} or key == "pools"}

    def to_yaml(self) -> str:
        """`resolved` as YAML text."""
        from sim.scenario.yaml_file import write

        return write(self.resolved())
