"""Records what vLLM's own scheduler decides: ``python tests/golden/record.py VLLM OUT CASE…``.

VLLM is a folder that holds the package ``vllm``: an unpacked wheel will do (``pip download --no-deps vllm==0.33.0``, then
unzip). Each CASE has settings.json and workload.csv; they are copied to OUT beside the steps.csv.gz and requests.csv of the run.

Of vLLM are run, unmodified, both schedulers, the KV cache manager with its coordinator and block pool, the request and its queue.
Whatever they import beside (configuration, connectors, torch) is replaced by empty stand-ins, so nothing else has to be
installed. Batches are driven as ``EngineCore.step`` and ``step_with_batch_queue`` do, under the clock of settings.json.
"""

from __future__ import annotations

import csv
import gzip
import shutil
from argparse import ArgumentParser
from collections import deque
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace as Plain
from typing import Any

import vllm_files

from sim.engine.settings import EngineSettings
from sim.validation.recording import PS_PER_NS, REQUESTS, STEPS, Arrival, Row, load_case


def _all(names: str, value: Any = None) -> dict[str, Any]:
    return dict.fromkeys(names.split(), value)


class Recorder:
    """One engine: vLLM's scheduler with its KV cache, requests of numbered tokens, and the figures of each."""

    def __init__(self, settings: EngineSettings, arrivals: tuple[Arrival, ...]) -> None:
        self.settings, self.arrivals = settings, arrivals
        self.utils = import_module("vllm.v1.core.kv_cache_utils")
        vars(self.utils)["NONE_HASH"] = b"none"  # what a first block's hash follows on
        self.requests: dict[str, Any] = {}
        self.figures: list[dict[str, int]] = [{} for _ in arrivals]
        self.scheduler = self._scheduler()
        self._numbers: dict[Any, int] = {}
        self._hashes: dict[Any, int] = {}

    def _scheduler(self) -> Any:
        own = self.settings
        interface = import_module("vllm.v1.kv_cache_interface")
        managers = import_module("vllm.v1.core.single_type_kv_cache_manager")
        registry = import_module("vllm.v1.kv_cache_spec_registry").KVCacheSpecRegistry
        registry.register(interface.FullAttentionSpec, managers.FullAttentionManager)
        registry.register(interface.SlidingWindowSpec, managers.SlidingWindowManager)
        shape = {"block_size": own.block_size, "num_kv_heads": 1, "head_size": 1, "dtype": None}
        specs = [interface.FullAttentionSpec(**shape)]
        if own.sliding_window:
            window = interface.SlidingWindowSpec(**shape, sliding_window=own.sliding_window)
            specs += [window] * own.sliding_groups
        groups = [interface.KVCacheGroupSpec([f"layer {index}"], spec) for index, spec in enumerate(specs)]
        cache = interface.KVCacheConfig(num_blocks=own.num_gpu_blocks, kv_cache_tensors=[], kv_cache_groups=groups)
        encoder = Plain(free=lambda request: None, get_freed_mm_hashes=list, get_manager_metadata=lambda: None)
        none = "kv_events_config lora_config kv_transfer_config ec_transfer_config speculative_config"
        off = "is_mm_encoder_only use_v2_model_runner"
        zero = "num_speculative_tokens num_lookahead_tokens num_prefill_lookahead_tokens num_hash_lookahead_tokens"
        config = Plain(
            **_all(none),
            **_all(off, False),
            **_all(zero, 0),
            scheduler_config=Plain(
                max_num_seqs=own.max_num_seqs,
                max_num_active_seqs=None,
                max_num_scheduled_tokens=None,
                max_num_batched_tokens=own.max_num_batched_tokens,
                long_prefill_token_threshold=own.long_prefill_token_threshold,
                long_prefill_token_threshold_adaptive=own.long_prefill_token_threshold_adaptive,
                policy=own.policy,
                watermark=own.watermark,
                scheduler_reserve_full_isl=own.scheduler_reserve_full_isl,
                prefill_schedule_interval=1,
                enable_chunked_prefill=own.enable_chunked_prefill,
            ),
            cache_config=Plain(
                num_gpu_blocks=own.num_gpu_blocks,
                block_size=own.block_size,
                enable_prefix_caching=own.enable_prefix_caching,
                mamba_cache_mode="none",
                enable_mamba_shared_prefix_checkpoint=False,
            ),
            model_config=Plain(
                max_model_len=own.max_model_len,
                runner_type="generate",
                **_all(
                    "uses_mrope is_encoder_decoder is_diffusion supports_multimodal_inputs return_sampling_mask", False
                ),
            ),
            parallel_config=Plain(
                data_parallel_index=0,
                decode_context_parallel_size=1,
                prefill_context_parallel_size=1,
                pipeline_parallel_size=1,
                data_parallel_size=1,
            ),
            observability_config=Plain(
                **_all(
                    "per_request_spec_decode_metrics kv_cache_metrics enable_mfu_metrics enable_logging_iteration_details"
                )
            ),
            ec_manager_config=Plain(
                get_encoder_cache_manager_obj=lambda: Plain(create_manager=lambda **options: encoder)
            ),
            aux_output_config=Plain(enabled=False),
            max_in_flight_tokens=(1 + own.async_scheduling) * own.max_num_batched_tokens,
            max_concurrent_batches=1 + own.async_scheduling,
        )
        kind = "async_scheduler.AsyncScheduler" if own.async_scheduling else "scheduler.Scheduler"
        module, name = kind.split(".")
        made = getattr(import_module(f"vllm.v1.core.sched.{module}"), name)(
            config, cache, Plain(accept_tokens=lambda request, tokens: True), block_size=own.block_size
        )
        made._make_cached_request_data = made._get_encoder_input_updates = lambda *args, **options: (
            None
        )  # for the workers
        return made

    def _token(self, arrival: Arrival, at: int) -> int:
        """The number of what stands at place *at*: shared within a prefix, its own elsewhere."""
        owner: Any = arrival.id
        while at < arrival.prefix_len:
            if arrival.parent is None:
                owner = arrival.id if arrival.prefix_group is None else f"group {arrival.prefix_group}"
                break
            arrival = self.arrivals[arrival.parent]
            owner = arrival.id
        return self._numbers.setdefault((owner, at), len(self._numbers) + 1)

    def _hash(self, key: Any) -> bytes:
        return self._hashes.setdefault(key, len(self._hashes) + 1).to_bytes(8, "big")

    def add(self, arrival: Arrival) -> None:
        """*arrival* joins the waiting queue."""
        caching = self.settings.enable_prefix_caching
        params = Plain(
            max_tokens=arrival.decode_tokens,
            min_tokens=0,
            **_all(
                "extra_args eos_token_id stop_token_ids repetition_detection skip_reading_prefix_cache num_logprobs"
            ),
        )
        request = import_module("vllm.v1.request").Request(
            f"{arrival.id:09}",  # ids are compared as text
            [self._token(arrival, at) for at in range(arrival.prompt_tokens)],
            params,
            None,
            arrival_time=arrival.arrived_ps,
            priority=arrival.priority,
            block_hasher=self.utils.get_request_block_hasher(self.settings.block_size, self._hash) if caching else None,
        )
        self.requests[request.request_id] = request
        self.scheduler.add_request(request)

    def plan(
        self, now: int, gpu_free: int, clock: tuple[int, int, int]
    ) -> tuple[Any, dict[str, bool], dict[str, Any]] | None:
        """One call of ``schedule``: its output, who will get a token, and its row; None when nobody is scheduled."""
        scheduler, requests = self.scheduler, self.requests
        before = {request.request_id: request.num_preemptions for request in scheduler.running}
        output = scheduler.schedule()
        batch = output.num_scheduled_tokens
        if not batch:
            return None
        start, tokens = max(now, gpu_free), sum(batch.values())
        context = sum(requests[each].num_computed_tokens for each in batch)
        admitted, sampling = [], {}
        for each, new in batch.items():
            request, figures = requests[each], self.figures[int(each)]
            figures.setdefault("first_scheduled_ns", start)
            if each not in before:
                cached = request.num_computed_tokens - new
                admitted.append(f"{int(each)}@{cached}")
                figures.setdefault("cached_tokens_first", cached)
                figures["cached_tokens_total"] = figures.get("cached_tokens_total", 0) + cached
            figures["scheduled_tokens"] = figures.get("scheduled_tokens", 0) + new
            figures["n_steps_scheduled"] = figures.get("n_steps_scheduled", 0) + 1
            sampling[each] = not request.is_prefill_chunk
        row = {
            "t_start_ns": start,
            "t_end_ns": start + clock[0] + clock[1] * tokens + clock[2] * context,
            "n_scheduled": len(batch),
            "n_tokens": tokens,
            "total_context": context,
            "n_running": len(scheduler.running),
            "n_waiting": len(scheduler.waiting),
            "free_after_schedule": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
            "admitted": " ".join(admitted),
            "preempted": " ".join(
                str(int(each)) for each in sorted(before) if requests[each].num_preemptions > before[each]
            ),
            "scheduled": " ".join(str(int(each)) if new == 1 else f"{int(each)}:{new}" for each, new in batch.items()),
            "t_scheduled_ns": now,
        }
        return output, sampling, row

    def process(self, output: Any, sampling: dict[str, bool], row: dict[str, Any]) -> int:
        """The batch of *row* is over; return when."""
        now: int = row["t_end_ns"]
        tokens = []
        for each, samples in sampling.items():
            request = self.requests[each]
            if samples and not request.is_finished():
                self.figures[int(each)].setdefault("first_token_ns", now)
            tokens.append([self._token(self.arrivals[int(each)], request.num_tokens)] if samples else [])
        nothing = "logprobs pooler_output num_nans_in_logits kv_connector_output ec_connector_output cudagraph_stats"
        self.scheduler.update_from_output(
            output,
            Plain(
                sampled_token_ids=tokens,
                req_id_to_index={each: index for index, each in enumerate(sampling)},
                prompt_logprobs_dict={},
                prompt_token_id_logprobs_dict={},
                sampling_masks=None,
                **_all(nothing),
            ),
        )
        finished = [int(each) for each in sampling if self.requests[each].is_finished()]
        finished = [number for number in finished if "finish_ns" not in self.figures[number]]
        for number in finished:
            self.figures[number]["finish_ns"] = now
        row["finished"] = " ".join(map(str, finished))
        row["free_after_update"] = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        return now

    def run(self, clock: tuple[int, int, int]) -> list[dict[str, Any]]:
        """All rows of the run, *clock* being nanoseconds a step, a token and a token of context."""
        coming, flying, rows = deque(self.arrivals), deque[Any](), list[dict[str, Any]]()
        now = gpu_free = 0
        scheduler = self.scheduler
        while coming or flying or scheduler.running or len(scheduler.waiting):
            while coming and coming[0].arrived_ps <= now * PS_PER_NS:
                self.add(coming.popleft())
            preempted = sum(request.num_preemptions for request in self.requests.values())
            planned = self.plan(now, gpu_free, clock)
            if planned:
                planned[2]["step"] = len(rows)
                gpu_free = planned[2]["t_end_ns"]
                rows.append(planned[2])
                flying.append(planned)
                if self.settings.async_scheduling and len(flying) == 1:
                    continue
            if flying:
                now = self.process(*flying.popleft())
            elif not (scheduler.running or len(scheduler.waiting)):
                now = coming[0].arrived_ps // PS_PER_NS if coming else now
            elif preempted == sum(request.num_preemptions for request in self.requests.values()):
                raise RuntimeError("the scheduler stands still: a request fits never")
        return rows


