"""One SELECT over tables as the rewritings see it: its tables, what it can group by and measure, its conditions."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import sqlglot
from sqlglot import exp

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Column, ForeignKey, Schema, Table
from rayfactory.models.grammar import expressions
from rayfactory.models.grammar.quantities import code_weight, is_record_date, names_a_thing
from rayfactory.models.grammar.scope import Scope, fields_of
from rayfactory.models.grammar.syntax import quote_name
from rayfactory.models.variation.clauses import (
    aliases_in,
    conjuncts,
    is_join_condition,
    is_labelled,
    joins_of,
    operands,
)
from rayfactory.models.variation.naming import column, identifier, is_calendar_table, new_name, plain_name
from rayfactory.models.variation.nodes import normalise, own_nodes, table_name
from rayfactory.models.variation.resolution import Source, sources_of

MAX_JOINED_ROWS = 400_000
"""Estimated rows of a join beyond which no table is added."""

BAND_WEIGHT = 0.1
"""Of bands of a quantity as groups, against categories: each query with one is like the others."""


BANDS_ALONE = 0.85
"""How often nothing is grouped where there are only bands to group by."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a rewriting may know besides the tree.

    Attributes:
        seeds: the resolved seeds, for recombination.
        table_use: rows of the pool that reference each table; the less used are favoured.
    """

    schema: Schema
    seeds: tuple[exp.Expr, ...]
    engine: Engine | None
    table_use: Mapping[str, int]


@dataclass(frozen=True)
class Term:
    """An expression over a block with the name that an output of it would have.

    Attributes:
        text: as the dialect spells it, every column qualified.
        alias: of the source that it is over.
        column: what it stands for, where it is one column.
        weight: how often an analyst would choose it.
        uses: the columns in it, as `reference` spells them.
        is_period: whether it is a time: a part of a date, a column of a calendar.
        is_band: whether it sorts a quantity into bands.
    """

    text: str
    dialect: str
    name: str
    alias: str
    column: Column | None = None
    weight: float = 1.0
    uses: tuple[str, ...] = ()
    is_period: bool = False
    is_band: bool = False

    @cached_property
    def expression(self) -> exp.Expr:
        """The tree of the text."""
        return parsed(self.text, self.dialect)


def parsed(sql: str, dialect: str) -> exp.Expr:
    """Return the tree of an expression."""
    return normalise(sqlglot.parse_one(sql, dialect=dialect))


def reference(alias: str, name: str) -> str:
    """Return a column of a source as the schema grammar spells it."""
    return f"{quote_name(alias)}.{quote_name(name)}"


def references_in(node: exp.Expr) -> list[str]:
    return [reference(part.table, part.name) for part in own_nodes(node) if isinstance(part, exp.Column)]


@dataclass(frozen=True, slots=True)
class Block:
    """One SELECT of a resolved query.

    Attributes:
        sources: by folded alias, in FROM order.
        grain: aliases of the sources whose rows are not repeated by the joins, as far as foreign keys tell.
    """

    select: exp.Select
    sources: dict[str, Source]
    grain: frozenset[str]

    @property
    def tables(self) -> dict[str, Table]:
        """The base tables by alias as written."""
        return {source.alias: source.table for source in self.sources.values() if source.table is not None}

    @property
    def absent(self) -> frozenset[str]:
        """The folded aliases of sources that an outer join may leave out, and a condition wants left out."""
        missing = {
            condition.this.table.casefold()
            for condition in conjuncts(self.select)
            if isinstance(condition, exp.Is)
            and isinstance(condition.this, exp.Column)
            and isinstance(condition.expression, exp.Null)
        }
        return frozenset(folded for folded in missing if folded in self.sources and self.sources[folded].optional)

    def column_of(self, node: exp.Expr) -> Column | None:
        """Return what a column node of this block's own sources stands for."""
        if not isinstance(node, exp.Column):
            return None
        source = self.sources.get(node.table.casefold())
        return None if source is None else source.columns.get(node.name.casefold())


def block_of(select: exp.Select, schema: Schema) -> Block:
    """Return the view of one SELECT of a resolved query."""
    sources = sources_of(select, schema)
    repeated: set[str] = set()
    for child, parent in _references(select, sources, schema):
        # A table whose key is pointed to by another has each of its rows once for every one of the other's.
        if child != parent:
            repeated.add(parent)
    grain = [folded for folded in sources if folded not in repeated]
    # Two tables that each have many rows for one of a third repeat each other.
    return Block(select, sources, frozenset(grain if len(grain) == 1 else grain[:1]))


