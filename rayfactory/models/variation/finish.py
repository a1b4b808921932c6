"""The last touches on a rewritten query: nothing said twice, the same result on every run, a result of bounded size."""

from __future__ import annotations

import random

from sqlglot import exp

from rayfactory.models.variation.blocks import (
    Block,
    Context,
    block_of,
    blocks,
    estimated_rows,
    names_in,
    references_of,
)
from rayfactory.models.variation.clauses import (
    add_conjunct,
    aliases_in,
    conjuncts,
    is_join_condition,
    plain_keys,
    set_conjuncts,
)
from rayfactory.models.variation.conditions import draw_condition
from rayfactory.models.variation.head_rewrites import by_name, name_outputs, order_outputs
from rayfactory.models.variation.join_rewrites import use_or_drop
from rayfactory.models.variation.naming import ALIASES_TO_AVOID, identifier, new_name
from rayfactory.models.variation.nodes import is_aggregated, output_name, own_nodes
from rayfactory.models.variation.resolution import name_in_set_order

MAX_LISTED_ROWS = 20_000
"""A query that may list more rows than this gets a limit."""

_UNREPEATABLE = (
    exp.AnyValue,
    exp.First,
    exp.Last,
    exp.CurrentDate,
    exp.CurrentDatetime,
    exp.CurrentTime,
    exp.CurrentTimestamp,
    exp.Rand,
    exp.TableSample,
)


def is_repeatable(tree: exp.Expr) -> bool:
    """Whether nothing in a query depends on the time, on chance, or on the order in which rows happen to come."""
    return tree.find(*_UNREPEATABLE) is None


def finish(tree: exp.Expr, context: Context, rng: random.Random) -> exp.Expr:
    """Return the query as it is written down."""
    use_or_drop(tree, context, rng)
    _select_members(tree, context, rng)
    for select in list(tree.find_all(exp.Select)):
        _say_once(select)
        _list_once(select, context)
        _group_by_what_is_shown(select)
    _order_by_what_is_shown(tree)
    _bound(tree, context, rng)
    for query in tree.find_all(exp.Select, exp.SetOperation):
        if query.args.get("limit") is not None or query.args.get("offset") is not None:
            _order_totally(query)
        elif query.parent is not None and not isinstance(query.parent, exp.SetOperation):
            query.set("order", None)  # the order of a source or of a member list means nothing
    if context.schema.dialect == "sqlite":
        for term in tree.find_all(exp.Ordered):
            term.set("nulls_first", not term.args.get("desc"))  # as SQLite has it unasked
    if isinstance(tree, exp.Select) and not all(output_name(part) for part in tree.expressions):
        name_outputs(tree)
    _shorten_aliases(tree, context)
    for select in tree.find_all(exp.Select):
        # SQLite orders the rows of a set operation by an alias of its first part only.
        if context.schema.dialect != "sqlite" or not isinstance(select.parent, exp.SetOperation):
            _name_once(select)
        if rng.random() < 0.6:
            _unqualify(select, context)
    for condition in tree.find_all(exp.Not):
        test = condition.this
        if isinstance(test, exp.Is) and isinstance(test.expression, exp.Null):
            condition.replace(exp.Is(this=test.this.copy(), expression=exp.Not(this=exp.Null())))
    return tree


def _shorten_aliases(tree: exp.Expr, context: Context) -> None:
    """Take the number from an alias, ``p_2``, where no other source has the name without it any more."""
    tables = [item.name.casefold() for item in tree.find_all(exp.Table)]
    columns = {own.name.casefold() for table in context.schema.tables for own in table.columns}
    taken = names_in(tree) | columns
    renamed: dict[str, str] = {}
    for item in tree.find_all(exp.Table):
        stem, _, number = item.alias.rpartition("_")
        if stem.casefold() == item.name.casefold() and tables.count(item.name.casefold()) == 1:
            renamed[item.alias.casefold()] = item.name
        elif (
            (number.isdigit() or number == "all")
            and stem.isidentifier()
            and new_name(stem, {*taken, *ALIASES_TO_AVOID}) == stem
        ):
            renamed[item.alias.casefold()] = stem
            taken.add(stem.casefold())
    for item in tree.find_all(exp.Table):
        if item.alias.casefold() in renamed:
            alias = renamed[item.alias.casefold()]
            item.set("alias", None if alias == item.name else exp.TableAlias(this=identifier(alias)))
    for node in tree.find_all(exp.Column):
        if node.table.casefold() in renamed:
            node.set("table", identifier(renamed[node.table.casefold()]))


