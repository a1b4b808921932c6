"""What an analyst would smile at: a query that runs, and asks what nobody asks.

`is_odd` looks at the syntax tree alone, `says_little` at the rows that a query returns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from sqlglot import exp

from rayfactory.databases.schema import Column, Schema
from rayfactory.models.grammar.quantities import is_additive
from rayfactory.models.grammar.skeleton import is_calendar_table
from rayfactory.models.grammar.syntax import snake
from rayfactory.models.variation.blocks import (
    Block,
    blocks,
    conditioned_columns,
    lists_attributes,
    references_in,
    references_of,
)
from rayfactory.models.variation.clauses import (
    aliases_in,
    conjuncts,
    is_join_condition,
    joins_of,
    operands,
    plain_keys,
    uses_of,
)
from rayfactory.models.variation.naming import plain_name
from rayfactory.models.variation.nodes import has_aggregate, is_aggregated, own_nodes

MAX_COMPARED_TEXT = 40
"""Characters of a text that somebody compares a column with; of longer ones a word is searched."""

MIN_TELLING_ROWS = 4
"""Of fewer rows nothing is said by what they have in common."""


def is_odd(tree: exp.Expr, schema: Schema) -> bool:
    """Whether some SELECT of a resolved query asks what nobody would ask."""
    return any(
        _is_about_attributes(block, schema)
        or _reads_for_nothing(block, schema)
        or _compares_what_may_be_missing(block)
        or _shows_what_nobody_reads(block)
        or _multiplies(block, schema)
        or _asks_what_is_settled(block)
        or _calculates_with_labels(block, schema)
        or _compares_long_text(block)
        for block in blocks(tree, schema)
    )


def _is_about_attributes(block: Block, schema: Schema) -> bool:
    """Whether only combinations of attributes are read, such as days: somebody made them up, they say nothing."""
    is_inner = block.select.find_ancestor(exp.In, exp.Exists) is not None
    absent = block.absent
    return not is_inner and all(
        source.table is not None and lists_attributes(source.table, schema)
        for folded, source in block.sources.items()
        if folded not in absent
    )


def _reads_for_nothing(block: Block, schema: Schema) -> bool:
    """Whether a table is read that nothing is said of, and that joins no two others."""
    if len(block.sources) < 2:
        return False
    references = list(references_of(block, schema))
    ties = [tie for join in joins_of(block.select) if join.args.get("on") for tie in operands(join.args["on"])]
    ties = [condition for condition in (*ties, *conjuncts(block.select)) if is_join_condition(condition)]
    for folded, source in block.sources.items():
        uses = uses_of(block.select, source.alias)
        if source.optional and all(isinstance(node.find_ancestor(exp.Join, exp.Select), exp.Join) for node in uses):
            return True
        tied = [condition for condition in ties if folded in aliases_in(condition)]
        others = {alias for condition in tied for alias in aliases_in(condition)} - {folded}
        is_parent = any(parent == folded for _, parent in references)
        if is_parent and len(others) == 1 and len(uses) <= len(tied):
            return True
    return False


def _asks_for_null(condition: exp.Expr) -> bool:
    return isinstance(condition, exp.Is) and isinstance(condition.expression, exp.Null)


def _compares_what_may_be_missing(block: Block) -> bool:
    """Whether a condition leaves out the very rows that an outer join keeps."""
    optional = {folded for folded, source in block.sources.items() if source.optional}
    return any(
        isinstance(node, exp.Column) and node.table.casefold() in optional
        for condition in conjuncts(block.select)
        if optional and not _asks_for_null(condition) and not isinstance(condition, (exp.Or, exp.Paren))
        for node in own_nodes(condition)
    )


def _shows_what_nobody_reads(block: Block) -> bool:
    """Whether a thing is shown twice, a reference as it is, what is missing, or a window over a single row.

    So are two ranks beside each other, figures of groups or rows that nothing names, and amounts of which equal ones
    are left out.
    """
    select = block.select
    parts = [part.unalias() for part in select.expressions]
    if any(part in parts[:position] for position, part in enumerate(parts)):
        return True
    if sum(part.alias_or_name.endswith("_rank") for part in select.expressions) > 1:
        return True
    keys = plain_keys(select) or []
    if keys and not _is_inner(select) and (not _shows_any(keys, parts) or _hides_things(keys, parts, block)):
        return True
    if select.args.get("distinct") is not None and any(_is_amount(part, block) for part in parts):
        return True
    if any(isinstance(part.unalias(), exp.Column) and block.absent & aliases_in(part) for part in select.expressions):
        return True
    if select.parent is not None:
        return False
    if block.sources and all(isinstance(part, exp.Subquery) for part in parts):
        return True
    if is_aggregated(select) and select.args.get("group") is None and select.find(exp.Window) is not None:
        return True
    for part in select.expressions:
        own = block.column_of(part.unalias())
        if own is None or own.role != "key":
            continue
        table = block.sources[part.unalias().table.casefold()].table
        if table is not None and own.name not in table.primary_key:
            return True
    return False


def _shows_any(keys: Sequence[exp.Expr], parts: Sequence[exp.Expr]) -> bool:
    """Whether a key stands in what is shown, by itself or as a part of an expression."""
    return any(node in keys for part in parts if not has_aggregate(part) for node in own_nodes(part))


def _hides_things(keys: Sequence[exp.Expr], parts: Sequence[exp.Expr], block: Block) -> bool:
    """Whether there is a line for each thing, and what is shown of the thing is an attribute that many share."""
    hidden = _things(block, [key for key in keys if key not in parts])
    if not hidden:
        return False
    shown = [node for part in parts for node in own_nodes(part) if isinstance(node, exp.Column)]
    texts = Counter(node.table.casefold() for node in set(shown) if _role(node, block) == "text")
    named = {node.table.casefold() for node in shown if _is_name(node, block)}
    # A first and a last name are a name.
    named.update(folded for folded, number in texts.items() if number > 1)
    return not hidden <= named


def _things(block: Block, keys: Sequence[exp.Expr]) -> set[str]:
    """Return the folded aliases of the sources whose rows the keys tell apart."""
    found = set()
    for key in keys:
        own = block.column_of(key)
        if own is not None and isinstance(key, exp.Column):
            table = block.sources[key.table.casefold()].table
            if own.profile.unique or (table is not None and table.primary_key == (own.name,)):
                found.add(key.table.casefold())
    return found


def _role(node: exp.Expr, block: Block) -> str:
    own = block.column_of(node)
    return "" if own is None else own.role


def _is_name(node: exp.Column, block: Block) -> bool:
    """Whether a column tells which thing a row is, or may: a county is shared by many addresses."""
    own = block.column_of(node)
    if own is None or own.profile.num_sampled == 0:
        return True
    return own.role in ("identifier", "key") or (own.role == "text" and own.profile.almost_unique)


def _is_inner(select: exp.Select) -> bool:
    """Whether a query is there to be compared with, or for one around it to sum up."""
    place = select.parent.parent if isinstance(select.parent, exp.Subquery) else select.parent
    if place is not None and not isinstance(place, (exp.CTE, exp.From, exp.Join, exp.SetOperation)):
        return True
    outer = select.find_ancestor(exp.Select)
    return outer is not None and is_aggregated(outer)


def _is_amount(part: exp.Expr, block: Block) -> bool:
    own = block.column_of(part)
    return own is not None and own.role == "measure" and own.kind == "real"


def _multiplies(block: Block, schema: Schema) -> bool:
    """Whether figures are made of rows of two tables that have but a third in common: each repeats the other's."""
    if not is_aggregated(block.select):
        return False
    references = list(references_of(block, schema))
    parents = {parent for _, parent in references}
    children: dict[str, set[str]] = {}
    for child, parent in references:
        if child not in parents:
            children.setdefault(parent, set()).add(child)
    return any(len(found) > 1 for found in children.values())


