"""The same question of another table: one that has the columns the question is about."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.databases.schema import Column, Schema, Table
from rayfactory.models.grammar.expressions import plural
from rayfactory.models.grammar.syntax import snake
from rayfactory.models.variation.blocks import Block, Context, blocks, names_in
from rayfactory.models.variation.clauses import uses_of
from rayfactory.models.variation.conditions import selects_rows
from rayfactory.models.variation.join_rewrites import use_weight
from rayfactory.models.variation.naming import identifier, plain_name, shared_prefix, table_alias

Links = dict[tuple[str, str], list[tuple[str, str, str]]]
"""(direction, table, column) of the other ends of the foreign keys that a (table, column) is in."""


def transpose(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put a table with like columns and like references in the place of one: web sales for store sales."""
    links = _links(context.schema)
    found: list[tuple[Block, str, Table, dict[str, str]]] = []
    for block in blocks(tree, context.schema):
        if any(isinstance(part.unalias(), exp.Literal) for part in block.select.expressions):
            continue  # a label names what the rows are
        present = {table.name for table in block.tables.values()}
        for alias, table in block.tables.items():
            wanted = {node.name.casefold(): table.column(node.name) for node in uses_of(block.select, alias)}
            if len(wanted) < 2:
                continue
            for other in context.schema.populated:
                if other.name not in present and len(other.columns) >= len(wanted):
                    pairs = _pairs(table, other, list(wanted.values()), links)
                    if pairs is not None and len(pairs) >= 2:
                        found.append((block, alias, other, pairs))
    if not found:
        return None
    weights = [
        use_weight(table.name, context) / use_weight(block.tables[alias].name, context)
        for block, alias, table, _ in found
    ]
    block, alias, other, pairs = rng.choices(found, weights)[0]
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
    _rename_outputs(tree, select, old, other)
    return tree if selects_rows(block, context) else None


def _rename_outputs(tree: exp.Expr, select: exp.Select, old: Table, new: Table) -> None:
    """Put the new table's prefix, or its name, where the old one's stands in the names that the SELECT introduces."""
    named = [part.alias for part in select.expressions if part.alias]
    around = select.parent.alias if isinstance(select.parent, (exp.CTE, exp.Subquery)) else ""
    words = [
        (shared_prefix(old).rstrip("_"), shared_prefix(new).rstrip("_")),
        (_rows_of(old), _rows_of(new)),
        (snake(old.name), snake(new.name)),
    ]
    renamed: dict[str, str] = {}
    for name in (*named, around):
        for before, after in words:
            pattern = rf"(^|_){re.escape(before)}(?=_|$)"
            if before and after and before != after and name not in renamed and re.search(pattern, name):
                renamed[name] = re.sub(pattern, rf"\g<1>{after}", name)
    for identifier_node in tree.find_all(exp.Identifier):
        if identifier_node.name in renamed:
            identifier_node.set("this", renamed[identifier_node.name])


def _rows_of(table: Table) -> str:
    """Return what counted rows of a table are called."""
    return plural(snake(table.name).removesuffix("_dim") or "row")


def _pairs(table: Table, other: Table, wanted: list[Column], links: Links) -> dict[str, str] | None:
    """Return for each wanted column, by folded name, its like in another table; None where one has none."""
    linked = {own.name: links.get((other.name, own.name), []) for own in other.columns}
    keys = [links[table.name, column.name] for column in wanted if (table.name, column.name) in links]
    # Most tables lack a key already: look at that before naming all their columns.
    if any(key not in linked.values() for key in keys):
        return None
    by_name = {plain_name(other, column.name): column for column in other.columns}
    pairs: dict[str, str] = {}
    for column in wanted:
        ends = links.get((table.name, column.name), [])
        like = by_name.get(plain_name(table, column.name))
        if like is None or like.kind != column.kind or like.role != column.role or linked[like.name] != ends:
            like = next((own for own in other.columns if ends and linked[own.name] == ends), None)
        if like is None:
            return None
        pairs[column.name.casefold()] = like.name
    return pairs


def _links(schema: Schema) -> Links:
    """Return for each column in a foreign key what it refers to and is referred to by, composite keys included."""
    links: Links = {}
    for key in schema.foreign_keys:
        for own, far in zip(key.columns, key.referenced_columns, strict=True):
            links.setdefault((key.table, own), []).append(("to", key.referenced_table, far))
            links.setdefault((key.referenced_table, far), []).append(("from", key.table, own))
    for ends in links.values():
        ends.sort()
    return links
