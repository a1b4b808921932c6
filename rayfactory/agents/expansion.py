"""The Expansion Agent: variations and recombinations of seed queries (equation 11, figure 5)."""

from __future__ import annotations

import random
from collections.abc import Mapping

from rayfactory.agents.generation import as_candidates
from rayfactory.agents.player import Player
from rayfactory.agents.writing import Craft, emphasis
from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models.completion import Prompt
from rayfactory.models.schema_text import query_text
from rayfactory.models.variation import write_variations
from rayfactory.records import Candidate, Request

OFFLINE_MODEL = "offline-variation"
"""What `model` says in the pool for queries that this agent's rule wrote."""

MAX_SEED_CHARACTERS = 4_000
"""A seed is cut to this in a prompt."""


def expand(request: Request, schema: Schema, engine: Engine | None) -> list[Candidate]:
    """Answer an expansion request by the agent's rule, rewriting the seeds on their syntax trees.

    Args:
        request: with the seeds.
        schema: of the request's database.
        engine: for bounded look-ups of rows; None: no row is looked at.
    """
    seeds = [seed.sql for seed in request.seeds]
    use = dict(request.table_use)
    rng = random.Random(request.rng_seed)
    queries = write_variations(schema, seeds, request.num_queries, rng, engine, use)
    return as_candidates(request, schema.dialect, queries, OFFLINE_MODEL)


def expansion_prompt(request: Request, player: Player, schemas: Mapping[str, Schema]) -> Prompt:
    """Return the prompt of an expansion request (figure 5): as many of its seeds as fit, but at least one.

    A seed is shown up to `MAX_SEED_CHARACTERS`; seeds that are left out for want of room are told.

    Where the model's decoding follows a grammar it asks for one query, and the grammar is put in later.

    Raises:
        ConfigError: it does not fit into the model's context window.
    """
    seeds = [query_text(seed.sql, MAX_SEED_CHARACTERS) for seed in request.seeds]
    while True:
        values = {
            "seeds": seeds,
            "num_queries": request.num_queries,
            "bare": player.model.constrained,
            "advice": request.advice,
            "emphasis": emphasis(request),
        }
        try:
            prompt = player.prompts.about_tables(
                "expansion", schemas[request.database], request.tables, player.model, player.agent, values
            )
        except ConfigError:
            if len(seeds) <= 1:
                raise
            seeds.pop()
            continue
        if left_out := len(request.seeds) - len(seeds):
            cut = f"{left_out} of {len(request.seeds)} seeds"
            player.prompts.tell_cut("expansion", player.model, request.database, "seeds", cut)
        return prompt


CRAFT = Craft(expand, expansion_prompt)
"""How this agent answers: by its rule, or with a model."""