def _name_once(select: exp.Select) -> None:
    """Leave out an output's name that is its column's."""
    for part in select.expressions:
        if isinstance(part, exp.Alias) and isinstance(part.this, exp.Column) and is_same_name(part.alias, part.this):
            part.replace(part.this.copy())


def is_same_name(alias: str, column: exp.Column) -> bool:
    """Whether an output's name is its column's but for capitals, which neither dialect tells apart."""
    return alias.casefold() == column.name.casefold()


def _select_members(tree: exp.Expr, context: Context, rng: random.Random) -> None:
    """Give a condition to a member list, or a row asked for, that is all of its table, or take the test out."""
    for select in list(tree.find_all(exp.Select)):
        kept: list[exp.Expr] = []
        for test in conjuncts(select):
            query = _listed(test)
            block = None if query is None else _whole_table(query, tree, context)
            if block is not None:
                condition = draw_condition(block, context, rng)
                if condition is None:
                    continue
                add_conjunct(block.select, condition)
            kept.append(test)
        if len(kept) < len(conjuncts(select)):
            set_conjuncts(select, kept)


def _listed(test: exp.Expr) -> exp.Select | None:
    """Return the query of an IN or EXISTS condition."""
    query = test.args.get("query") if isinstance(test, exp.In) else test.this if isinstance(test, exp.Exists) else None
    query = query.unnest() if isinstance(query, exp.Subquery) else query
    return query if isinstance(query, exp.Select) else None


def _whole_table(query: exp.Select, tree: exp.Expr, context: Context) -> Block | None:
    """Return the block of a query that lists a key of all rows of one table, directly or through a CTE."""
    if any(query.args.get(key) for key in ("joins", "group", "having", "limit", "qualify", "with_")):
        return None
    block = block_of(query, context.schema)
    if any(not _is_no_choice(condition, block) for condition in conjuncts(query)):
        return None
    if block.tables:
        return block
    name = query.args["from_"].this.name.casefold() if query.args.get("from_") else ""
    for cte in tree.find_all(exp.CTE):
        if cte.alias.casefold() == name and isinstance(cte.this, exp.Select) and cte.this is not query:
            return _whole_table(cte.this, tree, context)
    return None


def _is_no_choice(condition: exp.Expr, block: Block) -> bool:
    """Whether a condition of a member list only ties it to the query around, or leaves out what is missing."""
    if isinstance(condition, exp.Is):
        return True
    if isinstance(condition, exp.Not):
        return isinstance(condition.this, exp.Is)
    return is_join_condition(condition) and not aliases_in(condition) <= set(block.sources)


def _list_once(select: exp.Select, context: Context) -> None:
    """List things once that the joins repeat, where nothing is shown of what repeats them, and attributes of many."""
    if select.parent is not None or select.args.get("distinct") or is_aggregated(select) or select.find(exp.Window):
        return
    block = block_of(select, context.schema)
    columns = [block.column_of(part.unalias()) for part in select.expressions]
    if all(own is not None and own.role in ("category", "code") for own in columns):
        select.set("distinct", exp.Distinct())
    repeated = {parent for _, parent in references_of(block, context.schema)}
    shown = {alias for part in select.expressions for alias in aliases_in(part)}
    if shown and shown <= repeated:
        select.set("distinct", exp.Distinct())


def _group_by_what_is_shown(select: exp.Select) -> None:
    """Take a key out of GROUP BY that nothing shows: the groups of one shown key would look the same."""
    keys = plain_keys(select)
    if not keys or len(keys) < 2:
        return
    parts = [*select.expressions, *(select.args[key] for key in ("having", "order", "qualify") if select.args.get(key))]
    kept = [key for key in keys if any(node == key for part in parts for node in part.walk())]
    # A key beside the name that it has is there to tell two of one name apart.
    if kept and len(kept) < len(keys):
        tables = {node.table for key in kept for node in key.find_all(exp.Column)}
        if not any(isinstance(key, exp.Column) and key.table in tables for key in keys if key not in kept):
            select.args["group"].set("expressions", kept)


def _order_by_what_is_shown(tree: exp.Expr) -> None:
    """Leave out of ORDER BY the columns of a list that it does not show: keys, what was shown before."""
    if not isinstance(tree, exp.Select):
        return
    if tree.args.get("from_") is None or (is_aggregated(tree) and tree.args.get("group") is None):
        for key in ("order", "limit", "offset"):  # of a single row
            tree.set(key, None)
    if is_aggregated(tree):
        return
    order = tree.args.get("order")
    if order is None:
        return
    shown = [part.unalias() for part in tree.expressions]
    kept = [
        term
        for term in order.expressions
        if not isinstance(term.this, exp.Column) or not term.this.table or term.this in shown
    ]
    if len(kept) < len(order.expressions):
        tree.set("order", exp.Order(expressions=kept) if kept else None)


