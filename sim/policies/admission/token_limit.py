"""No more tokens in the house than so many times its KV memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sim.policies.admission import admission
from sim.policies.overload import Admission
from sim.policies.routing import RoutedRequest, Sees, View


@admission("token_limit")
@dataclass(frozen=True)
class TokenLimit(Admission):
    """Turns a query away when KV memory is spoken for: when the outstanding tokens of the replicas (with a
    length predictor the output to come, without one what is computed) and the query's own exceed ``kv_share``
    times what all their KV caches hold. Long prompts are refused before short ones."""

    kv_share: float = 1.0
    sees: ClassVar[Sees] = "snapshots"

    def __post_init__(self) -> None:
        if self.kv_share <= 0:
            raise ValueError(f"kv_share must be above 0, not {self.kv_share}")

    def refuses(self, view: View, request: RoutedRequest) -> str | None:
        tokens = sum(view.tokens(index) for index in view.candidates)
        tokens += request.prompt_tokens + max(0, request.predicted_tokens)
        limit = self.kv_share * sum(view.replicas[index].kv_tokens for index in view.candidates)
        return f"{tokens:,} tokens outstanding, {limit:,.0f} allowed" if tokens > limit else None
