"""The drawing board of one query: its sources with rows that are known to be there, and its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import TypeVar

from sqlglot.errors import SqlglotError

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import ForeignKey, Table
from rayfactory.errors import StatementError
from rayfactory.models.grammar.cfg import GrammarBuilder, seq
from rayfactory.models.grammar.expressions import Expression
from rayfactory.models.grammar.joins import (
    NUM_SAMPLED_ROWS,
    Style,
    equality,
    few_rows,
    from_clause,
    role_of,
    source_item,
)
from rayfactory.models.grammar.scope import (
    Field,
    Scope,
    determines,
    fields_of,
    say_the_same,
    with_sample,
)
from rayfactory.models.grammar.skeleton import Join, KeyGraph, Skeleton, draw_skeleton
from rayfactory.models.grammar.syntax import KEYWORDS, fresh_name, named, quote_name, snake
from rayfactory.sql import spelled

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Spine:
    """A skeleton with its scope.

    Attributes:
        aliases: of the skeleton's tables, in order.
        hidden: a scope for each table that is joined to in the sample and not in FROM, with the child's fields that
            point to it and the fields pointed to; for conditions in nested queries.
    """

    skeleton: Skeleton
    scope: Scope
    aliases: tuple[str, ...]
    hidden: tuple[tuple[tuple[Field, ...], tuple[Field, ...], Scope], ...] = ()


@dataclass(slots=True)
class Shared:
    """What the tellings of one question have in common: drawn with the first, used by all. Makes wide rules.

    Attributes:
        builder: the rules of all tellings.
        style: how all of them spell.
        stem: the table and the grain that the first skeleton was asked for, that skeleton and how much of it is kept.
        samples: rows of each join that was looked at, by its grain and its joins.
    """

    builder: GrammarBuilder = field(default_factory=GrammarBuilder)
    style: Style | None = None
    stem: tuple[tuple[str | None, str | None], Skeleton, int] | None = None
    samples: dict[tuple[str, tuple[Join, ...]], tuple[tuple[object, ...], ...]] = field(default_factory=dict)


class Draft:
    """One query being drawn. It owns the names that are taken, and the grammar's rules where it shares them with none.

    Attributes:
        shared: what it has in common with other tellings of its question; None: it is the only one.
        wanted: names of the tables that the request is about.
        use: how often each table is used, in the pool against the mean and in the request so far; 0 for no use.
        used: tables that this query references.
    """

    def __init__(
        self,
        graph: KeyGraph,
        wanted: Sequence[str],
        rng: Random,
        engine: Engine | None,
        use: Mapping[str, float],
        shared: Shared | None = None,
    ) -> None:
        self.shared = shared
        self.graph = graph
        self.schema = graph.schema
        self.dialect = graph.schema.dialect
        self.wanted = tuple(wanted)
        self.rng = rng
        self.engine = engine
        self.use = use
        self.used: dict[str, None] = {}
        self.builder = shared.builder if shared else GrammarBuilder()
        self.ctes: list[str] = []
        self._aliases: set[str] = set()
        # How many of the sources have a column of a name.
        self._columns: Counter[str] = Counter()
        # Fields that a condition is on: a grouping by one of them would say little.
        self.constrained: set[str] = set()
        # Sources that a condition is on.
        self.engaged: set[str] = set()
        self.style = Style(
            alias=self.pick([(5, "initials"), (3, "full"), (2, "letter"), (1, "numbered")]),
            join=self.pick([(7, "on"), (2, "comma"), (1, "using")]),
            qualify=rng.random() < 0.65,
            as_keyword=rng.random() < 0.5,
        )
        if shared:
            self.style = shared.style = shared.style or self.style

    # Drawing

    def pick(self, options: Sequence[tuple[float, T]]) -> T:
        """Return one of some weighted options.

        Raises:
            ValueError: there is none.
        """
        if not options:
            raise ValueError("nothing to choose from")
        (chosen,) = self.rng.choices([option for _, option in options], [weight for weight, _ in options])
        return chosen

    def some(
        self, options: Sequence[Expression], count: int, scope: Scope | None = None, beside: Sequence[Expression] = ()
    ) -> list[Expression]:
        """Return up to `count` expressions that share no field and no name, drawn by weight.

        Args:
            scope: of keys, what they are over: none says the same as another.
            beside: keys that are chosen already.
        """
        left, chosen = list(options), list[Expression]()
        for expression in beside:
            left = [option for option in left if not self._akin(scope, option, expression)]
        while left and len(chosen) < count:
            expression = self.pick([(option.weight, option) for option in left])
            chosen.append(expression)
            left = [
                option
                for option in left
                if option.name != expression.name
                and not set(option.uses) & set(expression.uses)
                and not self._akin(scope, option, expression)
            ]
        return chosen

    def _akin(self, scope: Scope | None, a: Expression, b: Expression) -> bool:
        """Whether two keys tell one thing: an id and its name, a quarter and its months of one calendar."""
        if scope is None:
            return False
        for own in scope.fields_named(a.uses):
            for other in scope.fields_named(b.uses):
                if own.source != other.source:
                    continue
                if own.column.role == other.column.role == "date":
                    return True
                if "date" in (own.column.role, other.column.role) and self.graph.is_calendar(own.table.name):
                    return True
                settled = determines(own, other) or determines(other, own)
                if say_the_same(own, other) or (settled and self.graph.is_calendar(own.table.name)):
                    return True
        return False

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def must(self) -> str:
        """Return the table that the query is mostly about: the first of the request, or the one used least."""
        if self.chance(0.5):
            return self.wanted[0]
        return self.pick([(1 / (1 + self.use[name]) ** 2, name) for name in self.wanted])

    # Names

    def alias(self, wanted: str) -> str:
        """Return a source alias that no other source of the query has."""
        taken = self._aliases | self.graph.names
        base = fresh_name(wanted, ())
        if len(wanted) < 4 and base != wanted.lower():
            base = f"{wanted.lower()}1"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}{number}" if len(base) < 4 else f"{base}_{number}", number + 1
        self._aliases.add(name)
        return name

    def output(self, wanted: str, taken: set[str], column: str = "") -> str:
        """Return an output name that is neither taken nor that of a column in sight, the given one aside."""
        own = column.lower()
        if snake(wanted) in KEYWORDS and fresh_name(own, taken) == own:
            wanted = own  # better the column's whole name than one that is made up
        name = fresh_name(wanted, (taken | self._columns.keys() | self.graph.table_names) - ({own} - taken))
        taken.add(name)
        return name

    def named(self, sql: str, name: str) -> str:
        """Return an item of a SELECT list under a name, which an ORDER BY may then use alone."""
        return named(sql, name) if self._columns[name] < 2 else f"{sql} AS {name}"

    def output_of(self, expression: Expression, scope: Scope, taken: set[str]) -> str:
        """Return an output name for an expression; that of its column is free to one that is a column."""
        column = next((field.column.name for field in scope.fields if field.sql == expression.sql), "")
        return self.output(expression.name, taken, column)

    def _table_alias(self, table: Table, role: str) -> str:
        style = self.style.alias
        name = table.name
        if style == "full" and name.lower() not in self._aliases:
            self._aliases.add(name.lower())
            return name
        words = snake(name).split("_")
        if role and name in self.used and role not in KEYWORDS:
            return self.alias(role)
        if style == "numbered":
            return self.alias("t")
        short = "".join(word[:1] for word in words) if style == "initials" else words[0][:1]
        return self.alias(short or "t")

    # Sources

    def spine(
        self,
        num_tables: int,
        must: str | None = None,
        grain: str | None = None,
        hidden: int = 0,
        style: Style | None = None,
    ) -> Spine:
        """Draw a skeleton about a table, with the conditions' sample of its rows.

        Raises:
            DeadEndError: no rows come of its joins.
        """
        style = style or self.style
        asked = (must, grain)
        if self.shared and self.shared.stem and self.shared.stem[0] == asked and not self.used:
            return self._spine(*self.shared.stem[1:], style)
        if must is None:
            must = self.must()
            if num_tables == 1 and (self.graph.is_bare(must) or self.graph.is_calendar(must)):
                num_tables = 2  # what points to it, rather than itself
        wanted = self.wanted
        if len(wanted) < num_tables and self.chance(0.8):
            wanted = (*wanted, *self._borrowed(num_tables - len(wanted)))
        skeleton = draw_skeleton(
            self.graph, self.rng, must, wanted, num_tables + hidden, self.use, grain if grain != must else must
        )
        leaves = {join.parent for join in skeleton.joins} - {join.child for join in skeleton.joins}
        kept = len(skeleton.tables)
        # The last tables are leaves: they may be looked at without standing in FROM.
        while hidden and kept > max(1, num_tables) and kept - 1 in leaves and skeleton.tables[kept - 1].name != must:
            kept, hidden = kept - 1, hidden - 1
        if self.shared and not self.shared.stem and not self.used:
            self.shared.stem = asked, skeleton, kept
        return self._spine(skeleton, kept, style)

    def _borrowed(self, count: int) -> list[str]:
        """Return tables that the wanted ones point to, for a question that needs more tables than there are."""
        near = {
            key.referenced_table: None
            for name in self.wanted
            for key in self.graph.parents(name)
            if key.referenced_table not in self.wanted
        }
        return self.rng.sample(list(near), min(count, len(near)))

    def _spine(self, skeleton: Skeleton, kept: int, style: Style) -> Spine:
        aliases: list[str] = []
        for position, table in enumerate(skeleton.tables):
            role = role_of(skeleton.joins[position - 1].key) if position else ""
            aliases.append(self._table_alias(table, role))
            self._columns.update(column.name.lower() for column in table.columns)
            self.used[table.name] = None
        qualify = style.qualify or (kept == 1 and self.chance(0.2)) or _clash(skeleton.tables[:kept])
        fields = [
            fields_of(table, alias, qualify=qualify) for table, alias in zip(skeleton.tables, aliases, strict=True)
        ]
        from_sql, joins = from_clause(skeleton, aliases, kept, style)
        scope = Scope(
            dialect=self.dialect,
            from_sql=from_sql,
            joins=joins,
            fields=tuple(field for own in fields for field in own),
            num_rows=float(skeleton.tables[0].num_rows),
            grain=skeleton.tables[0],
            countable=self.graph.countable_columns(skeleton.tables[0].name),
            is_profile=self.graph.is_profile(skeleton.tables[0].name),
        )
        scope = self._sampled(skeleton, aliases, scope)
        visible = set(aliases[:kept])
        nested = []
        for join in skeleton.joins[kept - 1 :]:
            parent = skeleton.tables[join.parent]
            alias = aliases[join.parent]
            if join.child >= kept:
                continue
            inner_fields = tuple(
                replace(field, sql=quote_name(field.column.name)) if not style.qualify else field
                for field in scope.fields
                if field.source == alias
            )
            child = tuple(scope.field(aliases[join.child], name) for name in join.key.columns)
            target = tuple(_find(inner_fields, name) for name in join.key.referenced_columns)
            inner = Scope(
                self.dialect, source_item(parent, alias, style), (), inner_fields, float(parent.num_rows), parent
            )
            nested.append((child, target, inner))
        outer = replace(scope, fields=tuple(field for field in scope.fields if field.source in visible))
        return Spine(skeleton, outer, tuple(aliases[:kept]), tuple(nested))

    def along(self, key: ForeignKey) -> Spine:
        """Return the spine of two tables, one pointing to the other by the given key.

        Raises:
            DeadEndError: no rows come of the join.
        """
        skeleton = Skeleton((self.schema.table(key.table),)).with_parent(
            0, key, self.schema.table(key.referenced_table)
        )
        return self._spine(skeleton, 2, self.style)

    def _sampled(self, skeleton: Skeleton, aliases: Sequence[str], scope: Scope) -> Scope:
        """Return the scope with some rows of its join, taken evenly from over the grain."""
        if self.engine is None:
            return scope
        fields = [field for field in scope.fields if field.column.kind != "other"]
        if not fields:
            return scope
        rows = self._sampled_rows(skeleton, aliases, fields)
        values = {
            (field.source, field.column.name): [row[position] for row in rows] for position, field in enumerate(fields)
        }
        # Of a few rows, the one that says most.
        candidates = [self.rng.randrange(len(rows)) for _ in range(3)]
        witness = min(candidates, key=lambda position: sum(value is None for value in rows[position]))
        return with_sample(scope, values, witness)

    def _sampled_rows(
        self, skeleton: Skeleton, aliases: Sequence[str], fields: Sequence[Field]
    ) -> tuple[tuple[object, ...], ...]:
        """Return some rows of a join; those that another telling looked at, where one did.

        Raises:
            DeadEndError: no rows come of the join.
        """
        key = skeleton.tables[0].name, skeleton.joins
        if self.shared and key in self.shared.samples:
            return self.shared.samples[key]
        grain, first = skeleton.tables[0], quote_name(aliases[0])
        columns = ", ".join(field.qualified for field in fields)
        joins = "".join(
            f" JOIN {quote_name(skeleton.tables[join.parent].name)} AS {quote_name(aliases[join.parent])}"
            f" ON {equality(join.key, aliases[join.child], aliases[join.parent])}"
            for join in skeleton.joins
        )
        for few in few_rows(grain, self.rng, self.dialect):
            sql = f"SELECT {columns} FROM ({few}) AS {first}{joins} LIMIT {NUM_SAMPLED_ROWS}"
            rows = self.rows(sql)
            if rows:
                if self.shared:
                    self.shared.samples[key] = rows
                return rows
        raise DeadEndError

    def rows(self, sql: str) -> tuple[tuple[object, ...], ...]:
        """Return the first rows of a statement; none where it does not run or there is no engine."""
        if self.engine is None:
            return ()
        try:
            return self.engine.run(spelled(sql, self.dialect), keep_rows=NUM_SAMPLED_ROWS).rows
        except (StatementError, SqlglotError):
            return ()

    def fixed(self, text: str) -> str:
        """Return a sentence of a text with references, drawn now rather than left to the grammar."""
        rules = self.builder.build()
        return "".join(part.text if hasattr(part, "text") else rules.sample(self.rng, part.name) for part in seq(text))

    def source(self, sql: str, alias: str, cte_probability: float) -> str:
        """Return what stands in FROM for a nested query: the name of a CTE that is added, or a derived table."""
        if self.chance(cte_probability):
            self.ctes.append(f"{alias} AS ({sql})")
            return alias
        return f"({sql}) AS {alias}"


class DeadEndError(Exception):
    """What was drawn leads nowhere: another draw may."""


def _clash(tables: Sequence[Table]) -> bool:
    """Whether two of the tables have a column of the same name."""
    names = [column.name.lower() for table in tables for column in table.columns]
    # Without a qualifier, `rowid` is a column of every table.
    return len(names) != len(set(names)) or "rowid" in names


def _find(fields: Sequence[Field], name: str) -> Field:
    return next(field for field in fields if field.column.name == name)
