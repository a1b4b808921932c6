"""Templates: a dozen hand-written queries with parameters, filled in from the schema and its content.

So benchmarks are made: TPC-DS (Nambiar and Poess, "The Making of TPC-DS", VLDB 2006) has 99 templates whose parameters
are drawn from its data. These are fewer, and fit any schema with keys: what a parameter stands for is a role.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from rayfactory.databases.schema import Column, ForeignKey, Role, Schema, Table
from rayfactory.models.grammar.joins import equality
from rayfactory.models.grammar.syntax import literal, quote_name
from rayfactory.sql.spelling import spelled, written_in

_TEXT = """
SELECT {a.name}, {a.measure} FROM {a} WHERE {a.category} = {value} ORDER BY {a.measure} DESC LIMIT {n};

SELECT {a.category}, COUNT(*) AS cnt FROM {a} GROUP BY {a.category} ORDER BY cnt DESC;

SELECT {a.category}, AVG({a.measure}) AS average, MAX({a.measure}) AS highest
FROM {a} WHERE {a.measure} BETWEEN {low} AND {high} GROUP BY {a.category};

SELECT {a.category}, SUM(CASE WHEN {a.measure} > {low} THEN 1 ELSE 0 END) AS above, COUNT(*) AS cnt
FROM {a} GROUP BY {a.category};

SELECT {a.name}, {a.measure} FROM {a} WHERE {a.measure} > (SELECT AVG({a.measure}) FROM {a}) LIMIT {n};

SELECT b.{b.category}, SUM(a.{a.measure}) AS total
FROM {a} a JOIN {b} b ON {key} WHERE b.{b.category} = {value} GROUP BY b.{b.category};

SELECT b.{b.name}, SUM(a.{a.measure}) AS total
FROM {a} a JOIN {b} b ON {key} GROUP BY b.{b.name} ORDER BY total DESC LIMIT {n};

SELECT b.{b.category}, COUNT(*) AS cnt FROM {a} a JOIN {b} b ON {key} GROUP BY b.{b.category} HAVING COUNT(*) > {n};

SELECT b.{b.name} FROM {b} b WHERE NOT EXISTS (SELECT 1 FROM {a} a WHERE {key});

SELECT a.{a.measure} FROM {a} a WHERE EXISTS (SELECT 1 FROM {b} b WHERE {key} AND b.{b.category} = {value});

WITH totals AS (
    SELECT b.{b.category} AS grp, SUM(a.{a.measure}) AS total
    FROM {a} a JOIN {b} b ON {key} GROUP BY b.{b.category}
)
SELECT grp, total FROM totals WHERE total > (SELECT AVG(total) FROM totals);

SELECT grp, item, total FROM (
    SELECT b.{b.category} AS grp, b.{b.name} AS item, SUM(a.{a.measure}) AS total,
        RANK() OVER (PARTITION BY b.{b.category} ORDER BY SUM(a.{a.measure}) DESC) AS place
    FROM {a} a JOIN {b} b ON {key} GROUP BY b.{b.category}, b.{b.name}
) ranked
WHERE place <= {n}
"""

TEMPLATES = tuple(" ".join(template.split()) for template in _TEXT.split(";"))
"""``{a}`` is a table and ``{b}`` one that it refers to, by ``{key}``; ``{a.measure}`` is a column of it in that role;
``{value}`` is one of the category before it; ``{low}`` and ``{high}`` are of the measure of ``{a}``."""

MAX_DRAWS = 100
"""Times that a template, tables and columns are drawn for one query: not every table has what a template asks for."""

_ROLES: dict[str, tuple[Role, ...]] = {
    "name": ("text", "identifier", "category"),
    "measure": ("measure",),
    "category": ("category",),
}
_SLOT = re.compile(r"\{(\w+)(?:\.(\w+))?\}")
_LIMITS = (5, 10, 20, 50, 100)


class _DoesNotFitError(Exception):
    """The tables have no column for a slot."""


def write_queries(schema: Schema, num_queries: int, rng: Random) -> list[str]:
    """Return queries made of templates.

    Args:
        schema: of the database, from whose tables with rows is drawn.
        num_queries: how many to return; fewer where none of its tables fit.
        rng: source of every choice.
    """
    populated = {table.name for table in schema.populated}
    keys = [key for key in schema.foreign_keys if key.table in populated and key.referenced_table in populated]
    found: list[str] = []
    for _ in range(MAX_DRAWS * num_queries):
        if len(found) == num_queries:
            break
        template = rng.choice(TEMPLATES)
        key = rng.choice(keys) if keys else None
        if "{b}" in template and key is None:
            continue
        child = schema.table(key.table) if key is not None else rng.choice(schema.populated)
        try:
            found.append(spelled(_Filling(schema, child, key, rng).fill(template), schema.dialect))
        except _DoesNotFitError:
            continue
    return found


class _Filling:
    """The parameters of one query: the same slot is filled in the same way throughout it."""

    def __init__(self, schema: Schema, child: Table, key: ForeignKey | None, rng: Random) -> None:
        self._dialect = written_in(schema.dialect)
        self._key = key
        self._tables = {"a": child} | ({"b": schema.table(key.referenced_table)} if key is not None else {})
        self._rng = rng
        self._columns: dict[tuple[str, str], Column] = {}
        self._limit = str(rng.choice(_LIMITS))

    def fill(self, template: str) -> str:
        """Return the query."""
        return _SLOT.sub(lambda slot: self._slot(slot[1], slot[2]), template)

    def _slot(self, name: str, role: str | None) -> str:
        if role is not None:
            return quote_name(self._column(name, role).name)
        if name in self._tables:
            return quote_name(self._tables[name].name)
        if name == "key":
            return self._join()
        if name == "value":
            return self._value(next(column for (_, of), column in self._columns.items() if of == "category"))
        if name == "n":
            return self._limit
        return self._bound(self._columns["a", "measure"], name)

    def _column(self, table: str, role: str) -> Column:
        if (table, role) not in self._columns:
            fitting = [column for column in self._tables[table].columns if column.role in _ROLES[role]]
            if not fitting:
                raise _DoesNotFitError
            self._columns[table, role] = self._rng.choice(fitting)
        return self._columns[table, role]

    def _join(self) -> str:
        assert self._key is not None
        return equality(self._key, "a", "b")

    def _value(self, column: Column) -> str:
        values = [value for value, _ in column.profile.common_values]
        if not values:
            raise _DoesNotFitError
        return literal(self._rng.choice(values), column.kind, self._dialect)

    def _bound(self, column: Column, end: str) -> str:
        quantiles: Sequence[object] = column.profile.quantiles
        half = len(quantiles) // 2
        if not half:
            raise _DoesNotFitError
        chosen = self._rng.choice(column.profile.quantiles[:half] if end == "low" else column.profile.quantiles[half:])
        return literal(chosen, column.kind, self._dialect)
