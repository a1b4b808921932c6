"""An example of every prompt that the models of a run would be asked, made by the agents' own functions.

A run's later prompts rest on a pool that is not there yet. Queries of the schema grammar stand for its rows, and what
cannot be computed from them is made up; `MADE_UP` says of each prompt what that is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rayfactory.agents import baselines
from rayfactory.agents.critical import critical_prompt
from rayfactory.agents.expansion import expansion_prompt
from rayfactory.agents.management import MAX_ROUNDS_SHOWN, History, ManagementAgent, Past, Situation, management_prompt
from rayfactory.agents.planning import Knowledge, plan_round
from rayfactory.agents.player import Player, player_of
from rayfactory.agents.seed_selection import (
    CONSTRUCTS,
    SHORTLIST_PER_SEED,
    PoolSeed,
    SeedSelectionAgent,
    seed_prompt,
    seed_tables,
    shortlist,
)
from rayfactory.agents.table_selection import Ask, TableSelectionAgent, Use, table_prompt
from rayfactory.agents.writing import CORRECTION_TEMPERATURE, MAX_FAILED_CHARACTERS
from rayfactory.config import AGENTS, Config, Slot
from rayfactory.databases.schema import Schema
from rayfactory.errors import CompletionError, ConfigError
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.grammar import draw_grammar, write_queries
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import query_text, quoted
from rayfactory.records import Evaluation, Failure, Request, Seed, State
from rayfactory.tools.execution import examine

PROMPTS = (
    "table_selection",
    "generation",
    "expansion",
    "seed_selection",
    "management",
    "critical",
    "correction",
)
"""Every prompt that there is; `correction` is asked by the authors."""

MADE_UP: dict[str, str] = {
    "expansion": "the reference queries: queries of the schema grammar stand for rows of the pool",
    "seed_selection": "the collection: queries of the schema grammar stand for rows of the pool",
    "management": "all rounds and their numbers",
    "critical": "the failures: queries of the schema grammar with a column that does not exist",
    "correction": "the failures: queries of the schema grammar with a column that does not exist",
}
"""What of an example is made up; the other prompts are those of a run's first round."""

NUM_FAILED = 2
"""Queries that a correction takes back, and twice as many an advice rests on: an assumption."""

MAX_EXAMPLES = 600
"""About so many queries stand for the pool at most, so that a preview takes seconds."""

NO_COLUMN = "no_such_column"


@dataclass(frozen=True, slots=True)
class _Pool:
    """What stands for the pool: seeds of one database, and what references each of its tables."""

    schema: Schema
    requests: Sequence[Request]
    seeds: Sequence[PoolSeed]
    use: Mapping[str, float]


def example_prompts(config: Config, schemas: Mapping[str, Schema]) -> dict[str, Prompt]:
    """Return an example of each of `PROMPTS` that a model would be asked, in their order, about one database.

    One that does not fit into its model's context window is left out where a run would go on without it.

    Raises:
        ConfigError: one that a run cannot do without does not fit into its model's context window.
    """
    templates = Prompts()
    players = {agent: player_of(config, agent, ask_nobody, templates) for agent in AGENTS}
    plan = plan_round(
        config, schemas, Knowledge(History(config.management.warmup_rounds)), None, _Rules(config, schemas)
    )
    first = plan.requests[0]
    requests = [request for request in plan.requests if request.database == first.database]
    pool = _pool(config, schemas[first.database], requests)
    # The rule or the author itself answers where one of these does not fit.
    optional = {"table_selection", "seed_selection", "critical", "correction"}
    makers: dict[str, Callable[[Player], Prompt]] = {
        "table_selection": lambda player: table_prompt(
            pool.schema, {}, len(requests), config.table_selection.max_tables, player
        ),
        "generation": lambda player: _with_grammar(
            baselines.craft(config).prompt(first, player, schemas), first, pool, player
        ),
        "expansion": lambda player: _expansion(config, pool, player, schemas),
        "seed_selection": lambda player: _seed_selection(config, pool, player),
        "management": lambda player: management_prompt(_past(config, pool), player),
        "critical": lambda player: critical_prompt(_failures(pool, 2 * NUM_FAILED), schemas, player),
        "correction": lambda player: correction_prompt(first, _failures(pool, NUM_FAILED), player, schemas),
    }
    if config.models.self_correction:
        players["correction"] = players["generation"] or players["expansion"]
    found: dict[str, Prompt] = {}
    for name in PROMPTS:
        player = players.get(name)
        if player is None:
            continue
        with suppress(*([ConfigError] if name in optional else [])):
            found[name] = makers[name](player)
    return found


def correction_prompt(
    request: Request, failures: Sequence[Failure], player: Player, schemas: Mapping[str, Schema]
) -> Prompt:
    """Return the prompt that takes failed queries back to their author, as `agents.writing` asks it.

    Raises:
        ConfigError: it does not fit into the model's context window.
    """
    shown = [
        {
            "sql": query_text(failure.sql, MAX_FAILED_CHARACTERS),
            "reason": failure.reason,
            "detail": quoted(failure.detail, MAX_FAILED_CHARACTERS),
        }
        for failure in failures
    ]
    agent = replace(player.agent, temperature=min(player.agent.temperature, CORRECTION_TEMPERATURE))
    schema = schemas[request.database]
    return player.prompts.about_tables("correction", schema, request.tables, player.model, agent, {"failed": shown})


