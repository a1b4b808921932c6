"""The actors that write: each with its own database connections, on a model or on its rule."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

from rayfactory.agents import baselines, expansion, generation
from rayfactory.agents.player import Player
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
        is_ours = config.models.method == "factory"
        super().__init__(config, databases, schemas, generation.CRAFT if is_ours else baselines.craft(config))
        self._local = None
        if config.models.local_share and self._player is not None:
            local = replace(config.models.generation, model="local")
            self._local = player(replace(config, models=replace(config.models, generation=local)), self.agent)

    def _player_of(self, request: Request) -> Player | None:
        if self._local is not None and baselines.is_local(request, self._config.models.local_share):
            return self._local
        return self._player


class ExpansionAgent(_Author):
    """The Expansion Agent."""

    agent = "expansion"

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        super().__init__(config, databases, schemas, expansion.CRAFT)
