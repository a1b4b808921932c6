"""Which runs of a cluster use a served model: each holds a name for as long as it does.

A name is held by an actor that does nothing. It ends with its run, however that ends, so a killed run holds nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# One for all runs of a cluster, whose own namespaces differ.
_NAMESPACE = "rayfactory"
_DOOR = "serving"
_POLL_S = 0.1
_SAY_AFTER_S = 10.0
_RELEASE_S = 30.0


class _Holder:
    """Holds its name by being there."""


class Lease:
    """One run's use of an app, until `end` or the end of the run. Ray has to be connected."""

    def __init__(self, app: str) -> None:
        self._name = f"{app}:{uuid.uuid4().hex}"
        self._holder = _hold(self._name)

    def end(self) -> None:
        """Use the app no more; when this returns, every run can see it."""
        import ray

        ray.kill(self._holder)
        deadline = time.monotonic() + _RELEASE_S
        while self._name in _held() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def num_leases(app: str) -> int:
    """Return how many runs of the cluster use an app."""
    return sum(name.startswith(f"{app}:") for name in _held())


@contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """Have no other run of the cluster inside this with statement: apps are started and ended one after the other.

    Otherwise one run could find an app that another, which leaves it as the last one, is about to delete.
    """
    import ray

    begun, said = time.monotonic(), False
    while True:
        try:
            holder = _hold(_DOOR)
            break
        except ValueError:  # somebody has the name
            if not said and time.monotonic() - begun > _SAY_AFTER_S:
                say("waiting for another run on this cluster, which is starting or ending a model")
                said = True
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        ray.kill(holder)


def _hold(name: str) -> Any:
    """Return the actor that holds a name from now on.

    Raises:
        ValueError: somebody else holds it.
    """
    import ray

    # Where a node is lost, the name stays.
    holder = ray.remote(_Holder).options(name=name, namespace=_NAMESPACE, num_cpus=0, max_restarts=-1)
    return holder.remote()


def _held() -> list[str]:
    from ray.util import list_named_actors

    actors: list[Any] = list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in actors if actor["namespace"] == _NAMESPACE]
