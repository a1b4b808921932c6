"""The actors that write: each with its own database connections, on a model or on its rule."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from rayfactory.agents import expansion, generation
from rayfactory.agents.writing import Craft, Desk, write
from rayfactory.cluster.gateway import player
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.records import Answer, Request
from rayfactory.tools.execution import Connections, ExecutionTool


class _Author:
    """What both authors have: a desk, and a model where one plays the author."""

    agent: str
    craft: Craft

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        self._config = config
        # Connections belong to the thread that opens them.
        self._desk = Desk(
            schemas,
            Connections(databases, config.execution),
            ExecutionTool(databases, schemas, config.execution),
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="databases"),
        )
        self._player = player(config, self.agent)

    async def answer(self, request: Request) -> Answer:
        """Return the candidates that a request asked for."""
        desk = self._desk
        if self._player is not None:
            correct = self._config.models.self_correction
            return await write(request, self.craft, self._player, desk, self_correction=correct)

        def by_rule() -> Answer:
            engine = desk.connections.get(request.database)
            return Answer(tuple(self.craft.rule(request, desk.schemas[request.database], engine)))

        return await desk.in_thread(by_rule)


class GenerationAgent(_Author):
    """The Generation Agent."""

    agent = "generation"
    craft = generation.CRAFT


class ExpansionAgent(_Author):
    """The Expansion Agent."""

    agent = "expansion"
    craft = expansion.CRAFT
