"""What load a case put on its engine: replayed request by request where it was published, else drawn from its recipe.

Exact replays take the published workload file. Everything else (constant-rate stages, closed loops, bursts with a
histogram of output lengths, Poisson or gamma arrivals) is built from the row; lengths are drawn with fixed seeds, as
stratified samples, so that their distribution is met as closely as so many requests can.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sim.errors import InputError
from sim.validation.accuracy_cases import Case, FloatArray, IntArray, read_trace
from sim.validation.accuracy_client import PS_PER_S, Load
from sim.validation.accuracy_conversations import NONE, parents
from sim.validation.accuracy_settings import Skipped

SEED = 20_260
DISTINCT_PROMPTS = 100
"""Distinct prompts of inference-perf's shared-prefix generator where a run does not state groups x prompts."""

BURST_PROMPTS = ((r"gpqa", 270, 198), (r"lm-?arena", 250, 0), (r"fill-in-the-middle", 1500, 0))
"""Mean prompt tokens and distinct prompts (0: all) of data sets whose prompt lengths a source does not publish:
GPQA Diamond has 198 questions of about 200 tokens before the chat template; the others are found from the gap between mean
step and median latency at 8 to 32 seats."""

CHAT_SPREAD = 1.5
"""Log-normal spread of chat prompts (many short ones, a few pasted documents); questions of one test hardly differ."""

FEWEST_KEPT = 64

ROUNDS_CLIENT = r"LMBench sharegpt"
"""Runs whose client asks conversations round by round (LMBench, sharegpt/README.md and sharegpt-qa.py)."""
WARM_UP_RATE, WARM_UP_REST_S = 2.0, 40.0
"""Its warm-up: requests a second, and seconds from the last one's start to the run (its answer, and a rest of 10 s)."""


@dataclass(frozen=True)
class Stage:
    """A time in which arrivals had one rate."""

    rate_per_s: float
    duration_s: float


def stages_of(text: str) -> list[Stage]:
    """Stages as sources write them: ``[{"rate": 5, "duration": 600}, …]`` or ``[(5, 600), …]``."""
    found = []
    for entry in re.findall(r"\{[^{}]*\}", text):
        try:
            row = json.loads(entry.replace("'", '"'))
            found.append(Stage(float(row["rate"]), float(row["duration"])))
        except (ValueError, KeyError, TypeError):
            continue
    if not found:
        pairs = re.findall(r"\(\s*([\d.]+)\s*,\s*([\d.]+)\s*\)", text)
        found = [Stage(float(rate), float(duration)) for rate, duration in pairs]
    return [stage for stage in found if stage.rate_per_s > 0 and stage.duration_s > 0]


def stage_number(case: Case) -> int | None:
    """Which stage of its parent a sub-case covers."""
    found = re.search(r"\bstage (\d+)", case.text("workload_desc")) or re.search(r"stage(\d+)$", case.id)
    return int(found[1]) if found else None


def distinct_prompts(case: Case, count: int) -> IntArray | None:
    """Which prompt each of *count* requests asks, where a run's prompts repeat; None where each is its own.

    Sources that hide the prompts say how many there were (``groups G x prompts P``); their client walks through them.
    """
    text = f"{case.text('notes')} {case.text('workload_desc')}"
    found = re.search(r"groups\s*(\d+)\s*[x\u00d7]\s*prompts\s*(\d+)", text)
    if found:
        distinct = int(found[1]) * int(found[2])
    elif "shared_prefix" in text:
        distinct = DISTINCT_PROMPTS
    else:
        return None
    return np.arange(count, dtype=np.int64) % max(1, distinct)


def load_of(case: Case, histograms: Mapping[str, tuple[FloatArray, FloatArray]]) -> Load:
    """The load of *case*; raise `Skipped` when its row does not say enough."""
    text = f"{case.text('notes')} {case.text('workload_desc')}"
    kind = case.text("workload_kind").lower()
    timeout = re.search(r"timeouts? (?:of )?(\d+(?:\.\d+)?) ?s\b|(\d+(?:\.\d+)?) s timeout", text)
    timeout_ps = round(float(timeout[1] or timeout[2]) * PS_PER_S) if timeout else None
    path = case.path("workload_csv")
    if path is not None:
        load = _replay(case, text, path)
    elif case.text("workload_csv"):
        raise Skipped(f"workload file {case.text('workload_csv')} is not there")
    elif kind.startswith("closed_loop") or (case.number("concurrency") and not kind.startswith("open")):
        load = _closed(case)
    elif kind.startswith("open"):
        load = _staged(case) if "stages" in kind else _open_rate(case, kind)
    elif "burst" in kind or "offline" in kind:
        load = _burst(case, histograms)
    else:
        raise Skipped(f"load not described: {kind or 'no workload_kind'}")
    return replace(load, timeout_ps=timeout_ps)


