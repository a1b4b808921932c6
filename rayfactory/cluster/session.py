"""Starting or joining a Ray cluster, and leaving it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from rayfactory.config import ClusterConfig
from rayfactory.errors import ConfigError, EngineError

START_ATTEMPTS = 3
"""Times that a cluster on this machine is tried to be started."""

logger = logging.getLogger("rayfactory.cluster")


@dataclass(frozen=True, slots=True)
class Session:
    """A connection to a Ray cluster.

    Attributes:
        dashboard: address of the Ray dashboard, empty where there is none.
    """

    dashboard: str


@contextmanager
def connected(config: ClusterConfig, kept_back: Collection[str] = ()) -> Iterator[Session]:
    """Join the cluster at `config.address`, or start one on this machine, for the length of a with statement.

    Args:
        config: of the cluster.
        kept_back: variables of the environment that the processes of a cluster which is started here do not get: keys,
            which the gateway alone is told, by a call.

    Raises:
        ConfigError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A run starts a dozen small actors at once; Ray would warn of each beyond the number of CPUs.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "16")
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    if config.address:
        # Of a cluster that does not answer Ray asks twenty times, which takes a quarter of an hour.
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "4")
    import ray

    if config.address:
        context = _joined(config.address)
    else:
        with _environment_without(kept_back):
            context = _started_here(config)
    try:
        _set_up_ray_data()
        url = context.dashboard_url or ""
        yield Session(f"http://{url}" if url else "")
    finally:
        ray.shutdown()


def _joined(address: str) -> Any:
    """Join the cluster at an address.

    Raises:
        ConfigError: there is none.
    """
    import ray

    try:
        _check_reachable(address)
        return ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # noqa: BLE001 - Ray has no type for it
        reason = (str(error).strip().splitlines() or [repr(error)])[0]
        raise ConfigError(
            f"no Ray cluster could be reached at cluster.address={address!r} ({reason}); "
            "start one with `ray start --head`, or leave cluster.address out to have one started here"
        ) from None


def _started_here(config: ClusterConfig) -> Any:
    """Start a cluster on this machine, trying again where it is busy: Ray waits for its node for 30 seconds, no longer.

    Raises:
        EngineError: it did not start in any attempt.
    """
    import ray

    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            return ray.init(
                address="local",
                num_cpus=config.num_cpus or None,
                include_dashboard=config.dashboard,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # a bare one; Ray has no type for it
            # Where this process is on a cluster already, that is its owner's.
            if attempt == START_ATTEMPTS or ray.is_initialized():
                raise EngineError(
                    f"Ray could not be started on this machine ({error}); where it is busy, start again later"
                ) from error
            logger.warning("Ray did not start on this machine (%s); it is tried again", error)
            ray.shutdown()
    raise AssertionError("unreachable")


@contextmanager
def _environment_without(names: Collection[str]) -> Iterator[None]:
    """Leave variables out of the environment of what is started in a with statement."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def check_gpu_room(share: float, what: str, remedy: str) -> None:
    """Return if the cluster has a GPU, or the share of one, that nobody holds: Ray would wait for one for ever.

    Raises:
        ConfigError: it has not.
    """
    import ray

    free = float(ray.available_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if free < share:
        raise ConfigError(f"{what} needs {share:g} GPU, and {free:g} of the cluster's are free; free one, or {remedy}")


def _check_reachable(address: str) -> None:
    """Return if something listens at ``host:port``; other forms of address are Ray's to resolve.

    Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    host, separator, port = address.rpartition(":")
    if separator and "/" not in address and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


_FIRST_LIMITS_INTERVAL_S, _LIMITS_INTERVAL_S = 0.1, 1.0
"""Seconds after which a dataset asks again what the cluster has for it: until it is told of something, and then."""


def _set_up_ray_data() -> None:
    """Have datasets use the cluster from their beginning, in order; keep their notices off the panel's terminal."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.verbose_progress = False
    context.execution_options.preserve_order = True
    for name in ("ray.data", "ray.serve", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # The first answer to a dataset's question what the cluster has is always nothing, so that it runs one task at a
    # time until it asks again: for a whole second, if it is left to itself, of the few that a round is judged in.
    with suppress(ImportError):  # not part of what Ray promises
        from ray.data._internal.execution.resource_manager import ResourceManager

        ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = property(_limits_interval_s)  # type: ignore[assignment]


def _limits_interval_s(manager: Any) -> float:
    """Return how long a dataset's manager of resources goes by what it was told last."""
    return _LIMITS_INTERVAL_S if manager._global_limits.cpu else _FIRST_LIMITS_INTERVAL_S  # noqa: SLF001
