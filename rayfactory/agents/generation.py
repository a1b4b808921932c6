"""The Generation Agent: new query structures over the tables of a request (equation 9, figure 4)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence

from rayfactory.agents.player import Player
from rayfactory.agents.writing import Craft, emphasis
from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.models.completion import Prompt
from rayfactory.models.grammar import write_queries
from rayfactory.records import Candidate, Request

OFFLINE_MODEL = "offline-grammar"
"""What `model` says in the pool for queries that this agent's rule wrote."""


def generate(request: Request, schema: Schema, engine: Engine | None) -> list[Candidate]:
    """Answer a generation request by the agent's rule, the schema grammar.

    Args:
        request: with the tables to write about.
        schema: of the request's database.
        engine: for bounded look-ups of rows that satisfy a join; None: no row is looked at.
    """
    rng, use = random.Random(request.rng_seed), dict(request.table_use)
    queries = write_queries(schema, request.tables, request.num_queries, rng, engine, use)
    return as_candidates(request, schema.dialect, queries, OFFLINE_MODEL)


def generation_prompt(request: Request, player: Player, schemas: Mapping[str, Schema]) -> Prompt:
    """Return the prompt of a generation request (figure 4).

    Where the model's decoding follows a grammar it asks for one query, and the grammar is put in later.

    Raises:
        ConfigError: it does not fit into the model's context window.
    """
    values = {
        "num_queries": request.num_queries,
        "bare": player.model.constrained,
        "advice": request.advice,
        "emphasis": emphasis(request),
    }
    schema = schemas[request.database]
    return player.prompts.about_tables("generation", schema, request.tables, player.model, player.agent, values)


CRAFT = Craft(generate, generation_prompt)
"""How this agent answers: by its rule, or with a model."""


def as_candidates(request: Request, dialect: str, queries: Sequence[str], model: str) -> list[Candidate]:
    """Return what an author wrote as candidates, in its order.

    `prompt_sha256` covers what the author was asked: the request with its tables, seeds and random seed.
    """
    asked = repr(
        (request.origin, request.database, request.tables, request.seeds, request.num_queries, request.rng_seed)
    )
    return [
        Candidate(
            round=request.round,
            request=request.index,
            ordinal=ordinal,
            origin=request.origin,
            database=request.database,
            dialect=dialect,
            sql=text.strip().rstrip(";").rstrip(),
            num_request_tables=len(request.tables),
            seed_ids=tuple(seed.query_id for seed in request.seeds),
            model=model,
            prompt_sha256=hashlib.sha256(asked.encode()).hexdigest(),
        )
        for ordinal, text in enumerate(queries[: request.num_queries])
    ]
