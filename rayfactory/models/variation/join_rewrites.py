"""Rewritings of what a query reads: another partner along a foreign key, one more, one less, a join as a subquery."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from rayfactory.databases.schema import ForeignKey, Table
from rayfactory.models.variation.blocks import (
    MAX_JOINED_ROWS,
    Block,
    Context,
    aliased_table,
    block_of,
    blocks,
    estimated_rows,
    free_blocks,
    join_condition,
    names_in,
    references_in,
)
from rayfactory.models.variation.clauses import (
    add_conjunct,
    aliases_in,
    conjuncts,
    has_comma_joins,
    is_join_condition,
    joins_of,
    operands,
    plain_keys,
    reads_inside,
    set_conjuncts,
    uses_of,
)
from rayfactory.models.variation.conditions import draw_condition, selects_rows
from rayfactory.models.variation.naming import table_alias
from rayfactory.models.variation.nodes import is_aggregated, output_name, table_name
from rayfactory.models.variation.terms import (
    BANDS_ALONE,
    dimensions,
    has_period,
    labels,
    names_rows,
    only_names,
    pick,
    projection,
)


@dataclass(frozen=True, slots=True)
class Partner:
    """A table that a block could be joined with.

    Attributes:
        alias: of the block's source that holds the other end.
        is_parent: whether the new table is the referenced one, so that no row is repeated.
    """

    alias: str
    table: Table
    key: ForeignKey
    is_parent: bool


def partners(block: Block, context: Context, aliases: Sequence[str] | None = None) -> list[Partner]:
    """Return the tables along foreign keys of the block's tables that it does not read yet."""
    present = {table.name for table in block.tables.values()} | _tables_around(block, context)
    found: list[Partner] = []
    for folded, source in block.sources.items():
        if source.table is None or source.optional or (aliases is not None and source.alias not in aliases):
            continue
        del folded
        for key in context.schema.foreign_keys:
            if key.table == key.referenced_table:
                continue
            # Of the day that a table's only row points to there is nothing to tell.
            if key.table == source.table.name and source.table.num_rows > 1 and key.referenced_table not in present:
                found.append(Partner(source.alias, context.schema.table(key.referenced_table), key, is_parent=True))
            elif key.referenced_table == source.table.name and key.table not in present:
                found.append(Partner(source.alias, context.schema.table(key.table), key, is_parent=False))
    return [partner for partner in found if partner.table.num_rows > 0]


def _tables_around(block: Block, context: Context) -> set[str]:
    """Return the tables that the queries around a nested one read: what they say of a table is said."""
    names: set[str] = set()
    around = block.select.find_ancestor(exp.Select)
    while around is not None:
        names.update(table.name for table in block_of(around, context.schema).tables.values())
        around = around.find_ancestor(exp.Select)
    return names


def draw_partner(found: Sequence[Partner], context: Context, rng: random.Random) -> Partner:
    """Return one partner, a table that the pool has used less more often; its keys share its weight."""
    counts: dict[str, int] = {}
    for partner in found:
        counts[partner.table.name] = counts.get(partner.table.name, 0) + 1
    weights = [use_weight(partner.table.name, context) / counts[partner.table.name] for partner in found]
    return rng.choices(list(found), weights)[0]


def use_weight(table: str, context: Context) -> float:
    """Return the weight of a table: 1 for one of mean use, more for one that the pool uses less."""
    if not context.table_use:
        return 1.0
    mean = sum(context.table_use.values()) / len(context.table_use)
    return ((mean + 5) / (context.table_use.get(table, 0) + 5)) ** 3


def _join(select: exp.Select, partner: Partner, alias: str) -> None:
    join = join_clause(partner, alias)
    if has_comma_joins(select):
        # JOIN binds closer than a comma: its condition could not name the tables before.
        add_conjunct(select, join.args["on"])
        join.set("on", None)
    select.append("joins", join)


def join_clause(partner: Partner, alias: str, side: str = "") -> exp.Join:
    """Return the JOIN of a partner under an alias."""
    child, parent = (partner.alias, alias) if partner.is_parent else (alias, partner.alias)
    join = exp.Join(this=aliased_table(partner.table.name, alias), on=join_condition(partner.key, child, parent))
    if side:
        join.set("side", side)
    return join


