"""The Table Selection Agent: which tables a generation request is about (equations 7 and 8).

Its rule weighs what is in a table (columns and keys) against how often the pool uses it, starts from the table
that is furthest behind, and walks along foreign keys to more tables that are.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import count

from rayfactory.agents.player import Player
from rayfactory.config import TableSelectionConfig
from rayfactory.databases.schema import Schema, Table
from rayfactory.errors import ConfigError
from rayfactory.models import replies
from rayfactory.models.completion import Completion, Prompt
from rayfactory.models.schema_text import name_text
from rayfactory.records import Tally

NUM_TABLES_WEIGHTS = (2, 6, 7, 5, 3, 2, 1, 1)
"""How often a request is about 1, 2, 3 .. tables: most analytical queries join two to four.

Source: the paper's figure 6(a), 78.6 % of queries with a join and 30 % with two or more.
"""


TABLE_SHARE = 0.6
"""Share of a request's queries that reference any one of its tables, as far as a plan can know."""

_DRAWS = 8
"""So many times at most the rule draws tables for a request, until no request before it has the same."""

REQUESTS_PER_CALL = 20
"""Requests that one call decides for: a longer reply is longer waited for, and may not come to its end."""

MAX_COLUMNS_SHOWN = 40
"""Columns of a table whose names a prompt shows."""

Ask = tuple[str, int, int]
"""What one request of a plan asks of a selection agent: (database, num_queries, rng_seed)."""

Call = tuple[int, list[int]]
"""One call of a selection agent's model: (ordinal, places of the requests that it decides for)."""

Use = dict[str, dict[str, float]]
"""Rows of the pool that reference each table, by database and table; tables without rows may be absent."""


def expect(use: Use, database: str, tables: Sequence[str], num_queries: int) -> None:
    """Add to `use` what a request under way will probably add to the pool."""
    counts = use.setdefault(database, {})
    for name in tables:
        counts[name] = counts.get(name, 0.0) + TABLE_SHARE * num_queries


