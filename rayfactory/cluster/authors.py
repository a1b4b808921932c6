"""The actors that write: each with its own database connections, on a model or on its rule."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from rayfactory.agents.expansion import expand, expand_with_model
from rayfactory.agents.generation import generate, generate_with_model
from rayfactory.agents.writing import Desk, Rule
from rayfactory.cluster.gateway import player
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.records import Answer, Request
from rayfactory.tools.execution import Connections, ExecutionTool


class _Author:
    """What both authors have: a desk, and a model where one plays the author."""

    agent: str
    rule: Rule
    with_model: Callable[..., Awaitable[Answer]]

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
        desk, rule = self._desk, type(self).rule
        if self._player is not None:
            correct = self._config.models.self_correction
            return await type(self).with_model(request, self._player, desk, self_correction=correct)

        def write() -> Answer:
            engine = desk.connections.get(request.database)
            return Answer(tuple(rule(request, desk.schemas[request.database], engine)))

        return await desk.in_thread(write)


class GenerationAgent(_Author):
    """The Generation Agent."""

    agent = "generation"
    rule = staticmethod(generate)
    with_model = staticmethod(generate_with_model)


class ExpansionAgent(_Author):
    """The Expansion Agent."""

    agent = "expansion"
    rule = staticmethod(expand)
    with_model = staticmethod(expand_with_model)
