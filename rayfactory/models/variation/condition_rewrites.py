"""Rewritings of which rows a query selects."""

from __future__ import annotations

import random

from sqlglot import exp

from rayfactory.models.variation.blocks import Block, Context, blocks, free_blocks, lists_attributes, names_in
from rayfactory.models.variation.clauses import (
    add_conjunct,
    aliases_in,
    conjuncts,
    is_join_condition,
    is_labelled,
    joins_of,
    reads_inside,
    set_conjuncts,
)
from rayfactory.models.variation.conditions import above_average, add_choice, draw_condition, selects_rows
from rayfactory.models.variation.naming import column, identifier, table_alias


def add_condition(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select fewer rows by one more condition, or by one of two."""
    block = _draw_block(tree, context, rng)
    if block is None:
        return None
    # Of more conditions than a few each says little.
    if rng.random() < 0.3 * len(_plain_conditions(block)) - 0.3:
        return None
    first = draw_condition(block, context, rng)
    if first is None:
        return None
    if rng.random() < 0.15:
        second = draw_condition(block, context, rng)
        if second is not None and _column_of(second) != _column_of(first):
            first = exp.Paren(this=exp.Or(this=first, expression=second))
    if block.select.args.get("having") is not None and rng.random() < 0.7:
        block.select.set("having", None)  # its bound was for larger groups
    add_conjunct(block.select, first)
    return tree


def _column_of(condition: exp.Expr) -> str:
    found = condition.find(exp.Column)
    return "" if found is None else found.sql()


def _draw_block(tree: exp.Expr, context: Context, rng: random.Random) -> Block | None:
    # A condition on one side of INTERSECT or EXCEPT may leave nothing of both.
    found = [
        block
        for block in free_blocks(tree, context.schema)
        if block.select.find_ancestor(exp.Intersect, exp.Except) is None
    ]
    if not found:
        return None
    return found[0] if rng.random() < 0.85 else rng.choice(found)


def _plain_conditions(block: Block) -> list[exp.Expr]:
    own = set(block.sources)
    if is_labelled(block.select):
        return []  # the label may say what the condition says
    return [
        condition
        for condition in conjuncts(block.select)
        if not is_join_condition(condition) and aliases_in(condition) and aliases_in(condition) <= own
    ]


def drop_condition(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select more rows by one condition less."""
    found = [
        (block, condition)
        for block in blocks(tree, context.schema)
        for condition in _plain_conditions(block)
        # A subquery without any condition would select everything.
        if block.select is tree or len(conjuncts(block.select)) > 1
    ]
    if not found:
        return None
    block, condition = rng.choice(found)
    set_conjuncts(block.select, [other for other in conjuncts(block.select) if other is not condition])
    return tree


def replace_condition(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put a condition on another column in the place of one."""
    if drop_condition(tree, context, rng) is None:
        return None
    return add_condition(tree, context, rng)


def compare_with_average(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select the rows above or below the average, of all or of their own group."""
    found = [block for block in free_blocks(tree, context.schema) if not block.select.find(exp.Avg)]
    if not found:
        return None
    condition = above_average(found[0], context, rng)
    if condition is None:
        return None
    add_conjunct(found[0].select, condition)
    return tree if selects_rows(found[0], context) else None


def negate_condition(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select the rows that one condition left out."""
    found: list[tuple[Block, exp.Expr]] = []
    for block in blocks(tree, context.schema):
        found.extend(
            (block, condition)
            for condition in _plain_conditions(block)
            if isinstance(condition, (exp.In, exp.Like, exp.Between, exp.EQ)) and not condition.args.get("query")
        )
    if not found:
        return None
    block, condition = rng.choice(found)
    negated: exp.Expr
    if isinstance(condition, exp.EQ):
        negated = exp.NEQ(this=condition.this.copy(), expression=condition.expression.copy())
    else:
        negated = exp.Not(this=condition.copy())
    set_conjuncts(block.select, [negated if other is condition else other for other in conjuncts(block.select)])
    return tree if selects_rows(block, context) else None


def splice_condition(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Take over a condition of another seed on a table that both read."""
    found: list[tuple[Block, exp.Expr]] = []
    for block in free_blocks(tree, context.schema):
        taken = {
            (node.table.casefold(), node.name.casefold())
            for condition in conjuncts(block.select)
            for node in condition.find_all(exp.Column)
        }
        by_table = {table.name: alias for alias, table in block.tables.items()}
        for seed in context.seeds:
            for other in blocks(seed, context.schema):
                for condition in _plain_conditions(other):
                    if condition.find(exp.Select):
                        continue
                    moved = _moved(condition, other, by_table)
                    if moved is not None and not any(
                        (node.table.casefold(), node.name.casefold()) in taken for node in moved.find_all(exp.Column)
                    ):
                        found.append((block, moved))
    if not found:
        return None
    block, condition = rng.choice(found)
    add_conjunct(block.select, condition)
    return tree if selects_rows(block, context) else None


def _moved(condition: exp.Expr, block: Block, by_table: dict[str, str]) -> exp.Expr | None:
    """Return the condition with the other query's aliases, or None where that reads a table less."""
    moved = condition.copy()
    for node in moved.find_all(exp.Column):
        source = block.sources.get(node.table.casefold())
        if source is None or source.table is None or source.table.name not in by_table:
            return None
        node.set("table", identifier(by_table[source.table.name]))
    return moved


def member_of_seed(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select only rows whose key (or whose reference) is among those that another seed selects."""
    found: list[tuple[Block, str, str, Block, str, str]] = []
    keys = [key for key in context.schema.foreign_keys if len(key.columns) == 1]
    attributes = {
        name
        for name in {key.referenced_table for key in keys}
        if lists_attributes(context.schema.table(name), context.schema)
    }
    for block in free_blocks(tree, context.schema)[:1]:
        present = {table.name for table in block.tables.values()}
        for seed in context.seeds:
            for other in blocks(seed, context.schema):
                if other.select.args.get("with_") or len(other.tables) != len(other.sources):
                    continue
                for alias, table in block.tables.items():
                    for other_alias, other_table in other.tables.items():
                        rest = {own.name for own in other.tables.values()} - {other_table.name}
                        if rest & present or (not rest and other_table.name in present):
                            continue  # the same rows, or nearly, asked for once more
                        for key in keys:
                            ends = ((key.table, key.columns[0]), (key.referenced_table, key.referenced_columns[0]))
                            for (mine, own), (theirs, far) in (ends, ends[::-1]):
                                if table.name != mine or other_table.name != theirs:
                                    continue
                                # Two events of one day, or of like customers, have nothing else in common.
                                if key.referenced_table in attributes and (
                                    other_table.name != key.referenced_table or len(other.tables) > 1
                                ):
                                    continue
                                found.append((block, alias, own, other, other_alias, far))
    if not found:
        return None
    block, alias, own, other, other_alias, far = rng.choice(found)
    inner = exp.Select(expressions=[column(other_alias, far)], from_=other.select.args["from_"].copy())
    inner.set("joins", [join.copy() for join in joins_of(other.select)])
    set_conjuncts(inner, [c for c in conjuncts(other.select) if not c.find(exp.Select)])
    if all(is_join_condition(condition) for condition in conjuncts(inner)) or reads_inside(
        block.select, other.tables[other_alias].name
    ):
        return None
    _rename_sources(inner, tree)
    condition = exp.In(this=column(alias, own), query=exp.Subquery(this=inner))
    return tree if add_choice(block, condition, context) else None


def _rename_sources(query: exp.Select, tree: exp.Expr) -> None:
    """Give the sources of a query that is put into a tree names that the tree has not."""
    taken = names_in(tree)
    renamed: dict[str, str] = {}
    items = [query.args["from_"].this, *(join.this for join in joins_of(query))]
    for item in items:
        old = item.alias_or_name
        if old.casefold() in taken:
            new = table_alias(item.name, [*taken, *renamed.values()])
            renamed[old.casefold()] = new
            item.set("alias", exp.TableAlias(this=identifier(new)))
    for node in query.find_all(exp.Column):
        if node.table.casefold() in renamed:
            node.set("table", identifier(renamed[node.table.casefold()]))