def _asks_what_is_settled(block: Block) -> bool:
    """Whether a condition has settled what is grouped or told apart, or the groups have settled what is summed up."""
    compared, pinned = conditioned_columns(block)
    keys = plain_keys(block.select)
    grouped = {use for key in keys or [] if isinstance(key, exp.Column) for use in references_in(key)}
    if pinned & grouped:
        return True
    if sum(isinstance(key, exp.Case) for key in keys or []) > 1:
        return True
    things = _things(block, keys or [])
    figures = [*block.select.expressions, *conjuncts(block.select, "having")]
    if any(_summed(node, block) & things - block.grain for part in figures for node in own_nodes(part)):
        return True
    if keys is None:  # ROLLUP and its like
        group = block.select.args["group"]
        if pinned.intersection(references_in(group)):
            return True
    for window in (node for part in block.select.expressions for node in part.find_all(exp.Window)):
        if any(pinned.intersection(references_in(part)) for part in window.args.get("partition_by") or []):
            return True
    timed = {key.table.casefold() for key in keys or [] if isinstance(key, exp.Column) and _is_time(key, block)}
    for condition in conjuncts(block.select):
        # Whoever asks for dinner has settled which half of the day it is.
        if isinstance(condition, (exp.EQ, exp.In)) and isinstance(condition.this, exp.Column):
            timed |= {condition.this.table.casefold()} if _is_time(condition.this, block) else set()
    for part in block.select.expressions:
        if not has_aggregate(part):
            continue
        for test in part.find_all(exp.If, exp.Filter):
            condition = test.this if isinstance(test, exp.If) else test.expression
            if (compared | grouped).intersection(references_in(condition)) or timed & aliases_in(condition):
                return True
    return False


def _summed(node: exp.Expr, block: Block) -> set[str]:
    """Return the folded alias of the source of which an aggregate takes a quantity; empty for any other node."""
    if not isinstance(node, (exp.Sum, exp.Avg, exp.Min, exp.Max, exp.Median)) or not isinstance(node.this, exp.Column):
        return set()
    return {node.this.table.casefold()} if _role(node.this, block) == "measure" else set()


