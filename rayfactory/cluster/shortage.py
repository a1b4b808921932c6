"""Says what a cluster lacks while a run waits for it: Ray waits for ever, and in silence."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from rayfactory.config import Config

_LOOK_S = 5.0

_BEYOND_S = 30.0
"""Seconds beyond what a block of statements can take in which something has to come in."""

logger = logging.getLogger("rayfactory.cluster")


class Shortage:
    """Looks, in a thread of its own, whether a run that does not get on lacks something, and warns once of each.

    Args:
        config: of the run, with the encoder's device decided.
        share: of a CPU that the smallest piece of work takes.
    """

    def __init__(self, config: Config, share: float) -> None:
        self._config = config
        self._share = share
        # In which a block of the run itself comes to its end, whatever its statements do.
        self._patience_s = config.execution.timeout_s * config.embedding.batch_size + _BEYOND_S
        self._progress = time.monotonic()
        self._said = ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="shortage", daemon=True)
        self._thread.start()

    def got_on(self) -> None:
        """Take note that something came in. Any thread may call it."""
        self._progress = time.monotonic()

    def close(self) -> None:
        """Look no more. Ray is still connected."""
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        import ray

        while not self._ended.wait(_LOOK_S) and ray.is_initialized():
            waited_s = time.monotonic() - self._progress
            with suppress(Exception):  # the cluster does not answer: others will say so
                whole: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
                free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
                self._tell(missing(self._config, self._share, whole, free if waited_s > self._patience_s else whole))

    def _tell(self, what: str) -> None:
        if what and what != self._said:
            logger.warning("%s. The run waits, and goes on by itself", what)
        elif self._said and not what:
            logger.warning("the cluster has what the run waited for")
        self._said = what


def missing(config: Config, share: float, whole: Mapping[str, float], free: Mapping[str, float]) -> str:
    """Return what a cluster lacks for a run, and what to do; empty where it lacks nothing.

    Args:
        config: of the run, with the encoder's device decided.
        share: of a CPU that the smallest piece of work takes.
        whole: what the nodes that are alive have, as Ray's resources.
        free: what of it nobody holds.
    """
    if whole.get("CPU", 0) < share:
        return (
            "no node of the cluster has CPUs for a run: add one (`ray start --address=HEAD`, or the autoscaler's room)"
        )
    gpu_share = config.embedding.gpu_share if config.embedding.device == "gpu" else 0.0
    if gpu_share and whole.get("GPU", 0) < gpu_share:
        return f"no node of the cluster has the {gpu_share:g} GPU that an encoder needs (embedding.device=gpu): add one"
    if free.get("CPU", 0) < share:
        held = whole["CPU"] - free.get("CPU", 0)
        return (
            f"{held:g} of the cluster's {whole['CPU']:g} CPUs are held by others, and nothing has come in for minutes: "
            "free some, or add a node. `ray status` tells who holds them"
        )
    return ""