def _replay(case: Case, text: str, path: object) -> Load:
    from pathlib import Path

    try:
        trace = read_trace(Path(str(path)))
    except (InputError, OSError, EOFError, UnicodeDecodeError) as error:
        raise Skipped(f"workload file cannot be read: {error}") from None
    capped = re.search(r"caps? in-flight at (\d+)", text)
    sends = trace.intended_s if capped and trace.intended_s is not None else trace.arrived_s
    order = np.argsort(sends, kind="stable")
    sends = sends[order]
    load = Load(
        sends_ps=np.round((sends - sends[0]) * PS_PER_S).astype(np.int64),
        prompt_tokens=trace.prompt_tokens[order],
        output_tokens=trace.output_tokens[order],
        prompt=distinct_prompts(case, len(order)),
        in_flight_cap=int(capped[1]) if capped else None,
    )
    return _in_rounds(load) if re.search(ROUNDS_CLIENT, case.text("workload_desc")) else load


def _in_rounds(load: Load) -> Load:
    """*load* as rounds of conversations, behind the client's warm-up: the round before the first of each
    conversation, which the source leaves out. Its prompt is shorter by a round of that conversation.
    """
    follows = parents(load.prompt_tokens, load.output_tokens)
    if (follows == NONE).all():
        return load
    own = np.arange(len(load), dtype=np.int64)
    for request, before in enumerate(follows.tolist()):
        if before != NONE:
            own[request] = own[before]
    later = np.nonzero(follows != NONE)[0]
    rounds = load.prompt_tokens[later] - load.prompt_tokens[follows[later]]
    firsts = np.nonzero(follows == NONE)[0]
    sums = np.bincount(own[later], weights=rounds, minlength=len(load))[firsts]
    number = np.bincount(own[later], minlength=len(load))[firsts]
    typical = np.where(number > 0, sums / np.maximum(number, 1), rounds.mean())
    warm = len(firsts)
    before_first = np.maximum(16, load.prompt_tokens[firsts] - typical.astype(np.int64))
    starts = np.round(np.arange(warm) / WARM_UP_RATE * PS_PER_S).astype(np.int64)
    return replace(
        load,
        sends_ps=np.concatenate((starts, load.sends_ps + starts[-1] + round(WARM_UP_REST_S * PS_PER_S))),
        prompt_tokens=np.concatenate((before_first, load.prompt_tokens)),
        output_tokens=np.concatenate((load.output_tokens[firsts], load.output_tokens)),
        prompt=np.concatenate((firsts, own)),
        conversations=True,
        discarded=warm,
    )


