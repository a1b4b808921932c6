"""What a run with language models would ask, cost and start: `task=preview`. Nothing is asked, started or written."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rayfactory.agents.expansion import expansion_prompt
from rayfactory.agents.generation import generation_prompt
from rayfactory.agents.management import ManagementAgent, Situation
from rayfactory.agents.planning import Knowledge, plan_round
from rayfactory.agents.player import MAX_DECISION_TOKENS, Player, player_of
from rayfactory.agents.seed_selection import PoolSeed, SeedSelectionAgent
from rayfactory.agents.table_selection import Ask, TableSelectionAgent, Use, table_prompt
from rayfactory.config import AGENTS, Config, ModelConfig, Slot
from rayfactory.databases.schema import Schema
from rayfactory.errors import CompletionError
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.grammar import write_queries
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import estimated_tokens
from rayfactory.records import Failure, Request, Seed, State
from rayfactory.validate import used_slots

ADMITTED_SHARE = 0.85
"""Share of what models write that a pool takes: an assumption, on the cautious side of what strong models do."""

EXPLORED_SHARE = 0.4
"""Share of the candidates that exploring rounds write: an assumption; runs of the rules had about this."""

TOKENS_PER_QUERY = 160
"""Tokens of a query that a model writes: an assumption; the official TPC-DS queries have 400, BIRD's gold ones 60."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one agent would ask for, up to the target.

    Attributes:
        calls: completions.
        tokens_in, tokens_out: in all of them.
        cost_usd: at the model's prices, as if nothing were cached.
    """

    agent: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    cost_usd: float


def preview(config: Config, schemas: Mapping[str, Schema]) -> str:
    """Return the preview of a run as text: prompts, estimated tokens and dollars, and what would be started where.

    Raises:
        ConfigError: a prompt does not fit into its model's context window.
    """
    if not used_slots(config.models):
        return (
            "models=offline asks no model: nothing is sent and nothing is paid. "
            "models=paper, vllm, endpoint or vllm_cpu would.\n"
        )
    prompts = example_prompts(config, schemas)
    lines = ["# Prompts", ""]
    for agent, prompt in prompts.items():
        lines += [f"## {agent}: system", "", prompt.system, "", f"## {agent}: user", "", prompt.user, ""]
    lines += ["# Up to the target", "", *_table(config, estimates(config, schemas, prompts)), ""]
    lines += ["# What is started where", "", *_places(config)]
    return "\n".join(lines) + "\n"


def example_prompts(config: Config, schemas: Mapping[str, Schema]) -> dict[str, Prompt]:
    """Return a prompt of each agent that a model plays with one about tables: that of the run's first requests.

    The seeds of the expansion prompt are examples: queries of the schema grammar.

    Raises:
        ConfigError: one does not fit into its model's context window.
    """
    prompts = Prompts()
    players = {agent: player_of(config, agent, _ask_nobody, prompts) for agent in AGENTS}
    requests = plan_round(config, schemas, Knowledge(), None, _Rules(config, schemas)).requests
    request = requests[0]
    found: dict[str, Prompt] = {}
    generation, expansion, selection = (players[name] for name in ("generation", "expansion", "table_selection"))
    if selection is not None:
        found["table_selection"] = _table_selection_prompt(config, schemas[request.database], requests, selection)
    if generation is not None:
        found["generation"] = generation_prompt(request, generation, schemas)
    if expansion is not None:
        schema = schemas[request.database]
        queries = write_queries(
            schema, request.tables, config.seed_selection.num_seeds, random.Random(request.rng_seed), None
        )
        seeds = tuple(Seed(query_id, sql) for query_id, sql in enumerate(queries))
        seeded = replace(request, origin="expansion", seeds=seeds)
        found["expansion"] = expansion_prompt(seeded, expansion, schemas)
    return found


def estimates(config: Config, schemas: Mapping[str, Schema], prompts: Mapping[str, Prompt]) -> list[Estimate]:
    """Return what each agent that a model plays would ask for, as far as can be told beforehand.

    `EXPLORED_SHARE` of the candidates, and the warm-up at least, are taken for explored, `ADMITTED_SHARE` of them for
    admitted, and `TOKENS_PER_QUERY` tokens for a query. A run without a target is estimated for 1,000 rows.
    """
    queries = math.ceil((config.target or 1000) / ADMITTED_SHARE)
    if config.max_candidates is not None:
        queries = min(queries, config.max_candidates)
    per_round = config.round.requests * config.round.queries_per_request
    warmup = config.management.warmup_rounds * per_round
    explored = min(queries, max(warmup, math.ceil(EXPLORED_SHARE * queries)))
    rounds = math.ceil(queries / per_round)
    exploring = math.ceil(explored / per_round)
    asked = {"generation": explored, "expansion": queries - explored}
    found = []
    for agent in AGENTS:
        player = player_of(config, agent, _ask_nobody, Prompts())
        if player is None:
            continue
        if agent in asked:
            calls = math.ceil(asked[agent] / _queries_per_call(config, player))
            tokens_out = asked[agent] * TOKENS_PER_QUERY
        else:
            databases = min(len(schemas), config.round.requests)
            calls = {
                "table_selection": exploring * databases,
                "seed_selection": (rounds - exploring) * databases,
                "management": max(0, rounds - config.management.warmup_rounds),
                "critical": max(0, rounds - 2),
            }[agent]
            tokens_out = calls * MAX_DECISION_TOKENS // 8
        if agent in prompts:
            per_call = estimated_tokens(prompts[agent].system) + estimated_tokens(prompts[agent].user)
        else:
            per_call = MAX_DECISION_TOKENS
        tokens_in = calls * per_call
        cost = (tokens_in * player.model.usd_per_million_in + tokens_out * player.model.usd_per_million_out) / 1e6
        if player.model.batch and agent == "generation":
            cost *= player.model.batch_price
        found.append(Estimate(agent, player.model.name, calls, tokens_in, tokens_out, cost))
    return found


def _table(config: Config, found: Sequence[Estimate]) -> Iterator[str]:
    yield f"{'agent':<16} {'model':<28} {'calls':>8} {'tokens in':>12} {'tokens out':>12} {'US dollars':>11}"
    total = Estimate(
        "together",
        "",
        sum(e.calls for e in found),
        sum(e.tokens_in for e in found),
        sum(e.tokens_out for e in found),
        sum(e.cost_usd for e in found),
    )
    for e in [*found, total]:
        yield f"{e.agent:<16} {e.model:<28} {e.calls:>8,} {e.tokens_in:>12,} {e.tokens_out:>12,} {e.cost_usd:>11.2f}"
    yield ""
    yield (
        f"Estimated for {config.target or 1000:,} rows: {ADMITTED_SHARE:.0%} of the candidates admitted, "
        f"{EXPLORED_SHARE:.0%} of them from exploring, "
        f"{TOKENS_PER_QUERY} tokens a query, nothing cached, no corrections."
    )
    if config.max_cost_usd is None:
        yield "max_cost_usd is not set: nothing bounds what the run may spend."
    else:
        yield f"max_cost_usd={config.max_cost_usd:g} is never passed; the run stops before."


def _places(config: Config) -> Iterator[str]:
    where = f"the cluster at {config.cluster.address}" if config.cluster.address else "a Ray cluster of this machine"
    yield f"Ray: {where}; authors, critics and the way to the models as actors."
    for slot in used_slots(config.models):
        model: ModelConfig = getattr(config.models, slot)
        agents = [agent for agent in AGENTS if getattr(config.models, agent).model == slot]
        yield f"{slot} ({model.name}) for {', '.join(agents)}: {_place(model)}"


def _place(model: ModelConfig) -> str:
    serving = model.serving
    if serving.weights:
        ranks = serving.tensor_parallel_size * serving.pipeline_parallel_size
        replicas = (
            f"{serving.min_replicas}"
            if serving.min_replicas == serving.max_replicas
            else f"{serving.min_replicas} to {serving.max_replicas}"
        )
        devices = f"{ranks} {serving.device.upper()}(s)"
        return f"vLLM on Ray Serve with {serving.weights}, {replicas} replica(s) of {devices} each"
    key = "no key"
    if model.api_key_env:
        state = "set" if os.environ.get(model.api_key_env) else "not set"
        key = f"the key in {model.api_key_env}, which is {state}"
    sent = ", generation in batch files" if model.batch else ""
    return f"{model.base_url} with {key}, up to {model.max_in_flight} requests in flight{sent}"


def _queries_per_call(config: Config, player: Player) -> int:
    return 1 if player.model.constrained else config.round.queries_per_request


def _table_selection_prompt(config: Config, schema: Schema, requests: Sequence[Request], player: Player) -> Prompt:
    count = sum(request.database == schema.database for request in requests)
    return table_prompt(schema, {}, count, config.table_selection.max_tables, player)


async def _ask_nobody(_slot: Slot, _key: CallKey, _prompt: Prompt) -> Completion:
    raise CompletionError("a preview asks nobody")


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
