"""GROUP BY and HAVING: what the groups are of, which of them count, and over which there are subtotals."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import rows
from rayfactory.downstream.realiser.sources import Scope, is_primary, referenced
from rayfactory.downstream.realiser.telling import Teller, only
from rayfactory.downstream.realiser.words import listed

Subtotals = tuple[type[exp.Expr], list[list[exp.Expr]]]
"""ROLLUP, CUBE or GROUPING SETS, and the keys of each of its sets."""


def keys_of(
    select: exp.Select, projections: Sequence[exp.Expr], scope: Scope, subtotals: list[Subtotals]
) -> list[exp.Expr]:
    """Return what the rows are grouped by; what there are subtotals over is added to a list."""
    group = select.args.get("group")
    if group is None:
        return []
    only(group, "expressions", "rollup", "cube", "grouping_sets")
    keys: list[exp.Expr] = []
    parts = [*group.expressions]
    for name in ("rollup", "cube", "grouping_sets"):
        parts += group.args.get(name) or ()
    for part in parts:
        if isinstance(part, (exp.Rollup, exp.Cube)):
            inner = [resolved(key, projections, scope) for key in part.expressions]
            subtotals.append((type(part), [inner]))
            keys += inner
        elif isinstance(part, exp.GroupingSets):
            sets = [_set(one, projections, scope) for one in part.expressions]
            subtotals.append((exp.GroupingSets, sets))
            keys += {key.sql(): key for one in sets for key in one}.values()
        else:
            keys.append(resolved(part, projections, scope))
    return keys


def _set(node: exp.Expr, projections: Sequence[exp.Expr], scope: Scope) -> list[exp.Expr]:
    inner = node.expressions if isinstance(node, exp.Tuple) else [node.unnest()]
    return [resolved(key, projections, scope) for key in inner]


def subtotals_told(tell: Teller, subtotals: Sequence[Subtotals], scope: Scope) -> str:
    """Return over which of the groups there are subtotals."""
    text = ""
    for kind, sets in subtotals:
        names = [listed([tell.value(key, scope).text for key in keys]) for keys in sets]
        if kind is not exp.GroupingSets and len(sets[0]) == 1:
            text += f", with subtotals over all values of {names[0]}"
        elif kind is exp.Rollup:
            last, *others = (tell.value(key, scope).text for key in reversed(sets[0]))
            steps = [f"first over all values of {last}", *(f"then over those of {other} too" for other in others)]
            text += f", with subtotals step by step ({', '.join(steps)})"
        elif kind is exp.Cube:
            text += f", with subtotals over every combination of {names[0]}"
        else:
            ways = [f"once for each {name}" if name else "once for all together" for name in names]
            text += f", grouped {listed(ways)}"
    return text


def independent(tell: Teller, keys: list[exp.Expr], projections: Sequence[exp.Expr], scope: Scope) -> list[exp.Expr]:
    """Return the keys without those that a primary key among them settles, where that is not shown itself."""
    shown = {_bare(item.unalias().sql()) for item in projections}
    settled = set()
    for key in keys:
        own = scope.own(key)
        if own is not None and is_primary(tell.schema, own[1].base) and _bare(key.sql()) not in shown:
            settled.add(id(own[0]))
    rest = []
    for key in keys:
        own = scope.own(key)
        is_settled = own is not None and id(own[0]) in settled and not is_primary(tell.schema, own[1].base)
        if not is_settled:
            rest.append(key)
    return rest


def resolved(key: exp.Expr, projections: Sequence[exp.Expr], scope: Scope, *, is_order: bool = False) -> exp.Expr:
    """Return what a number or a name in GROUP BY or ORDER BY stands for.

    A name is first of all a column of the tables in GROUP BY, and one of the result in ORDER BY.
    """
    if isinstance(key, exp.Literal) and key.name.isdigit() and 0 < int(key.name) <= len(projections):
        return projections[int(key.name) - 1].unalias()
    if isinstance(key, exp.Column) and not key.table and (is_order or scope.own(key) is None):
        return scope.names.get(key.name.casefold(), key)
    return key


def num_shown(keys: Sequence[exp.Expr], texts: Sequence[str]) -> int:
    """Return how many of the columns, from the first on, are the keys; 0 where these are not all there."""
    wanted = {_bare(key.sql()) for key in keys}
    number = len(wanted)
    return number if number and {_bare(text) for text in texts[:number]} == wanted else 0


def _bare(text: str) -> str:
    return text.casefold().replace('"', "")


def having_told(tell: Teller, condition: exp.Expr, scope: Scope, keys: Sequence[exp.Expr]) -> str:
    """Return which groups, behind their noun."""
    found = tell.clause(condition, scope)
    if not found.has:
        return f" where {found.full}"
    # A customer without any sale is no group of the sales.
    is_of_things = any(
        own is not None and (is_primary(tell.schema, own[1].base) or referenced(tell.schema, own[1].base))
        for own in map(scope.own, keys)
    )
    is_of_rows = found.subject == f"number of {rows(scope)}"
    if is_of_things and is_of_rows and found.has.startswith(("at most ", "fewer than ", "other than ")):
        return f" with at least one but {found.has}"
    return f" with {found.has}"
