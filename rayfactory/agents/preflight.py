"""Whether the prompts of a run fit into its models' context windows, before anything is started or paid."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rayfactory.agents import baselines
from rayfactory.agents.critical import critical_prompt
from rayfactory.agents.expansion import expansion_prompt
from rayfactory.agents.management import LAG, Past, management_prompt
from rayfactory.agents.player import Player, player_of, stand_in_of
from rayfactory.agents.seed_selection import CONSTRUCTS, PoolSeed, seed_prompt
from rayfactory.agents.table_selection import table_prompt
from rayfactory.config import AGENTS, Config, Slot
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.prompts import Prompts
from rayfactory.models.replies import MAX_ADVICE_CHARACTERS
from rayfactory.models.schema_text import name_text, smallest_tokens
from rayfactory.records import REJECT_REASONS, Evaluation, Failure, Request, Seed


def check_context_windows(config: Config, schemas: Mapping[str, Schema]) -> None:
    """Return if every agent that a model plays can be asked about every database.

    What is tried is the smallest prompt of each: for an author about the table that takes the most, with short queries
    wherever queries are shown. What is longer in the run is cut, or left to the agent's rule, and told; so is a
    correction for which there is no room.

    Raises:
        ConfigError: a context window is too small; the message names the model and what it lacks.
    """
    prompts = Prompts(telling=False)
    for agent in AGENTS:
        player = player_of(config, agent, _never, prompts)
        if player is None:
            continue
        stand_in = stand_in_of(config, player) if agent == "generation" else None
        for schema in schemas.values():
            try:
                for each in filter(None, (player, stand_in)):
                    _try_prompt(agent, config, schema, schemas, each)
            except ConfigError as error:
                # An author's message has the database in it, and the others' prompts are about none.
                about = f"database {schema.database!r}: " if agent.endswith("_selection") else ""
                has_rule = agent != "generation" or config.models.method == "factory"
                or_rule = f", or leave the agent to its rule: models.{agent}.model=rule" if has_rule else ""
                raise ConfigError(f"{about}{error}{or_rule}") from None


def _try_prompt(
    agent: str, config: Config, schema: Schema, schemas: Mapping[str, Schema], player: Player
) -> Prompt | tuple[Prompt, object]:
    """Make the smallest prompt of an agent.

    Raises:
        ConfigError: it does not fit.
    """
    widest = max(schema.populated, key=partial(smallest_tokens, schema)).name
    sql = f"SELECT * FROM {name_text(widest)}"
    num_seeds, num_requests = config.seed_selection.num_seeds, config.round.requests
    match agent:
        case "generation":
            return baselines.craft(config).prompt(_request(config, schema, widest, ()), player, schemas)
        case "expansion":
            return expansion_prompt(_request(config, schema, widest, (Seed(0, sql),)), player, schemas)
        case "table_selection":
            return table_prompt(schema, {}, num_requests, config.table_selection.max_tables, player)
        case "seed_selection":
            seeds = [PoolSeed(0, sql, (widest,), (False,) * len(CONSTRUCTS))] * num_seeds
            return seed_prompt(schema, seeds, seeds, {}, num_requests, num_seeds, player)
        case "management":
            newest = Evaluation(9_999, "EXP", 999, 0.5, 0.5, 0.5, dict.fromkeys(REJECT_REASONS, 999), {}, {})
            return management_prompt(Past(10_000 + LAG, ["EXP"] * LAG, 0, 0.5, (newest,)), player)
        case "critical":
            return critical_prompt([Failure(schema.database, sql, "error", "")], schemas, player)
    raise AssertionError(agent)


def _request(config: Config, schema: Schema, widest: str, seeds: tuple[Seed, ...]) -> Request:
    """Return a request for a table and as many others, by the longest names, as one may have; with advice if any is."""
    others = sorted((table.name for table in schema.populated if table.name != widest), key=len, reverse=True)
    tables = (widest, *others[: config.table_selection.max_tables - 1])
    advice = "word " * (MAX_ADVICE_CHARACTERS // 5) if config.models.critical.model != "rule" else ""
    num_queries = config.round.queries_per_request
    return Request(
        0, 0, "expansion" if seeds else "generation", schema.database, tables, seeds, (), num_queries, 0, advice
    )


async def _never(slot: Slot, key: CallKey, prompt: Prompt) -> Completion:
    raise AssertionError(f"{slot} was asked for {key}: {prompt.user[:80]!r}")
