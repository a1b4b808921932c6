"""Rewritings between joins and nested queries: IN and EXISTS for a join, and back; rows without a partner."""

from __future__ import annotations

import random

from sqlglot import exp

from rayfactory.models.variation.blocks import (
    Block,
    Context,
    aliased_table,
    block_of,
    blocks,
    free_blocks,
    lists_attributes,
    names_in,
)
from rayfactory.models.variation.clauses import (
    add_conjunct,
    aliases_in,
    conjuncts,
    is_join_condition,
    reads_inside,
    set_conjuncts,
    uses_of,
)
from rayfactory.models.variation.conditions import add_choice, draw_condition
from rayfactory.models.variation.join_rewrites import (
    draw_partner,
    leaves,
    partners,
    remove_join,
    show_of,
)
from rayfactory.models.variation.naming import column, table_alias


def join_to_subquery(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Say with IN or EXISTS what an inner join along one key column says, where the table is only a filter."""
    candidates: list[tuple[Block, exp.Join, str, exp.EQ]] = []
    for block in blocks(tree, context.schema):
        for join, alias in leaves(block):
            on = join.args["on"]
            others = [
                part
                for part in uses_of(block.select, alias)
                if not isinstance(part.find_ancestor(exp.Where, exp.Join, exp.Select), (exp.Where, exp.Join))
            ]
            filters = [c for c in conjuncts(block.select) if alias.casefold() in aliases_in(c)]
            own_only = all(aliases_in(c) == {alias.casefold()} for c in filters)
            is_free = not reads_inside(block.select, block.tables[alias].name)
            if not join.side and is_join_condition(on) and not others and own_only and filters and is_free:
                candidates.append((block, join, alias, on))
    if not candidates:
        return None
    block, join, alias, on = rng.choice(candidates)
    select, folded = block.select, alias.casefold()
    outer, inner = (on.this, on.expression) if on.expression.table.casefold() == folded else (on.expression, on.this)
    filters = [c for c in conjuncts(select) if folded in aliases_in(c)]
    rest = [c for c in conjuncts(select) if folded not in aliases_in(c)]
    query = exp.Select(expressions=[inner.copy()], from_=exp.From(this=join.this.copy()))
    remove_join(select, join)
    # IN is computed once, whatever the database; EXISTS only where it is turned into a join.
    if context.schema.dialect != "sqlite" and rng.random() < 0.4:
        query.set("expressions", [exp.Literal.number(1)])
        set_conjuncts(query, [exp.EQ(this=inner.copy(), expression=outer.copy()), *filters])
        condition: exp.Expr = exp.Exists(this=query)
    else:
        set_conjuncts(query, filters)
        condition = exp.In(this=outer.copy(), query=exp.Subquery(this=query))
    set_conjuncts(select, [*rest, condition])
    return tree


def subquery_to_join(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Join the table of an IN subquery over its key, and show something of it where the query lists rows."""
    for block in blocks(tree, context.schema):
        for condition in conjuncts(block.select):
            inner = condition.args.get("query") if isinstance(condition, exp.In) else None
            query = inner.this if isinstance(inner, exp.Subquery) else inner
            if not isinstance(query, exp.Select) or not isinstance(condition.this, exp.Column):
                continue
            if any(query.args.get(key) for key in ("joins", "group", "having", "limit", "distinct", "with_")):
                continue
            nested = block_of(query, context.schema)
            key = query.expressions[0]
            if len(nested.tables) != 1 or not isinstance(key, exp.Column):
                continue
            ((alias, table),) = nested.tables.items()
            if table.name in {own.name for own in block.tables.values()}:
                continue
            if table.primary_key != (key.name,) or alias.casefold() in block.sources:
                continue
            others = [other for other in conjuncts(block.select) if other is not condition]
            joined = exp.Join(
                this=query.args["from_"].this.copy(), on=exp.EQ(this=condition.this.copy(), expression=key.copy())
            )
            set_conjuncts(block.select, [*others, *conjuncts(query)])
            block.select.append("joins", joined)
            if block.select is tree and rng.random() < 0.7:
                show_of(block_of(block.select, context.schema), alias, context, rng)
            return tree
    return None


def anti_join(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Leave out (or require) the rows that a row of another table refers to."""
    candidates = [
        (block, partner)
        for block in free_blocks(tree, context.schema)[:1]
        for partner in partners(block, context)
        if not partner.is_parent
        and len(partner.key.columns) == 1
        and not reads_inside(block.select, partner.table.name)
        and not lists_attributes(context.schema.table(partner.key.referenced_table), context.schema)
    ]
    if not candidates:
        return None
    partner = draw_partner([partner for _, partner in candidates], context, rng)
    block = next(block for block, other in candidates if other is partner)
    alias = table_alias(partner.table.name, names_in(tree))
    inner = exp.Select(
        expressions=[column(alias, partner.key.columns[0])],
        from_=exp.From(this=aliased_table(partner.table.name, alias)),
    )
    negated = rng.random() < 0.6
    # Without a row of the other table at all is a question; with any row of it is hardly one.
    condition = None
    if not negated or rng.random() < 0.7:
        condition = draw_condition(block_of(inner, context.schema), context, rng)
        if condition is None:
            return None
        add_conjunct(inner, condition)
    outer = column(partner.alias, partner.key.referenced_columns[0])
    if context.schema.dialect != "sqlite" and rng.random() < 0.5:
        key = inner.expressions[0]
        inner.set("expressions", [exp.Literal.number(1)])
        set_conjuncts(inner, [exp.EQ(this=key.copy(), expression=outer), *conjuncts(inner)])
        test: exp.Expr = exp.Exists(this=inner)
    else:
        if negated:
            key = inner.expressions[0]
            add_conjunct(inner, exp.Not(this=exp.Is(this=key.copy(), expression=exp.Null())))
        test = exp.In(this=outer, query=exp.Subquery(this=inner))
    return tree if add_choice(block, exp.Not(this=test) if negated else test, context) else None
