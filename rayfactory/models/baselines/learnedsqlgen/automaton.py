"""The automaton: which tokens may follow in a query that is being written, and the query that they make.

A query is written clause by clause: FROM with joins along keys, SELECT, WHERE, HAVING, ORDER BY. What it groups by
follows from what it selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rayfactory.databases.schema import Column, ForeignKey, Schema, Table
from rayfactory.models.grammar.joins import equality
from rayfactory.models.grammar.syntax import literal, quote_name
from rayfactory.sql.spelling import spelled, written_in

MAX_TABLES = 4
MAX_ITEMS = 3
MAX_CONDITIONS = 3
VALUES_PER_COLUMN = 10
"""Constants that a column may be compared with, from its content."""

AGGREGATES = ("COUNT", "SUM", "AVG", "MIN", "MAX")
"""The first takes any column, the others a measure."""

_COMPARISONS = ("=", "<>", "<", "<=", ">", ">=")

TokenKind = Literal["table", "join", "column", "aggregate", "operator", "value", "word"]
Phase = Literal["from", "join", "item", "argument", "where", "operator", "value", "inner", "having", "order", "end"]


@dataclass(frozen=True, slots=True)
class Token:
    """One symbol of the automaton.

    Attributes:
        text: as it stands in the query; a join has none.
        table: that a column is of.
        column: of a column's token, or that a value is of.
        key: of a join.
    """

    kind: TokenKind
    text: str = ""
    table: str = ""
    column: Column | None = None
    key: ForeignKey | None = None


class Automaton:
    """The tokens of a database.

    Args:
        schema: of the database. Columns without constants are selected, and not compared.

    Attributes:
        tokens: all of them; a token is known by its place.
    """

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.tokens: list[Token] = []
        self.tables: dict[str, int] = {}
        self.joins: dict[str, list[int]] = {}
        self.columns: dict[str, list[int]] = {}
        self.values: dict[tuple[str, str], list[int]] = {}
        dialect = written_in(schema.dialect)
        for table in schema.populated:
            self.tables[table.name] = self._add(Token("table", quote_name(table.name), table.name))
            self.columns[table.name] = []
            for column in table.columns:
                if column.role != "opaque":
                    self._add_column(table, column, dialect)
        for key in schema.foreign_keys:
            if key.table in self.tables and key.referenced_table in self.tables and key.table != key.referenced_table:
                place = self._add(Token("join", key=key))
                for end in (key.table, key.referenced_table):
                    self.joins.setdefault(end, []).append(place)
        self.aggregates = [self._add(Token("aggregate", name)) for name in AGGREGATES]
        self.operators = [self._add(Token("operator", text)) for text in _COMPARISONS]
        self.membership = self._add(Token("operator", "IN"))
        self.words = {text: self._add(Token("word", text)) for text in ("AND", "OR", "NEXT", "HAVING", "END")}

    def _add(self, token: Token) -> int:
        self.tokens.append(token)
        return len(self.tokens) - 1

    def _add_column(self, table: Table, column: Column, dialect: str) -> None:
        text = f"{quote_name(table.name)}.{quote_name(column.name)}"
        self.columns[table.name].append(self._add(Token("column", text, table.name, column)))
        profile = column.profile
        common = [value for value, _ in profile.common_values]
        constants = list(dict.fromkeys([*profile.quantiles, *common]))[:VALUES_PER_COLUMN]
        self.values[table.name, column.name] = [
            self._add(Token("value", literal(value, column.kind, dialect), table.name, column)) for value in constants
        ]


class Walk:
    """One query on its way through the automaton."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._phase: Phase = "from"
        self._tables: list[str] = []
        self._from = ""
        self._plain: list[str] = []
        self._aggregated: list[tuple[str, Token]] = []
        self._pending = ""
        self._conditions: list[str] = []
        self._where = ""
        self._compared: Token | None = None
        self._in_subquery = False
        self._in_having = False
        self._having = ""
        self._order = ""

    @property
    def is_done(self) -> bool:
        """Whether the query is at its end."""
        return self._phase == "end"

    def sql(self) -> str | None:
        """Return the query at its end; None before it."""
        if self._phase != "end":
            return None
        items = [*self._plain, *(text for text, _ in self._aggregated)]
        text = f"SELECT {', '.join(items)} FROM {self._from}{self._where}"
        if self._plain and self._aggregated:
            text += f" GROUP BY {', '.join(self._plain)}"
        return spelled(text + self._having + self._order, self._automaton.schema.dialect)

    def legal(self) -> Sequence[int]:
        """Return the places of the tokens that may follow; at least one, but at the end."""
        automaton, words = self._automaton, self._automaton.words
        columns = [place for name in self._tables for place in automaton.columns[name]]
        if self._phase == "from":
            return [place for name, place in automaton.tables.items() if automaton.columns[name]]
        if self._phase == "join":
            return [*self._possible_joins(), words["END"]]
        if self._phase == "item":
            count = len(self._plain) + len(self._aggregated)
            if count == MAX_ITEMS:
                return [words["END"]]
            new = [place for place in columns if automaton.tokens[place].text not in self._plain]
            measured = any(self._is_measured(automaton.tokens[place]) for place in columns)
            aggregates = automaton.aggregates if measured else automaton.aggregates[:1]
            return [*new, *aggregates, *([words["END"]] if count else [])]
        if self._phase == "argument":
            is_count = self._pending == AGGREGATES[0]
            return [place for place in columns if is_count or self._is_measured(automaton.tokens[place])]
        if self._phase == "where":
            return [*self._comparable(self._tables), words["END"]]
        if self._phase == "inner":
            return self._comparable([self._subquery_table()])
        if self._phase == "operator":
            is_member = not self._in_subquery and not self._in_having and self._reference() is not None
            return [*automaton.operators, *([automaton.membership] if is_member else [])]
        if self._phase == "value":
            assert self._compared is not None
            assert self._compared.column is not None
            return automaton.values[self._compared.table, self._compared.column.name]
        if self._phase == "having":
            return [words["HAVING"], words["END"]] if self._having_argument() is not None else [words["END"]]
        return [*(p for p in columns if automaton.tokens[p].text in self._plain), words["END"]]

    def take(self, place: int) -> None:
        """Go on with one of the tokens of `legal`."""
        token = self._automaton.tokens[place]
        is_end = place == self._automaton.words["END"]
        if self._phase == "from":
            self._tables.append(token.table)
            self._from, self._phase = token.text, "join"
        elif self._phase == "join":
            if is_end:
                self._phase = "item"
            else:
                self._join(token)
        elif self._phase == "item":
            self._item(token, is_end)
        elif self._phase == "argument":
            self._aggregated.append((f"{self._pending}({token.text})", token))
            self._phase = "item"
        elif self._phase == "where":
            if is_end:
                self._phase = "having"
            else:
                self._compared, self._pending, self._phase = token, token.text, "operator"
        elif self._phase == "operator":
            self._operator(token)
        elif self._phase == "inner":
            self._compared, self._phase = token, "operator"
            self._pending += f"{token.text}"
        elif self._phase == "value":
            self._value(token)
        elif self._phase == "having":
            self._begin_having(is_end)
        else:
            self._order = "" if is_end else f" ORDER BY {token.text}"
            self._phase = "end"

    # -- FROM and SELECT --------------------------------------------------------------

    def _possible_joins(self) -> list[int]:
        if len(self._tables) == MAX_TABLES:
            return []
        found = dict.fromkeys(place for name in self._tables for place in self._automaton.joins.get(name, ()))
        return [place for place in found if self._new_end(self._automaton.tokens[place]) is not None]

    def _new_end(self, token: Token) -> str | None:
        """Return the table that a join would add, or None where it would add none."""
        assert token.key is not None
        new = [name for name in (token.key.table, token.key.referenced_table) if name not in self._tables]
        return new[0] if len(new) == 1 and self._automaton.columns[new[0]] else None

    def _join(self, token: Token) -> None:
        key, new = token.key, self._new_end(token)
        assert key is not None
        assert new is not None
        self._from += f" JOIN {quote_name(new)} ON {equality(key, key.table, key.referenced_table)}"
        self._tables.append(new)

    def _item(self, token: Token, is_end: bool) -> None:
        if is_end:
            self._phase = "where"
        elif token.kind == "aggregate":
            self._pending, self._phase = token.text, "argument"
        else:
            self._plain.append(token.text)

    @staticmethod
    def _is_measured(token: Token) -> bool:
        return token.column is not None and token.column.role == "measure"

    # -- conditions ---------------------------------------------------------------------

    def _comparable(self, tables: Sequence[str]) -> list[int]:
        if len(self._conditions) == MAX_CONDITIONS:
            return []
        automaton = self._automaton
        return [
            place
            for name in tables
            for place in automaton.columns[name]
            if (column := automaton.tokens[place].column) is not None and automaton.values[name, column.name]
        ]

    def _reference(self) -> ForeignKey | None:
        """Return the key that the compared column is, where the table that it refers to has columns to compare."""
        token = self._compared
        assert token is not None
        assert token.column is not None
        for key in self._automaton.schema.foreign_keys:
            is_own = key.table == token.table and key.columns == (token.column.name,)
            if is_own and key.referenced_table in self._automaton.tables and self._comparable([key.referenced_table]):
                return key
        return None

    def _subquery_table(self) -> str:
        key = self._reference()
        assert key is not None
        return key.referenced_table

    def _operator(self, token: Token) -> None:
        if token.text != "IN":
            self._pending += f" {token.text} "
            self._phase = "value"
            return
        key = self._reference()
        assert key is not None
        (referenced,) = key.referenced_columns
        self._pending += f" IN (SELECT {quote_name(referenced)} FROM {quote_name(key.referenced_table)} WHERE "
        self._in_subquery, self._phase = True, "inner"

    def _value(self, token: Token) -> None:
        text = self._pending + token.text
        if self._in_having:
            self._having, self._phase = f" HAVING {text}", "order"
            return
        self._conditions.append(f"{text})" if self._in_subquery else text)
        self._where = f" WHERE {' AND '.join(self._conditions)}"
        self._in_subquery, self._phase = False, "where"

    def _having_argument(self) -> tuple[str, Token] | None:
        """Return the first aggregate over a column that has constants to compare it with, of a query with groups."""
        for text, token in self._aggregated if self._plain else ():
            assert token.column is not None
            if self._is_measured(token) and self._automaton.values[token.table, token.column.name]:
                return text, token
        return None

    def _begin_having(self, is_end: bool) -> None:
        found = self._having_argument()
        if is_end or found is None:
            self._phase = "order"
            return
        self._pending, self._compared = found
        self._in_having, self._phase = True, "operator"
