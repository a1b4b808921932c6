"""SQLsmith: a walk over the grammar of SELECT that minds types and nothing else.

The productions and how often each is taken are those of SQLsmith (Andreas Seltenreich, 2015 onwards,
https://github.com/anse1/sqlsmith), written anew from what it does. It throws dice, so they are dice here too. What
differs: statements that write are left out; functions are a few that every dialect has, where SQLsmith takes all that
the server's catalogue lists, since most of those are not allowed here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rayfactory.databases.schema import Kind, Schema
from rayfactory.models.grammar.syntax import quote_name
from rayfactory.sql.spelling import spelled, written_in

MAX_LEVEL = 12
"""Depth at which expressions end. SQLsmith ends there by its dice alone, which now and then takes megabytes."""

_TYPES: dict[Kind, str] = {
    "integer": "BIGINT",
    "real": "DOUBLE",
    "text": "VARCHAR",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "time": "TIME",
    "boolean": "BOOLEAN",
}
_SQLITE_TYPES: dict[Kind, str] = {**dict.fromkeys(_TYPES, "TEXT"), "integer": "INTEGER", "real": "REAL"}

_FUNCTIONS: Mapping[Kind, Sequence[tuple[str, tuple[Kind, ...]]]] = {
    "integer": (("ABS", ("integer",)), ("LENGTH", ("text",)), ("SIGN", ("real",))),
    "real": (("ABS", ("real",)), ("ROUND", ("real",)), ("FLOOR", ("real",)), ("SQRT", ("integer",))),
    "text": (
        ("UPPER", ("text",)),
        ("LOWER", ("text",)),
        ("TRIM", ("text",)),
        ("REPLACE", ("text", "text", "text")),
        ("SUBSTR", ("text", "integer", "integer")),
    ),
}
"""(name, types of the arguments) of functions by the type of what they return."""

_WINDOW_FUNCTIONS = ("FIRST_VALUE", "LAST_VALUE", "LAG", "LEAD", "MIN", "MAX")
_COMPARISONS = ("=", "<>", "<", ">", "<=", ">=")


@dataclass(frozen=True, slots=True)
class _Source:
    """What stands in FROM under an alias: its columns with their types."""

    alias: str
    columns: tuple[tuple[str, Kind], ...]


def write_queries(schema: Schema, num_queries: int, rng: Random) -> list[str]:
    """Return queries of a random walk over the grammar of SELECT.

    Args:
        schema: of the database, from all of whose tables is drawn.
        num_queries: how many to return.
        rng: source of every choice.
    """
    return [spelled(_Walk(schema, rng).query(0, ()), schema.dialect) for _ in range(num_queries)]


class _Walk:
    """One query. Every method returns the text of what it is named after; `level` is the depth of the production."""

    def __init__(self, schema: Schema, rng: Random) -> None:
        self._rng = rng
        self._dialect = written_in(schema.dialect)
        self._types = _SQLITE_TYPES if self._dialect == "sqlite" else _TYPES
        self._tables = [
            (quote_name(table.name), columns)
            for table in schema.tables
            if (columns := tuple((quote_name(c.name), c.kind) for c in table.columns if c.kind in _TYPES))
        ]
        self._num_aliases = 0

    def query(self, level: int, outer: Sequence[_Source]) -> str:
        """A whole SELECT, with the names that are around it."""
        text, _ = self._select(level, outer)
        return text

    def _dice(self, sides: int) -> int:
        return self._rng.randint(1, sides)

    def _alias(self, stem: str) -> str:
        self._num_aliases += 1
        return f"{stem}_{self._num_aliases - 1}"

    def _select(self, level: int, outer: Sequence[_Source]) -> tuple[str, tuple[tuple[str, Kind], ...]]:
        sources, texts = self._table_ref(level)
        while self._dice(6) > 5:
            more, text = self._table_ref(level)
            sources, texts = [*sources, *more], f"{texts}, {text}"
        scope = [*sources, *outer]
        shown: list[str] = []
        columns: list[tuple[str, Kind]] = []
        while True:
            in_window = self._dice(20) == 1 and level < self._dice(6)
            kind, text = (self._window(scope) if in_window else None) or self._value(level + 1, scope, None)
            columns.append((f"c{len(columns)}", kind))
            shown.append(f"{text} AS {columns[-1][0]}")
            if self._dice(6) == 1:
                break
        quantifier = "DISTINCT " if self._dice(100) == 1 else ""
        statement = f"SELECT {quantifier}{', '.join(shown)} FROM {texts} WHERE {self._condition(level + 1, scope)}"
        if self._dice(6) > 2:
            statement += f" LIMIT {self._dice(100) + self._dice(100)}"
        return statement, tuple(columns)

    # -- FROM -------------------------------------------------------------------

    def _table_ref(self, level: int) -> tuple[list[_Source], str]:
        if level < 3 + self._dice(6):
            if self._dice(6) > 3 and level < self._dice(6):
                return self._subquery(level + 1)
            if self._dice(6) > 3:
                return self._join(level + 1)
        name, columns = self._rng.choice(self._tables)
        source = _Source(self._alias("ref"), columns)
        return [source], f"{name} AS {source.alias}"

    def _subquery(self, level: int) -> tuple[list[_Source], str]:
        text, columns = self._select(level, ())
        source = _Source(self._alias("subq"), columns)
        return [source], f"({text}) AS {source.alias}"

    def _join(self, level: int) -> tuple[list[_Source], str]:
        left, left_text = self._table_ref(level)
        right, right_text = self._table_ref(level)
        word = ("INNER", "LEFT", "RIGHT")[self._dice(3) - 1]
        condition = self._equality(left, right) if self._dice(6) > 1 else None
        if condition is None:
            condition = self._condition(level, [*left, *right])
        return [*left, *right], f"{left_text} {word} JOIN {right_text} ON ({condition})"

    def _equality(self, left: Sequence[_Source], right: Sequence[_Source]) -> str | None:
        """Two columns of one type, whatever they hold."""
        source = self._rng.choice(right)
        name, kind = self._rng.choice(source.columns)
        like = [f"{each.alias}.{other}" for each in left for other, its in each.columns if its == kind]
        return f"{self._rng.choice(like)} = {source.alias}.{name}" if like else None

    # -- values -------------------------------------------------------------------

    def _value(self, level: int, scope: Sequence[_Source], kind: Kind | None) -> tuple[Kind, str]:
        """An expression of a type, or of any."""
        if level < MAX_LEVEL:
            if self._dice(42) == 1 and level < self._dice(6):
                return self._pair("COALESCE", level, scope, kind)
            if self._dice(42) == 1 and level < self._dice(6):
                return self._pair("NULLIF", level, scope, kind)
            if level < self._dice(6) and self._dice(6) == 1 and (called := self._call(level, scope, kind)):
                return called
            if self._dice(12) == 1 and level < self._dice(6) and (chosen := self._subselect(kind)):
                return chosen
            if self._dice(12) == 1 and level < self._dice(6):
                return self._case(level, scope, kind)
        if self._dice(20) > 1 and (column := self._column(scope, kind)):
            return column
        return self._constant(kind)

    def _column(self, scope: Sequence[_Source], kind: Kind | None) -> tuple[Kind, str] | None:
        found = [
            (its, f"{each.alias}.{name}") for each in scope for name, its in each.columns if kind is None or its == kind
        ]
        return self._rng.choice(found) if found else None

    def _constant(self, kind: Kind | None) -> tuple[Kind, str]:
        of: Kind = self._rng.choice(tuple(_TYPES)) if kind is None else kind
        if of == "integer":
            return of, str(self._dice(100))
        if of == "boolean":
            return of, "TRUE" if self._dice(6) > 3 else "FALSE"
        return of, f"CAST(NULL AS {self._types[of]})"

    def _window(self, scope: Sequence[_Source]) -> tuple[Kind, str] | None:
        found, part, order = (self._column(scope, None) for _ in range(3))
        if found is None or part is None or order is None:
            return None
        kind, text = found
        return kind, f"{self._rng.choice(_WINDOW_FUNCTIONS)}({text}) OVER (PARTITION BY {part[1]} ORDER BY {order[1]})"

    def _pair(self, function: str, level: int, scope: Sequence[_Source], kind: Kind | None) -> tuple[Kind, str]:
        of, first = self._value(level + 1, scope, kind)
        _, second = self._value(level + 1, scope, of)
        return of, f"{function}({first}, {second})"

    def _call(self, level: int, scope: Sequence[_Source], kind: Kind | None) -> tuple[Kind, str] | None:
        of: Kind = self._rng.choice(tuple(_FUNCTIONS)) if kind is None else kind
        if of not in _FUNCTIONS:
            return None
        name, types = self._rng.choice(_FUNCTIONS[of])
        return of, f"{name}({', '.join(self._value(level + 1, scope, each)[1] for each in types)})"

    def _subselect(self, kind: Kind | None) -> tuple[Kind, str] | None:
        """One value of a table, the one at a random place of it."""
        name, columns = self._rng.choice(self._tables)
        found = [(column, its) for column, its in columns if kind is None or its == kind]
        if not found:
            return None
        column, of = self._rng.choice(found)
        place = f"LIMIT 1 OFFSET {self._dice(6)}"
        if self._dice(2) == 1:
            return of, f"(SELECT {column} FROM {name} {place})"
        return of, f"(SELECT {self._rng.choice(('MIN', 'MAX'))}({column}) FROM {name})"

    def _case(self, level: int, scope: Sequence[_Source], kind: Kind | None) -> tuple[Kind, str]:
        condition = self._condition(level + 1, scope)
        of, then = self._value(level + 1, scope, kind)
        _, otherwise = self._value(level + 1, scope, of)
        return of, f"CASE WHEN {condition} THEN {then} ELSE {otherwise} END"

    # -- conditions -----------------------------------------------------------------

    def _condition(self, level: int, scope: Sequence[_Source]) -> str:
        if level >= MAX_LEVEL or level > self._dice(100):
            return self._truth()
        choices: tuple[Callable[[int, Sequence[_Source]], str], ...] = (self._comparison, self._term)
        if self._dice(6) < 4:
            return choices[self._dice(6) > 3](level, scope)
        if self._dice(6) < 4:
            return f"{self._value(level + 1, scope, None)[1]} IS {'NOT ' if self._dice(6) > 3 else ''}NULL"
        return self._truth() if self._dice(6) < 4 else self._exists(level, scope)

    def _truth(self) -> str:
        return "(1 = 1)" if self._dice(6) > 3 else "(0 = 1)"

    def _comparison(self, level: int, scope: Sequence[_Source]) -> str:
        kind, left = self._value(level + 1, scope, None)
        _, right = self._value(level + 1, scope, kind)
        return f"{left} {self._rng.choice(_COMPARISONS)} {right}"

    def _term(self, level: int, scope: Sequence[_Source]) -> str:
        word = "AND" if self._dice(6) < 4 else "OR"
        return f"({self._condition(level + 1, scope)}) {word} ({self._condition(level + 1, scope)})"

    def _exists(self, level: int, scope: Sequence[_Source]) -> str:
        return f"EXISTS (SELECT 1 FROM ({self.query(level + 2, scope)}) AS {self._alias('subq')})"
