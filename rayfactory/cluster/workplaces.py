"""The nodes that a run works on, those that join while it goes on too, and which worker is on which."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from rayfactory.cluster.delivery import Shipped, keeping_off, nodes_without
from rayfactory.config import ClusterConfig
from rayfactory.databases.engine import Database

logger = logging.getLogger("rayfactory.cluster")


@dataclass(frozen=True, slots=True)
class Homes:
    """Which workers are to work with which database: those on nodes that have it, where nodes have some each.

    A database that is brought to nodes goes to a few of them, always the same, whatever else there is: as few as leave
    no worker without a database.

    Attributes:
        places: what stays of the node of each worker, its address; None: every node has all databases.
        num_databases: of the run.
    """

    places: tuple[str, ...] | None
    num_databases: int

    def of(self, database: str) -> list[int]:
        """Return the numbers of the workers for a database, in ascending order."""
        if self.places is None:
            raise ValueError("every node has all databases")
        nodes = sorted(set(self.places), key=lambda node: blake2b(f"{database}\0{node}".encode()).digest())
        near = set(nodes[: -(-len(nodes) // max(1, self.num_databases))])
        return [number for number, node in enumerate(self.places) if node in near]


@dataclass(frozen=True, slots=True)
class News:
    """What nodes that joined bring about.

    Attributes:
        nodes: the resources of each, by its id.
        moved: numbers of workers whose node is lost, and whose place is on one of these now.
    """

    nodes: Mapping[str, Mapping[str, float]]
    moved: Sequence[int]


class Workplaces:
    """How many workers of each kind a run has, and where.

    They are as many as the cluster has CPUs, or as `cluster.workers` says. Of a cluster that has fewer CPUs than that,
    more are asked, which one that scales by itself gives; its workers start as nodes join. A worker whose node is lost
    is started by Ray where there is room, and moves to the node that comes instead.

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
        self._are_shipped = any(isinstance(database, Shipped) for database in databases.values())
        nodes = _alive()
        self._known = dict(nodes)
        self._kept_off = nodes_without(databases, nodes)
        self.num_workers = self._count(nodes)
        self._has_asked = not self._is_own and self.num_workers < self._wanted
        if self._has_asked:
            _ask_for(self._wanted)
            logger.warning(
                "the cluster has %d CPUs for cluster.workers=%d: more are asked for, and workers start as nodes join",
                sum(node.num_cpus for node in nodes.values()),
                self._wanted,
            )
        # Nodes that cannot read the databases are kept off by another option, which names none of the others.
        self._node_of = {} if self._kept_off else dict(enumerate(_in_turn(nodes, self.num_workers)))

    def look(self) -> News:
        """Take in the nodes that have joined since the last call."""
        if self._is_own:
            return News({}, ())
        alive = _alive()
        new = {node_id: node for node_id, node in alive.items() if node_id not in self._known}
        if not new:
            return News({}, ())
        self._known.update(new)
        unable = nodes_without(self._databases, new)
        self._kept_off += unable
        for node_id in unable:
            del new[node_id]
        count = max(self.num_workers, self._count(alive))
        homeless = list[int]()
        if not self._kept_off:
            homeless = [n for n, node_id in self._node_of.items() if not alive.get(node_id, _NOWHERE).num_cpus]
        coming = [*homeless, *range(self.num_workers, count)]
        placed = dict(zip(coming, _in_turn(new, sum(node.num_cpus for node in new.values())), strict=False))
        self._node_of.update(placed)
        moved = [number for number in homeless if number in placed]
        if placed:
            logger.warning("%d node(s) joined: %d workers of each kind now, %d moved", len(new), count, len(moved))
        self.num_workers = count
        return News({node_id: node.resources for node_id, node in new.items()}, moved)

    def options(self, number: int) -> dict[str, Any]:
        """Return the options that tell Ray where the worker of a number is to be."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node_id = self._node_of.get(number)
        if self._kept_off or node_id is None or len(self._known) == 1:
            # Wherever Ray starts it again, too, it has to keep off the nodes that have no databases.
            return keeping_off(self._kept_off)
        # Soft: where the node is lost, its workers are started elsewhere.
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=True)}

    def homes(self) -> Homes:
        """Return which workers are to work with which database, of those that there are now."""
        numbers = range(self.num_workers)
        if not self._are_shipped or any(number not in self._node_of for number in numbers):
            return Homes(None, len(self._databases))
        addresses = tuple(self._known[self._node_of[number]].address for number in numbers)
        return Homes(addresses, len(self._databases))

    def _count(self, nodes: Mapping[str, _Node]) -> int:
        """Return how many workers of each kind nodes are enough for; what is wanted of a cluster started here."""
        if self._wanted and self._is_own:
            return self._wanted
        num_cpus = sum(node.num_cpus for node_id, node in nodes.items() if node_id not in self._kept_off)
        return max(1, min(num_cpus, self._wanted) if self._wanted else num_cpus)

    def close(self) -> None:
        """Ask for no more CPUs. What was asked for is the cluster's: of two runs that ask, the last word counts."""
        if self._has_asked:
            _ask_for(0)
            self._has_asked = False


@dataclass(frozen=True, slots=True)
class _Node:
    address: str
    resources: Mapping[str, float]

    @property
    def num_cpus(self) -> int:
        return int(self.resources.get("CPU", 0))


_NOWHERE = _Node("", {})


def _alive() -> dict[str, _Node]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: _Node(node["NodeManagerAddress"], node["Resources"]) for node in nodes if node["Alive"]}


def _in_turn(nodes: Mapping[str, _Node], count: int) -> Sequence[str]:
    """Return the nodes of so many workers: one on each in turn, and on none more than it has CPUs, if any has."""
    by_address = sorted(nodes, key=lambda node_id: (nodes[node_id].address, node_id))
    cpus = [(turn, place) for place, node_id in enumerate(by_address) for turn in range(nodes[node_id].num_cpus)]
    slots = [by_address[place] for _, place in sorted(cpus)] or by_address
    return [slots[number % len(slots)] for number in range(count if slots else 0)]


def _ask_for(num_cpus: int) -> None:
    """Have the autoscaler, where there is one, see to so many CPUs in all."""
    from ray.autoscaler.sdk import request_resources

    request_resources(num_cpus=num_cpus)
