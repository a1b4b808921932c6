"""Training on Ray Train: a loop runs on each worker, and is started again where one is lost."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayfactory.errors import ConfigError, EngineError

Loop = Callable[[dict[str, Any]], None]
"""Runs on every worker, in a process group of torch's with the usual variables (RANK, WORLD_SIZE, LOCAL_RANK)."""

_POLL_S = 0.5
_RESTARTS = 2
"""Times that the workers are started again when one is lost."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a training takes of the cluster.

    Attributes:
        workers: how many.
        on_gpus: whether each has a GPU.
        cpus: of each.
    """

    workers: int
    on_gpus: bool
    cpus: int


def room_for(workers: int) -> Room:
    """Return what a training can have. Ray has to be connected.

    Args:
        workers: that are wanted; 0: one for each GPU, or one with all CPUs of a node where there is no GPU.

    Raises:
        ConfigError: the cluster has less than that.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if gpus:
        if workers > gpus:
            raise ConfigError(
                f"training.workers={workers} need a GPU each, and the cluster has {gpus}; leave it out for one each"
            )
        return Room(workers or gpus, on_gpus=True, cpus=1)
    largest = max(cpus, default=0)
    if not workers or workers == 1:
        return Room(1, on_gpus=False, cpus=max(1, largest))
    for each in range(largest, 0, -1):
        if sum(node // each for node in cpus) >= workers:
            return Room(workers, on_gpus=False, cpus=each)
    raise ConfigError(
        f"training.workers={workers} need a CPU each, and the cluster has {sum(cpus)}; leave it out for one worker "
        "that has all CPUs of its node"
    )


def trained(loop: Loop, settings: Mapping[str, Any], room: Room, folder: Path, poll: Callable[[], None]) -> None:
    """Run a loop on the workers until it returns on each.

    Args:
        loop: takes `settings`; what it loses with a worker it has to find again when it is called once more.
        settings: for the loop.
        room: of the cluster that it takes.
        folder: for what Ray Train writes; where there are several nodes, they have to share it.
        poll: called in this thread while the workers run.

    Raises:
        EngineError: it failed, more often than workers are started again.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Nobody else writes to the terminal, and a worker stays in the folder that its paths are from.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    for name in ("ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    resources = {"CPU": room.cpus, **({"GPU": 1} if room.on_gpus else {})}
    trainer = TorchTrainer(
        loop,
        train_loop_config=dict(settings),
        scaling_config=ScalingConfig(
            num_workers=room.workers, use_gpu=room.on_gpus, resources_per_worker=resources, placement_strategy="PACK"
        ),
        run_config=RunConfig(storage_path=str(folder.absolute()), failure_config=FailureConfig(max_failures=_RESTARTS)),
    )
    failed: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            failed.append(error)

    # Ray takes the interrupt of the main thread for itself, and would wait for the workers.
    waits = threading.Thread(target=fit, name="ray-train", daemon=True)
    waits.start()
    while waits.is_alive():
        waits.join(_POLL_S)
        poll()
    if failed:
        raise EngineError(f"the training failed: {_reason(failed[0])}") from failed[0]


def _reason(error: BaseException) -> str:
    """Return what a worker ended with, without where."""
    for each in getattr(error, "worker_failures", {}).values():
        error = each
        break
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else repr(error)
