"""How close predictions come to published runs: every case of a folder replayed, every stated figure compared.

    >>> from sim.validation.accuracy import run                     # doctest: +SKIP
    >>> report = run(Path("validation"))                            # doctest: +SKIP
    >>> report.records[0]["signed_error"]                           # doctest: +SKIP

Nothing is tuned to a case: costs belong to (GPU, model, TP, dtype) and to the engine's version, and what was fitted on
which runs stands in ``used_in_fitting.yaml``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from calibration.deployment import Deployment
from sim.engine.replica import make_replica
from sim.errors import InputError, Problem, nearest
from sim.policies.schedulers.vllm import Vllm
from sim.results.sinks import SegmentSink
from sim.validation import accuracy_loads as loads
from sim.validation.accuracy_cases import Case, FloatArray, read_cases, read_histograms
from sim.validation.accuracy_client import Load, Replayed, at_random, drive, to_first
from sim.validation.accuracy_regime import regime_of
from sim.validation.accuracy_rules import not_comparable, used_in_fitting
from sim.validation.accuracy_settings import Setup, Skipped, setup
from sim.validation.accuracy_statistics import request_statistics, segment_statistics, window_of, windowed

SHIPPED = Path(__file__).with_name("published")
"""The shipped cases: published figures with their sources."""

BAND = 0.03
"""Step costs are this much off at the two ends of the band."""

ROUTINGS = 5
"""Replays of a run over several replicas whose routing is not known: which replica a request met by chance moves the
figures more than a step's cost does, so the median is taken."""

EXACT_BARS = {
    "tpot_ms_mean": 0.05,
    "e2e_ms_mean": 0.07,
    "e2e_ms_p99": 0.10,
    "ttft_ms_mean": 0.15,
    "req_throughput": 0.03,
    "output_tps": 0.03,
}
"""Largest absolute error of an exact replay, as a fraction; TTFT may instead be off by `TTFT_BAR_MS`."""
TTFT_BAR_MS = 10.0
ANCHORS = (
    "output_tps",
    "derived_output_tps",
    "batch_mean",
    "itl_ms_p50",
    "tpot_ms_mean",
    "tpot_ms_stat",
    "tpot_ms_p50",
)
ANCHOR_BAR, UNMEASURED_BAR = 0.10, 0.20
"""The same for runs replayed from lengths and settings alone, and where nothing of the model and GPU was measured."""

Record = dict[str, Any]
Progress = Callable[[int, int, str], None]


@dataclass
class Prediction:
    """What one replay gave."""

    replayed: Replayed
    sinks: list[SegmentSink] = field(repr=False)
    seats: int


@dataclass
class Report:
    """Records of all cases, and how they came about."""

    records: list[Record]
    cases: int
    wall_s: float
    notes: dict[str, list[str]]
    """Assumptions by case id."""


def run(
    folder: Path,
    *,
    only: Iterable[str] = (),
    sample: int | None = None,
    band: bool = True,
    most: int | None = None,
    progress: Progress | None = None,
    costs: Callable[[Case, Deployment], Deployment] | None = None,
) -> Report:
    """Replay the cases of *folder* and compare them.

    *only* keeps ids that begin with one of its texts, *sample* so many cases spread over families, *most* shortens
    closed loops to so many requests. *costs* may replace the deployment of a case (what-if). Raise an InputError for
    a folder that cannot be read.
    """
    started = time.perf_counter()
    cases = read_cases(folder)
    histograms = read_histograms(folder)
    by_id = {case.id: case for case in cases}
    wanted = [case for case in cases if not tuple(only) or case.id.startswith(tuple(only))]
    if not wanted:
        raise InputError(_nothing_to_replay(folder, cases, only))
    if sample is not None:
        wanted = _spread(wanted, sample)
    replayer = _Replayer(by_id, histograms, most, costs)
    records: list[Record] = []
    notes: dict[str, list[str]] = {}
    for number, case in enumerate(wanted):
        if progress is not None:
            progress(number, len(wanted), case.id)
        records += replayer.records(case, band=band, notes=notes)
    return Report(records, len(wanted), time.perf_counter() - started, notes)


def _nothing_to_replay(folder: Path, cases: list[Case], only: Iterable[str]) -> Problem:
    if not cases:
        return Problem("no cases below the header", source=str(folder / "cases.csv"), expected="one row a run")
    families = sorted({case.prefix for case in cases})
    asked = ", ".join(repr(text) for text in only)
    return Problem(
        f"no case begins with {asked}",
        source=str(folder / "cases.csv"),
        key="--only",
        expected="the beginning of an id, such as " + ", ".join(families[:8]),
        nearest=nearest(next(iter(only), ""), families),
    )