class TableSelectionAgent:
    """The rule behind one method, `select`; it keeps nothing between calls."""

    def __init__(self, config: TableSelectionConfig, schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._schemas = schemas

    def select(self, asks: Sequence[Ask], use: Use) -> list[tuple[str, ...]]:
        """Return the tables of each request, in order; each counts as used for those after it. `use` stays as it is."""
        use = {database: dict(counts) for database, counts in use.items()}
        chosen = []
        for database, num_queries, rng_seed in asks:
            schema, rng = self._schemas[database], random.Random(rng_seed)
            counts = use.get(database, {}) if self._config.balanced else {}  # all alike: chance decides
            tables = select_tables(schema, counts, self._config.max_tables, rng)
            expect(use, database, tables, num_queries)
            chosen.append(tables)
        return chosen


async def select_tables_with_model(
    number: int,
    asks: Sequence[Ask],
    use: Use,
    config: TableSelectionConfig,
    schemas: Mapping[str, Schema],
    player: Player,
) -> tuple[list[tuple[str, ...]], Tally]:
    """Return the tables of each request, in order, as a model chooses them, and what came of it.

    One call for each database and `REQUESTS_PER_CALL` requests. What it chooses is made to fit: tables with rows,
    connected where they can be, not too many; a request for which nothing is left gets the rule's choice.

    Args:
        number: of the round.
        asks: of the plan.
        use: rows that reference each table; it stays as it is.

    Raises:
        UserError: the endpoint refuses for a reason that the user can change.
        EngineError: the endpoint has been away for too long.
    """
    chosen: dict[int, tuple[str, ...]] = {}
    rule = TableSelectionAgent(config, schemas)

    async def ask(ordinal: int, schema: Schema, counts: Mapping[str, float], num_requests: int) -> Completion | None:
        try:
            prompt = table_prompt(schema, counts, num_requests, config.max_tables, player)
        except ConfigError as error:
            player.prompts.tell_rule("table_selection", schema.database, error)
            return None
        return await player.decide("table_selection", number, ordinal, prompt)

    async def choose(database: str, calls: Sequence[Call]) -> Tally:
        """Fill in the tables of all requests for one database."""
        schema, tally = schemas[database], Tally("table_selection")
        names = [table.name for table in schema.populated]
        # All calls are made at once. Each is shown what the rule would choose for those before it.
        expected: Use = {database: dict(use.get(database, {}))}
        asked = []
        for ordinal, places in calls:
            asked.append(ask(ordinal, schema, dict(expected[database]), len(places)))
            if len(calls) > 1:
                part = [asks[place] for place in places]
                for (_, num_queries, _), tables in zip(part, rule.select(part, expected), strict=True):
                    expect(expected, database, tables, num_queries)
        expected = {database: dict(use.get(database, {}))}
        given: set[frozenset[str]] = set()
        for (_, places), completion in zip(calls, await asyncio.gather(*asked), strict=True):
            sets = replies.table_sets(completion.text, names, len(places)) if completion else []
            tally += reading("table_selection", completion, usable=any(sets))
            for place, wanted in zip(places, [*sets, *[()] * len(places)], strict=False):
                _, num_queries, rng_seed = asks[place]
                tables = connected(schema, wanted, config.max_tables)
                again = frozenset(tables) in given and len(tables) < len(names)
                if again or not tables:
                    tally += Tally("table_selection", fallbacks=1)
                    rng = random.Random(rng_seed)
                    for _ in range(_DRAWS):
                        tables = select_tables(schema, expected[database], config.max_tables, rng)
                        if frozenset(tables) not in given:
                            break
                given.add(frozenset(tables))
                expect(expected, database, tables, num_queries)
                chosen[place] = tables
        return tally

    tallies = await asyncio.gather(*(choose(database, calls) for database, calls in calls_for(asks).items()))
    return [chosen[place] for place in range(len(asks))], sum(tallies, Tally("table_selection"))


def calls_for(asks: Sequence[Ask]) -> dict[str, list[Call]]:
    """Return the calls of a selection agent's model for some requests: those for one database one after the other."""
    places: dict[str, list[int]] = {}
    for place, (database, _, _) in enumerate(asks):
        places.setdefault(database, []).append(place)
    ordinals = count()
    return {
        database: [
            (next(ordinals), found[start : start + REQUESTS_PER_CALL])
            for start in range(0, len(found), REQUESTS_PER_CALL)
        ]
        for database, found in places.items()
    }


def reading(agent: str, completion: Completion | None, *, usable: bool) -> Tally:
    """Return what one call of a selection agent comes to; what its rule fills in is counted apart."""
    if completion is None:
        return Tally(agent)
    return Tally(agent, replies=1, unusable=int(not usable), cost_usd=completion.cost_usd)


def table_prompt(
    schema: Schema, use: Mapping[str, float], num_requests: int, max_tables: int, player: Player
) -> Prompt:
    """Return the prompt for the tables of some requests for one database, cut to the model's context window.

    The tables furthest behind come first, because small models choose from the top of a list. Where all does not fit,
    the names of columns go, then the keys, then the tables that are used most; what goes is told. By design a table
    shows `MAX_COLUMNS_SHOWN` names of columns.

    Raises:
        ConfigError: it does not fit even so.
    """
    deserved = complexities(schema)
    tables = sorted(schema.populated, key=lambda table: use.get(table.name, 0.0) / deserved[table.name])
    neighbours = _neighbours(schema)
    columns, keys = True, True
    while True:
        lines = [_overview(table, use, neighbours if keys else {}, columns=columns) for table in tables]
        values = {
            "database": name_text(schema.database),
            "overview": "\n".join(lines),
            "max_tables": max_tables,
            "num_requests": num_requests,
        }
        try:
            prompt = player.decision_prompt("table_selection", schema.dialect, values)
        except ConfigError:
            if columns:
                columns = False
            elif keys:
                keys = False
            elif len(tables) > 1:
                tables = tables[: len(tables) // 2]
            else:
                raise
            continue
        num_tables = len(schema.populated)
        cuts = [
            ("columns", not columns, "the names of columns"),
            ("keys", not keys, "keys"),
            ("tables", len(tables) < num_tables, f"{num_tables - len(tables)} of {num_tables} tables"),
        ]
        for kind, is_cut, cut in cuts:
            if is_cut:
                player.prompts.tell_cut("table_selection", player.model, schema.database, kind, cut)
        return prompt


def _overview(table: Table, use: Mapping[str, float], neighbours: Mapping[str, Sequence[str]], *, columns: bool) -> str:
    parts = [f"{name_text(table.name)}: {table.num_rows} rows", f"{len(table.columns)} columns"]
    if columns:
        names = [name_text(column.name) for column in table.columns[:MAX_COLUMNS_SHOWN]]
        parts[-1] += f" ({', '.join(names)}{', ...' if len(table.columns) > MAX_COLUMNS_SHOWN else ''})"
    if linked := sorted(set(neighbours.get(table.name, ()))):
        parts.append(f"keys with {', '.join(map(name_text, linked))}")
    return "; ".join([*parts, f"used by {round(use.get(table.name, 0.0))} queries"])


def connected(schema: Schema, names: Sequence[str], max_tables: int) -> tuple[str, ...]:
    """Return the named tables as far as foreign keys connect them with the first, at most `max_tables`.

    A table in between is put in where that connects one that is not. A first table that no key touches keeps one other
    for company.

    Args:
        names: of tables with rows, each once.
    """
    neighbours = _neighbours(schema)
    populated = {table.name for table in schema.populated}
    chosen, waiting = list(names[:1]), list(names[1:])
    while waiting and len(chosen) < max_tables:
        near = {n for name in chosen for n in neighbours.get(name, ())}
        direct = next((name for name in waiting if name in near), None)
        if direct is not None:
            chosen.append(direct)
            waiting.remove(direct)
            continue
        bridges = (
            (between, name)
            for name in waiting
            for between in sorted(near & set(neighbours.get(name, ())) & populated - set(chosen))
        )
        bridge = next(bridges, None)
        if bridge is None or len(chosen) + 2 > max_tables:
            break
        chosen.extend(bridge)
        waiting.remove(bridge[1])
    if len(chosen) == 1 and waiting and max_tables > 1 and not neighbours.get(chosen[0]):
        chosen.append(waiting[0])
    return tuple(chosen)


def complexities(schema: Schema) -> dict[str, float]:
    """Return the share of use that each table deserves relative to others: more columns and keys, more use.

    Grows with the square root, so that the widest table of a schema gets about twice the use of the narrowest: an
    even use that is tilted towards the complex (the paper's figure 7).
    """
    num_keys = Counter(name for key in schema.foreign_keys for name in {key.table, key.referenced_table})
    return {table.name: float((4 + len(table.columns) + 2 * num_keys[table.name]) ** 0.25) for table in schema.tables}


def select_tables(schema: Schema, use: Mapping[str, float], max_tables: int, rng: random.Random) -> tuple[str, ...]:
    """Return the tables of one request, the one furthest behind first.

    Args:
        schema: of the request's database; at least one of its tables has rows.
        use: rows of the pool that reference each table, those expected of requests under way included.
        max_tables: at most so many.
        rng: source of every choice.
    """
    tables = schema.populated
    deserved = complexities(schema)
    weight = {table.name: deserved[table.name] for table in tables}
    behind = {name: use.get(name, 0.0) / weight[name] for name in weight}
    wanted = min(rng.choices(range(1, len(NUM_TABLES_WEIGHTS) + 1), NUM_TABLES_WEIGHTS)[0], max_tables, len(tables))
    start = _least(list(weight), behind, rng, spread=0.1)
    chosen = [start]
    neighbours = _neighbours(schema)
    while len(chosen) < wanted:
        reachable = sorted({n for name in chosen for n in neighbours.get(name, ()) if n in weight and n not in chosen})
        if not reachable:
            break
        chosen.append(_least(reachable, behind, rng, spread=0.25))
    if len(chosen) == 1 and wanted > 1 and not neighbours.get(start):
        # Nothing to join with: a second table can still be compared with in a subquery or a set operation.
        others = [name for name in weight if name != start]
        chosen.append(_least(others, behind, rng, spread=0.25))
    return tuple(chosen)


def _least(names: Sequence[str], behind: Mapping[str, float], rng: random.Random, spread: float) -> str:
    """Return one of the names that are furthest behind: chance decides within `spread` of the mean use."""
    slack = 1 + spread * (sum(behind.values()) / len(behind))
    return min(names, key=lambda name: (behind[name] + slack * rng.random(), name))


def _neighbours(schema: Schema) -> dict[str, list[str]]:
    """Return for each table those that a foreign key connects with it, itself left out."""
    found: dict[str, list[str]] = {}
    for key in schema.foreign_keys:
        if key.table != key.referenced_table:
            found.setdefault(key.table, []).append(key.referenced_table)
            found.setdefault(key.referenced_table, []).append(key.table)
    return found
