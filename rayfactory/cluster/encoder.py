"""The encoder actors: one warm model on each node, which all that is judged there shares."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rayfactory.cluster.session import check_gpu_room
from rayfactory.config import Config
from rayfactory.tools.embedding import ENCODERS, Embedder

_NICENESS = 5
"""By how much the encoder, the hungriest of the stages, makes way for the critic, which takes one query at a time and
would be left with the last blocks while the other cores idle."""

MAX_CALLS = 16
"""Blocks that one encoder has in hand at a time, so that each stream finds a text."""


class Encoder:
    """The encoder of one node. It loads its model when it is first needed, once.

    Args:
        config: of the run.
        num_streams: texts that it encodes at a time on a CPU.
    """

    def __init__(self, config: Config, num_streams: int) -> None:
        self._config = config
        self._num_streams = num_streams
        self._loading = threading.Lock()
        self._embedder: Embedder | None = None
        os.nice(_NICENESS)

    def warm_up(self) -> int:
        """Load the model; return the dimension of its vectors.

        Raises:
            ConfigError: this node cannot encode as the run was begun.
        """
        return self._loaded().dimension

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors, float32[N, D], of normalised texts."""
        return self._loaded().encode(texts)

    def _loaded(self) -> Embedder:
        with self._loading:
            if self._embedder is None:
                cache = Path(self._config.data_dir) / ENCODERS
                self._embedder = Embedder(self._config.embedding, cache, self._num_streams)
            return self._embedder


def start_encoders(config: Config, options: Mapping[str, Any]) -> dict[str, Any]:
    """Start an encoder on each node that can have one; return their handles by the id of the node.

    Args:
        config: of the run, with the encoder's device decided.
        options: of an actor that can be made again from its arguments.

    Raises:
        ConfigError: no GPU is left for it.
    """
    import ray

    on_gpu = config.embedding.device == "gpu"
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}
    able = [node_id for node_id in sorted(alive) if can_encode(config, alive[node_id])]
    if on_gpu:
        check_gpu_room(config.embedding.gpu_share, "embedding.device=gpu", "set embedding.device=cpu in a new run_dir")
    # Where no node has what it takes, the one that is started all the same waits for such a node.
    return {
        node_id: start_encoder(config, options, str(i), node_id, alive[node_id])
        for i, node_id in enumerate(able or sorted(alive)[:1])
    }


def can_encode(config: Config, resources: Mapping[str, float]) -> bool:
    """Return whether a node with these resources can have an encoder."""
    return resources.get("GPU" if config.embedding.device == "gpu" else "CPU", 0) > 0


def start_encoder(
    config: Config, options: Mapping[str, Any], name: str, node_id: str, resources: Mapping[str, float]
) -> Any:
    """Start an encoder on a node; return its handle.

    Args:
        config: of the run, with the encoder's device decided.
        options: of an actor that can be made again from its arguments.
        name: unlike that of every other encoder.
        node_id: of the node.
        resources: of the node.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Ray has an actor that names a resource hold a CPU as well, unless it names that too.
    share = {"num_cpus": 0, "num_gpus": config.embedding.gpu_share} if config.embedding.device == "gpu" else {}
    actor: Any = ray.remote(Encoder)
    return actor.options(
        name=f"encoder-{name}",
        max_concurrency=MAX_CALLS,
        # Soft: where the node is lost, its encoder is started on another one.
        **share,
        **{**options, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True)},
    ).remote(config, max(1, int(resources.get("CPU", 1))))
