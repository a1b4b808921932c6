"""The same query, written as somebody else would: with other aliases, joins, comparisons and nesting.

What is asked for, and each constant, stays. Nothing here depends on a schema.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

from sqlglot import exp
from sqlglot.optimizer.eliminate_subqueries import eliminate_subqueries

Change = Callable[[exp.Expr, Random], exp.Expr]


def written_otherwise(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Return a query with the same result, in other words; as it was where nothing in it has another form.

    Args:
        tree: of the query; it stays as it is.
        rng: decides which changes are made, and how.
    """
    tree = tree.copy()
    for change in (_membership, _joins, _conditions, _ranges, _lists, _nesting, _aliases):
        tree = change(tree, rng)
    return tree


def _membership(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have EXISTS for IN with a subquery, where both are true of the same rows: a condition of WHERE, not negated."""
    for where in list(tree.find_all(exp.Where)):
        for found in _parts(where.this):
            query = found.args.get("query") if isinstance(found, exp.In) else None
            inner = query.unnest() if query is not None else None
            if not isinstance(inner, exp.Select) or len(inner.expressions) != 1 or rng.random() < 0.5:
                continue
            # A name without its table would mean another column inside.
            is_told = isinstance(found.this, exp.Column) and bool(found.this.table)
            names = {table.alias_or_name.casefold() for table in inner.find_all(exp.Table, exp.Subquery)}
            plain = {"expressions", "from_", "joins", "where", "kind", "hint", "operation_modifiers", "distinct"}
            is_plain = all(name in plain for name, value in inner.args.items() if value)
            member = inner.expressions[0].unalias()
            is_value = not member.find(exp.AggFunc, exp.Window, exp.Star)
            if not (is_told and is_plain and is_value) or found.this.table.casefold() in names:
                continue
            exists = inner.copy()
            exists.set("distinct", None)
            exists.set("expressions", [exp.Literal.number(1)])
            same = exp.EQ(this=member.copy(), expression=found.this.copy())
            found.replace(exp.Exists(this=exists.where(same, copy=False)))
    return tree


def _joins(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have the conditions of inner joins in WHERE, and commas between the tables."""
    for select in list(tree.find_all(exp.Select)):
        joins = select.args.get("joins") or []
        is_inner = all(not join.side and join.kind in ("", "INNER") and join.args.get("on") for join in joins)
        if not joins or not is_inner or any(join.args.get("using") for join in joins) or rng.random() < 0.5:
            continue
        conditions = [condition.copy() for join in joins for condition in _parts(join.args["on"])]
        where = select.args.get("where")
        if where is not None:
            conditions += [condition.copy() for condition in _parts(where.this)]
        for join in joins:
            join.set("on", None)
            join.set("kind", None)
        select.set("where", exp.Where(this=exp.and_(*conditions)))
    return tree


def _conditions(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have the conditions of a WHERE in another order."""
    for where in list(tree.find_all(exp.Where)):
        conditions = [condition.copy() for condition in _parts(where.this)]
        rng.shuffle(conditions)
        where.set("this", exp.and_(*conditions))
    return tree


def _ranges(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have two comparisons for BETWEEN."""
    for between in list(tree.find_all(exp.Between)):
        if rng.random() < 0.5 and not between.args.get("symmetric"):
            low = exp.GTE(this=between.this.copy(), expression=between.args["low"].copy())
            high = exp.LTE(this=between.this.copy(), expression=between.args["high"].copy())
            between.replace(exp.paren(exp.and_(low, high)))
    return tree


def _lists(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have equalities for IN with a list."""
    for found in list(tree.find_all(exp.In)):
        if found.expressions and rng.random() < 0.5:
            equal = [exp.EQ(this=found.this.copy(), expression=each.copy()) for each in found.expressions]
            found.replace(exp.paren(exp.or_(*equal)))
    return tree


def _nesting(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have derived tables as common table expressions."""
    return eliminate_subqueries(tree) if rng.random() < 0.5 else tree


def _aliases(tree: exp.Expr, rng: Random) -> exp.Expr:
    """Have other aliases, or none where each table is there once."""
    style = rng.choice(("numbers", "letters", "none", "as they are"))
    tables = list(tree.find_all(exp.Table))
    times = Counter(table.name.casefold() for table in tables)
    taken = {alias.name.casefold() for alias in tree.find_all(exp.TableAlias)} | set(times)
    aliases: dict[str, str] = {}
    for number, table in enumerate(tables, start=1):
        known = table.alias_or_name.casefold()
        if style == "as they are" or known in aliases:
            continue
        if style == "none" and times[table.name.casefold()] == 1:
            aliases[known] = table.name
        elif table.name:
            letter = "t" if style == "numbers" else table.name[0].lower()
            aliases[known] = next(alias for alias in _numbered(letter, number) if alias not in taken)
    if len({alias.casefold() for alias in aliases.values()}) < len(aliases):
        return tree
    for table in tables:
        known = table.alias_or_name.casefold()
        alias = aliases.get(known)
        if alias is not None:
            named = None if alias == table.name else exp.TableAlias(this=exp.to_identifier(alias))
            table.set("alias", named)
    for column in tree.find_all(exp.Column):
        alias = aliases.get(column.table.casefold())
        if alias is not None:
            column.set("table", exp.to_identifier(alias))
    return tree


def _numbered(letter: str, number: int) -> Iterator[str]:
    while True:
        yield f"{letter}{number}"
        letter += letter[0]


def _parts(condition: exp.Expr) -> list[exp.Expr]:
    condition = condition.unnest()
    return list(condition.flatten()) if isinstance(condition, exp.And) else [condition]
