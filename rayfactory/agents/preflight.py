"""Whether the prompts of a run fit into its models' context windows, before anything is started or paid."""

from __future__ import annotations

from collections.abc import Mapping

from rayfactory.agents.expansion import expansion_prompt
from rayfactory.agents.generation import generation_prompt
from rayfactory.agents.management import Situation, management_prompt
from rayfactory.agents.player import player_of
from rayfactory.config import Config, Slot
from rayfactory.databases.schema import Schema, Table
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import key_columns
from rayfactory.records import Request


def check_context_windows(config: Config, schemas: Mapping[str, Schema]) -> None:
    """Return if every agent that a model plays can be asked about every database.

    Authors need room for the table whose keys take the most; the selection agents and the adviser do with less, or
    leave it to their rules.

    Raises:
        ConfigError: a context window is too small; the message names the model and what it lacks.
    """
    prompts = Prompts()
    for agent, make_prompt in (("generation", generation_prompt), ("expansion", expansion_prompt)):
        player = player_of(config, agent, _never, prompts)
        if player is not None:
            for schema in schemas.values():
                make_prompt(_request(schema, config.round.queries_per_request), player, schemas)
    manager = player_of(config, "management", _never, prompts)
    if manager is not None:
        management_prompt(Situation((), (), {}, {}, {}), config.management, manager)


def _request(schema: Schema, num_queries: int) -> Request:
    def size(table: Table) -> int:
        return len(table.name) + sum(map(len, key_columns(schema, table)))

    widest = max(schema.populated, key=size)
    return Request(0, 0, "generation", schema.database, (widest.name,), (), (), num_queries, 0)


async def _never(slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
    raise AssertionError(f"{slot} was asked for {key}: {prompt.user[:80]!r}")