async def ask_nobody(_slot: Slot, _key: CallKey, _prompt: Prompt) -> Completion:
    """Be the way to a model of which nothing is asked."""
    raise CompletionError("a preview asks nobody")


def _pool(config: Config, schema: Schema, requests: Sequence[Request]) -> _Pool:
    """Return what the first round might leave of one database: as many queries as a seed selection is shown."""
    seeds: list[PoolSeed] = []
    use = dict.fromkeys((table.name for table in schema.populated), 0.0)
    count = min(SHORTLIST_PER_SEED * config.seed_selection.num_seeds, math.ceil(MAX_EXAMPLES / len(requests)))
    for request in requests:
        for sql in write_queries(schema, request.tables, count, random.Random(request.rng_seed), None):
            execution = examine(sql, schema.dialect)
            assert execution.features is not None
            constructs = tuple(getattr(execution.features, name) > 0 for name in CONSTRUCTS)
            seeds.append(PoolSeed(len(seeds), sql, execution.tables, constructs))
            for name in execution.tables:
                use[name] = use.get(name, 0.0) + 1
    return _Pool(schema, requests, seeds, use)


def _with_grammar(prompt: Prompt, request: Request, pool: _Pool, player: Player) -> Prompt:
    """Return the prompt with a grammar where the model's decoding follows one."""
    if not player.model.constrained:
        return prompt
    rng = random.Random(f"{request.rng_seed}/0")
    grammar = draw_grammar(pool.schema, request.tables, rng, None, max_tokens=player.model.max_output_tokens)
    return replace(prompt, grammar=grammar.ebnf())


def _expansion(config: Config, pool: _Pool, player: Player, schemas: Mapping[str, Schema]) -> Prompt:
    first = pool.requests[0]
    seeds = pool.seeds[: config.seed_selection.num_seeds]
    request = replace(
        first,
        origin="expansion",
        tables=seed_tables(seeds),
        seeds=tuple(Seed(seed.query_id, seed.sql) for seed in seeds),
    )
    return _with_grammar(expansion_prompt(request, player, schemas), request, pool, player)


def _seed_selection(config: Config, pool: _Pool, player: Player) -> Prompt:
    num_seeds, num_requests = config.seed_selection.num_seeds, len(pool.requests)
    rng = random.Random(pool.requests[0].rng_seed)
    choice = shortlist(pool.schema, pool.seeds, pool.use, SHORTLIST_PER_SEED * num_seeds * num_requests, rng)
    prompt, _ = seed_prompt(pool.schema, pool.seeds, choice, pool.use, num_requests, num_seeds, player)
    return prompt


def _past(config: Config, pool: _Pool) -> Past:
    """Return rounds that went well enough: as many as a prompt shows, and one more that is being judged."""
    asked = config.round.requests * config.round.queries_per_request
    database = pool.schema.database
    history = History(config.management.warmup_rounds)
    for number in range(MAX_ROUNDS_SHOWN):
        state: State = "GEN" if number < config.management.warmup_rounds else "EXP"
        errors, similar = asked // 20, asked // 10 if state == "EXP" else 0
        admitted = asked - errors - similar
        history.plan(state)
        history.judge(
            Evaluation(
                round=number,
                state=state,
                candidates=asked,
                executability=(asked - errors) / asked,
                admission_rate=admitted / asked,
                mean_similarity=0.40 + 0.01 * number,
                reasons={"error": errors} | ({"similar": similar} if similar else {}),
                requests={database: config.round.requests},
                admitted={database: admitted},
            )
        )
    history.plan("EXP")
    return history.past()


def _failures(pool: _Pool, count: int) -> list[Failure]:
    if pool.schema.dialect == "sqlite":
        detail = f"no such column: {NO_COLUMN}"
    else:
        detail = f'Binder Error: Referenced column "{NO_COLUMN}" not found in FROM clause!'
    return [
        Failure(pool.schema.database, seed.sql.replace("SELECT ", f"SELECT {NO_COLUMN}, ", 1), "error", detail)
        for seed in pool.seeds[:count]
    ]


class _Rules:
    """The planning agents on their rules, in this process."""

    def __init__(self, config: Config, schemas: Mapping[str, Schema]) -> None:
        self._management = ManagementAgent(config.management, config.round)
        self._tables = TableSelectionAgent(config.table_selection, schemas)
        self._seeds = SeedSelectionAgent(config.seed_selection, schemas)

    def decide(self, num_requests: int, situation: Situation) -> tuple[State, list[str]]:
        return self._management.decide(num_requests, situation)

    def select_tables(self, _number: int, asks: Sequence[Ask], use: Use) -> list[tuple[str, ...]]:
        return self._tables.select(asks, use)

    def select_seeds(
        self, _number: int, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use
    ) -> list[list[PoolSeed]]:
        return self._seeds.select(asks, shelves, use)

    def advise(self, _number: int, _failures: Sequence[Failure]) -> str:
        return ""
