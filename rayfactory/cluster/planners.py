"""Those who plan: management, the two selection agents and the adviser, each on a model, as an actor, or on its rule.

Each answer comes with what happened between the agent and its model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from rayfactory.agents.critical import advise
from rayfactory.agents.management import ManagementAgent, Situation, decide_with_model
from rayfactory.agents.seed_selection import PoolSeed, SeedSelectionAgent, select_seeds_with_model
from rayfactory.agents.table_selection import Ask, TableSelectionAgent, Use, select_tables_with_model
from rayfactory.cluster.gateway import player
from rayfactory.config import Config
from rayfactory.databases.schema import Schema
from rayfactory.records import Failure, State, Tally

Tallies = tuple[Tally, ...]


class _Planner:
    """What all four have: settings, schemas, and a model where one plays the agent."""

    agent: ClassVar[str]

    def __init__(self, config: Config, schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._schemas = schemas
        self._player = player(config, self.agent)


class Manager(_Planner):
    """The Management Agent."""

    agent = "management"

    async def decide(self, num_requests: int, situation: Situation) -> tuple[tuple[State, list[str]], Tallies]:
        """Return the state of the next round and the database of each of its requests."""
        management, rounds = self._config.management, self._config.round
        if self._player is None:
            return ManagementAgent(management, rounds).decide(num_requests, situation), ()
        decision, tally = await decide_with_model(num_requests, situation, management, rounds, self._player)
        return decision, (tally,)


class TableSelector(_Planner):
    """The Table Selection Agent."""

    agent = "table_selection"

    async def select(self, number: int, asks: Sequence[Ask], use: Use) -> tuple[list[tuple[str, ...]], Tallies]:
        """Return the tables of each request, in order."""
        settings = self._config.table_selection
        if self._player is None:
            return TableSelectionAgent(settings, self._schemas).select(asks, use), ()
        tables, tally = await select_tables_with_model(number, asks, use, settings, self._schemas, self._player)
        return tables, (tally,)


class SeedSelector(_Planner):
    """The Seed Selection Agent."""

    agent = "seed_selection"

    async def select(
        self, number: int, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use
    ) -> tuple[list[list[PoolSeed]], Tallies]:
        """Return the seeds of each request, in order."""
        settings = self._config.seed_selection
        if self._player is None:
            return SeedSelectionAgent(settings, self._schemas).select(asks, shelves, use), ()
        seeds, tally = await select_seeds_with_model(number, asks, shelves, use, settings, self._schemas, self._player)
        return seeds, (tally,)


class Adviser(_Planner):
    """The Critical Agent as far as it speaks; what it counts and compares is `critic.CriticalAgent`'s."""

    agent = "critical"

    async def advise(self, number: int, failures: Sequence[Failure]) -> tuple[str, Tallies]:
        """Return what the authors should know of the failures of a round; nothing where no model plays the agent."""
        if self._player is None:
            return "", ()
        advice, tally = await advise(number, failures, self._schemas, self._player)
        return advice, (tally,)


PLANNING_AGENTS: dict[str, type[_Planner]] = {
    "management": Manager,
    "table_selection": TableSelector,
    "seed_selection": SeedSelector,
    "adviser": Adviser,
}
"""Those who plan, by the names of their actors."""
