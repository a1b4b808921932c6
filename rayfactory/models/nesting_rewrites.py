"""Rewritings of how queries are put together: CTEs, derived tables, set operations, a part taken for the whole."""

from __future__ import annotations

import random
import re

from sqlglot import exp

from rayfactory.models import join_rewrites
from rayfactory.models.blocks import (
    Block,
    Context,
    add_conjunct,
    block_of,
    blocks,
    conjuncts,
    dimensions,
    is_join_condition,
    joins_of,
    labels,
    measures,
    names_in,
    pick,
    plain_keys,
    projection,
    reads_inside,
    root_select,
    set_conjuncts,
)
from rayfactory.models.conditions import draw_condition, selects_rows
from rayfactory.models.head_rewrites import (
    Shown,
    aggregates,
    draw_order,
    is_listable,
    order_outputs,
    regroup,
    set_head,
    show_rows,
    window,
)
from rayfactory.models.naming import column, identifier, new_name, table_alias
from rayfactory.models.scopes import Outputs, is_aggregated, output_name, outputs_of


def take_part(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Take one CTE, branch, derived table or subquery of a larger query as a query of its own."""
    parts = [select for select in tree.find_all(exp.Select) if select is not tree and _is_whole(select, context)]
    if not parts:
        return None
    select = rng.choice(parts)
    clause = tree.args.get("with_")
    part = select.copy()
    if clause is not None and part.args.get("with_") is None:
        needed = _needed(part, clause)
        if needed:
            part.set("with_", exp.With(expressions=[cte.copy() for cte in needed]))
    if not is_aggregated(part):
        shown = outputs_of(part, context.schema)
        if all(own.role in ("key", "opaque") for own in shown.values()):
            # A list of keys means something inside another query only.
            return show_rows(part, context, rng) if rng.random() < 0.4 else regroup(part, context, rng)
    return part


def take_core(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Ask something short of one or a few of the query's tables."""
    found = [block for block in blocks(tree, context.schema) if len(block.tables) == len(block.sources)]
    found = [block for block in found if _is_whole(block.select, context)]
    if not found:
        return None
    block = rng.choice(found)
    select = exp.Select(expressions=[exp.Literal.number(1)], from_=block.select.args["from_"].copy())
    select.set("joins", [join.copy() for join in joins_of(block.select)])
    set_conjuncts(select, [c for c in conjuncts(block.select) if not c.find(exp.Select)])
    kept = rng.choice([0, 1, 1, 1, 2, 2])
    while len(joins_of(select)) > kept and join_rewrites.drop_leaf(select, context, rng):
        pass
    conditions = conjuncts(select)
    plain = [condition for condition in conditions if not is_join_condition(condition)]
    rng.shuffle(plain)
    dropped = plain[rng.choice([0, 1, 1, 2]) :]
    set_conjuncts(select, [c for c in conditions if not any(c is other for other in dropped)])
    core = block_of(select, context.schema)
    if not plain or rng.random() < 0.3:
        condition = draw_condition(core, context, rng)
        if condition is not None:
            add_conjunct(select, condition)
    choice = rng.random()
    if choice < 0.3:
        set_head(select, [], aggregates(core, context, rng, rng.choice([1, 1, 2])))
    elif choice < 0.65:
        keys = pick(rng, dimensions(core, context.schema), 1)
        if not keys:
            return None
        set_head(select, [Shown(term.expression, term.name) for term in keys], aggregates(core, context, rng, 1, keys))
        if rng.random() < 0.3:
            draw_order(select, rng, limit_chance=0.5)
    else:
        terms = pick(rng, labels(core, context.schema), rng.choice([1, 2, 2, 3]))
        if not is_listable(terms):
            return None
        set_head(select, [Shown(term.expression, term.name) for term in terms], [])
        if len(terms) == 1 or rng.random() < 0.35:
            select.set("distinct", exp.Distinct())
        if rng.random() < 0.3:
            draw_order(select, rng, limit_chance=0.5)
    return select


def _is_whole(select: exp.Select, context: Context) -> bool:
    """Whether a nested SELECT names only sources of its own and CTEs, and shows more than a constant."""
    block = block_of(select, context.schema)
    inside = {
        source.alias_or_name.casefold() for source in select.find_all(exp.Table, exp.Subquery) if source.alias_or_name
    }
    return bool(block.sources) and all(
        node.table.casefold() in inside for node in select.find_all(exp.Column) if node.table
    )


def _needed(part: exp.Expr, clause: exp.With) -> list[exp.CTE]:
    """Return the CTEs that a query rests on, directly or through others, in their order."""
    wanted = {table.name.casefold() for table in part.find_all(exp.Table)}
    needed: list[exp.CTE] = []
    for cte in reversed(clause.expressions):
        if cte.alias.casefold() in wanted and cte.find_ancestor(exp.Select) is not part:
            needed.insert(0, cte)
            wanted |= {table.name.casefold() for table in cte.find_all(exp.Table)}
    return needed


def _split(tree: exp.Expr) -> tuple[exp.With | None, exp.Expr]:
    clause = tree.args.get("with_")
    if clause is not None:
        tree.set("with_", None)
    return clause, tree


def _name_outputs(select: exp.Select) -> None:
    taken: set[str] = set()
    outputs: list[exp.Expr] = []
    for position, part in enumerate(select.expressions):
        name = output_name(part)
        if not name or name.casefold() in taken:
            name = new_name(_spoken(part.unalias()) or f"value_{position + 1}", taken)
            part = exp.alias_(part.unalias().copy(), identifier(name), copy=False)
        taken.add(name.casefold())
        outputs.append(part)
    select.set("expressions", outputs)


def _spoken(expression: exp.Expr) -> str:
    """Return a name for an expression without one, after its function and column."""
    found = expression.find(exp.Column)
    words = [expression.key if isinstance(expression, exp.Func) else "", found.name if found is not None else "rows"]
    return re.sub(r"\W+", "_", "_".join(word for word in words if word)).lower()


def wrap(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the query into a CTE or derived table, and rank, filter or aggregate its rows."""
    select = root_select(tree)
    if select is None or len(list(tree.find_all(exp.CTE))) >= 3 or select.args.get("from_") is None:
        return None
    if is_aggregated(select) and select.args.get("group") is None:
        return None  # a single row
    if not block_of(select, context.schema).tables and rng.random() < 0.7:
        return None  # wrapped already
    for key in ("order", "limit", "offset"):
        select.set(key, None)
    _name_outputs(select)
    outputs = outputs_of(select, context.schema)
    quantities = [own for own in outputs.values() if own.role == "measure" and own.kind in ("integer", "real")]
    if not quantities:
        return None
    name = new_name(_wrapper_name(select, context, rng), names_in(tree))
    clause, inner = _split(tree)
    use_cte = rng.random() < 0.6
    outer = _outer(outputs, name, use_cte=use_cte, is_grouped=is_aggregated(select), rng=rng)
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
    endings = ["summary", "totals", "stats", "by_group"] if is_aggregated(select) else ["rows", "filtered", "selection"]
    return (
        f"{table}_{rng.choice(endings)}"
        if rng.random() < 0.7
        else rng.choice(["base", "summary", "picked", "agg", "x"])
    )


def _place(outer: exp.Select, source: exp.Expr) -> None:
    """Put the source where `_outer` left room for it: in its innermost FROM."""
    for nested in outer.find_all(exp.From):
        if isinstance(nested.this, exp.Placeholder):
            nested.set("this", source.copy())


def _outer(outputs: Outputs, name: str, *, use_cte: bool, is_grouped: bool, rng: random.Random) -> exp.Select | None:
    shown = [own for own in outputs.values() if not own.name.startswith("(")]
    quantities = [own for own in shown if own.role == "measure" and own.kind in ("integer", "real")]
    groups = [own for own in shown if own.role in ("category", "code") and own.kind in ("text", "integer", "boolean")]
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
        # A sum of averages, maxima or ratios means nothing; a mean of any does.
        is_sum = quantity.name.lower().startswith(("total", "num", "count"))
        stem = re.sub(r"^(total|avg|max|min)_", "", quantity.name)
        functions: list[tuple[exp.Expr, str]] = [
            (exp.Avg(this=value), f"avg_{quantity.name}"),
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
    partition = [column(name, rng.choice(groups).name)] if groups and (choice == "top" or rng.random() < 0.5) else []
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
        if (is_source or is_member) and _is_whole(subquery.this, context) and not subquery.this.args.get("with_"):
            places.append(subquery)
    if not places:
        return None
    place = rng.choice(places)
    clause = tree.args.get("with_")
    taken = names_in(tree) | _cte_names(clause)
    alias = place.alias
    name = new_name(
        alias if alias and len(alias) > 2 else rng.choice(["chosen", "relevant", "candidates", "subset"]),
        taken - {alias.casefold()},
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


def combine_conditions(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Combine what two different conditions select: UNION, INTERSECT or EXCEPT of the query with each."""
    select = root_select(tree)
    if select is None or select.args.get("with_") is not None or select.args.get("from_") is None:
        return None
    if select.find(exp.Window) is not None or len(list(select.walk())) > 130:
        return None
    block = block_of(select, context.schema)
    if not block.tables:
        return None
    if plain_keys(select) is None:
        return None
    kinds: list[type[exp.SetOperation]] = [exp.Union]
    if not is_aggregated(select):
        # What two sets of rows have in common, or not, is asked of things that have many values.
        named = [
            term
            for term in labels(block, context.schema)
            if term.column is not None
            and term.column.role in ("text", "identifier", "category")
            and term.column.profile.num_distinct >= 8
        ]
        keys = pick(rng, named, rng.choice([1, 1, 2]))
        if not keys:
            return None
        set_head(select, [Shown(term.expression, term.name) for term in keys], [])
        kinds += [exp.Except, exp.Intersect]
    for key in ("order", "limit", "offset", "distinct"):
        select.set(key, None)
    _name_outputs(select)
    other = select.copy()
    kind = rng.choice(kinds)
    one, two = block_of(select, context.schema), block_of(other, context.schema)
    first, second = draw_condition(one, context, rng), draw_condition(two, context, rng)
    if first is None or second is None or _columns(first) == _columns(second):
        return None
    if kind is not exp.Except:
        add_conjunct(select, first)
    add_conjunct(other, second)
    if is_aggregated(select):
        # The same figures for two parts of the rows: each says which part it is of.
        for part, condition in ((select, first), (other, second)):
            label = exp.alias_(exp.Literal.string(_in_words(condition)), identifier("segment"), copy=False)
            part.set("expressions", [label, *part.expressions])
        return exp.Union(this=select, expression=other, distinct=False)
    return kind(this=select, expression=other, distinct=True)


def _columns(condition: exp.Expr) -> list[exp.Column]:
    return list(condition.find_all(exp.Column))


def _in_words(condition: exp.Expr) -> str:
    """Return a condition as a label: ``state IN (MS, GA)``."""
    plain = condition.copy()
    for node in plain.find_all(exp.Column):
        node.set("table", None)
    return re.sub(r"['\"]", "", re.sub(r"\bDATE '", "'", plain.sql()))


def combine_seeds(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Put the same figures over two queries under each other, each with its name."""
    select = root_select(tree)
    others = [seed for seed in context.seeds if isinstance(seed, exp.Select) and seed.args.get("with_") is None]
    if select is None or not others or select.args.get("with_") is not None:
        return None
    other = rng.choice(others).copy()
    assert isinstance(other, exp.Select)
    one, two = block_of(select, context.schema), block_of(other, context.schema)
    if not one.tables or not two.tables:
        return None
    first_name, second_name = (_topic(block) for block in (one, two))
    if first_name == second_name:
        return None
    heads = [_figures(block, context, rng) for block in (one, two)]
    count = min(len(heads[0]), len(heads[1]), rng.choice([1, 2]))
    grouped: list[list[Shown]] = [[], []]
    if rng.random() < 0.5:
        pairs = [
            pick(
                rng,
                [t for t in dimensions(block, context.schema) if t.column is not None and t.column.kind == "text"],
                1,
            )
            for block in (one, two)
        ]
        if all(pairs):
            grouped = [[Shown(pair[0].expression, "category_name")] for pair in pairs]
    names = ["num_rows", "total_amount", "avg_amount"]
    for block, head, topic, keys in zip((one, two), heads, (first_name, second_name), grouped, strict=True):
        label = Shown(exp.Literal.string(topic), "source")
        values = [Shown(part.expression, name) for part, name in zip(head[: count + 1], names, strict=False)]
        set_head(block.select, keys, values)
        taken = {"source"}
        outputs = [exp.alias_(label.expression, identifier("source"), copy=False)]
        for part in block.select.expressions:
            inner = part.unalias()
            index = len(outputs) - 1
            wanted = keys[0].name if index < len(keys) else names[index - len(keys)]
            taken.add(wanted)
            outputs.append(exp.alias_(inner.copy(), identifier(wanted), copy=False))
        block.select.set("expressions", outputs)
    return exp.Union(this=select, expression=other, distinct=False)


def _topic(block: Block) -> str:
    folded = next(
        (name for name in block.sources if name in block.grain and block.sources[name].table is not None), None
    )
    table = block.sources[folded].table if folded is not None else next(iter(block.tables.values()))
    assert table is not None
    return re.sub(r"[_\W]+", " ", table.name).strip().lower()


def _figures(block: Block, context: Context, rng: random.Random) -> list[Shown]:
    figures = [Shown(exp.Count(this=exp.Star(), big_int=True), "num_rows")]
    terms = measures(block, context.schema)
    if terms:
        term = rng.choice(terms)
        figures.append(Shown(exp.Sum(this=term.expression.copy()), "total_amount"))
        figures.append(Shown(exp.Avg(this=term.expression.copy()), "avg_amount"))
    return figures


def member_of_seed(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Select only rows whose key (or whose reference) is among those that another seed selects."""
    found: list[tuple[Block, str, str, Block, str, str]] = []
    keys = [key for key in context.schema.foreign_keys if len(key.columns) == 1]
    for block in blocks(tree, context.schema)[:1]:
        for seed in context.seeds:
            for other in blocks(seed, context.schema):
                if other.select.args.get("with_") or len(other.tables) != len(other.sources):
                    continue
                for alias, table in block.tables.items():
                    for other_alias, other_table in other.tables.items():
                        for key in keys:
                            ends = ((key.table, key.columns[0]), (key.referenced_table, key.referenced_columns[0]))
                            for (mine, own), (theirs, far) in (ends, ends[::-1]):
                                if table.name == mine and other_table.name == theirs:
                                    found.append((block, alias, own, other, other_alias, far))
    if not found:
        return None
    block, alias, own, other, other_alias, far = rng.choice(found)
    inner = exp.Select(expressions=[column(other_alias, far)], from_=other.select.args["from_"].copy())
    inner.set("joins", [join.copy() for join in joins_of(other.select)])
    set_conjuncts(inner, [c for c in conjuncts(other.select) if not c.find(exp.Select)])
    if not (conjuncts(inner) or joins_of(inner)) or reads_inside(block.select, other.tables[other_alias].name):
        return None
    _rename_sources(inner, tree)
    condition = exp.In(this=column(alias, own), query=exp.Subquery(this=inner))
    add_conjunct(block.select, condition)
    return tree if selects_rows(block, context) else None


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


def aggregate_top(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr | None:
    """Add a figure over the whole to each row: the count or mean over everything that the query selects from."""
    select = root_select(tree)
    if select is None or select.args.get("from_") is None or select.args.get("distinct") or select.find(exp.Window):
        return None
    block = block_of(select, context.schema)
    terms = [term for term in measures(block, context.schema) if term.alias in block.tables]
    if not terms:
        return None
    term = rng.choice(terms)
    assert term.column is not None
    table = block.tables[term.alias]
    alias = table_alias(table.name, names_in(tree))
    inner = exp.Select(
        expressions=[exp.Avg(this=column(alias, term.column.name))],
        from_=exp.From(this=exp.Table(this=identifier(table.name), alias=exp.TableAlias(this=identifier(alias)))),
    )
    taken = {output_name(part).casefold() for part in select.expressions}
    shown = projection(exp.Subquery(this=inner), f"overall_avg_{term.name}", taken)
    select.append("expressions", shown)
    return tree
