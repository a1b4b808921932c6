"""Rewritings of how a query is nested: wrapped in another, CTEs and derived tables in each other's place."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.models.grammar.expressions import prefixed
from rayfactory.models.variation.blocks import (
    Context,
    block_of,
    conditioned_columns,
    names_in,
    references_in,
    root_select,
    table_names,
)
from rayfactory.models.variation.clauses import plain_keys
from rayfactory.models.variation.head_rewrites import (
    Shown,
    draw_order,
    name_outputs,
    order_outputs,
    set_head,
    stem_of,
)
from rayfactory.models.variation.naming import column, identifier, new_name
from rayfactory.models.variation.nodes import is_aggregated, output_name
from rayfactory.models.variation.part_rewrites import is_whole
from rayfactory.models.variation.resolution import Outputs, outputs_of
from rayfactory.models.variation.window_rewrites import window


def _split(tree: exp.Expr) -> tuple[exp.With | None, exp.Expr]:
    clause = tree.args.get("with_")
    if clause is not None:
        tree.set("with_", None)
    return clause, tree


def wrap(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the query into a CTE or derived table, and rank, filter or aggregate its rows."""
    select = root_select(tree)
    if select is None or len(list(tree.find_all(exp.CTE))) >= 3 or select.args.get("from_") is None:
        return None
    if is_aggregated(select) and select.args.get("group") is None:
        return None  # a single row
    if plain_keys(select) is None:
        return None  # subtotals among the rows would be counted twice
    if not block_of(select, context.schema).tables and rng.random() < 0.7:
        return None  # wrapped already
    for key in ("order", "limit", "offset"):
        select.set(key, None)
    name_outputs(select)
    outputs = outputs_of(select, context.schema)
    quantities = [own for own in outputs.values() if own.role == "measure" and own.kind in ("integer", "real")]
    if not quantities:
        return None
    name = new_name(_wrapper_name(select, context, rng), names_in(tree) | table_names(context.schema))
    clause, inner = _split(tree)
    use_cte = rng.random() < 0.6
    # What reads no table reads groups that another query has made.
    is_grouped = is_aggregated(select) or not block_of(select, context.schema).tables
    _, pinned = conditioned_columns(block_of(select, context.schema))
    settled = {output_name(part).casefold() for part in select.expressions if pinned.intersection(references_in(part))}
    outer = _outer(outputs, settled, name, use_cte=use_cte, is_grouped=is_grouped, rng=rng)
    if outer is None:
        return None
    if use_cte:
        member = exp.CTE(this=inner, alias=exp.TableAlias(this=identifier(name)))
        outer.set("with_", exp.With(expressions=[*(clause.expressions if clause is not None else []), member]))
        _place(outer, exp.Table(this=identifier(name)))
    else:
        if clause is not None:
            outer.set("with_", clause)
        _place(outer, exp.Subquery(this=inner, alias=exp.TableAlias(this=identifier(name))))
    return outer


def _cte_names(clause: exp.With | None) -> set[str]:
    return set() if clause is None else {cte.alias.casefold() for cte in clause.expressions}


def _wrapper_name(select: exp.Select, context: Context, rng: random.Random) -> str:
    block = block_of(select, context.schema)
    table = next(iter(block.tables.values())).name.lower() if block.tables else "step"
    table = re.sub(r"\W+", "_", table)
    endings = ["summary", "totals", "stats", "by_group"] if is_aggregated(select) else ["rows", "selection"]
    return (
        f"{table}_{rng.choice(endings)}" if rng.random() < 0.7 else rng.choice(["base", "summary", "picked", "results"])
    )


def _place(outer: exp.Select, source: exp.Expr) -> None:
    """Put the source where `_outer` left room for it: in its innermost FROM."""
    for nested in outer.find_all(exp.From):
        if isinstance(nested.this, exp.Placeholder):
            nested.set("this", source.copy())


