"""One SELECT over tables as the rewritings see it: its tables, what it can group by and measure, its conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import sqlglot
from sqlglot import exp

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Column, ForeignKey, Schema, Table
from rayfactory.models.grammar.quantities import names_a_thing
from rayfactory.models.grammar.skeleton import is_calendar_table
from rayfactory.models.grammar.syntax import quote_name
from rayfactory.models.variation.clauses import (
    aliases_in,
    conjuncts,
    is_join_condition,
    is_labelled,
    joins_of,
    operands,
)
from rayfactory.models.variation.naming import column, identifier, plain_name
from rayfactory.models.variation.nodes import normalise, own_nodes, table_name
from rayfactory.models.variation.resolution import Source, sources_of
from rayfactory.sql import written_in

MAX_JOINED_ROWS = 400_000
"""Estimated rows of a join beyond which no table is added."""


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


def parsed(sql: str, dialect: str) -> exp.Expr:
    """Return the tree of an expression that is written for a dialect."""
    return normalise(sqlglot.parse_one(sql, dialect=written_in(dialect)))


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


def key_columns(block: Block) -> list[exp.Column] | None:
    """Return columns that tell any two rows of the block's join apart, or None where none are known."""
    found: list[exp.Column] = []
    for folded in block.sources if not block.grain else sorted(block.grain):
        source = block.sources[folded]
        if source.table is None or not source.table.primary_key:
            return None
        found.extend(column(source.alias, name) for name in source.table.primary_key)
    return found


def nested_queries(node: exp.Expr) -> list[exp.Expr]:
    """Return the queries directly nested in an expression."""
    return [part for part in own_nodes(node) if part is not node and isinstance(part, (exp.Select, exp.SetOperation))]