def drop_idle_limit(tree: exp.Expr, num_rows: int) -> None:
    """Take out a LIMIT that the rows do not reach, with what completed the order for its sake."""
    limit, order = tree.args.get("limit"), tree.args.get("order")
    count = None if limit is None else limit.expression
    if not isinstance(count, exp.Literal) or not count.is_int or tree.args.get("offset") is not None:
        return
    if num_rows < int(count.name):
        tree.set("limit", None)
        if order is not None and len(order.expressions) > 2:
            order.set("expressions", order.expressions[:2])


def _say_once(select: exp.Select) -> None:
    """Drop a condition that is there already, or one that is laxer than another on the same column."""
    for clause in ("where", "having"):
        kept: list[exp.Expr] = []
        for condition in conjuncts(select, clause):
            if condition not in kept:
                kept.append(condition)
        if len(kept) < len(conjuncts(select, clause)):
            set_conjuncts(select, kept, clause)


def _bound(tree: exp.Expr, context: Context, rng: random.Random) -> None:
    if not isinstance(tree, exp.Select) or tree.args.get("limit") is not None or is_aggregated(tree):
        return
    sizes = [estimated_rows(block, context.schema) for block in blocks(tree, context.schema)]
    if max(sizes, default=0) > MAX_LISTED_ROWS:
        order = tree.args.get("order")
        if order is None:
            order_outputs(tree, [], limit=rng.choice([50, 100, 200]), descending=False)
        else:
            tree.set("limit", exp.Limit(expression=exp.Literal.number(rng.choice([50, 100, 200]))))


def _order_totally(query: exp.Expr) -> None:
    """Complete the order under a limit by everything that is shown."""
    order = query.args.get("order")
    terms = [] if order is None else list(order.expressions)
    named = [term.this for term in terms]
    outputs = query.this if isinstance(query, exp.SetOperation) else query
    while isinstance(outputs, exp.SetOperation):
        outputs = outputs.this
    if not isinstance(outputs, exp.Select):
        return
    group = outputs.args.get("group") if outputs is query else None
    keys = [] if group is None else list(group.expressions)
    is_told_by_keys = bool(keys) and all(any(key == part.unalias() for part in outputs.expressions) for key in keys)
    if keys and all(any(key in (term, _meaning(term, outputs)) for term in named) for key in keys):
        return  # ordered by all keys of its groups
    for part in outputs.expressions:
        inner = part.unalias()
        if isinstance(inner, (exp.Literal, exp.Null)) or inner.find(exp.Select) is not None:
            continue
        if is_told_by_keys and inner not in keys:
            continue
        if isinstance(query, exp.SetOperation):
            if not output_name(part):
                continue
            reference: exp.Expr = exp.Column(this=identifier(output_name(part)))
            inner = reference
        else:
            reference = by_name(part)
        if reference in named or inner in named:
            continue
        terms.append(exp.Ordered(this=reference, desc=False, nulls_first=False))
    if terms:
        order = exp.Order(expressions=[term.copy() for term in terms])
        if isinstance(query, exp.SetOperation):
            name_in_set_order(outputs, order)
        query.set("order", order)


def _meaning(term: exp.Expr, select: exp.Select) -> exp.Expr:
    """Return what an ORDER BY term stands for: the expression behind an output's name, or itself."""
    if isinstance(term, exp.Column) and not term.table:
        for part in select.expressions:
            if output_name(part).casefold() == term.name.casefold():
                inner: exp.Expr = part.unalias()
                return inner
    return term


def _unqualify(select: exp.Select, context: Context) -> None:
    """Leave out the source's name in a SELECT that has one source, no nested query and nothing around it."""
    block = block_of(select, context.schema)
    if len(block.sources) != 1 or any(nested is not select for nested in select.find_all(exp.Select)):
        return
    (source,) = block.sources.values()
    if any(part.alias.casefold() in source.columns for part in select.expressions if isinstance(part, exp.Alias)):
        return
    own = [node for node in own_nodes(select) if isinstance(node, exp.Column)]
    if any(node.table.casefold() not in ("", source.alias.casefold()) for node in own):
        return
    for node in own:
        node.set("table", None)
    item = select.args["from_"].this
    if isinstance(item, exp.Table):
        item.set("alias", None)