def record(
    settings: EngineSettings, clock: tuple[int, int, int], arrivals: tuple[Arrival, ...]
) -> tuple[list[Row], list[Row]]:
    """The rows of steps and of requests of vLLM's own scheduler."""
    recorder = Recorder(settings, arrivals)
    steps = recorder.run(clock)
    requests = []
    for arrival, figures in zip(arrivals, recorder.figures, strict=True):
        values: dict[str, Any] = {
            "request_id": arrival.id,
            "arrived_at_ns": arrival.arrived_ps // PS_PER_NS,
            "num_prefill_tokens": arrival.prompt_tokens,
            "num_decode_tokens": arrival.decode_tokens,
            "num_preemptions": recorder.requests[f"{arrival.id:09}"].num_preemptions,
            **figures,
        }
        requests.append({name: str(values[name]) for name in REQUESTS})
    columns = (*STEPS, "t_scheduled_ns") if settings.async_scheduling else STEPS
    return [{name: str(row[name]) for name in columns} for row in steps], requests


def main() -> None:
    """See the module."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("vllm", type=Path, help="folder that holds the package vllm")
    parser.add_argument("out", type=Path, help="where the recordings go")
    parser.add_argument("cases", type=Path, nargs="+", help="folders with settings.json and workload.csv")
    given = parser.parse_args()
    vllm_files.use(given.vllm)
    for case in given.cases:
        settings, cost, arrivals = load_case(case)
        clock = [part // PS_PER_NS for part in (cost.host_ps, cost.linear_slope_ps - cost.kv_ps, cost.kv_ps)]
        steps, requests = record(settings, (clock[0], clock[1], clock[2]), arrivals)
        folder = given.out / case.name
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("settings.json", "workload.csv"):
            shutil.copy(case / name, folder / name)
        with gzip.open(folder / "steps.csv.gz", "wt", newline="") as file:
            _write(file, _folded(steps))
        with (folder / "requests.csv").open("w", newline="") as file:
            _write(file, requests)
        print(f"{case.name}: {len(steps):,} steps, {len(requests):,} requests")


def _folded(steps: list[Row]) -> list[Row]:
    """*steps*, a text of those scheduled that is the one above as ``=``."""
    texts = [None, *(step["scheduled"] for step in steps)]
    return [
        step | {"scheduled": "=" if step["scheduled"] == above else step["scheduled"]}
        for step, above in zip(steps, texts, strict=False)
    ]


def _write(file: Any, rows: list[Row]) -> None:
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


if __name__ == "__main__":
    main()
