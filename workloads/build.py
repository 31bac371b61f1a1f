"""From what the spec says to a source that can be asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sim.errors import InputError, Problem
from sim.rng import Streams
from workloads.arrivals import Process, make_process
from workloads.clients import ClientArrivals, with_windows
from workloads.generate import Extras, GeneratedSource
from workloads.lengths import Kind
from workloads.sessions import SessionProcess
from workloads.source import QuerySource
from workloads.spec import Category, Sessions, WorkloadSpec


def build_source(spec: WorkloadSpec, *, seed: int, replication: int, base: Path | None) -> QuerySource:
    """See `workloads.source.build`."""
    if spec.trace is not None:
        from workloads.replay import TraceSource

        return TraceSource.open(spec, seed=seed, replication=replication, base=base)
    name = "generated workload"
    facts: dict[str, object] = {}
    if spec.preset is not None:
        from workloads.presets import resolve

        name = f"preset {spec.preset}"
        spec, facts = resolve(spec, base=base)
    elif spec.windows is not None and spec.clients is not None:
        spec = spec.model_copy(update={"clients": with_windows(spec.clients, spec.windows, base)})
    return generated(spec, name=name, facts=facts, streams=Streams(seed, replication))


def generated(spec: WorkloadSpec, *, name: str, facts: dict[str, object], streams: Streams) -> GeneratedSource:
    """The source of a spelled-out *spec*."""
    extras = Extras(spec.shared_prefix, spec.runaway, spec.recurrence, spec.even_draws)
    categories: tuple[str, ...]
    if spec.clients is not None:
        whose = [member.client or name for name, member in spec.clients.members.items()]
        clients = tuple(dict.fromkeys(whose))
        categories = tuple(sorted({member.category or "all" for member in spec.clients.members.values()}))
        process: Process
        steady = spec.profile == "steady" or (spec.profile is None and spec.rate is not None)
        members = list(spec.clients.members.values())
        talks = [member.sessions or spec.sessions for member in members]
        if spec.arrivals is None:
            turns = np.array([1.0 if talk is None else turns_of(talk) for talk in talks])
            process = ClientArrivals(spec.clients, rate=spec.rate, steady=steady, streams=streams, turns=turns)
        else:
            process = make_process(spec.arrivals, _session_rate(spec), streams)
        kinds = [
            Kind(
                categories.index(member.category or "all"),
                clients.index(client),
                member.lengths,
                *_limits(spec, member.max_tokens, member.priority),
            )
            for client, member in zip(whose, spec.clients.members.values(), strict=True)
        ]
        weights = [sum(member.rates) / len(member.rates) for member in spec.clients.members.values()]
    else:
        assert spec.arrivals is not None
        sections = spec.categories
        if sections is None:
            assert spec.lengths is not None
            sections = {"all": Category(lengths=spec.lengths)}
        clients, categories, talks = ("all",), tuple(sections), [spec.sessions] * len(sections)
        process = make_process(spec.arrivals, _session_rate(spec), streams)
        kinds = [
            Kind(code, 0, section.lengths, *_limits(spec, section.max_tokens, section.priority))
            for code, section in enumerate(sections.values())
        ]
        weights = [section.weight for section in sections.values()]
    wrapped: Process | SessionProcess = process
    if any(talk is not None for talk in talks):
        if process.closed_loop is not None:
            expected = "poisson or other arrivals that do not wait for answers"
            raise InputError(Problem("sessions go with open arrivals only", key="workload.sessions", expected=expected))
        wrapped = SessionProcess(process, talks, streams, spec.queries)
    return GeneratedSource(
        name=name,
        process=wrapped,
        kinds=kinds,
        weights=weights,
        categories=categories,
        clients=clients,
        streams=streams,
        queries=spec.queries,
        extras=extras,
        facts=facts,
    )


def _limits(spec: WorkloadSpec, max_tokens: int | None, priority: int | None) -> tuple[int, int]:
    limit = max_tokens if max_tokens is not None else spec.max_tokens
    return -1 if limit is None else limit, spec.priority if priority is None else priority


def _session_rate(spec: WorkloadSpec) -> float | None:
    """Rate of the arrivals proper: sessions where there are any, queries otherwise."""
    if spec.rate is None or spec.sessions is None:
        return spec.rate
    return spec.rate / turns_of(spec.sessions)


def turns_of(sessions: Sessions) -> float:
    """Mean number of turns of a session, as rounded and kept at one or more when drawn."""
    middles = (np.arange(100_000) + 0.5) / 100_000
    return float(np.maximum(np.rint(sessions.turns.quantile(middles)), 1.0).mean())
