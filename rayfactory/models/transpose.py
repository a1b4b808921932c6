"""The same question of another table: one that has the columns the question is about."""

from __future__ import annotations

import random

from sqlglot import exp

from rayfactory.databases.schema import Column, Schema, Table
from rayfactory.models.blocks import Block, Context, blocks, names_in, uses_of
from rayfactory.models.conditions import selects_rows
from rayfactory.models.join_rewrites import use_weight
from rayfactory.models.naming import identifier, plain_name, table_alias


def transpose(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put a table with like columns and like references in the place of one: web sales for store sales."""
    found: list[tuple[Block, str, Table, dict[str, str]]] = []
    for block in blocks(tree, context.schema):
        present = {table.name for table in block.tables.values()}
        for alias, table in block.tables.items():
            wanted = {node.name.casefold(): table.column(node.name) for node in uses_of(block.select, alias)}
            if len(wanted) < 2:
                continue
            for other in context.schema.populated:
                if other.name not in present and len(other.columns) >= len(wanted):
                    pairs = _pairs(table, other, list(wanted.values()), context.schema)
                    if pairs is not None and len(pairs) >= 2:
                        found.append((block, alias, other, pairs))
    if not found:
        return None
    block, alias, other, pairs = rng.choices(found, [use_weight(table.name, context) for _, _, table, _ in found])[0]
    select = block.select
    old = block.tables[alias]
    new_alias = table_alias(other.name, names_in(tree))
    # The name of the output goes with the column that it is made of.
    for node in uses_of(select, alias):
        if node.parent is select:
            node.replace(exp.alias_(node.copy(), identifier(plain_name(old, node.name)), copy=False))
    for node in uses_of(select, alias):
        node.set("this", identifier(pairs[node.name.casefold()]))
        node.set("table", identifier(new_alias))
    for item in select.find_all(exp.Table):
        if item.alias_or_name.casefold() == alias.casefold() and item.find_ancestor(exp.Select) is select:
            item.set("this", identifier(other.name))
            item.set("alias", exp.TableAlias(this=identifier(new_alias)))
    return tree if selects_rows(block, context) else None


def _pairs(table: Table, other: Table, wanted: list[Column], schema: Schema) -> dict[str, str] | None:
    """Return for each wanted column, by folded name, its like in another table; None where one has none."""
    # Most tables have no like even for the first column: look at few before naming all.
    targets_of = {own.name: _targets(other, own, schema) for own in other.columns}
    first = next((_targets(table, column, schema) for column in wanted if _targets(table, column, schema)), None)
    if first is not None and first not in targets_of.values():
        return None
    by_name = {plain_name(other, column.name): column for column in other.columns}
    pairs: dict[str, str] = {}
    for column in wanted:
        targets = _targets(table, column, schema)
        like = by_name.get(plain_name(table, column.name))
        if like is None or like.kind != column.kind or like.role != column.role or targets_of[like.name] != targets:
            like = next((own for own in other.columns if targets and targets_of[own.name] == targets), None)
        if like is None:
            return None
        pairs[column.name.casefold()] = like.name
    return pairs


def _targets(table: Table, column: Column, schema: Schema) -> list[tuple[str, tuple[str, ...]]]:
    """Return the tables that a column refers to, with the columns there."""
    return sorted(
        (key.referenced_table, key.referenced_columns)
        for key in schema.foreign_keys
        if key.table == table.name and key.columns == (column.name,)
    )
