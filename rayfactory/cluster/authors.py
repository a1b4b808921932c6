"""The actors that write: each with its own database connections, on a model or on its rule."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from rayfactory.agents import baselines, expansion
from rayfactory.agents.player import Player, stand_in_of
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

    def __init__(
        self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema], craft: Craft
    ) -> None:
        self._config = config
        self._craft = replace(craft, looks=config.profile.content)
        # Connections belong to the thread that opens them.
        self._desk = Desk(
            schemas,
            Connections(databases, config.execution),
            ExecutionTool(databases, schemas, config.execution),
            ThreadPoolExecutor(max_workers=1, thread_name_prefix="databases"),
        )
        self._player = player(config, self.agent)

    def _player_of(self, _request: Request) -> Player | None:
        """Return who answers a request; None: the rule."""
        return self._player

    async def answer(self, request: Request) -> Answer:
        """Return the candidates that a request asked for."""
        desk = self._desk
        asked = self._player_of(request)
        if asked is not None:
            correct = self._config.models.self_correction
            return await write(request, self._craft, asked, desk, self_correction=correct)
        return Answer(tuple(await desk.in_thread(partial(self._craft.by_rule, request, desk))))


class GenerationAgent(_Author):
    """The Generation Agent: by our method, or by another's (`models.method`)."""

    agent = "generation"

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        super().__init__(config, databases, schemas, baselines.craft(config))
        self._stand_in = None if self._player is None else stand_in_of(config, self._player)

    def _player_of(self, request: Request) -> Player | None:
        if self._stand_in is not None and baselines.is_local(request, self._config.models.local_share):
            return self._stand_in
        return self._player


class ExpansionAgent(_Author):
    """The Expansion Agent."""

    agent = "expansion"

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        super().__init__(config, databases, schemas, expansion.CRAFT)
