"""The Expansion Agent: variations and recombinations of seed queries (equation 11, figure 5)."""

from __future__ import annotations

import random

from rayfactory.agents.generation import as_candidates
from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.models.variation import write_variations
from rayfactory.records import Candidate, Request

OFFLINE_MODEL = "offline-variation"
"""What `model` says in the pool for queries that this agent's rule wrote."""


def expand(request: Request, schema: Schema, engine: Engine) -> list[Candidate]:
    """Answer an expansion request by the agent's rule, rewriting the seeds on their syntax trees.

    Args:
        request: with the seeds.
        schema: of the request's database.
        engine: for bounded look-ups of rows.
    """
    seeds = [seed.sql for seed in request.seeds]
    use = dict(request.table_use)
    rng = random.Random(request.rng_seed)
    queries = write_variations(schema, seeds, request.num_queries, rng, engine, use)
    return as_candidates(request, schema.dialect, queries, OFFLINE_MODEL)