def add_join(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Join one more table along a foreign key, and use it: in a condition, as a group or as a column shown."""
    candidates = [block for block in free_blocks(tree, context.schema) if len(block.sources) <= 5]
    if not candidates:
        return None
    block = candidates[0] if rng.random() < 0.8 else rng.choice(candidates)
    found = [
        partner
        for partner in partners(block, context)
        if partner.is_parent
        or (
            # Rows of a parent are repeated: sums over it would be wrong.
            not is_aggregated(block.select)
            and len(block.sources) == 1
            and partner.table.num_rows <= MAX_JOINED_ROWS
            and not reads_inside(block.select, partner.table.name)
        )
    ]
    if not found or estimated_rows(block, context.schema) > MAX_JOINED_ROWS:
        return None
    partner = draw_partner(found, context, rng)
    alias = table_alias(partner.table.name, names_in(tree))
    _join(block.select, partner, alias)
    grown = block_of(block.select, context.schema)
    if not partner.is_parent:
        # The rows are those of the new table now: without anything of it they would be repeated, no one knows why.
        return tree if block.select is tree and show_of(grown, alias, context, rng) else None
    return tree if _use(grown, alias, tree, context, rng) else None


def _use(block: Block, alias: str, tree: exp.Expr, context: Context, rng: random.Random) -> bool:
    """Make the query need a source that it has just joined."""
    select = block.select
    is_root = select is tree
    if is_root and rng.random() < 0.55 and show_of(block, alias, context, rng):
        if rng.random() < 0.5:
            condition = draw_condition(block, context, rng, [alias])
            if condition is not None:
                add_conjunct(select, condition)
        return True
    condition = draw_condition(block, context, rng, [alias])
    if condition is not None:
        add_conjunct(select, condition)
        return True
    return is_root and show_of(block, alias, context, rng)


def show_of(block: Block, alias: str, context: Context, rng: random.Random) -> bool:
    """Show something of a source: as a group where there are groups, as columns where rows are listed."""
    select = block.select
    if select.args.get("distinct") or any(part.find(exp.Window) for part in select.expressions):
        return False
    taken = {output_name(part).casefold() for part in select.expressions}
    if is_aggregated(select):
        group = select.args.get("group")
        keys = plain_keys(select)
        measured = {use for part in select.expressions for use in references_in(part)}
        is_timed = has_period(block, keys or [])
        without_bands = rng.random() < BANDS_ALONE
        found = [
            term
            for term in dimensions(block, context.schema, [alias])
            if not measured.intersection(term.uses)
            and not (is_timed and term.is_period)
            and not (term.is_band and without_bands)
        ]
        terms = pick(rng, found or only_names(block, context.schema, [alias]), 1)
        if keys is None or len(keys) >= 3 or not terms or (not keys and rng.random() < 0.3):
            return False
        term = terms[0]
        if group is None:
            select.set("group", exp.Group(expressions=[term.expression.copy()]))
        else:
            group.append("expressions", term.expression.copy())
    else:
        found = labels(block, context.schema, [alias])
        naming = [term for term in found if names_rows(term.column)]
        terms = pick(rng, naming if naming and rng.random() < 0.6 else found, 1)
        terms += pick(rng, [term for term in found if term not in terms and not term.is_period], rng.choice([0, 1]))
        if not terms:
            return False
        for term in terms[1:]:
            select.append("expressions", projection(term.expression, term.name, taken))
        term = terms[0]
    shown = projection(term.expression, term.name, taken)
    select.set("expressions", [shown, *select.expressions] if is_aggregated(select) else [*select.expressions, shown])
    return True


def leaves(block: Block) -> list[tuple[exp.Join, str]]:
    """Return the joined base tables that no other join and no nested query rests on, with their aliases."""
    found: list[tuple[exp.Join, str]] = []
    joins = joins_of(block.select)
    for join in joins:
        alias = table_name(join.this)
        source = block.sources.get(alias.casefold())
        if source is None or source.table is None or join.args.get("on") is None:
            continue
        others = [other.args.get("on") for other in joins if other is not join]
        if any(on is not None and alias.casefold() in aliases_in(on) for on in others):
            continue
        inside = sum(
            len(uses_of(nested, alias)) for nested in block.select.find_all(exp.Select) if nested is not block.select
        )
        if inside:
            continue
        if any(is_join_condition(c) and alias.casefold() in aliases_in(c) for c in conjuncts(block.select)):
            continue
        found.append((join, alias))
    return found


def _named_leaves(tree: exp.Expr, context: Context) -> list[tuple[Block, exp.Join, str]]:
    """Return the leaves of all SELECTs but those with a label, which may name the table."""
    return [(block, join, alias) for block in free_blocks(tree, context.schema) for join, alias in leaves(block)]


def use_or_drop(tree: exp.Expr, context: Context, rng: random.Random) -> None:
    """Say something of every joined table that nothing is said of, or take it out."""
    for block in blocks(tree, context.schema):
        for join, alias in leaves(block):
            if len(uses_of(block.select, alias)) > len(
                [n for n in join.args["on"].find_all(exp.Column) if n.table.casefold() == alias.casefold()]
            ):
                continue
            current = block_of(block.select, context.schema)
            if join.side or not _use(current, alias, tree, context, rng):
                remove_join(block.select, join)


def remove_join(select: exp.Select, join: exp.Join) -> None:
    """Take one JOIN out of a SELECT."""
    select.set("joins", [other for other in joins_of(select) if other is not join])


def _forget(block: Block, alias: str) -> bool:
    """Take every use of a source out of a SELECT; False where nothing would be left to show."""
    select, folded = block.select, alias.casefold()
    set_conjuncts(select, [c for c in conjuncts(select) if folded not in aliases_in(c)])
    set_conjuncts(select, [c for c in conjuncts(select, "having") if folded not in aliases_in(c)], "having")
    dropped = [part for part in select.expressions if folded in aliases_in(part)]
    kept = [part for part in select.expressions if folded not in aliases_in(part)]
    group = select.args.get("group")
    if dropped and select.parent is not None:
        return False
    names = {output_name(part).casefold() for part in dropped}
    if not kept or (is_aggregated(select) and not any(part.find(exp.AggFunc) for part in kept)):
        return False
    select.set("expressions", kept)
    if group is not None:
        keys = [key for key in group.expressions if folded not in aliases_in(key)]
        if plain_keys(select) is None:
            return False
        group.set("expressions", keys)
        if not keys:
            select.set("group", None)
    order = select.args.get("order")
    if order is not None:
        stays = [
            part
            for part in order.expressions
            if folded not in aliases_in(part)
            and not any(not node.table and node.name.casefold() in names for node in part.find_all(exp.Column))
        ]
        order.set("expressions", stays)
        if not stays:
            select.set("order", None)
    qualify = select.args.get("qualify")
    return qualify is None or folded not in aliases_in(qualify)


def drop_join(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Take one joined table out, with what was said of it; the only one rarely."""
    if len(list(tree.find_all(exp.Join))) == 1 and rng.random() < 0.6:
        return None
    return tree if drop_leaf(tree, context, rng) else None


def drop_leaf(tree: exp.Expr, context: Context, rng: random.Random) -> bool:
    """Take out one joined table that no other rests on, a much used one rather; return whether that was possible."""
    candidates = _named_leaves(tree, context)
    if not candidates:
        return False
    weights = [1 / use_weight(block.tables[alias].name, context) for block, _, alias in candidates]
    block, join, alias = rng.choices(candidates, weights)[0]
    remove_join(block.select, join)
    if not _forget(block, alias):
        return False
    roles = {own.role for part in block.select.expressions if (own := block.column_of(part.unalias())) is not None}
    # A list of bare quantities says of nothing how much it is.
    return is_aggregated(block.select) or block.select is not tree or not roles or not roles <= {"measure", "key"}


def swap_partner(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Join another table in the place of one, and say of it something of the same kind."""
    candidates = _named_leaves(tree, context)
    if not candidates:
        return None
    weights = [1 / use_weight(block.tables[alias].name, context) for block, _, alias in candidates]
    block, join, alias = rng.choices(candidates, weights)[0]
    select, folded = block.select, alias.casefold()
    on = join.args["on"]
    holders = [name for name in block.tables if name.casefold() != folded and name.casefold() in aliases_in(on)]
    found = [partner for partner in partners(block, context, holders) if partner.is_parent]
    if not found:
        return None
    partner = draw_partner(found, context, rng)
    new_alias = table_alias(partner.table.name, names_in(tree))
    was_grouped = [
        key
        for key in (select.args["group"].expressions if select.args.get("group") else [])
        if folded in aliases_in(key)
    ]
    shown = [part for part in select.expressions if folded in aliases_in(part)]
    had_condition = any(folded in aliases_in(condition) for condition in conjuncts(select))
    join.replace(join_clause(partner, new_alias, join.side))
    placeholder = len(shown) == len(select.expressions)
    if placeholder or not _forget(block, alias):
        return None
    grown = block_of(select, context.schema)
    said = False
    if was_grouped or shown:
        said = show_of(grown, new_alias, context, rng)
    if had_condition or not said:
        condition = draw_condition(grown, context, rng, [new_alias])
        if condition is not None:
            add_conjunct(select, condition)
            said = True
    return tree if said else None


def inner_to_left(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Keep the rows without a partner, or list only those."""
    candidates = [
        (block, join, alias)
        for block in free_blocks(tree, context.schema)
        if block.select.find_ancestor(exp.In, exp.Exists) is None
        for join, alias in leaves(block)
        if not join.side and not join.kind and not has_comma_joins(block.select)
    ]
    if not candidates:
        return None
    block, join, alias = rng.choice(candidates)
    folded = alias.casefold()
    own = [c for c in conjuncts(block.select) if aliases_in(c) == {folded} and not c.find(exp.Select)]
    mixed = [c for c in conjuncts(block.select) if folded in aliases_in(c) and c not in own]
    keys = plain_keys(block.select)
    if mixed or keys is None or (own and any(folded in aliases_in(key) for key in keys)):
        return None  # groups by what the condition has left would be one of all others, without a name
    set_conjuncts(block.select, [c for c in conjuncts(block.select) if folded not in aliases_in(c)])
    join.set("side", "LEFT")
    join.set("kind", None)
    join.set("on", exp.and_(*operands(join.args["on"]), *own, copy=False))
    if any(folded in aliases_in(part) for part in block.select.expressions):
        return tree
    grown = block_of(block.select, context.schema)
    if block.select is tree and rng.random() < 0.5 and show_of(grown, alias, context, rng):
        return tree
    key = next((part for part in join.args["on"].find_all(exp.Column) if part.table.casefold() == folded), None)
    if key is None:
        return None
    add_conjunct(block.select, exp.Is(this=key.copy(), expression=exp.Null()))
    return tree if selects_rows(block_of(block.select, context.schema), context) else None
