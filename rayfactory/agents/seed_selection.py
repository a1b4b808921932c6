"""The Seed Selection Agent: which pool queries an expansion request builds on (equation 10).

Its rule prefers queries over under-used tables and with under-used constructs, and does not take the same query
twice in a round.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from rayfactory.agents.player import Player
from rayfactory.agents.table_selection import Ask, Call, Use, calls_for, complexities, expect, reading
from rayfactory.config import SeedSelectionConfig
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Completion, Prompt
from rayfactory.models.schema_text import name_text, query_text
from rayfactory.records import Tally

MAX_SEED_TOKENS = 400
"""Longer queries make poor seeds: their variations are longer still."""

MAX_SEEDS_PER_DATABASE = 2_000
"""Seeds kept of each database, the newest: memory stays bounded, and old patterns give way to new ones."""

_MAX_SEEDS, _MIN_SEEDS_PER_DATABASE = 64_000, 16
"""Seeds kept of all databases together, about 40 MB; of each some, however many there are."""

SHORTLIST_PER_SEED = 4
"""A model chooses among this many queries for each that is needed."""

MAX_SHORTLIST_CHARACTERS = 400
"""A query of a shortlist is cut to this: enough to see its tables and its structure."""

NUM_UNDER_USED = 12
"""Tables that a prompt names as under-used."""

CONSTRUCTS = ("num_joins", "num_predicates", "num_subqueries", "num_aggregates", "num_windows")


@dataclass(frozen=True, slots=True)
class PoolSeed:
    """One pool row as seed selection sees it; `constructs` says which of `CONSTRUCTS` it has."""

    query_id: int
    sql: str
    tables: tuple[str, ...]
    constructs: tuple[bool, ...]


class SeedShelf:
    """The pool rows that may be seeds, by database: those that return rows and are not too long.

    Args:
        num_databases: of the run, which share the room that there is.
    """

    COLUMNS = ("query_id", "sql", "tables", "row_count", "num_tokens", "database", *CONSTRUCTS)
    """Columns of R that are looked at."""

    def __init__(self, num_databases: int = 1) -> None:
        self._room = min(MAX_SEEDS_PER_DATABASE, max(_MIN_SEEDS_PER_DATABASE, _MAX_SEEDS // num_databases))
        self._by_database: dict[str, deque[PoolSeed]] = {}
        # What seeds have in common is there once.
        self._names: dict[str, str] = {}
        self._constructs: dict[tuple[bool, ...], tuple[bool, ...]] = {}

    def add(self, rows: pa.Table) -> None:
        """Take the seeds out of rows of R, of which it needs `COLUMNS`."""
        for query_id, sql, tables, row_count, num_tokens, database, *counts in zip(
            *(rows[name].to_pylist() for name in self.COLUMNS), strict=True
        ):
            if row_count > 0 and num_tokens <= MAX_SEED_TOKENS:
                names = tuple(self._names.setdefault(name, name) for name in tables)
                constructs = tuple(count > 0 for count in counts)
                shelf = self._by_database.setdefault(database, deque(maxlen=self._room))
                shelf.append(PoolSeed(query_id, sql, names, self._constructs.setdefault(constructs, constructs)))

    def of(self, database: str) -> Sequence[PoolSeed]:
        """Return the seeds of a database, oldest first."""
        return self._by_database.get(database, ())


class SeedSelectionAgent:
    """The rule behind one method, `select`; it keeps nothing between calls."""

    def __init__(self, config: SeedSelectionConfig, schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._schemas = schemas

    def select(self, asks: Sequence[Ask], shelves: Mapping[str, Sequence[PoolSeed]], use: Use) -> list[list[PoolSeed]]:
        """Return the seeds of each request, in order; each counts as used for those after it.

        Args:
            asks: of the plan; each for a database that has seeds.
            shelves: the seeds to choose from, by database.
            use: rows that reference each table; it stays as it is.
        """
        use = {database: dict(counts) for database, counts in use.items()}
        taken: set[int] = set()
        scorings: dict[str, Scoring] = {}
        chosen = []
        for database, num_queries, rng_seed in asks:
            rng = random.Random(rng_seed)
            counts = use.get(database, {})
            if database not in scorings:
                scorings[database] = Scoring(self._schemas[database], shelves[database])
            seeds = select_seeds(scorings[database], counts, self._config.num_seeds, taken, rng)
            taken.update(seed.query_id for seed in seeds)
            expect(use, database, seed_tables(seeds), num_queries)
            chosen.append(seeds)
        return chosen


async def select_seeds_with_model(
    number: int,
    asks: Sequence[Ask],
    shelves: Mapping[str, Sequence[PoolSeed]],
    use: Use,
    config: SeedSelectionConfig,
    schemas: Mapping[str, Schema],
    player: Player,
) -> tuple[list[list[PoolSeed]], Tally]:
    """Return the seeds of each request, in order, as a model chooses them, and what came of it.

    One call for each database and `REQUESTS_PER_CALL` requests, with a shortlist that the rule's weights draw. A query
    that was chosen for an earlier request is passed over, and what is missing then is filled in by the rule; where all
    is missing, the rule answers.

    Args:
        number: of the round.
        asks: of the plan; each for a database that has seeds.
        shelves: the seeds to choose from, by database.
        use: rows that reference each table; it stays as it is.

    Raises:
        UserError: the endpoint refuses for a reason that the user can change.
        EngineError: the endpoint has been away for too long.
    """
    chosen: dict[int, list[PoolSeed]] = {}

    async def ask(
        ordinal: int,
        schema: Schema,
        shelf: Sequence[PoolSeed],
        choice: Sequence[PoolSeed],
        counts: Mapping[str, float],
        num_requests: int,
    ) -> tuple[Completion | None, list[int]]:
        try:
            prompt, shown = seed_prompt(schema, shelf, choice, counts, num_requests, config.num_seeds, player)
        except ConfigError as error:
            player.prompts.tell_rule("seed_selection", schema.database, error)
            return None, []
        return await player.decide("seed_selection", number, ordinal, prompt), [seed.query_id for seed in shown]

    async def choose(database: str, calls: Sequence[Call]) -> Tally:
        """Fill in the seeds of all requests for one database."""
        schema, shelf, tally = schemas[database], shelves[database], Tally("seed_selection")
        by_id = {seed.query_id: seed for seed in shelf}
        expected: Use = {database: dict(use.get(database, {}))}
        counts = expected[database]
        size = SHORTLIST_PER_SEED * config.num_seeds * sum(len(places) for _, places in calls)
        choice = shortlist(schema, shelf, counts, size, random.Random(asks[calls[0][1][0]][2]))
        # All calls are made at once. Each has a shortlist of its own.
        asked = [
            ask(ordinal, schema, shelf, choice[i :: len(calls)], counts, len(places))
            for i, (ordinal, places) in enumerate(calls)
        ]
        taken: set[int] = set()
        for (_, places), (completion, shown) in zip(calls, await asyncio.gather(*asked), strict=True):
            sets = replies.seed_sets(completion.text, shown, len(places)) if completion else []
            tally += reading("seed_selection", completion, usable=any(sets))
            for place, wanted in zip(places, [*sets, *[()] * len(places)], strict=False):
                _, num_queries, rng_seed = asks[place]
                seeds = [by_id[query_id] for query_id in wanted if query_id not in taken][: config.num_seeds]
                taken.update(seed.query_id for seed in seeds)
                tally += Tally("seed_selection", fallbacks=int(not seeds))
                missing = config.num_seeds - len(seeds)
                picked = {seed.query_id for seed in seeds}
                others = [seed for seed in shelf if seed.query_id not in picked] if missing else []
                if others:
                    seeds += select_seeds(Scoring(schema, others), counts, missing, taken, random.Random(rng_seed))
                    taken.update(seed.query_id for seed in seeds)
                expect(expected, database, seed_tables(seeds), num_queries)
                chosen[place] = seeds
        return tally

    tallies = await asyncio.gather(*(choose(database, calls) for database, calls in calls_for(asks).items()))
    return [chosen[place] for place in range(len(asks))], sum(tallies, Tally("seed_selection"))


def shortlist(
    schema: Schema, seeds: Sequence[PoolSeed], use: Mapping[str, float], size: int, rng: random.Random
) -> list[PoolSeed]:
    """Return up to `size` seeds, drawn without replacement by the rule's weights, the likeliest first.

    Source: Efraimidis and Spirakis 2006, weighted sampling in one pass.
    """
    keys = [
        (rng.random() ** (1 / score) if score > 0 else -rng.random(), seed.query_id, seed)
        for seed, score in zip(seeds, Scoring(schema, seeds).scores(use), strict=True)
    ]
    keys.sort(key=lambda key: (-key[0], key[1]))
    return [seed for _, _, seed in keys[:size]]


def seed_prompt(
    schema: Schema,
    shelf: Sequence[PoolSeed],
    choice: Sequence[PoolSeed],
    use: Mapping[str, float],
    num_requests: int,
    num_seeds: int,
    player: Player,
) -> tuple[Prompt, Sequence[PoolSeed]]:
    """Return the prompt for the seeds of some requests for one database, and the queries that it lets choose from.

    What of the shortlist is left out for want of room is told. By design a prompt shows no more than the shortlist, the
    `NUM_UNDER_USED` tables that are furthest behind, and of a query `MAX_SHORTLIST_CHARACTERS`.

    Args:
        shelf: all seeds of the database.
        choice: the shortlist, of which as much is shown as fits.

    Raises:
        ConfigError: not even as many fit as are needed for one request.
    """
    size = len(choice)
    deserved = complexities(schema)
    behind = sorted(schema.populated, key=lambda table: use.get(table.name, 0.0) / deserved[table.name])
    shares = [sum(flags) / len(shelf) for flags in zip(*(seed.constructs for seed in shelf), strict=True)]
    while True:
        values = {
            "database": name_text(schema.database),
            "under_used": [
                f"{name_text(table.name)} ({round(use.get(table.name, 0.0))})" for table in behind[:NUM_UNDER_USED]
            ],
            "constructs": [
                f"{name.removeprefix('num_')} {share:.2f}" for name, share in zip(CONSTRUCTS, shares, strict=True)
            ],
            "shortlist": [_shortlisted(seed) for seed in choice],
            "num_requests": num_requests,
            "num_seeds": num_seeds,
        }
        try:
            prompt = player.decision_prompt("seed_selection", schema.dialect, values)
        except ConfigError:
            if len(choice) <= num_seeds:
                raise
            choice = choice[: max(num_seeds, len(choice) * 3 // 4)]
            continue
        if left_out := size - len(choice):
            cut = f"{left_out} of the {size} queries of the shortlist"
            player.prompts.tell_cut("seed_selection", player.model, schema.database, "shortlist", cut)
        return prompt, choice


def _shortlisted(seed: PoolSeed) -> str:
    constructs = [name.removeprefix("num_") for name, has in zip(CONSTRUCTS, seed.constructs, strict=True) if has]
    tables = ", ".join(map(name_text, seed.tables))
    sql = query_text(seed.sql, MAX_SHORTLIST_CHARACTERS)
    return f"{seed.query_id} | {tables} | {', '.join(constructs) or '-'} | {sql}"


def seed_tables(seeds: Sequence[PoolSeed]) -> tuple[str, ...]:
    """Return the base tables that the seeds reference, each once, in order."""
    return tuple(dict.fromkeys(name for seed in seeds for name in seed.tables))


class Scoring:
    """How much each seed of a shelf is wanted: the more, the less its tables are used and the rarer its constructs are.

    In plain Python: a plan is made beside other threads, and each step of numpy's would wait for them in turn.

    Args:
        schema: of the database.
        seeds: at least one.

    Attributes:
        places: where among the seeds each is, by its query_id.
    """

    def __init__(self, schema: Schema, seeds: Sequence[PoolSeed]) -> None:
        self.seeds = seeds
        self.places = {seed.query_id: place for place, seed in enumerate(seeds)}
        deserved = complexities(schema)
        self._deserved = {table.name: deserved[table.name] for table in schema.populated}
        sets: dict[tuple[str, ...], int] = {}
        self._sets = [sets.setdefault(seed.tables, len(sets)) for seed in seeds]
        self._tables = [[name for name in tables if name in self._deserved] for tables in sets]
        weights = [len(seeds) / (1 + sum(flags)) for flags in zip(*(seed.constructs for seed in seeds), strict=True)]
        rarities = {
            constructs: 1 + sum(weight for weight, has in zip(weights, constructs, strict=True) if has)
            for constructs in {seed.constructs for seed in seeds}
        }
        self._rarities = [rarities[seed.constructs] for seed in seeds]

    def scores(self, use: Mapping[str, float]) -> list[float]:
        """Return the score of each seed, at least 0.

        Args:
            use: rows that reference each table.
        """
        need = {name: (deserved / (1 + use.get(name, 0.0))) ** 2 for name, deserved in self._deserved.items()}
        needs = [sum(need[name] for name in tables) / len(tables) if tables else 0.0 for tables in self._tables]
        return [needs[place] * rarity for place, rarity in zip(self._sets, self._rarities, strict=True)]


def select_seeds(
    scoring: Scoring, use: Mapping[str, float], num_seeds: int, taken: Collection[int], rng: random.Random
) -> list[PoolSeed]:
    """Return the seeds of one request, each the likelier the higher its score; fewer where there are fewer.

    Args:
        scoring: of the seeds to choose from.
        use: rows that reference each table, those expected of requests under way included.
        num_seeds: how many.
        taken: ids already used in this round; used again only when nothing else is left.
        rng: source of every choice.
    """
    seeds, scores = scoring.seeds, scoring.scores(use)
    gone = {scoring.places[query_id] for query_id in taken if query_id in scoring.places}
    if len(gone) == len(seeds):
        gone = set()
    chosen: list[PoolSeed] = []
    while len(gone) < len(seeds) and len(chosen) < num_seeds:
        for place in gone:
            scores[place] = 0.0
        if not any(scores):
            scores = [0.0 if place in gone else 1.0 for place in range(len(seeds))]
        (pick,) = rng.choices(range(len(seeds)), scores)
        chosen.append(seeds[pick])
        gone.add(pick)
    return chosen