def _is_time(key: exp.Column, block: Block) -> bool:
    source = block.sources.get(key.table.casefold())
    return source is not None and source.table is not None and is_calendar_table(source.table)


def _calculates_with_labels(block: Block, schema: Schema) -> bool:
    """Whether keys or codes are summed or averaged, sizes summed, or combinations of attributes counted."""
    for part in own_nodes(block.select):
        if isinstance(part, (exp.Sum, exp.Avg)) and isinstance(part.this, exp.Column):
            own = block.column_of(part.this)
            if own is not None and own.kind in ("integer", "real") and _is_label(own, part, block):
                return True
        counted = part.this.expressions if isinstance(part, exp.Count) and isinstance(part.this, exp.Distinct) else []
        if any(_is_attribute_key(node, block, schema) for node in counted):
            return True
    return False


def _is_label(own: Column, function: exp.Expr, block: Block) -> bool:
    source = block.sources[function.this.table.casefold()]
    if own.role in ("key", "identifier", "code"):
        return source.table is not None
    if not isinstance(function, exp.Sum) or own.role != "measure":
        return False
    # The months of a table of temperatures are temperatures.
    kind = "" if source.table is None else snake(source.table.name).rpartition("_")[2]
    return not is_additive(plain_name(source.table, own.name)) or not is_additive(kind)


def _is_attribute_key(node: exp.Expr, block: Block, schema: Schema) -> bool:
    own = block.column_of(node)
    source = block.sources.get(node.table.casefold()) if isinstance(node, exp.Column) else None
    if own is None or own.role != "key" or source is None or source.table is None:
        return False
    if own.name in source.table.primary_key and lists_attributes(source.table, schema):
        return True
    return any(
        key.table == source.table.name
        and key.columns == (own.name,)
        and lists_attributes(schema.table(key.referenced_table), schema)
        for key in schema.foreign_keys
    )


def _compares_long_text(block: Block) -> bool:
    return any(
        isinstance(node, exp.Literal) and node.is_string and len(node.name) > MAX_COMPARED_TEXT
        for condition in conjuncts(block.select)
        for node in own_nodes(condition)
        if isinstance(node.parent, (exp.EQ, exp.NEQ, exp.In))
    )


def says_little(tree: exp.Expr, rows: Sequence[Sequence[object]], single: Collection[str] = ()) -> bool:
    """Whether a query's rows show that a part of it has nothing to say.

    A single group, one row over and over, a key that is the same in all rows, two keys of which each tells the other,
    two figures that are equal throughout, a figure that is nothing, or all, everywhere, or that has a condition which
    few groups meet.

    Args:
        single: folded names of columns of tables of one row, which may well be the same everywhere.
    """
    if not isinstance(tree, exp.Select):
        return False
    if len(rows) == 1 and (tree.args.get("group") is not None or tree.args.get("distinct") is not None):
        return True
    shown = list(zip(tree.expressions, zip(*rows, strict=True), strict=True)) if rows else []
    tested = [values for part, values in shown if has_aggregate(part) and part.find(exp.If, exp.Filter) is not None]
    if any(all(value in (None, 0) for value in values) for values in tested):
        return True
    if len(rows) < MIN_TELLING_ROWS or plain_keys(tree) is None:
        return False
    if all(row == rows[0] for row in rows):
        return True
    grouped = plain_keys(tree) or []
    keys = [
        list(map(repr, values))
        for part, values in shown
        if part.unalias() in grouped and part.unalias().name.casefold() not in single
    ]
    if any(len(set(values)) == 1 for values in keys):
        return True
    # A key and its name are two; so are others where every row has its own of both.
    one_to_one = [
        list(map(repr, values)) for part, values in shown if part.unalias() in grouped and _is_attribute(values)
    ]
    if len(keys) > 1 and any(
        len(set(zip(one, two, strict=True))) == len(set(one)) == len(set(two)) for one, two in _pairs(one_to_one)
    ):
        return True
    figures = [values for part, values in shown if _is_figure(part)]
    if any(all(value in (None, 0) for value in values) for values in figures):
        return True
    if any(one == two for one, two in _pairs(figures)):
        return True
    if any(2 * sum(value in (None, 0) for value in values) >= len(values) for values in tested):
        return True
    shares = [values for part, values in shown if part.alias.startswith("pct_")]
    return any(all(value in (None, 0, 100) for value in values) for values in shares)


def _is_attribute(values: Sequence[object]) -> bool:
    """Whether values are such as many rows have: short words and small numbers."""
    return all(value is None or isinstance(value, (int, bool)) or len(str(value)) <= 12 for value in values)


def _is_figure(part: exp.Expr) -> bool:
    return not isinstance(part.unalias(), (exp.Column, exp.Literal, exp.Subquery)) and (
        has_aggregate(part) or part.find(exp.Window) is not None
    )


def _pairs(found: Sequence[Sequence[object]]) -> Iterator[tuple[Sequence[object], Sequence[object]]]:
    for position, one in enumerate(found):
        for two in found[position + 1 :]:
            yield one, two