def blocks(tree: exp.Expr, schema: Schema) -> list[Block]:
    """Return every SELECT of a resolved query that reads a base table, outermost first."""
    found = [block_of(select, schema) for select in tree.find_all(exp.Select)]
    return [block for block in found if block.tables]


def free_blocks(tree: exp.Expr, schema: Schema) -> list[Block]:
    """Return the blocks without a label: two parts under each other stay comparable only as they are."""
    return [block for block in blocks(tree, schema) if not is_labelled(block.select)]


def root_select(tree: exp.Expr) -> exp.Select | None:
    """Return the outermost SELECT; None for a set operation."""
    return tree if isinstance(tree, exp.Select) else None


# -- tables -------------------------------------------------------------------


def _references(select: exp.Select, sources: Mapping[str, Source], schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield (child, parent) folded aliases for every pair of tables that a condition joins along a foreign key."""
    conditions = [condition for condition in conjuncts(select) if is_join_condition(condition)]
    for join in joins_of(select):
        on = join.args.get("on")
        conditions.extend(
            condition for condition in (operands(on) if on is not None else []) if is_join_condition(condition)
        )
    for condition in conditions:
        left, right = sources.get(condition.this.table.casefold()), sources.get(condition.expression.table.casefold())
        if left is None or right is None or left.table is None or right.table is None:
            continue
        for one, two, a, b in (
            (left, right, condition.this, condition.expression),
            (right, left, condition.expression, condition.this),
        ):
            if _is_reference(one.table, a.name, two.table, b.name, schema):  # type: ignore[arg-type]
                yield one.alias.casefold(), two.alias.casefold()
                break


def references_of(block: Block, schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield (child, parent) folded aliases for the pairs of a block's tables that are joined along a foreign key."""
    return _references(block.select, block.sources, schema)


def _is_reference(child: Table, own: str, parent: Table, other: str, schema: Schema) -> bool:
    return any(
        key.table == child.name
        and key.referenced_table == parent.name
        and any(
            a.casefold() == own.casefold() and b.casefold() == other.casefold()
            for a, b in zip(key.columns, key.referenced_columns, strict=True)
        )
        for key in schema.foreign_keys
    )


def is_connected(block: Block) -> bool:
    """Whether conditions tie all sources of a block together, so that no two of them are multiplied."""
    conditions = list(conjuncts(block.select))
    for join in joins_of(block.select):
        on = join.args.get("on")
        conditions.extend(operands(on) if on is not None else [])
    groups = [{folded} for folded in block.sources]
    for condition in conditions:
        tied = aliases_in(condition)
        touched = [group for group in groups if group & tied]
        groups = [group for group in groups if not group & tied]
        if touched:
            groups.append(set().union(*touched))
    return len(groups) <= 1


def estimated_rows(block: Block, schema: Schema) -> float:
    """Return about how many rows the joins of a block make, conditions aside."""
    tables = {folded: source.table.num_rows for folded, source in block.sources.items() if source.table is not None}
    if not tables:
        return 0.0
    parents = {parent: child for child, parent in _references(block.select, block.sources, schema)}
    rows = 1.0
    for folded, num_rows in tables.items():
        if folded not in parents:
            rows *= max(1, num_rows)
    # Two children of one parent share its key: each parent row meets both.
    shared: dict[str, int] = {}
    for child, parent in _references(block.select, block.sources, schema):
        if child not in parents:
            shared[parent] = shared.get(parent, 0) + 1
    for parent, count in shared.items():
        rows /= max(1, tables.get(parent, 1)) ** (count - 1)
    return rows


def join_condition(key: ForeignKey, child: str, parent: str) -> exp.Expr:
    """Return the equality of a foreign key between two aliases."""
    pairs = zip(key.columns, key.referenced_columns, strict=True)
    return exp.and_(*(exp.EQ(this=column(child, a), expression=column(parent, b)) for a, b in pairs), copy=False)


def aliased_table(name: str, alias: str) -> exp.Table:
    """Return a table as a FROM item."""
    table = exp.Table(this=identifier(name))
    if alias.casefold() != name.casefold():
        table.set("alias", exp.TableAlias(this=identifier(alias)))
    return table


def names_in(tree: exp.Expr) -> set[str]:
    """Return every name of a source in a statement, so that a new one collides with none."""
    names = {table_name(item).casefold() for item in tree.find_all(exp.Table, exp.Subquery, exp.CTE)}
    return names | {item.name.casefold() for item in tree.find_all(exp.Table)}


def table_names(schema: Schema) -> set[str]:
    """Return the folded names of all base tables: a new CTE of such a name would hide the table."""
    return {table.name.casefold() for table in schema.tables}


# -- what a block can show ----------------------------------------------------


def vocabulary(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> Scope | None:
    """Return the block's base tables (or those under some aliases) as the schema grammar sees them; None for none."""
    tables = [(source.alias, source.table) for source in _chosen(block, aliases) if source.table is not None]
    if not tables:
        return None
    grain = next((table for alias, table in tables if alias.casefold() in block.grain), tables[0][1])
    fields = tuple(field for alias, table in tables for field in fields_of(table, alias, qualify=True))
    return Scope(schema.dialect, "", (), fields, float(grain.num_rows), grain)


def dimensions(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> list[Term]:
    """Return what an analyst would group the block's rows by."""
    compared, pinned = conditioned_columns(block)
    terms: list[Term] = []
    for source in _chosen(block, aliases):
        if source.table is None:
            terms.extend(
                _column_term(source, own, schema.dialect)
                for own in source.columns.values()
                if own.role in ("category", "code")
                and own.kind in ("text", "integer", "boolean")
                and not own.name.startswith("(")
                and (own.profile.num_sampled == 0 or 2 <= own.profile.num_distinct <= expressions.MAX_GROUPS)
            )
            continue
        scope = vocabulary(block, schema, [source.alias])
        by_text = {} if scope is None else {field.sql: field.column for field in scope.fields}
        for found in [] if scope is None else expressions.dimensions(scope):
            # One group is no grouping, and of the bands of a quantity that is bounded some are empty.
            unwanted = compared if found.sql.startswith("CASE") else pinned
            if not any(use in unwanted for use in found.uses):
                is_band = found.sql.startswith("CASE")
                terms.append(
                    Term(
                        found.sql,
                        schema.dialect,
                        found.name,
                        source.alias,
                        by_text.get(found.sql),
                        BAND_WEIGHT * found.weight if is_band else found.weight,
                        found.uses,
                        tells_time(source.table, [by_text[use] for use in found.uses if use in by_text]),
                        is_band,
                    )
                )
    return terms


def tells_time(table: Table | None, columns: Sequence[Column]) -> bool:
    """Whether what is made of columns of a table is a time: a part of a date, a column of a calendar."""
    return any(own.role == "date" for own in columns) or (table is not None and is_calendar_table(table))


def has_period(block: Block, keys: Sequence[exp.Expr]) -> bool:
    """Whether one of some group keys of a block is a time."""
    for key in keys:
        for node in key.find_all(exp.Column):
            source, own = block.sources.get(node.table.casefold()), block.column_of(node)
            if source is not None and own is not None and tells_time(source.table, [own]):
                return True
    return False


def lists_attributes(table: Table, schema: Schema, depth: int = 3) -> bool:
    """Whether the rows of a table are combinations of attributes rather than things or events: days, bands, profiles.

    Nobody counts them, and two events that share one have nothing else in common.
    """
    if is_calendar_table(table):
        return True
    for own in table.columns:
        is_name = own.role in ("text", "identifier") and names_a_thing(plain_name(table, own.name))
        if own.role == "date" or (is_name and own.profile.num_distinct > 3):
            return False
    parents = {key.referenced_table for key in schema.foreign_keys if key.table == table.name} - {table.name}
    if not parents and not any(key.referenced_table == table.name for key in schema.foreign_keys):
        return False  # it stands alone
    return depth > 0 and all(lists_attributes(schema.table(parent), schema, depth - 1) for parent in parents)


def _chosen(block: Block, aliases: Sequence[str] | None) -> list[Source]:
    wanted = None if aliases is None else {alias.casefold() for alias in aliases}
    absent = block.absent
    return [
        source
        for folded, source in block.sources.items()
        if (wanted is None or folded in wanted) and folded not in absent
    ]


def _column_term(source: Source, own: Column, dialect: str, weight: float = 1.0) -> Term:
    text = reference(source.alias, own.name)
    name = plain_name(source.table, own.name)
    return Term(text, dialect, name, source.alias, own, weight, (text,), tells_time(source.table, [own]))


def conditioned_columns(block: Block) -> tuple[set[str], set[str]]:
    """Return the columns that a condition compares, and those that one pins to a single value."""
    compared: set[str] = set()
    pinned: set[str] = set()
    for condition in conjuncts(block.select):
        names = references_in(condition)
        compared.update(names)
        if isinstance(condition, exp.EQ) and isinstance(condition.expression, (exp.Literal, exp.Boolean, exp.Cast)):
            pinned.update(names)
    for join in joins_of(block.select):
        # What an outer join has by a condition it lacks by all others: groups of it would be those and none.
        for condition in operands(join.args["on"]) if join.side and join.args.get("on") is not None else []:
            if not is_join_condition(condition):
                pinned.update(references_in(condition))
    return compared, pinned


def measures(block: Block, schema: Schema) -> list[Term]:
    """Return the quantities of a block that can be added up: those whose rows the joins do not repeat."""
    return [
        _column_term(source, own, schema.dialect)
        for source in _chosen(block, sorted(block.grain))
        for own in list(source.columns.values())[:200]
        if own.role == "measure" and own.kind in ("integer", "real") and not own.name.startswith("(")
    ]


def labels(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> list[Term]:
    """Return what an analyst would list of single rows: names, identifiers, categories, dates, quantities."""
    wanted = ("text", "identifier", "category", "date", "measure", "code")
    _, pinned = conditioned_columns(block)
    return [
        _column_term(source, own, schema.dialect, weight)
        for source in _chosen(block, aliases)
        for own in list(source.columns.values())[:200]
        if own.role in wanted
        and own.kind != "other"
        and not own.name.startswith("(")
        and reference(source.alias, own.name) not in pinned
        and (own.profile.num_sampled == 0 or (own.profile.null_fraction < 0.5 and own.profile.num_distinct > 1))
        and (weight := _label_weight(source.table, own)) > 0
    ]


def _label_weight(table: Table | None, own: Column) -> float:
    """Return how often an analyst would show a column of single rows."""
    if table is None:
        return 1.0
    name = plain_name(table, own.name)
    if is_calendar_table(table):
        # Of a day its date says all; of a time of day the hour, not the second.
        return {"date": 1.0, "category": 0.0 if "current" in name.split("_") else 0.5, "code": code_weight(name)}.get(
            own.role, 0.0
        )
    if (own.role == "text" and not names_a_thing(name)) or (own.role == "date" and is_record_date(name)):
        return 0.15  # remarks and details
    if own.role != "code":
        return 1.0
    if name.endswith(("_id", "_code")) and any(
        plain_name(table, other.name) in (stem := re.sub(r"_(id|code)$", "", name), f"{stem}_name")
        for other in table.columns
    ):
        return 0.0  # the readable column stands beside it
    return max(0.2, min(1.0, code_weight(name)))


def names_rows(own: Column | None) -> bool:
    """Whether a column tells which thing or event a row is."""
    if own is None or own.role not in ("text", "identifier", "date"):
        return own is not None and own.kind == "other"
    name = plain_name(None, own.name)
    if own.role == "date":
        return not is_record_date(name)
    return names_a_thing(name) if own.role == "text" else not {"street", "suite"} & set(name.split("_"))


def key_columns(block: Block) -> list[exp.Column] | None:
    """Return columns that tell any two rows of the block's join apart, or None where none are known."""
    found: list[exp.Column] = []
    for folded in block.sources if not block.grain else sorted(block.grain):
        source = block.sources[folded]
        if source.table is None or not source.table.primary_key:
            return None
        found.extend(column(source.alias, name) for name in source.table.primary_key)
    return found


def pick(rng: random.Random, terms: Sequence[Term], count: int) -> list[Term]:
    """Return up to `count` terms of different names and columns, spread over the sources.

    At most one is a time, and bands of a quantity come first or not at all.
    """
    waiting = list(terms)
    chosen: list[Term] = []
    while waiting and len(chosen) < count:
        used = {term.alias for term in chosen}
        weights = [term.weight * (0.3 if term.alias in used else 1.0) for term in waiting]
        term = rng.choices(waiting, weights)[0]
        chosen.append(term)
        waiting = [
            other
            for other in waiting
            if other.name != term.name
            and not any(use in term.uses for use in other.uses)
            and not (term.is_period and other.is_period)
            and not other.is_band
        ]
    return chosen


def projection(expression: exp.Expr, name: str, taken: set[str]) -> exp.Expr:
    """Return an output of a SELECT under a name that is not taken, and take it."""
    is_plain = isinstance(expression, exp.Column) and expression.name.casefold() not in taken
    if is_plain and (len(taken) % 2 == 0 or expression.name.casefold() == name.casefold()):
        taken.add(expression.name.casefold())
        return expression.copy()
    alias = new_name(name, taken)
    taken.add(alias.casefold())
    return exp.alias_(expression.copy(), identifier(alias), copy=False)


def nested_queries(node: exp.Expr) -> list[exp.Expr]:
    """Return the queries directly nested in an expression."""
    return [part for part in own_nodes(node) if part is not node and isinstance(part, (exp.Select, exp.SetOperation))]
