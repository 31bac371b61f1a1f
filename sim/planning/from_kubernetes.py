"""Pools from Kubernetes manifests and Helm values that start vLLM servers.

Read are Deployments, StatefulSets, Pods and LeaderWorkerSets with containers of vLLM; KServe's InferenceService and
LLMInferenceService; and values of three Helm charts: vLLM's own, the production stack's (``servingEngineSpec``) and
llm-d's model service (``decode``). What starts no vLLM server (a Service, a volume) is passed over by kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import yaml

from sim.errors import InputError, Problem
from sim.planning.from_serve import Served, is_serve, served, words_of

HARDWARE_NOTE = "thinkcap/hardware"
PRODUCT = re.compile(r"(A100|H100|H200|B200|B300|GB200|L40S|L4|MI300X)", re.IGNORECASE)


class Found(dict[str, dict[str, Any]]):
    """Pools by name, and what was said of their options."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def put(self, name: str, one: Served, *, replicas: Any, hardware: str | None) -> None:
        """Add what was *served* as pool *name*."""
        name = re.sub(r"[^\w]+", "_", name.removeprefix("vllm-")).strip("_") or "pool"
        while name in self:
            name += "_2"
        self[name] = {**one.pool, "replicas": replicas} | ({"hardware": hardware} if hardware else {})
        if one.unchanged:
            self.notes.append(f"pool {name}: no influence have --" + ", --".join(one.unchanged))
        if one.left_out:
            self.notes.append(f"pool {name}: left out are --" + ", --".join(one.left_out))


def pools_of(text: str, source: str, *, leave_out: Collection[str] = ()) -> Found:
    """The pools in *text*, YAML of one or more documents; raise an InputError where there are none."""
    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        raise InputError(Problem(f"is no YAML: {error}", source=source)) from None
    found = Found()
    for document in documents:
        if not isinstance(document, Mapping):
            continue
        if "kind" in document:
            _resource(document, source, leave_out, found)
        else:
            _values(document, source, leave_out, found)
    if not found:
        raise InputError(
            Problem(
                "starts no vLLM server",
                source=source,
                expected="a manifest with a container of vLLM, an InferenceService, or Helm values of vLLM, "
                "the production stack or llm-d",
            )
        )
    return found


# -- manifests -------------------------------------------------------------------------------------


def _resource(document: Mapping[str, Any], source: str, leave_out: Collection[str], found: Found) -> None:
    kind, spec = document["kind"], _map(document, "spec")
    name = str(_map(document, "metadata").get("name", kind)).lower()
    where = f"{source}: {kind} {name}"
    if kind == "InferenceService":
        predictor = _map(spec, "predictor")
        model = _map(predictor, "model")
        containers = [*predictor.get("containers", []), *([model] if model else [])]
        replicas = predictor.get("minReplicas", 1) or 1
        for container in containers:
            words = _with_model(_words(container), model.get("storageUri"))
            one = served(words, leave_out=leave_out, source=where)
            found.put(name, one, replicas=replicas, hardware=_hardware(predictor, document))
    elif kind == "LLMInferenceService":
        _llm_service(spec, name, where, leave_out, found, document)
    elif kind in ("Deployment", "StatefulSet", "ReplicaSet", "Pod", "LeaderWorkerSet"):
        for pod in _pods(spec):
            servers = [each for each in pod.get("containers", []) if _is_server(each)]
            for container in servers:
                label = name if len(servers) == 1 else f"{name}-{container.get('name', '')}"
                one = served(_words(container), leave_out=leave_out, source=where)
                found.put(label, one, replicas=spec.get("replicas", 1), hardware=_hardware(pod, document))