def _outer(
    outputs: Outputs, settled: set[str], name: str, *, use_cte: bool, is_grouped: bool, rng: random.Random
) -> exp.Select | None:
    # A key says nothing to a reader, and on its own nothing tells what the figures beside it are of.
    shown = [own for own in outputs.values() if not own.name.startswith("(") and own.role != "key"]
    if len(shown) < 2 or not any(
        own.role in ("category", "code", "text", "identifier", "date", "opaque") for own in shown
    ):
        return None
    quantities = [own for own in shown if own.role == "measure" and own.kind in ("integer", "real")]
    groups = [
        own
        for own in shown
        if own.name.casefold() not in settled
        and own.role in ("category", "code")
        and own.kind in ("text", "integer", "boolean")
    ]
    if not quantities:
        return None
    quantity = rng.choice(quantities)
    value = column(name, quantity.name)
    columns: list[exp.Expr] = [column(name, own.name) for own in shown]
    source = exp.From(this=exp.Placeholder())
    choices = [] if any(own.name.lower().endswith("_rank") for own in shown) else ["rank"]
    if len(groups) >= 2 or (groups and not is_grouped):
        choices += ["again", "again"] + ["top"] * (len(choices) > 0)
    if use_cte:
        choices += ["average", "average", "extreme"]
    if not choices:
        return None
    choice = rng.choice(choices)
    if choice == "again":
        group = rng.choice(groups)
        key = column(name, group.name)
        # A sum of averages, maxima or ratios means nothing, and one of counts is a count; a mean of any does.
        is_sum = quantity.name.lower().startswith("total")
        stem = stem_of(quantity.name)
        functions: list[tuple[exp.Expr, str]] = [
            (exp.Avg(this=value), prefixed("avg", quantity.name)),
            (exp.Max(this=value), f"highest_{stem}"),
            (exp.Min(this=value), f"lowest_{stem}"),
            (exp.Count(this=exp.Star(), big_int=True), "num_entries"),
        ]
        if is_sum:
            functions.append((exp.Sum(this=value), f"overall_{stem}"))
        chosen = rng.sample(functions, rng.choice([1, 2, 2, 3]))
        outer = exp.Select(from_=source)
        set_head(outer, [Shown(key, group.name)], [Shown(function.copy(), label) for function, label in chosen])
        draw_order(outer, rng, limit_chance=0.2)
        return outer
    if choice in ("average", "extreme"):
        function: exp.Expr = exp.Avg(this=column(f"{name}_all", quantity.name))
        comparison: exp.Expr
        if choice == "extreme":
            function = exp.Max(this=column(f"{name}_all", quantity.name))
        inner = exp.Select(
            expressions=[function],
            from_=exp.From(this=exp.Table(this=identifier(name), alias=exp.TableAlias(this=identifier(f"{name}_all")))),
        )
        whole = exp.Subquery(this=inner)
        if choice == "extreme":
            share = exp.Mul(this=exp.Literal.number(rng.choice(["0.5", "0.75", "0.9"])), expression=whole)
            comparison = exp.GTE(this=value, expression=share)
        else:
            comparison = exp.GTE(this=value, expression=whole)
        outer = exp.Select(expressions=columns, from_=source, where=exp.Where(this=comparison))
        order_outputs(outer, [outer.expressions[shown.index(quantity)]], limit=None)
        return outer
    # Where the rows are groups of one key already, each would be a part of its own.
    is_parted = len(groups) > (1 if is_grouped else 0)
    partition = [column(name, rng.choice(groups).name)] if is_parted and (choice == "top" or rng.random() < 0.5) else []
    ranking = rng.choice([exp.Rank, exp.DenseRank])
    order = exp.Order(expressions=[exp.Ordered(this=value.copy(), desc=True, nulls_first=False)])
    taken = {own.name.casefold() for own in shown}
    label = new_name(f"{quantity.name}_rank", taken)
    rank = exp.alias_(window(ranking(), partition, order), identifier(label), copy=False)
    outer = exp.Select(expressions=[*columns, rank], from_=source)
    if choice == "rank":
        draw_order(outer, rng, limit_chance=0.4)
        return outer
    ranked = "ranked"
    top = exp.LTE(this=column(ranked, label), expression=exp.Literal.number(rng.choice([1, 2, 3, 5])))
    derived = exp.Subquery(this=outer, alias=exp.TableAlias(this=identifier(ranked)))
    names = [*(own.name for own in shown), label]
    result = exp.Select(
        expressions=[column(ranked, own) for own in names], from_=exp.From(this=derived), where=exp.Where(this=top)
    )
    first = [part for part in result.expressions if part.name == partition[0].name]
    order_outputs(result, first, limit=None, descending=False)
    return result


def cte_to_derived(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put a CTE that is read once where it is read."""
    del context
    clause = tree.args.get("with_")
    if clause is None:
        return None
    places: list[tuple[exp.CTE, exp.Table]] = []
    for cte in clause.expressions:
        readers = [table for table in tree.find_all(exp.Table) if table.name.casefold() == cte.alias.casefold()]
        if len(readers) == 1 and not cte.args["alias"].args.get("columns"):
            places.append((cte, readers[0]))
    if not places:
        return None
    cte, reader = rng.choice(places)
    alias = reader.alias_or_name
    reader.replace(exp.Subquery(this=cte.this.copy(), alias=exp.TableAlias(this=identifier(alias))))
    rest = [other for other in clause.expressions if other is not cte]
    if rest:
        clause.set("expressions", rest)
    else:
        tree.set("with_", None)
    return tree


def derived_to_cte(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Name a derived table, or the query of an IN condition, in a WITH clause."""
    places: list[exp.Subquery] = []
    for subquery in tree.find_all(exp.Subquery):
        if subquery.find_ancestor(exp.CTE) is not None or not isinstance(subquery.this, exp.Select):
            continue
        is_source = isinstance(subquery.parent, (exp.From, exp.Join)) and bool(subquery.alias)
        is_member = isinstance(subquery.parent, exp.In) and subquery.this.named_selects
        if (is_source or is_member) and is_whole(subquery.this, context) and not subquery.this.args.get("with_"):
            places.append(subquery)
    if not places:
        return None
    place = rng.choice(places)
    clause = tree.args.get("with_")
    taken = names_in(tree) | _cte_names(clause)
    alias = place.alias
    name = new_name(
        alias if alias and len(alias) > 2 else rng.choice(["chosen", "relevant", "candidates", "subset"]),
        (taken - {alias.casefold()}) | table_names(context.schema),
    )
    query = place.this.copy()
    if alias:
        reader = exp.Table(this=identifier(name))
        if name.casefold() != alias.casefold():
            reader.set("alias", exp.TableAlias(this=identifier(alias)))
        place.replace(reader)
    else:
        shown = query.expressions[0]
        if not output_name(shown):
            return None
        inner = exp.Select(
            expressions=[column(name, output_name(shown))], from_=exp.From(this=exp.Table(this=identifier(name)))
        )
        place.set("this", inner)
    member = exp.CTE(this=query, alias=exp.TableAlias(this=identifier(name)))
    tree.set("with_", exp.With(expressions=[*(clause.expressions if clause is not None else []), member]))
    return tree
