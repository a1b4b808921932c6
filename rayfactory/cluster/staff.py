"""Who works for a run: the actors of each kind, where they start, and where they go as nodes come and are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from itertools import count
from typing import Any

from rayfactory.bucket.store import is_url
from rayfactory.cluster.authors import ExpansionAgent, GenerationAgent
from rayfactory.cluster.delivery import shipped
from rayfactory.cluster.encoder import can_encode, start_encoder, start_encoders
from rayfactory.cluster.gateway import CALLS_AT_ONCE
from rayfactory.cluster.losses import as_own, brief, is_loss
from rayfactory.cluster.planners import PLANNING_AGENTS
from rayfactory.cluster.schema_store import in_object_store
from rayfactory.cluster.tool_worker import ToolWorker
from rayfactory.cluster.workplaces import Workplaces
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema

AUTHORS = ("generation", "expansion")
"""The kinds of actors that write."""

OPENING_DATABASES = (*AUTHORS, "tools")
"""The kinds that open databases."""

_STATELESS: dict[str, Any] = {"max_restarts": -1, "max_task_retries": 1, "scheduling_strategy": "SPREAD"}
"""Options of the actors that can be made again from their arguments: a lost call is made once more.

No `num_cpus`: Ray then places an actor where a CPU is free and lets it hold none. Authors, workers and dataset tasks
take turns on the CPUs; held shares would leave a small cluster without a CPU for the tasks.
"""

logger = logging.getLogger("rayfactory.cluster")


class Staff:
    """The actors of one run that can be made again from their arguments. Any thread may ask for them.

    Args:
        config: of the run. Ray has to be connected.
        databases: of the run, by name.
        schemas: of the run, by database name.

    Attributes:
        encoders: those that are at work, by the id of their node.
        homes: tells which workers are to work with which database.
    """

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        import ray

        self._config = config
        if config.cluster.databases == "shipped" or is_url(config.benchmark.root):
            databases = shipped(databases, config.cluster)
        # Held for as long as the run goes on, since an actor that is restarted takes them again.
        self._shared = both = [ray.put(dict(databases)), ray.put(in_object_store(schemas))]
        self._kinds: dict[str, tuple[type, list[Any]]] = {
            **{kind: (agent, both[1:]) for kind, agent in PLANNING_AGENTS.items()},
            "generation": (GenerationAgent, both),
            "expansion": (ExpansionAgent, both),
            "tools": (ToolWorker, both),
        }
        self._started: dict[str, list[Any]] = {}
        self._starting = threading.Lock()
        self.encoders: dict[str, Any] = {}
        self._warm: list[Any] = []
        self._coming: dict[str, tuple[Any, Any]] = {}
        self._numbers = count()
        self._workplaces = Workplaces(config.cluster, databases)
        self.homes = self._workplaces.homes

    def actors(self, kind: str) -> list[Any]:
        """Return the actors of a kind, after starting those that are not there yet."""
        with self._starting:
            started = self._started.setdefault(kind, [])
            wanted = self._workplaces.num_workers if kind in OPENING_DATABASES else 1
            started += [self._start(kind, number) for number in range(len(started), wanted)]
            return list(started)

    def start_encoders(self) -> None:
        """Start an encoder on each node that can have one, and have it load its model.

        Raises:
            ConfigError: no GPU is left for one.
        """
        self.encoders.update(start_encoders(self._config, _STATELESS))
        self._warm = [encoder.warm_up.remote() for encoder in self.encoders.values()]

    def await_encoders(self) -> None:
        """Wait until they are warm: other nodes than this one may not encode as it does.

        Raises:
            ConfigError: a node cannot encode as the run was begun.
        """
        import ray

        try:
            ray.get(self._warm)
        except ray.exceptions.RayError as error:
            if not is_loss(error):  # one that is lost is started again
                raise as_own(error, "an encoder could not start") from error

    def look_round(self) -> None:
        """Take in nodes that have joined: encoders start there, further workers, and those whose node is lost."""
        news = self._workplaces.look()
        for node_id, resources in news.nodes.items():
            if can_encode(self._config, resources):
                name = f"joined-{next(self._numbers)}"
                encoder = start_encoder(self._config, _STATELESS, name, node_id, resources)
                self._coming[node_id] = encoder, encoder.warm_up.remote()
        self._take_in_encoders()
        for number in news.moved:
            self._move(number)

    def close(self) -> None:
        """Ask for no more CPUs."""
        self._workplaces.close()

    def _start(self, kind: str, number: int, again: str = "") -> Any:
        """Start an actor of a kind, in place of another one of its number where it is started again."""
        import ray

        agent, shared = self._kinds[kind]
        actor: Any = ray.remote(with_shared(agent, shared))
        options = _STATELESS | ({"max_concurrency": CALLS_AT_ONCE} if kind in AUTHORS else {})
        place = self._workplaces.options(number) if kind in OPENING_DATABASES else {}
        return actor.options(name=f"{kind}-{number}{again}", **(options | place)).remote(self._config)

    def _move(self, number: int) -> None:
        """Have the workers of a number start where their place is now.

        A request that one has in hand is asked again; of what was paid for it, nothing is lost.
        """
        import ray

        with self._starting:
            for kind, started in self._started.items():
                if kind in OPENING_DATABASES and number < len(started):
                    ray.kill(started[number])
                    started[number] = self._start(kind, number, f"-moved-{next(self._numbers)}")

    def _take_in_encoders(self) -> None:
        """Have those that joined and are warm encode; one whose node cannot encode as this run does is let go."""
        import ray

        for node_id, (encoder, warm) in list(self._coming.items()):
            if not ray.wait([warm], timeout=0)[0]:
                continue
            del self._coming[node_id]
            try:
                ray.get(warm)
            except ray.exceptions.RayError as error:
                logger.warning("a node that joined encodes nothing (%s)", brief(error))
                ray.kill(encoder)
                continue
            self.encoders[node_id] = encoder


def with_shared(agent: type, shared: list[Any]) -> type:
    """Return the agent's class with the last arguments of its constructor taken out of the object store.

    The actor fetches them itself, when it is restarted too. As plain arguments Ray would complain of them.
    """

    class Actor(agent):  # type: ignore[misc]
        def __init__(self, *args: Any) -> None:
            import ray

            super().__init__(*args, *ray.get(shared))

    Actor.__name__ = Actor.__qualname__ = agent.__name__
    return Actor
