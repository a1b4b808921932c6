"""The nodes that a run works on, those that join while it goes on too, and which worker is on which."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rayfactory.cluster.delivery import keeping_off, nodes_without
from rayfactory.config import ClusterConfig
from rayfactory.databases.engine import Database

logger = logging.getLogger("rayfactory.cluster")


class Workplaces:
    """How many workers of each kind a run has, and where.

    They are as many as the cluster has CPUs, or as `cluster.workers` says. Of a cluster that has fewer CPUs than that,
    more are asked, which one that scales by itself gives; its workers start as nodes join.

    Args:
        config: of the cluster. Ray has to be connected.
        databases: that workers open, by name.

    Attributes:
        num_workers: of each kind, at least 1.
    """

    def __init__(self, config: ClusterConfig, databases: Mapping[str, Database]) -> None:
        self._wanted = config.workers
        self._is_own = not config.address
        self._databases = databases
        nodes = _alive()
        self._known = set(nodes)
        self._kept_off = nodes_without(databases, nodes)
        self._node_of: dict[int, str] = {}
        num_cpus = max(1, sum(_cpus(resources) for resources in nodes.values()))
        self.num_workers = self._wanted or num_cpus
        if not self._is_own and self._wanted > num_cpus:
            self.num_workers = num_cpus
            _ask_for(self._wanted)
            logger.warning(
                "the cluster has %d CPUs for cluster.workers=%d: more are asked for, and workers start as nodes join",
                num_cpus,
                self._wanted,
            )

    def look(self) -> dict[str, Mapping[str, float]]:
        """Take in the nodes that have joined since the last call; return the resources of each, by its id."""
        if self._is_own:
            return {}
        new = {node_id: resources for node_id, resources in _alive().items() if node_id not in self._known}
        if not new:
            return {}
        self._known.update(new)
        unable = nodes_without(self._databases, new)
        self._kept_off += unable
        for node_id in unable:
            del new[node_id]
        before = self.num_workers
        for node_id in sorted(new):
            room = _cpus(new[node_id])
            if self._wanted:
                room = min(room, self._wanted - self.num_workers)
            self._node_of.update((self.num_workers + i, node_id) for i in range(room))
            self.num_workers += max(0, room)
        if self.num_workers > before:
            logger.warning("%d node(s) joined: %d workers of each kind now", len(new), self.num_workers)
        return new

    def options(self, number: int) -> dict[str, Any]:
        """Return the options that tell Ray where the worker of a number is to be."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node_id = self._node_of.get(number)
        if node_id is None:
            return keeping_off(self._kept_off)
        # Soft: where the node is lost, its workers are started elsewhere.
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True)}

    def close(self) -> None:
        """Ask for no more CPUs."""
        if not self._is_own and self._wanted:
            _ask_for(0)


def _alive() -> dict[str, Mapping[str, float]]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"]}


def _cpus(resources: Mapping[str, float]) -> int:
    return int(resources.get("CPU", 0))


def _ask_for(num_cpus: int) -> None:
    """Have the autoscaler, where there is one, see to so many CPUs in all."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=num_cpus)
