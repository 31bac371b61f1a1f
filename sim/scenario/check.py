"""What shows only when several things are seen together: names that must exist, files, what fits on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import DoesNotFit, InputError, Problem, nearest
from sim.scenario.compression import check_compression, compresses
from sim.scenario.engine import NOT_MODELLED, Engine, server_defaults
from sim.scenario.model import Scenario
from sim.scenario.policy import unknown_categories
from sim.scenario.pools import Pool
from sim.scenario.quality import check_quality
from sim.scenario.routes import check_routes
from sim.scenario.yaml_file import Document, KeyPath, dotted

if TYPE_CHECKING:
    from calibration.deployment import Deployment


FIRST_COME_FIRST_SERVED = ("vllm", "sarathi", "orca")
"""Schedulers whose waiting queue has no order of its own."""

# -- before the model: things that pydantic cannot say ---------------------------------------------


def check_document(document: Document) -> list[Problem]:
    """Problems with names and files in *document*; paths in it become absolute."""
    problems: list[Problem] = []
    data = document.data
    workload = data.get("workload")
    if isinstance(workload, dict):
        if isinstance(workload.get("preset"), str):
            from workloads.presets import preset

            problems += _known(document, ("workload", "preset"), preset.get, workload["preset"])
        for key in ("trace", "windows"):
            if isinstance(workload.get(key), str):
                problems += _file(document, ("workload", key))
    pools = data.get("pools")
    if isinstance(pools, dict):
        for name, pool in pools.items():
            if isinstance(pool, dict):
                problems += _check_pool(document, ("pools", name), pool)
    problems += _booleans(document, data, ())
    return problems


def _check_pool(document: Document, path: KeyPath, pool: dict[str, Any]) -> list[Problem]:
    from calibration.architecture import architecture
    from calibration.hardware import hardware

    problems: list[Problem] = []
    for key, find, suffixes in (
        ("model", architecture, (".json",)),
        ("hardware", hardware, (".yaml", ".yml")),
    ):
        if isinstance(pool.get(key), str):
            if pool[key].endswith(suffixes) and (wrong := _file(document, (*path, key))):
                problems += wrong
            else:
                problems += _known(document, (*path, key), find, pool[key])
    profile = pool.get("profile")
    if isinstance(profile, str) and profile.endswith((".yaml", ".yml", ".json")):
        problems += _file(document, (*path, "profile"))
    engine = pool.get("engine")
    if isinstance(engine, dict):
        for key in [key for key in engine if key.replace("-", "_").removeprefix("__") in NOT_MODELLED]:
            problems.append(document.problem((*path, "engine", key), "is a setting of vLLM that is not modelled"))
    return problems


def _known(document: Document, path: KeyPath, find: Callable[[str], Any], name: str) -> list[Problem]:
    try:
        find(name)
    except InputError as error:
        return [
            document.problem(path, problem.message, expected=problem.expected, nearest=problem.nearest)
            if problem.source is None
            else problem
            for problem in error.problems
        ]
    return []


def _file(document: Document, path: KeyPath) -> list[Problem]:
    """Make the file name that stands at *path* absolute.

    It is relative to the file that says it, or to the working directory.
    """
    inner: Any = document.data
    for part in path[:-1]:
        inner = inner[part]
    said = inner[path[-1]]
    mark = document.mark(path)
    folders = [folder for folder in (mark.folder if mark else None, Path()) if folder is not None]
    for folder in folders:
        try:
            if (folder / said).exists():
                inner[path[-1]] = str((folder / said).resolve())
                return []
        except (OSError, ValueError):
            break
    where = " or ".join(dict.fromkeys(str(folder.resolve()) for folder in folders))
    return [document.problem(path, f"no such file {said!r}", expected=f"a file, looked for in {where}")]


def _booleans(document: Document, value: Any, path: KeyPath) -> list[Problem]:
    """A ``true`` where the workload wants a number would count as 1; one of its keys is a switch."""
    if path == ("workload", "even_draws"):
        return []
    if isinstance(value, Mapping):
        inner = [(key, item) for key, item in value.items() if path or key == "workload"]
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        if isinstance(value, bool):
            return [document.problem(path, str(value).lower(), expected="a number or a text")]
        return []
    return [problem for key, item in inner for problem in _booleans(document, item, (*path, key))]


# -- after the model -------------------------------------------------------------------------------


def check_scenario(scenario: Scenario, document: Document) -> Scenario:
    """*scenario* with defaults that depend on the hardware filled in; raise an InputError or DoesNotFit."""
    problems = _check_window(scenario, document) + _check_categories(scenario, document)
    problems += _check_fleet(scenario, document) + check_routes(scenario, document)
    pools = {}
    misfits: list[str] = []
    for name, pool in scenario.pools.items():
        try:
            pools[name] = _fill(pool)
        except InputError as error:
            problems += [_in_pool(document, name, problem) for problem in error.problems]
        except DoesNotFit as error:
            place = document.problem(("pools", name), str(error))
            misfits.append(str(place))
    if not problems and not misfits:
        problems += check_quality(scenario, document) + check_compression(scenario, document)
    if problems:
        raise InputError(problems + [Problem(text) for text in misfits])
    if misfits:
        raise DoesNotFit("\n".join(misfits))
    return scenario.model_copy(update={"pools": type(scenario.pools)(pools)})


def _in_pool(document: Document, name: str, problem: Problem) -> Problem:
    if problem.source is not None:
        return problem
    pool = document.data["pools"][name]
    path: KeyPath = ("pools", name)
    if problem.key:
        inside = problem.key in Pool.model_fields or problem.key in pool
        path = (*path, problem.key) if inside else (*path, "engine", problem.key)
    return document.problem(path, problem.message, expected=problem.expected, nearest=problem.nearest)


def _fill(pool: Pool) -> Pool:
    from calibration.architecture import architecture
    from calibration.hardware import hardware

    gpu = hardware(pool.hardware)
    seqs, tokens = server_defaults(gpu.memory_bytes, gpu.name)
    engine = pool.engine
    update: dict[str, Any] = {}
    if engine.max_num_batched_tokens is None:
        if not engine.enable_chunked_prefill:  # then a whole prompt must fit in a step, as vLLM has it
            tokens = max(tokens, engine.max_model_len or architecture(pool.model).max_context)
        update["max_num_batched_tokens"] = tokens
    if engine.max_num_seqs is None:
        update["max_num_seqs"] = min(seqs, engine.max_num_batched_tokens or seqs)
    placed = deployment(pool.model_copy(update={"engine": engine.model_copy(update=update)}))
    wanted, longest = engine.max_model_len, placed.architecture.max_context
    compressed = compresses(pool)
    held = longest if compressed else placed.memory.kv_tokens // pool.data_parallel_size
    if wanted is not None and wanted > min(longest, held):
        why = (
            f"{wanted:,} tokens are more than the {longest:,} that the model is made for"
            if wanted > longest
            else f"{wanted:,} tokens do not fit in the KV pool, which holds {held:,} (vLLM would not start)"
        )
        raise InputError(Problem(why, key="max_model_len", expected=f"at most {min(longest, held)}, or none at all"))
    update["max_model_len"] = (wanted or longest) if compressed else placed.max_model_len
    engine = engine.model_copy(update=update)
    _check_step(engine)
    return pool.model_copy(update={"engine": engine})


def _check_step(engine: Engine) -> None:
    tokens, seqs, longest = engine.max_num_batched_tokens, engine.max_num_seqs, engine.max_model_len
    assert tokens is not None
    assert seqs is not None
    assert longest is not None
    if engine.kv_offloading_size is not None and not engine.enable_prefix_caching:
        raise InputError(
            Problem(
                "what the prefix cache gives up goes to the host, and enable_prefix_caching is false",
                key="kv_offloading_size",
                expected="enable_prefix_caching: true, or no kv_offloading_size",
            )
        )
    if sum(one.share for one in engine.adaptive_depth) > 1 + 1e-9:
        raise InputError(
            Problem(
                "shares of tokens by depth add up to more than 1", key="adaptive_depth", expected="at most 1 in all"
            )
        )
    if tokens < seqs:
        raise InputError(
            Problem(
                f"{tokens:,} tokens a step are fewer than max_num_seqs {seqs:,} (vLLM refuses this)",
                key="max_num_batched_tokens",
                expected=f"at least {seqs}",
            )
        )
    if not engine.enable_chunked_prefill and tokens < longest:
        raise InputError(
            Problem(
                f"{tokens:,} tokens a step are fewer than max_model_len {longest:,}, and without chunked "
                "prefill a prompt must fit in one (vLLM refuses this)",
                key="max_num_batched_tokens",
                expected=f"at least {longest}, or a smaller max_model_len",
            )
        )


def _depths(engine: Engine) -> tuple[tuple[float, float], ...]:
    """Depths of all tokens, ascending, as `calibration.adaptive_depth` has them; empty: every layer once."""
    said = [(one.depth, one.share) for one in engine.adaptive_depth if one.share > 0]
    if not said:
        return ()
    found = dict.fromkeys(sorted({depth for depth, _ in said} | {1.0}), 0.0)
    for depth, share in said:
        found[depth] += share
    found[1.0] += max(0.0, 1.0 - sum(share for _, share in said))
    return tuple((depth, share) for depth, share in found.items() if share > 0)


def deployment(pool: Pool) -> Deployment:
    """One replica of *pool*: its model, GPUs, step cost and memory."""
    from calibration.deployment import deploy

    engine = pool.engine
    settings = {
        key: getattr(engine, key)
        for key in (
            "kv_cache_dtype",
            "gpu_memory_utilization",
            "block_size",
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
            "num_gpu_blocks_override",
            "kv_cache_memory_bytes",
        )
    }
    placed = deploy(
        model=pool.model,
        hardware=pool.hardware,
        tensor_parallel_size=pool.tensor_parallel_size,
        pipeline_parallel_size=pool.pipeline_parallel_size,
        data_parallel_size=pool.data_parallel_size,
        enable_expert_parallel=pool.enable_expert_parallel,
        dtype=pool.dtype,
        profile=pool.profile,
        **settings,
    )
    deep = _depths(engine)
    return placed.with_depths(deep) if deep else placed


def _check_window(scenario: Scenario, document: Document) -> list[Problem]:
    workload, measure = scenario.workload, scenario.measure
    if measure.duration_ps is not None or measure.queries is not None:
        return []
    once = getattr(workload.arrivals, "process", "") == "burst" and getattr(workload.arrivals, "every", 1) is None
    if workload.trace is not None or workload.queries is not None or once:
        return []
    return [
        document.problem(
            ("measure",),
            "the workload has no end",
            expected="measure.duration, measure.queries or workload.queries",
        )
    ]


def _check_fleet(scenario: Scenario, document: Document) -> list[Problem]:
    """Outages name replicas that exist, pools begin within the limits of their autoscaling, and only who can
    be turned away backs off."""

    problems = []
    sizes = {}
    for name, pool in scenario.pools.items():
        scaling = pool.autoscaling
        sizes[name] = max(pool.replicas, scaling.max_replicas if scaling is not None else 0)
        if scaling is not None and not scaling.min_replicas <= pool.replicas <= scaling.max_replicas:
            problems.append(
                document.problem(
                    ("pools", name, "replicas"),
                    f"the pool begins with {pool.replicas}, outside its autoscaling",
                    expected=f"{scaling.min_replicas} to {scaling.max_replicas}",
                )
            )
    befallen = [
        (("failures", kind, place), one)
        for kind in ("outages", "slowdowns")
        for place, one in enumerate(getattr(scenario.failures, kind))
    ]
    for path, outage in befallen:
        if outage.pool not in sizes:
            problems.append(
                document.problem(
                    (*path, "pool"),
                    f"no pool {outage.pool!r}",
                    expected="one of " + ", ".join(sizes),
                    nearest=nearest(outage.pool, sizes),
                )
            )
        elif outage.replica >= sizes[outage.pool]:
            problems.append(
                document.problem(
                    (*path, "replica"),
                    f"pool {outage.pool} has no replica {outage.replica}",
                    expected=f"0 to {sizes[outage.pool] - 1}",
                )
            )
    if scenario.trace_cache is not None and scenario.workload.recurrence is None and scenario.workload.trace is None:
        problems.append(
            document.problem(
                ("trace_cache",),
                "no problem of the workload ever comes again",
                expected="workload.recurrence, or a trace with prompt_id",
            )
        )
    problems += _check_roles(scenario, document)
    problems += _check_backoff(scenario, document)
    return problems


def _check_backoff(scenario: Scenario, document: Document) -> list[Problem]:
    """Who tries again was turned away, or waited in vain."""
    gateway = scenario.gateway
    if gateway.backoff is None:
        return []
    if not gateway.backoff.after_timeouts:
        if scenario.admission is not None:
            return []
        return [
            document.problem(
                ("gateway", "backoff"),
                "nobody is turned away without admission control",
                expected="an admission policy, or after_timeouts",
            )
        ]
    problems = []
    key = ("gateway", "backoff", "after_timeouts")
    if gateway.timeout_ps is None:
        problems.append(document.problem(key, "clients never time out", expected="gateway.timeout"))
    if not scenario.strategy.make("strategy").plain or scenario.trace_cache is not None:
        problems.append(
            document.problem(
                key,
                "a second try of a query of several requests, or behind a trace cache, is not modelled",
                expected="a strategy of one request a query, and no trace_cache",
            )
        )
    return problems


def _check_roles(scenario: Scenario, document: Document) -> list[Problem]:
    """Prefill and decode pools go together: the same model, KV format and block size, decode first come, first
    served."""
    problems = []
    pools = scenario.pools

    def form(pool: Pool) -> tuple[Any, ...]:
        return (pool.model, pool.dtype, pool.engine.kv_cache_dtype, pool.engine.block_size)

    for name, pool in pools.items():
        other = {"prefill": "decode", "decode": "prefill"}.get(pool.role)
        if other is None:
            continue
        partners = [each for each in pools.values() if each.role == other and each.model == pool.model]
        if not partners:
            problems.append(
                document.problem(
                    ("pools", name, "role"),
                    f"a {pool.role} pool without a {other} pool of its model {pool.model}",
                    expected=f"a pool of that model with role: {other}",
                )
            )
        elif any(form(partner) != form(pool) for partner in partners):
            problems.append(
                document.problem(
                    ("pools", name),
                    f"its KV has another form than that of the {other} pool",
                    expected="the same dtype, kv_cache_dtype and block_size in both",
                )
            )
        engine = pool.engine
        served = engine.scheduler.name in FIRST_COME_FIRST_SERVED and engine.policy == "fcfs" and engine.kv is None
        if pool.role == "prefill" and engine.kv is not None:
            problems.append(
                document.problem(
                    ("pools", name, "engine", "kv"),
                    "a prefill pool with a KV policy is not modelled",
                    expected="no kv",
                )
            )
        if pool.role == "decode" and not served:
            problems.append(
                document.problem(
                    ("pools", name, "engine"),
                    "a decode pool with another order than first come, first served, or with a KV policy, is not modelled",
                    expected=f"policy: fcfs, no kv, and a scheduler of {', '.join(FIRST_COME_FIRST_SERVED)}",
                )
            )
    return problems


ONLY_CATEGORY = "all"
"""What queries are of whose workload names no categories."""


def _check_categories(scenario: Scenario, document: Document) -> list[Problem]:
    workload = scenario.workload
    categories = tuple(workload.categories or ())
    unknown_yet = workload.preset is not None or workload.trace is not None or workload.clients is not None
    places = _of_no_category(scenario, categories or (ONLY_CATEGORY,)) if categories or not unknown_yet else []
    return [document.problem(place, message, **more) for place, message, more in places]


def check_categories(scenario: Scenario, categories: Sequence[str]) -> None:
    """Raise an InputError where *scenario* says something of a category that is none of *categories*, those of its traffic,
    which a preset brings along."""
    problems = [
        Problem(message, key=dotted(place), expected=more["expected"], nearest=more["nearest"])
        for place, message, more in _of_no_category(scenario, categories)
    ]
    if problems:
        raise InputError(problems)


def _of_no_category(scenario: Scenario, categories: Sequence[str]) -> list[tuple[KeyPath, str, dict[str, str | None]]]:
    places: list[KeyPath] = [("slo", "categories", name) for name in scenario.slo.categories if name not in categories]
    for policy, kind in ((scenario.strategy, "strategy"), (scenario.router, "router")):
        places += [(kind, *place) for place in unknown_categories(policy, kind, categories)]
    expected = "one of " + ", ".join(categories)
    return [
        (
            place,
            "is no category of the workload",
            {"expected": expected, "nearest": nearest(str(place[-1]), categories)},
        )
        for place in places
    ]