def _spread(cases: list[Case], count: int) -> list[Case]:
    """*count* cases, families in turn, evenly within each."""
    families: dict[str, list[Case]] = {}
    for case in cases:
        families.setdefault(case.prefix, []).append(case)
    share = max(1, -(-count // max(1, len(families))))
    picked: list[Case] = []
    for turn in range(share):
        for members in families.values():
            place = turn * len(members) // share
            if len(picked) < count and turn < len(members) and members[place] not in picked:
                picked.append(members[place])
    return picked


class _Replayer:
    """Replays each load once, whatever number of cases is taken from it."""

    def __init__(
        self,
        by_id: Mapping[str, Case],
        histograms: Mapping[str, tuple[FloatArray, FloatArray]],
        most: int | None,
        costs: Callable[[Case, Deployment], Deployment] | None,
    ) -> None:
        self._by_id = by_id
        self._histograms = histograms
        self._most = most
        self._costs = costs
        self._last: tuple[Any, Setup, Load, dict[float, list[Prediction]]] | None = None

    def records(self, case: Case, *, band: bool, notes: dict[str, list[str]]) -> list[Record]:
        """All records of *case*."""
        measured = case.measured()
        base = {
            **{name: case.text(name) for name in ("id", "tier", "gpu", "model")},
            "output_tokens": case.number("output_len_mean"),
            "used_in_fitting": used_in_fitting(case),
        }
        if not measured:
            return [{**base, "regime": regime_of(case), "metric": "", "measured": None, "skipped": "nothing measured"}]
        try:
            why = not_comparable(case)
            if why is not None:
                raise Skipped(why)
            return self._compare(case, measured, base, band=band, notes=notes)
        except Skipped as reason:
            blank = {"predicted": None, "signed_error": None, "skipped": str(reason)}
            regime = regime_of(case)
            return [
                {**base, "regime": regime, "metric": name, "measured": value, **blank}
                for name, value in measured.items()
            ]

    def _compare(
        self, case: Case, measured: Mapping[str, float], base: Record, *, band: bool, notes: dict[str, list[str]]
    ) -> list[Record]:
        whole = self._by_id.get(case.text("parent"), case)
        chosen, load, predictions = self._group(whole)
        notes[case.id] = list(chosen.assumed)
        pool = chosen.settings.num_gpu_blocks * chosen.settings.block_size
        regime = regime_of(case, pool_tokens=pool, shared_prompts=load.prompt is not None and not load.conversations)
        exact = case.text("tier").startswith("A")
        statistics = self._statistics(case, whole, load, self._predict(chosen, load, predictions, 1.0))
        ends = []
        if band:
            ends = [
                self._statistics(case, whole, load, self._predict(chosen, load, predictions, factor))
                for factor in (1 - BAND, 1 + BAND)
            ]
        records = []
        kind = chosen.placed.fidelity.kind
        for name, value in measured.items():
            record = {**base, "regime": regime, "metric": name, "measured": value, "profile": kind}
            predicted = statistics.get(name)
            if predicted is None:
                record |= {
                    "predicted": None,
                    "signed_error": None,
                    "skipped": _why_not(case, name, statistics),
                }
            elif name in ("req_throughput", "output_tps") and _vacuous(case, regime):
                record |= {
                    "predicted": predicted,
                    "signed_error": None,
                    "skipped": "vacuous throughput: below saturation it is the offered rate",
                }
            else:
                record |= {"predicted": predicted, "signed_error": predicted / value - 1}
                values = [end[name] for end in ends if name in end]
                if values:
                    record |= {"band": [min(*values, predicted), max(*values, predicted)]}
                record |= _judge(name, value, predicted, exact=exact, kind=kind)
            records.append(record)
        return records

    def _group(self, whole: Case) -> tuple[Setup, Load, dict[float, list[Prediction]]]:
        # stages of one run differ in the rate and the number of requests of their rows alone, and are cut out of one replay
        same = _LOAD_COLUMNS if "stages" in whole.text("workload_kind") else _LOAD_COLUMNS | {"rate_rps", "n_requests"}
        key = tuple(
            whole.text(column)
            for column in whole.row
            if column in same or column.startswith(("max_", "num_", "workload_"))
        )
        key += tuple(_TOLD_IN_NOTES.findall(whole.text("notes")))
        key += (whole.id,) if whole.text("workload_csv") or whole.id in self._histograms else ()
        if self._last is None or self._last[0] != key:
            chosen = setup(whole)
            load = loads.shortened(loads.load_of(whole, self._histograms), self._most)
            if self._costs is not None:
                from dataclasses import replace

                placed = self._costs(whole, chosen.placed)
                chosen = replace(chosen, placed=placed)
            self._last = (key, chosen, load, {})
        return self._last[1:]

    def _predict(
        self, chosen: Setup, load: Load, predictions: dict[float, list[Prediction]], factor: float
    ) -> list[Prediction]:
        if factor not in predictions:
            draws = ROUTINGS if chosen.replicas > 1 else 1
            predictions[factor] = [predict(chosen, load, factor=factor, routing=draw) for draw in range(draws)]
        return predictions[factor]

    def _statistics(self, case: Case, whole: Case, load: Load, predictions: list[Prediction]) -> dict[str, float]:
        """What the source states, of the one replay or as the median over routings."""
        found = [self._statistics_of(case, whole, prediction) for prediction in predictions]
        names = [name for name in found[0] if all(name in other for other in found)]
        return {name: float(np.median([statistics[name] for statistics in found])) for name in names}

    def _statistics_of(self, case: Case, whole: Case, prediction: Prediction) -> dict[str, float]:
        replayed = prediction.replayed
        found = request_statistics(case, replayed, _stage_mask(case, whole, replayed))
        if any(name.startswith(("itl_", "batch_")) for name in case.measured()):
            window = window_of(case, replayed, prediction.seats)
            if windowed(case):
                found.pop("output_tps", None)  # that of the whole run is another figure
            if window is not None or not windowed(case):
                found |= segment_statistics(prediction.sinks, replayed, window)
        return found


_LOAD_COLUMNS = frozenset(
    {
        *("gpu", "n_gpus", "model", "dtype", "tp", "dp", "ep", "n_replicas", "engine", "engine_version"),
        *("block_size", "gpu_mem_util", "prefix_caching", "routing", "other_settings", "concurrency"),
        *("input_len_mean", "output_len_mean", "output_len_max"),
    }
)
"""Columns, beside max_*, num_* and workload_*, that make the load and the engine: equal ones are replayed once."""
_TOLD_IN_NOTES = re.compile(
    r"caps? in-flight at \d+|\d+ ?s timeout|timeouts? (?:of )?\d+|arrived_at = engine|groups\s*\d+\D+\d+|"
    r"20\d\d-\d\d|[A-Z][a-z]{2} 20\d\d"
)
"""What notes say of the load and the engine, beside prose."""


def predict(chosen: Setup, load: Load, *, factor: float = 1.0, routing: int = 0) -> Prediction:
    """Replay *load* on *chosen* with every step *factor* times as long, the *routing*-th way of spreading it."""
    placed = chosen.placed if factor == 1.0 else chosen.placed.with_step_scaled(factor)
    sinks = [SegmentSink(pool=0, replica=number) for number in range(chosen.replicas)]
    replicas = [make_replica(chosen.settings, placed.step_cost, Vllm(), segments=sink) for sink in sinks]
    route = to_first if len(replicas) == 1 else at_random(loads.SEED + routing)
    replayed = drive(replicas, load, front_end_ps=chosen.front_end_ps, route=route)
    return Prediction(replayed, sinks, chosen.settings.max_num_seqs)


def _stage_mask(case: Case, whole: Case, replayed: Replayed) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Requests of the stage that *case* covers, None where it covers the whole run."""
    stages = loads.stages_of(whole.text("workload_desc"))
    number = None
    if case is not whole:
        number = loads.stage_number(case)
    elif len(stages) > 1:
        rate, count = case.number("rate_rps"), case.number("n_requests")
        for place, stage in enumerate(stages):
            expected = stage.rate_per_s * stage.duration_s
            if rate == stage.rate_per_s and count and abs(count - expected) <= 0.02 * expected:
                number = place
    if number is None or number >= len(stages):
        return None
    start = sum(stage.duration_s for stage in stages[:number])
    end = start + stages[number].duration_s if number + 1 < len(stages) else np.inf
    return (replayed.sent_s >= start) & (replayed.sent_s < end)


def _why_not(case: Case, name: str, statistics: Mapping[str, float]) -> str:
    """Why a replay has no figure to set beside a measured one."""
    if windowed(case):
        return "the steady window was never reached"
    if not statistics:
        return "no request fits the KV pool and the longest context, or every client gave up"
    return f"not computed: no request has what {name} is made of"


def _vacuous(case: Case, regime: str) -> bool:
    kind = case.text("workload_kind")
    return kind.startswith("open") and regime in ("below_knee", "knee")


def _judge(name: str, measured: float, predicted: float, *, exact: bool, kind: str) -> Record:
    """Which bar holds, if one does, and whether it is met."""
    if exact:
        bar = EXACT_BARS.get(name)
    else:
        bar = (UNMEASURED_BAR if kind == "prior" else ANCHOR_BAR) if name in ANCHORS else None
    if bar is None:
        return {}
    within = abs(predicted / measured - 1) <= bar
    if exact and name.startswith("ttft"):
        within = within or abs(predicted - measured) <= TTFT_BAR_MS
    return {"bar": bar, "within_bar": within}
