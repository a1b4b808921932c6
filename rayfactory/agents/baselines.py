"""The Generation Agent by the methods of others, to compare with (`models.method`).

Each writes what its publication says, from the schema alone or with a model. What our run does around an author is left
out by the settings of `conf/models/`: every round explores, tables are drawn by chance, and all that runs is admitted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from rayfactory.agents.generation import CRAFT, as_candidates
from rayfactory.agents.player import Player
from rayfactory.agents.writing import Craft
from rayfactory.config import Config, LearnedConfig
from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.models.baselines import learnedsqlgen, sqlsmith, templates
from rayfactory.models.completion import Prompt
from rayfactory.records import Candidate, Request

RULES = ("sqlsmith", "templates", "learnedsqlgen")
"""The methods that need no model. What they write has their name for its `model`."""

OMNISQL_LEVELS = {
    "simple": "one or two tables, a few conditions, no more than one aggregate",
    "moderate": "a join or two, grouping with an aggregate, a condition on the groups or an ordering",
    "complex": "several joins, a nested query or a common table expression, conditions that depend on each other",
    "highly complex": "several common table expressions or levels of nesting, window functions, set operations",
}
"""Levels of complexity that a request draws one of. Source: Li et al., "OmniSQL: Synthesizing High-quality Text-to-SQL
Data at Scale", VLDB 2025, section 3.2; the explanations are ours."""

OMNISQL_FUNCTIONS = (
    "ABS", "AVG", "CASE", "COALESCE", "CAST", "COUNT", "COUNT(DISTINCT ...)", "DENSE_RANK", "LAG", "LEAD", "LENGTH",
    "LIKE", "LOWER", "MAX", "MIN", "NTILE", "NULLIF", "RANK", "REPLACE", "ROUND", "ROW_NUMBER", "SUBSTR", "SUM", "TRIM",
    "UPPER",
)  # fmt: skip
"""Functions of which a prompt names a few, as OmniSQL does; those that every dialect here has."""

_NUM_FUNCTIONS = 4
_MORE_COLUMNS = 0.5
"""Chance that a query is asked for one more column: the number is geometric, as OmniSQL's is."""


def craft(config: Config) -> Craft:
    """Return how the Generation Agent answers by `models.method`: ours, or another's."""
    method = config.models.method
    if method == "factory":
        return CRAFT
    if method == "omnisql":
        return Craft(_nothing, omnisql_prompt)
    if method == "learnedsqlgen":
        return Craft(_Learned(config.models.learned, config.seed), _no_prompt)
    write = {"sqlsmith": sqlsmith.write_queries, "templates": templates.write_queries}[method]
    return Craft(_rule(method, write), _no_prompt)


def omnisql_prompt(request: Request, player: Player, schemas: Mapping[str, Schema]) -> Prompt:
    """Return OmniSQL's prompt for a request: its tables, a level of complexity, some functions, a number of columns.

    Raises:
        ConfigError: it does not fit into the model's context window.
    """
    rng = random.Random(request.rng_seed)
    level = rng.choice(tuple(OMNISQL_LEVELS))
    num_columns = 1
    while rng.random() < _MORE_COLUMNS:
        num_columns += 1
    values = {
        "num_queries": request.num_queries,
        "bare": False,
        "level": level,
        "level_means": OMNISQL_LEVELS[level],
        "functions": sorted(rng.sample(OMNISQL_FUNCTIONS, _NUM_FUNCTIONS)),
        "num_columns": num_columns,
    }
    schema = schemas[request.database]
    return player.prompts.about_tables("omnisql", schema, request.tables, player.model, player.agent, values)


def is_local(request: Request, share: float) -> bool:
    """Return whether a request is one of the share that the local model answers instead of the strong one."""
    return random.Random(f"{request.rng_seed}/slot").random() < share


def _rule(name: str, write: Callable[[Schema, int, random.Random], list[str]]) -> Callable[..., list[Candidate]]:
    def rule(request: Request, schema: Schema, _engine: Engine | None) -> list[Candidate]:
        queries = write(schema, request.num_queries, random.Random(request.rng_seed))
        return as_candidates(request, schema.dialect, queries, name)

    return rule


class _Learned:
    """LearnedSQLGen's policies, one for each database, trained when it is first asked for.

    What they are does not depend on who trains them: each author does it for itself.
    """

    def __init__(self, config: LearnedConfig, seed: int) -> None:
        self._config = config
        self._seed = seed
        self._policies: dict[str, learnedsqlgen.Policy] = {}

    def __call__(self, request: Request, schema: Schema, engine: Engine | None) -> list[Candidate]:
        """Answer a request."""
        if request.database not in self._policies:
            assert engine is not None
            rows = self._config.min_rows, self._config.max_rows
            trained = learnedsqlgen.trained(schema, engine, rows, self._config.num_queries, self._seed)
            self._policies[request.database] = trained
        policy, rng = self._policies[request.database], random.Random(request.rng_seed)
        queries = [policy.write(rng) for _ in range(request.num_queries)]
        return as_candidates(request, schema.dialect, queries, "learnedsqlgen")


def _nothing(_request: Request, _schema: Schema, _engine: Engine | None) -> list[Candidate]:
    """OmniSQL has no rule to fall back on: what its model does not write is missing."""
    return []


def _no_prompt(_request: Request, _player: Player, _schemas: Mapping[str, Schema]) -> Prompt:
    raise AssertionError("a method that needs no model asks none")
