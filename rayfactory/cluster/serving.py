"""vLLM on Ray Serve: a model's endpoint, started for a run and ended with the last run that uses it.

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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rayfactory.cluster.lease import Lease, alone, num_leases
from rayfactory.cluster.replica_log import ReplicaLog, cause, replica_log
from rayfactory.cluster.servable import ASK_ENDPOINT, check_room, check_servable
from rayfactory.config import ModelConfig
from rayfactory.errors import ConfigError, EndpointError
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_model
from rayfactory.models.protocol import path_of
from rayfactory.tools.openvino_encoder import cpu_has_bf16

Say = Callable[[str], None]

_POLL_S = 1.0
# Even where nothing new has happened, a person hears from a model that starts as often as this.
_SAY_EVERY_S = 15.0
_SHUTDOWN_S = 30.0
_WARM_UP_S = 300.0

# A CPU of Ray's account that a rank on a CPU takes. Its threads work when nobody else does, so that a small machine
# goes on judging while a model writes; were whole CPUs taken, there would be none left for the judges.
_CPU_SHARE = 0.01

# By its name, since the replica makes it.
_CALLBACK = "rayfactory.cluster.hub_token.HubTokenStays"

# Of an app: that it answers or soon will; that it has its room in the cluster, or waits for it already.
_COMES_UP = ("RUNNING", "DEPLOYING")
_HOLDS_ROOM = (*_COMES_UP, "UNHEALTHY")


@dataclass(frozen=True, slots=True)
class Served:
    """A model that answers.

    Attributes:
        name: what requests name it by.
        app: its app on Ray Serve.
        base_url: the address of its endpoint.
    """

    name: str
    app: str
    base_url: str


@contextmanager
def serve_models(configs: Sequence[ModelConfig], data_dir: Path, say: Say) -> Iterator[list[Served]]:
    """Have the models of each `config.serving` answer for the length of a with statement.

    An app that is there already with the same settings is used. The run that leaves an app last deletes it, whoever
    began it. Ray has to be connected.

    Raises:
        ConfigError: something that one of them needs is missing; nothing was started.
        EndpointError: one did not come up.
    """
    with serve_apps(apps_with_room(configs, data_dir, say), say) as served:
        yield served


def apps_with_room(configs: Sequence[ModelConfig], data_dir: Path, say: Say) -> list[App]:
    """Return what is to be served, one for each model, once it is known that there is room; starts nothing.

    Raises:
        ConfigError: as `serve_models`.
    """
    for config in configs:
        check_servable(config)
    apps = [_app_of(config, data_dir, say) for config in configs]
    check_room([app.config for app in _different(apps) if _status(app.name) not in _HOLDS_ROOM], say)
    return apps


@contextmanager
def serve_apps(apps: Sequence[App], say: Say) -> Iterator[list[Served]]:
    """Have models for which there is room answer, as `serve_models` does.

    Raises:
        EndpointError: as `serve_models`.
    """
    with ExitStack() as stack:
        served = {app.name: stack.enter_context(_served(app, say)) for app in _different(apps)}
        yield [served[app.name] for app in apps]


def _different(apps: Sequence[App]) -> list[App]:
    """Return the apps that differ: two models with the same settings are one."""
    return list({app.name: app for app in apps}.values())


@dataclass(frozen=True, slots=True)
class App:
    """What Ray Serve is to run: a model, what Serve is told about it, and what it is called there."""

    config: ModelConfig
    settings: dict[str, Any]
    name: str


def _app_of(config: ModelConfig, data_dir: Path, say: Say) -> App:
    if config.serving.weights == PACKAGED_WEIGHTS:
        weights = str(packaged_model(data_dir, say))
    else:
        folder = Path(config.serving.weights).expanduser()
        weights = str(folder.resolve()) if folder.is_dir() else config.serving.weights
    settings = app_settings(config, weights)
    return App(config, settings, app_name(config, settings))


@contextmanager
def _served(app: App, say: Say) -> Iterator[Served]:
    """Have one model answer for the length of a with statement."""
    from ray import serve

    lease = Lease(app.name)
    started_serve = False
    try:
        with alone(say):
            address, started_serve = _serve_address(app.config, say)
            status = _status(app.name)
            is_there = is_used_as_it_is(status, num_others=num_leases(app.name) - 1)
            if not is_there:
                say(f"starting {app.config.name} with vLLM on Ray Serve")
                _deploy(app)
        served = Served(app.config.name, app.name, f"{address}/{app.name}/v1")
        begun = time.monotonic()
        if is_there:
            doing = "runs" if status == "RUNNING" else "starts"
            say(f"{served.name} {doing} already, as the Serve app {served.app}; it is used")
            _wait(app, say, begun, may_mend=True)
        else:
            _wait(app, say, begun, may_mend=False)
            _warm_up(app.config, served.base_url)
            say(f"{served.name} answers at {served.base_url} ({time.monotonic() - begun:.0f} s)")
        yield served
    finally:
        with alone(say):
            lease.end()
            if num_leases(app.name):
                say(f"the Serve app {app.name} stays: another run uses it")
            elif _status(app.name):
                serve.delete(app.name)
            if started_serve and not serve.status().applications:
                _stop_serve()


def is_used_as_it_is(status: str, num_others: int) -> bool:
    """Return whether an app is used and not deployed again; its status is empty where there is none.

    Serve mends an unhealthy app by itself. To deploy it again would take it from those who use it, so that is done only
    where nobody does.
    """
    return status in _COMES_UP or (status == "UNHEALTHY" and num_others > 0)


def _status(name: str) -> str:
    """Return the status of an app as Ray Serve has it, empty where there is no such app."""
    from ray import serve

    app = serve.status().applications.get(name)
    return "" if app is None else app.status.value


def app_settings(config: ModelConfig, weights: str) -> dict[str, Any]:
    """Return what Ray Serve is told about a model: the fields of `ray.serve.llm.LLMConfig`."""
    serving = config.serving
    ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
    on_gpu = serving.device == "gpu"
    engine: dict[str, Any] = {
        "dtype": "float32" if serving.dtype == "auto" and not on_gpu and not cpu_has_bf16() else serving.dtype,
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
        # When vLLM 0.29 takes a prompt in parts it winds the generator of a request back, which it cannot on a CPU:
        # where the request has a seed, the engine dies. So prompts are taken whole.
        engine["enable_chunked_prefill"] = False
        engine["max_num_batched_tokens"] = max(config.context_tokens, 8192)
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
        "callback_config": {"callback_class": _CALLBACK},
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


def _serve_address(config: ModelConfig, say: Say) -> tuple[str, bool]:
    """Return the address of Ray Serve, and whether it had to be started; where it runs already it is used.

    Raises:
        ConfigError: its port is taken.
    """
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
        return f"http://{host}:{port}", False
    port = config.serving.port
    if len(nodes) == 1 and not _is_free(port):
        raise ConfigError(
            f"model {config.name!r}: port {port} is taken by another program; set the model's serving.port to one that "
            f"is free, or, if what listens there is an endpoint for this model, {ASK_ENDPOINT}"
        )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Other nodes have to get through; on a machine of its own, nobody else should.
    serve.start(http_options={"host": "127.0.0.1" if len(nodes) == 1 else "0.0.0.0", "port": port})  # noqa: S104
    return f"http://{host}:{port}", True


def _stop_serve() -> None:
    """Stop Ray Serve, and return when it is gone.

    `serve.shutdown` waits for a call to an actor that ends itself in it, and Ray tells the terminal that it was lost.
    """
    import ray
    from ray.serve.context import _disconnect, _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return
    client.shutdown_cached_handles()
    with suppress(ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        ray.get(client._controller.graceful_shutdown.remote(wait=False), timeout=_SHUTDOWN_S)  # noqa: SLF001
    _disconnect()  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + _SHUTDOWN_S
    while time.monotonic() < deadline:
        try:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        except ValueError:
            return
        time.sleep(0.1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _deploy(app: App) -> None:
    """Have Ray Serve begin to start an app; one of that name that is there is replaced."""
    from ray import serve

    serve.run_many(
        [serve.RunTarget(_application(app.settings), name=app.name, route_prefix=f"/{app.name}")],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def _wait(app: App, say: Say, begun: float, *, may_mend: bool) -> None:
    """Return when an app runs; where it may mend, an unhealthy one is waited for too.

    Raises:
        EndpointError: it failed, was deleted, or takes longer than `serving.startup_timeout_s`.
    """
    from ray import serve

    given_up = {"DEPLOY_FAILED"} if may_mend else {"DEPLOY_FAILED", "UNHEALTHY"}
    config = app.config
    told, told_at, log = "", begun, ReplicaLog()
    while True:
        status = serve.status().applications.get(app.name)
        if status is None:
            raise EndpointError(
                f"model {config.name!r}: somebody has deleted the Serve app {app.name} while it started"
            )
        if status.status == "RUNNING":
            return
        log = replica_log(app.name, log)
        if status.status in given_up:
            raise EndpointError(_died(config, status, log))
        waited_s = time.monotonic() - begun
        if waited_s > config.serving.startup_timeout_s:
            raise EndpointError(_late(config, log))
        stage = log.stage
        if stage != told or time.monotonic() - told_at > _SAY_EVERY_S:
            say(f"{config.name}: {stage} ({waited_s:.0f} s)")
            told, told_at = stage, time.monotonic()
        time.sleep(_POLL_S)


def _warm_up(config: ModelConfig, base_url: str) -> None:
    """Have a model answer once: its first reply, and its first one by a grammar, wait for what is made on first use.

    Raises:
        EndpointError: it does not answer.
    """
    asked = {"messages": [{"role": "user", "content": "SELECT"}]} if config.chat else {"prompt": "SELECT"}
    body: dict[str, Any] = {"model": config.name, **asked, "max_tokens": 1}
    if config.constrained:
        body["structured_outputs"] = {"grammar": 'root ::= "SELECT"'}
    request = Request(  # noqa: S310 - our own address
        f"{base_url}{path_of(config)}", json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    try:
        with urlopen(request, timeout=_WARM_UP_S) as reply:  # noqa: S310 - our own address
            reply.read()
    except HTTPError as error:
        told = error.read(500).decode(errors="replace")
        if "chat template" in told:
            told += f" (a model without one goes on from texts: set chat=false for {config.name!r})"
        raise EndpointError(f"model {config.name!r} came up and cannot answer: {error}: {told}") from error
    except OSError as error:
        raise EndpointError(f"model {config.name!r} came up at {base_url} and does not answer: {error}") from error


def _application(settings: dict[str, Any]) -> Any:
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


def _died(config: ModelConfig, status: Any, log: ReplicaLog) -> str:
    """Return the message for a model that did not start."""
    told = "\n".join([status.message, *(each.message for each in status.deployments.values()), log.text])
    return (
        f"model {config.name!r} did not start; while {log.stage}: {cause(told)}\n"
        f"What it wrote is in {log.place}; mend the model's serving settings or weights, or {ASK_ENDPOINT}"
    )


def _late(config: ModelConfig, log: ReplicaLog) -> str:
    """Return the message for a model that has taken too long to start."""
    remedy = "give it more time with it" if log.node_id else "free room in the cluster, or set it larger"
    return (
        f"model {config.name!r} has not come up within serving.startup_timeout_s={config.serving.startup_timeout_s:g}: "
        f"it was {log.stage}; {remedy}. What it wrote is in {log.place}"
    )
