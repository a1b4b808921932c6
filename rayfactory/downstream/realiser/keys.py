"""Equalities of keys as what they mean: "with the same customer", "of that customer"."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.downstream.realiser.sources import Scope, is_primary, referenced, referenced_base
from rayfactory.downstream.realiser.telling import Clause, Teller, hear


def shared(tell: Teller, condition: exp.Expr, scope: Scope) -> Clause | None:
    """Return an equality of two foreign keys to the same table as what it means: "the two have the same customer"."""
    if not isinstance(condition, exp.EQ):
        return None
    left, right = scope.own(condition.this), scope.own(condition.expression)
    if left is None or right is None or left[0] is right[0]:
        return None
    one, other = referenced(tell.schema, left[1].base), referenced(tell.schema, right[1].base)
    is_same_key = (
        one is not None
        and other is not None
        and one[0].referenced_table == other[0].referenced_table
        and one[1] == other[1]
    )
    is_same_output = left[0].table is None and right[0].table is None and left[1].words == right[1].words
    if not is_same_key and not is_same_output:
        return None
    what = one[1] if is_same_key and one is not None else left[1].words
    hear(tell, condition)
    left[0].is_mentioned = right[0].is_mentioned = True
    is_optional = left[0].is_optional or right[0].is_optional
    full = f"the {left[0].one} and the {right[0].one} have the same {what}"
    return Clause(full, adjunct=f"with the same {what}" if is_optional else "")


def correlated(tell: Teller, condition: exp.Expr, inside: Scope) -> Clause | None:
    """Return an equality with a column of a surrounding SELECT as what it means: "of that customer"."""
    if not isinstance(condition, exp.EQ):
        return None
    for mine, theirs in ((condition.this, condition.expression), (condition.expression, condition.this)):
        own, alien = inside.own(mine), inside.alien(theirs)
        if own is None or alien is None or own[1].base is None or alien[1].base is None:
            continue
        own[0].is_mentioned = alien[0].is_mentioned = True
        one, other = referenced(tell.schema, own[1].base), referenced(tell.schema, alien[1].base)
        if own[1].base == alien[1].base and not is_primary(tell.schema, own[1].base):
            hear(tell, condition)
            what = one[1] if one is not None else own[1].words
            owner = "" if own[0] is inside.head else f"{own[0].said} "
            return Clause(
                f"the {owner}{what} is the same as that {alien[0].one}'s", adjunct=f"with the same {owner}{what}"
            )
        if one is not None and alien[1].base == referenced_base(one[0]) and own[0] is inside.head:
            hear(tell, condition)
            is_plain = one[1] == alien[0].noun
            adjunct = f"of that {alien[0].one}" if is_plain else f"with that {alien[0].one} as {one[1]}"
            return Clause(f"the {one[1]} is that {alien[0].one}", adjunct=adjunct)
        if (
            one is not None
            and other is not None
            and one[0].referenced_table == other[0].referenced_table
            and one[1] == other[1]
        ):
            hear(tell, condition)
            return Clause(f"the {one[1]} is the same as that {alien[0].one}'s", adjunct=f"with the same {one[1]}")
    return None
