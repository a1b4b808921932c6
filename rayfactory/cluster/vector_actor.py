"""Vectors that no longer have room in a critic: each store is an actor of its own, and all of them search at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rayfactory.cluster.session import check_gpu_room
from rayfactory.config import ClusterConfig
from rayfactory.errors import ConfigError

if TYPE_CHECKING:
    from rayfactory.tools.vector_store import Nearest

_GPU_SHARE = 0.1
"""What Ray is asked for, so that an actor sees a GPU; how much of its memory is taken is the setting's to say."""


def options_with_gpu(config: ClusterConfig) -> dict[str, Any]:
    """Return the options of an actor with vectors.

    Only where it needs a GPU is anything asked for: an actor that asks for a resource, if it were 0 of it, holds a CPU.
    """
    spread: dict[str, Any] = {"scheduling_strategy": "SPREAD"}
    return spread | {"num_gpus": _GPU_SHARE, "num_cpus": 0} if config.index_gpu_memory_gb else spread


def check_index_gpu(config: ClusterConfig) -> None:
    """Return if a GPU can search, where one is to.

    Raises:
        ConfigError: there is none that is free, or FAISS cannot use it.
    """
    if config.index_gpu_memory_gb:
        from rayfactory.tools.vector_store import can_use_gpus

        remedy = "set cluster.index_gpu_memory_gb=0"
        check_gpu_room(config.index_shards * _GPU_SHARE, "cluster.index_gpu_memory_gb", remedy)
        if not can_use_gpus():
            raise ConfigError(
                f"cluster.index_gpu_memory_gb needs the package faiss-gpu (pip install '.[gpu]'), or {remedy}"
            )


class RemoteStore:
    """A `VectorStore` in an actor. It ends with the critic that it belongs to, and is not restarted: it would be empty.

    Args:
        dimension: D.
        config: of the cluster.
    """

    def __init__(self, dimension: int, config: ClusterConfig) -> None:
        import ray

        from rayfactory.tools.vector_store import VectorStore

        self._actor: Any = (
            ray.remote(VectorStore).options(**options_with_gpu(config)).remote(dimension, config.index_gpu_memory_gb)
        )

    def add(self, vectors_ND: npt.NDArray[np.float32]) -> None:
        """Add vectors at the end."""
        self._wait(self._actor.add.remote(vectors_ND))

    def nearest(self, vectors_BD: npt.NDArray[np.float32], count: int) -> Callable[[], list[Nearest]]:
        """Begin a search, and return what waits for its result."""
        reference = self._actor.search.remote(vectors_BD, count)
        return lambda: self._wait(reference)

    def take(self, places_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Return the vectors at some places."""
        vectors_CD: npt.NDArray[np.float32] = self._wait(self._actor.take.remote(places_C))
        return vectors_CD

    def move(self, inverted_file: npt.NDArray[np.uint8]) -> None:
        """Move all vectors into an inverted file."""
        self._wait(self._actor.move.remote(inverted_file))

    @staticmethod
    def _wait(reference: Any) -> Any:
        import ray

        return ray.get(reference)