def _lengths(case: Case, count: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Prompt and output tokens of *count* requests: uniform where the recipe says so, else the means."""
    text = case.text("workload_desc")
    drawn = []
    for key, column in (("in", "input_len_mean"), ("out", "output_len_mean")):
        uniform = re.search(rf"\b{key} ~? ?U\[([\d.]+), ?([\d.]+)\] ?x ?(\d+)", text)
        if uniform:
            low, high, nominal = float(uniform[1]), float(uniform[2]), int(uniform[3])
            values = nominal * (low + (high - low) * _strata(count, generator))
        else:
            mean = case.number(column)
            if mean is None:
                raise Skipped(f"{column} not stated")
            values = np.full(count, mean)
        drawn.append(np.maximum(1, np.round(values)).astype(np.int64))
    return drawn[0], drawn[1]


def _strata(count: int, generator: np.random.Generator) -> FloatArray:
    """*count* uniform numbers, one from each of *count* equal parts of (0, 1), shuffled."""
    return (generator.permutation(count) + generator.random(count)) / count


def _closed(case: Case) -> Load:
    concurrency = case.whole("concurrency")
    if not concurrency or concurrency < 1:
        raise Skipped("concurrency not stated")
    count = max(1, case.whole("n_requests") or 10 * concurrency)
    found = re.search(r"(\d+)x warm-ups", case.text("workload_desc"))
    warm = int(found[1]) * concurrency if found else 0
    generator = np.random.default_rng(SEED)
    prompts, outputs = _lengths(case, count, generator)
    warm_prompts, warm_outputs = _lengths(case, warm, generator) if warm else (prompts[:0], outputs[:0])
    return Load(
        sends_ps=np.zeros(count + warm, dtype=np.int64),
        prompt_tokens=np.concatenate((warm_prompts, prompts)),
        output_tokens=np.concatenate((warm_outputs, outputs)),
        in_flight_cap=concurrency,
        discarded=warm,
    )


def _burst(case: Case, histograms: Mapping[str, tuple[FloatArray, FloatArray]]) -> Load:
    if case.id not in histograms:
        raise Skipped("no histogram of output lengths")
    edges, counts = histograms[case.id]
    total = int(counts.sum())
    count = case.whole("n_requests") or total
    text = case.text("workload_desc").lower()
    found = next((entry for entry in BURST_PROMPTS if re.search(entry[0], text)), None)
    mean_prompt = case.number("input_len_mean")
    if mean_prompt is None and found is None:
        raise Skipped("prompt lengths not stated")
    mean = mean_prompt if mean_prompt is not None else float(found[1]) if found else 0.0
    generator = np.random.default_rng(SEED)
    rank = _strata(count, generator) * total
    outputs = np.interp(rank, np.concatenate(([0.0], np.cumsum(counts))), edges)
    spread = np.ones(count)
    if not (found and found[2]):
        from scipy.special import ndtri

        spread = np.exp(CHAT_SPREAD * ndtri(_strata(count, generator)) - CHAT_SPREAD**2 / 2)
    return Load(
        sends_ps=np.zeros(count, dtype=np.int64),
        prompt_tokens=np.maximum(8, np.round(mean * spread)).astype(np.int64),
        output_tokens=np.maximum(1, np.round(outputs)).astype(np.int64),
        prompt=np.arange(count, dtype=np.int64) % found[2] if found and found[2] else None,
        max_tokens=(case.whole("output_len_max") or -1) if "natural stop" in text else None,
    )


def _staged(case: Case) -> Load:
    stages = stages_of(case.text("workload_desc"))
    if not stages:
        raise Skipped("stages not stated")
    sends, start = [], 0.0
    for stage in stages:
        count = round(stage.rate_per_s * stage.duration_s)
        sends.append(start + np.arange(count) / stage.rate_per_s)
        start += stage.duration_s
    times = np.concatenate(sends)
    prompts, outputs = _lengths(case, len(times), np.random.default_rng(SEED))
    return Load(
        sends_ps=np.round(times * PS_PER_S).astype(np.int64),
        prompt_tokens=prompts,
        output_tokens=outputs,
        prompt=distinct_prompts(case, len(times)),
    )


def _open_rate(case: Case, kind: str) -> Load:
    at_once = case.text("rate_rps").lower() in ("inf", "infinity")
    rate, count = math.inf if at_once else case.number("rate_rps"), case.whole("n_requests")
    if not rate or rate <= 0 or not count or count < 1:
        raise Skipped("rate or number of requests not stated")
    generator = np.random.default_rng(SEED)
    found = re.search(r"burstiness ([\d.]+)", kind)
    if "poisson" in kind:
        shape = 1.0
    elif "gamma" in kind:
        shape = float(found[1]) if found else 1.0
        if shape <= 0:
            raise Skipped(f"burstiness {shape:g} is no shape of a gamma distribution")
    else:
        shape = np.inf
    gaps = np.full(count, 1 / rate) if np.isinf(shape) or at_once else generator.gamma(shape, 1 / (shape * rate), count)
    times = np.cumsum(gaps) - gaps[0]
    prompts, outputs = _lengths(case, count, generator)
    return Load(sends_ps=np.round(times * PS_PER_S).astype(np.int64), prompt_tokens=prompts, output_tokens=outputs)


def shortened(load: Load, most: int | None) -> Load:
    """A closed loop of at most *most* reported requests, for a quick look; other loads stay whole."""
    reported = len(load) - load.discarded
    if most is None or load.in_flight_cap is None or load.sends_ps.any() or reported <= most:
        return load
    keep = load.discarded + max(most, min(reported, 2 * load.in_flight_cap, 4 * FEWEST_KEPT))
    return replace(
        load,
        sends_ps=load.sends_ps[:keep],
        prompt_tokens=load.prompt_tokens[:keep],
        output_tokens=load.output_tokens[:keep],
        prompt=None if load.prompt is None else load.prompt[:keep],
    )
