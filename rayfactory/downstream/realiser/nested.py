"""Conditions that hold a query, IN and EXISTS: where a foreign key leads from one to the other, as who has what."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from rayfactory.downstream.realiser.clauses import about, numbered
from rayfactory.downstream.realiser.sources import Scope, Source, as_role, conjuncts, in_role, referenced, together
from rayfactory.downstream.realiser.telling import Clause, Teller, hear
from rayfactory.downstream.realiser.words import a


def among(tell: Teller, node: exp.In, scope: Scope, *, negated: bool) -> Clause:
    """Return `value IN (SELECT ..)`, or its negation, in words."""
    query = node.args["query"]
    inner = query.unnest() if isinstance(query, exp.Subquery) else query
    found = _member(tell, node.this, inner, scope, negated=negated)
    if found is not None:
        return found
    subject = tell.value(node.this, scope)
    return about(subject, f"is {'not ' if negated else ''}among {tell.query(inner, scope)}", is_long=True)


def _simple(inner: exp.Expr) -> exp.Select | None:
    """Return a SELECT that has nothing but tables and conditions."""
    if not isinstance(inner, exp.Select):
        return None
    items = [inner.args.get("from_"), *(inner.args.get("joins") or ())]
    if not all(item is not None and isinstance(item.this, exp.Table) for item in items):
        return None
    left = [
        name
        for name, part in inner.args.items()
        if part and name not in {"expressions", "from_", "where", "joins", "distinct"}
    ]
    return None if left else inner


def _member(tell: Teller, left: exp.Expr, inner: exp.Expr, scope: Scope, *, negated: bool) -> Clause | None:
    """`key IN (SELECT foreign key ..)` and `foreign key IN (SELECT key ..)`."""
    select = _simple(inner)
    own = scope.own(left)
    if select is None or own is None or len(select.expressions) != 1 or own[1].base is None:
        return None
    inside = tell.opened(select, scope)
    item = select.expressions[0].unalias()
    yielded = inside.own(item)
    if yielded is None or yielded[1].base is None or yielded[0] is not inside.head or yielded[0].table is None:
        return None
    source, base = own[0], yielded[1].base
    for condition in inside.conditions:
        # That the key is known goes without saying.
        test = condition.this if isinstance(condition, exp.Not) else None
        if isinstance(test, exp.Is) and isinstance(test.expression, exp.Null) and inside.own(test.this) == yielded:
            hear(tell, condition)
            inside.done.add(id(condition))
    for key in tell.schema.foreign_keys:
        if len(key.columns) != 1:
            continue
        ends = (
            (key.table.casefold(), key.columns[0].casefold()),
            (key.referenced_table.casefold(), key.referenced_columns[0].casefold()),
        )
        if ends == (base, own[1].base):
            return _having(tell, inside, source, scope, [left, item], as_role(tell.schema, key), negated=negated)
        if ends == (own[1].base, base):
            found = referenced(tell.schema, own[1].base)
            assert found is not None
            source.is_mentioned = True
            hear(tell, left)
            hear(tell, item)
            called = found[1] if source is scope.head else f"{source.said} {found[1]}"
            return _one(tell, inside, called, negated=negated)
    return None


def _having(
    tell: Teller,
    inside: Scope,
    source: Source,
    scope: Scope,
    keys: Sequence[exp.Expr],
    role: str,
    *,
    negated: bool,
) -> Clause:
    assert inside.head is not None
    mods = numbered(tell.narrowed(inside), is_plural=False)
    for key in keys:
        hear(tell, key)
    source.is_mentioned = True
    one = in_role(inside.head.one, role, mods)
    what = f"no {one}" if negated else a(one)
    if source is scope.head:
        return Clause(f"the {source.one} has {what}", has=what, is_long=bool(mods))
    return Clause(f"the {source.said} has {what}", source.said, f"has {what}", is_long=True)


def _one(tell: Teller, inside: Scope, called: str, *, negated: bool) -> Clause:
    assert inside.head is not None
    mods = numbered(tell.narrowed(inside), is_plural=False)
    if not mods:
        predicate = f"is not among the {inside.head.many}" if negated else f"is among the {inside.head.many}"
    else:
        predicate = f"is {'not ' if negated else ''}one{mods}"
    return Clause(f"the {called} {predicate}", called, predicate, is_long=True)


def exists(tell: Teller, node: exp.Exists, scope: Scope, *, negated: bool) -> Clause:
    """Return `EXISTS (SELECT ..)`, or its negation, in words."""
    inner = node.this.unnest() if isinstance(node.this, (exp.Subquery, exp.Paren)) else node.this
    select = _simple(inner)
    if select is None:
        there = "there is no row in" if negated else "there is a row in"
        return Clause(f"{there} {tell.query(inner, scope)}", is_long=True)
    for item in select.expressions:
        hear(tell, item)
    inside = tell.opened(select, scope)
    if inside.head is None:
        mods = numbered(tell.narrowed(inside), is_plural=False)
        return Clause(f"there is {'no' if negated else 'a'} {together(inside)}{mods}", is_long=True)
    follows = _follows(tell, select, inside, scope)
    if follows is not None:
        outer_source, role, conditions, is_child = follows
        for condition in conditions:
            hear(tell, condition)
            inside.done.add(id(condition))
        if is_child:
            return _having(tell, inside, outer_source, scope, [], role, negated=negated)
        outer_source.is_mentioned = True
        called = role if outer_source is scope.head else f"{outer_source.said} {role}"
        return _one(tell, inside, called, negated=negated)
    mods = numbered(tell.narrowed(inside), is_plural=False)
    what = f"no {inside.head.one}{mods}" if negated else f"{a(inside.head.one)}{mods}"
    return Clause(f"there is {what}", is_long=True)


def _follows(
    tell: Teller, select: exp.Select, inside: Scope, scope: Scope
) -> tuple[Source, str, list[exp.Expr], bool] | None:
    """Return the surrounding source that a key links the head of a nested SELECT with.

    Returns:
        The source, its role (or, where it is the parent, what `as_role` says), the conditions, and whether it is the
        parent.
    """
    clause_of_where = select.args.get("where")
    pairs: list[tuple[Source, tuple[str, str], tuple[str, str], exp.Expr]] = []
    for condition in conjuncts(clause_of_where.this if clause_of_where is not None else None):
        if not isinstance(condition, exp.EQ):
            continue
        for mine, theirs in ((condition.this, condition.expression), (condition.expression, condition.this)):
            own, alien = inside.own(mine), inside.alien(theirs)
            if (
                own is None
                or alien is None
                or own[0] is not inside.head
                or own[1].base is None
                or alien[1].base is None
            ):
                continue
            if alien[0] in scope.sources:
                pairs.append((alien[0], own[1].base, alien[1].base, condition))
    for source in dict.fromkeys(pair[0] for pair in pairs):
        bases = {(a_, b_): condition for found, a_, b_, condition in pairs if found is source}
        for key in tell.schema.foreign_keys:
            ends = [
                ((key.table.casefold(), x.casefold()), (key.referenced_table.casefold(), y.casefold()))
                for x, y in zip(key.columns, key.referenced_columns, strict=True)
            ]
            if all(end in bases for end in ends):
                return source, as_role(tell.schema, key), [bases[end] for end in ends], True
            if all((y, x) in bases for x, y in ends):
                found = referenced(tell.schema, ends[0][0])
                role = found[1] if found is not None else inside.head.one if inside.head else ""
                return source, role, [bases[y, x] for x, y in ends], False
    return None
