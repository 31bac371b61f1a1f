"""A line each on the strategy and on what else changes how queries are answered, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sim.report import formats

if TYPE_CHECKING:
    from sim.results.results import Results


def lines(results: Results) -> list[str]:
    """What was done beyond one generation a query, and what came of it; empty where there was nothing."""
    said: Mapping[str, Any] = results.scenario
    found = results.summary.get("reasoning")
    if not found:
        return []
    made = [*_strategy(said.get("strategy"), found), *_early_exit(found.get("early_exit"))]
    own = ((said.get("quality") or {}).get("pools")) or {}
    for name, pool in (said.get("pools") or {}).items():
        figures = found["pools"].get(name)
        if figures is not None:
            made += _pool(name, pool.get("engine") or {}, (own.get(name) or {}).get("latent"), figures)
    return made


def _named(policy: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of a policy as a scenario states it."""
    if isinstance(policy, str):
        return policy, {}
    options = dict(policy or {})
    name = str(options.pop("name", ""))
    return name, {key: value for key, value in options.items() if value is not None}


def _strategy(policy: Any, found: Mapping[str, Any]) -> list[str]:
    name, options = _named(policy)
    plain = name in ("", "single") and options.get("thinking_token_budget") is None
    if plain or found["requests_per_query"] is None:
        return []
    parts = [
        f"{formats.number(found['requests_per_query'])} requests a query",
        f"{formats.tokens(found['reasoning_tokens_per_query'])} reasoning",
        f"{formats.tokens(found['answer_tokens_per_query'])} answer tokens",
    ]
    if found["verification_tokens_per_query"]:
        parts.append(f"{formats.tokens(found['verification_tokens_per_query'])} tokens read and written by verifiers")
    text = f"Strategy {name}: {', '.join(parts)}"
    if found["taken_back_share"]:
        text += f"; {formats.percent(found['taken_back_share'])} of requests taken back"
    if found["cut_share"]:
        text += f"; {formats.percent(found['cut_share'])} of queries cut by a limit or budget"
    return [text + "."]


def _early_exit(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    text = (
        f"Early exit: {found['probes']:,} probes of {found['generations']:,} chains; "
        f"{formats.percent(found['left_share'])} left early"
    )
    if found["false_share"] is not None:
        text += f", {formats.percent(found['false_share'])} of these before they had settled"
    if found["kept_share"] is not None:
        text += f"; {formats.percent(found['kept_share'])} of the reasoning kept"
    if found["probe_tokens"]:
        text += f", and {formats.tokens(found['probe_tokens'])} tokens of probes rolled back"
    return [text + "."]


def _pool(name: str, engine: Mapping[str, Any], latent: Any, figures: Mapping[str, Any]) -> list[str]:
    made = []
    scheduler, options = _named(engine.get("scheduler"))
    if scheduler == "chunked_reasoning":
        between = {"host": "sent to the host", "recompute": "computed again"}.get(
            options.get("between_chunks", ""), "kept"
        )
        text = f"Pool {name} reasons in chunks of {options.get('quantum_tokens', 2048):,} tokens, KV {between} between them"
        if figures["interrupted_share"]:
            text += (
                f": {formats.percent(figures['interrupted_share'])} of requests interrupted, "
                f"for {formats.duration(figures['pause_max_s'])} at the most"
            )
        made.append(text + ".")
    drafts = engine.get("speculative_config")
    if drafts:
        text = f"Pool {name} verifies drafts of {drafts['num_speculative_tokens']} tokens"
        if figures["tokens_per_decode"] is not None:
            text += f": {formats.number(figures['tokens_per_decode'])} tokens a step and request"
        if figures["drafts_kept_share"] is not None:
            text += f", {formats.percent(figures['drafts_kept_share'])} of drafted tokens kept"
        made.append(text + ".")
    kv, options = _named(engine.get("kv"))
    if kv in ("r-kv", "snapkv", "h2o"):
        kept = f"{options['kept_tokens']:,} tokens" if "kept_tokens" in options else "its preset's budget"
        made.append(
            f"Pool {name} compresses the KV of each chain by {kv} to {kept}; right answers become rarer by its law."
        )
    if latent:
        where = "each at a position of its own" if latent.get("keeps_kv", True) else "all at one position"
        made.append(
            f"Pool {name} reasons in latent steps, one for {latent['tokens_per_step']:g} tokens, {where} in the KV cache; "
            "they stand as reasoning tokens in what follows."
        )
    deep = engine.get("adaptive_depth")
    if deep:
        mean = 1 + sum((one["depth"] - 1) * one["share"] for one in deep)
        made.append(f"Pool {name} runs {formats.percent(mean)} of its layers a token in the mean (adaptive depth).")
    return made
