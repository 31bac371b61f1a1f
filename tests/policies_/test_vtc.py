"""The sums that ``vtc`` keeps decide as charging every client anew at every step does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from policy_cases import dressed_case, preemptions_of_both

from sim.engine.request import Request
from sim.engine.step import Step
from sim.policies.schedulers.vtc import Vtc


@dataclass(frozen=True)
class PlainVtc:
    """The policy in plain words: every step charges each client for each of its requests anew, and no plan is held.

    A client comes back when a request of his joins the queue while nobody of his waits there, as who was merely preempted
    does not."""

    prompt_weight: float = 1.0
    output_weight: float = 2.0
    queues_by_client = True

    def _charged(self, step: Step, request: Request) -> int:
        if request.finished_ps >= 0:
            return request.known - request.prompt_tokens + request.probe_tokens
        return step.generated(request)

    def schedule(self, step: Step) -> None:
        memory = step.memory
        served: list[Request] = memory.setdefault("served", [])
        admissions: list[Request] = memory.setdefault("admissions", [])
        lifts: dict[int, float] = memory.setdefault("lifts", {})

        def counter(client: int) -> float:
            prompts = sum(request.prompt_tokens for request in admissions if request.client == client)
            outputs = sum(self._charged(step, request) for request in served if request.client == client)
            return lifts.get(client, 0.0) + (self.prompt_weight * prompts + self.output_weight * outputs)

        step.serve_running()
        back = step.waiting.come_back  # type: ignore[union-attr]
        queued = {request.client for request in step.waiting}
        if back:
            stayed = [counter(client) for client in queued if client not in back]
            last = counter(memory["last"]) if "last" in memory else 0.0
            least = min(stayed) if stayed else last
            missing = {client: least - counter(client) for client in back}
            for client, more in missing.items():
                if more > 0:
                    lifts[client] = lifts.get(client, 0.0) + more
            back.clear()
        if step.preempted:
            return
        before = {client: counter(client) for client in queued}
        while step.budget > 0 and step.seats > 0:
            firsts: dict[int, Request] = {}
            for request in step.candidates():
                firsts.setdefault(request.client, request)
            if not firsts:
                return
            client = min(firsts, key=lambda each: (before[each], each))
            request = firsts[client]
            if not step.admit(request):
                return
            admissions.append(request)
            if request not in served:
                served.append(request)
            before[client] += self.prompt_weight * request.prompt_tokens
            if not any(other.client == client for other in step.candidates()):
                memory["last"] = client


OPTIONS: list[dict[str, Any]] = [{}, {"prompt_weight": 0.3, "output_weight": 0.7}]


@pytest.mark.parametrize("options", OPTIONS)
def test_kept_sums_decide_as_charging_anew(options: dict[str, Any]) -> None:
    assert _compare(range(10, 20), options) > 10


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS)
def test_kept_sums_decide_as_charging_anew_often(options: dict[str, Any]) -> None:
    assert _compare(range(100, 160), options) > 50


def _compare(seeds: range, options: dict[str, Any]) -> int:
    make = partial(PlainVtc, **options), partial(Vtc, **options)
    return sum(
        preemptions_of_both(dressed_case(seed, memory=("plain", "all")[seed % 4 == 3]), seed, *make) for seed in seeds
    )