def _pods(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "containers" in spec:
        yield spec
    elif "leaderWorkerTemplate" in spec:
        group = _map(spec, "leaderWorkerTemplate")
        yield _map(_map(group, "leaderTemplate") or _map(group, "workerTemplate"), "spec")
    else:
        yield _map(_map(spec, "template"), "spec")


def _llm_service(
    spec: Mapping[str, Any],
    name: str,
    where: str,
    leave_out: Collection[str],
    found: Found,
    document: Mapping[str, Any],
) -> None:
    if "prefill" in spec:
        raise InputError(Problem("separate prefill servers are not modelled", source=where, key="spec.prefill"))
    words = [str(_map(spec, "model").get("uri", "")).removeprefix("hf://")]
    words += _parallelism(_map(spec, "parallelism"))
    template = _map(spec, "template")
    for container in template.get("containers", []):
        words += [word for word in _words(container) if word not in words]
    one = served(words, leave_out=leave_out, source=where)
    found.put(name, one, replicas=spec.get("replicas", 1), hardware=_hardware(template, document))


def _is_server(container: Mapping[str, Any]) -> bool:
    words = _words(container)
    return is_serve(words) or ("vllm" in str(container.get("image", "")) and any(w.startswith("--") for w in words))


def _words(container: Mapping[str, Any]) -> list[str]:
    """Command and arguments; what a shell is given is split into its words."""
    words = [str(word) for key in ("command", "args") for word in container.get(key) or []]
    if len(words) >= 3 and words[0].rpartition("/")[2] in ("sh", "bash") and re.fullmatch(r"-\w*c", words[1]):
        return words_of(words[2])
    return words


def _with_model(words: list[str], uri: Any) -> list[str]:
    if uri and not any(word.partition("=")[0] in ("--model", "--model_name") for word in words):
        return [str(uri).removeprefix("hf://"), *words]
    return words


def _hardware(pod: Mapping[str, Any], document: Mapping[str, Any]) -> str | None:
    """The GPU: as an annotation of a plan's manifest has it, else from the node's product label."""
    template = _map(_map(document, "spec"), "template")
    for holder in (template, document):
        notes = _map(_map(holder, "metadata"), "annotations")
        if HARDWARE_NOTE in notes:
            return str(notes[HARDWARE_NOTE])
    label = str(_map(pod, "nodeSelector").get("nvidia.com/gpu.product", ""))
    product = PRODUCT.search(label)
    return product[1].lower() if product else None


# -- Helm values -----------------------------------------------------------------------------------


def _values(values: Mapping[str, Any], source: str, leave_out: Collection[str], found: Found) -> None:
    if "servingEngineSpec" in values:
        for place, model in enumerate(_map(values, "servingEngineSpec").get("modelSpec") or []):
            where = f"{source}: servingEngineSpec.modelSpec[{place}]"
            one = served(_stack_words(model), leave_out=leave_out, source=where)
            found.put(
                str(model.get("name", "model")),
                one,
                replicas=model.get("replicaCount", 1),
                hardware=_hardware(_stack_selector(model), {}),
            )
    elif "decode" in values or "modelArtifacts" in values:
        _llm_d(values, source, leave_out, found)
    elif "image" in values and isinstance(values["image"], Mapping) and values["image"].get("command"):
        one = served([str(word) for word in values["image"]["command"]], leave_out=leave_out, source=source)
        found.put("pool", one, replicas=values.get("replicaCount", 1), hardware=_hardware(values, {}))


STACK = {
    "tensorParallelSize": "tensor-parallel-size",
    "pipelineParallelSize": "pipeline-parallel-size",
    "maxModelLen": "max-model-len",
    "maxNumSeqs": "max-num-seqs",
    "maxNumBatchedTokens": "max-num-batched-tokens",
    "gpuMemoryUtilization": "gpu-memory-utilization",
    "enablePrefixCaching": "enable-prefix-caching",
    "enableChunkedPrefill": "enable-chunked-prefill",
    "dtype": "dtype",
}
"""Keys of the production stack's ``vllmConfig``."""


def _stack_words(model: Mapping[str, Any]) -> list[str]:
    words = [str(model.get("modelURL", ""))]
    for key, value in _map(model, "vllmConfig").items():
        if key == "extraArgs":
            words += [str(word) for word in value or []]
            continue
        option = STACK.get(key) or re.sub(r"(?<!^)(?=[A-Z])", "-", key).lower()
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words.append(f"--{option}={value}")
    return words


def _stack_selector(model: Mapping[str, Any]) -> Mapping[str, Any]:
    for term in model.get("nodeSelectorTerms") or []:
        for expression in term.get("matchExpressions") or []:
            if expression.get("key") == "nvidia.com/gpu.product" and expression.get("values"):
                return {"nodeSelector": {"nvidia.com/gpu.product": expression["values"][0]}}
    return model


def _llm_d(values: Mapping[str, Any], source: str, leave_out: Collection[str], found: Found) -> None:
    prefill = _map(values, "prefill")
    if prefill.get("create", bool(prefill)) and prefill.get("replicas", 1):
        raise InputError(Problem("separate prefill servers are not modelled", source=source, key="prefill"))
    artifacts, decode = _map(values, "modelArtifacts"), _map(values, "decode")
    uri = str(artifacts.get("uri", ""))
    words = [uri.removeprefix("hf://") if uri.startswith("hf://") else str(artifacts.get("name", ""))]
    words += _parallelism(_map(decode, "parallelism"))
    for container in decode.get("containers") or []:
        if container.get("modelCommand") in ("vllmServe", "imageDefault", "custom", None):
            own = _words(container)
            words += own[2:] if own[:2] == ["vllm", "serve"] else own
    one = served(words, leave_out=leave_out, source=source)
    found.put("decode", one, replicas=decode.get("replicas", 1), hardware=_hardware(decode, {}))


def _parallelism(parallel: Mapping[str, Any]) -> list[str]:
    words = []
    for key, option in (("tensor", "tensor-parallel-size"), ("data", "data-parallel-size")):
        if parallel.get(key):
            words.append(f"--{option}={parallel[key]}")
    if parallel.get("expert"):
        words.append("--enable-expert-parallel")
    return words


def _map(holder: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}
