"""FROM, joins and WHERE: what the rows of a SELECT are, and what is said of them behind their noun."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlglot import exp

from rayfactory.downstream.realiser.clauses import modifiers, numbered
from rayfactory.downstream.realiser.keys import correlated, shared
from rayfactory.downstream.realiser.sources import (
    Derived,
    Scope,
    Source,
    arrange,
    conjuncts,
    in_role,
    links,
    name,
    table_source,
)
from rayfactory.downstream.realiser.telling import Clause, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.words import a, listed, plural


def opened(tell: Teller, select: exp.Select, outer: Scope | None, results: Mapping[str, Derived]) -> Scope:
    """Return what the FROM clause of a SELECT brings into sight.

    Args:
        results: what WITH has introduced, by name.

    Raises:
        StatementError: reason ``unsupported``.
    """
    scope = Scope([], outer)
    clause = select.args.get("from_")
    if clause is None:
        return scope
    items: list[tuple[exp.Expr, exp.Expr | None]] = [(clause.this, None)]
    items += [(join.this, join) for join in select.args.get("joins") or ()]
    outer_joins: list[tuple[Source, list[exp.Expr]]] = []
    for item, join in items:
        source = _source(tell, item, outer, results)
        if join is None:
            scope.sources.append(source)
            continue
        only(join, "this", "on", "using", "side", "kind")
        side, kind = join.args.get("side"), join.args.get("kind")
        if side not in {None, "", "LEFT", "FULL"} or kind not in {None, "", "INNER", "CROSS", "OUTER"}:
            raise unsupported(f"the join {side} {kind}")
        conditions = list(conjuncts(join.args.get("on")))
        conditions += _equalities(join, scope, source)
        scope.sources.append(source)
        if side == "FULL":
            scope.full.append(source)
        if side == "LEFT":
            source.is_optional = True
            outer_joins.append((source, conditions))
        else:
            scope.conditions += conditions
    where = select.args.get("where")
    scope.conditions += conjuncts(where.this if where is not None else None)
    _link(tell, scope, outer_joins)
    arrange(scope)
    _pair(select, scope)
    name(scope)
    return scope


def _pair(select: exp.Select, scope: Scope) -> None:
    """Call the rows of a table that only links others by what it links, where nothing else of it is asked for."""
    head = scope.head
    if head is None or head.table is None or any(column.role != "key" for column in head.table.columns):
        return
    parents = [source for source in scope.sources if source.child is head and not source.is_optional]
    keys = {id(part) for condition in scope.conditions if id(condition) in scope.done for part in condition.walk()}
    for column in select.find_all(exp.Column):
        if id(column) in keys or _is_nested(column, select):
            continue
        found = scope.find(column)
        if found is not None and found[1] is head:
            return
    if len(parents) == 2:
        head.noun = head.said = (
            f"pair of {a(parents[0].said or parents[0].noun)} and {a(parents[1].said or parents[1].noun)}"
        )


def _is_nested(column: exp.Column, select: exp.Select) -> bool:
    """Return whether a column belongs to a table of a SELECT inside of this one."""
    inner = column.find_ancestor(exp.Select)
    while inner is not None and inner is not select:
        if any(table.alias_or_name.casefold() == column.table.casefold() for table in inner.find_all(exp.Table)):
            return True
        inner = inner.find_ancestor(exp.Select)
    return False


def _source(tell: Teller, item: exp.Expr, outer: Scope | None, results: Mapping[str, Derived]) -> Source:
    if isinstance(item, exp.Table):
        hear(tell, item)
        only(item, "this", "alias", "db")
        if not item.args.get("db") and item.name.casefold() in results:
            return _result(results[item.name.casefold()], item.alias_or_name)
        source = table_source(tell.schema, item.name, item.alias_or_name)
        if source is None or (item.args.get("alias") is not None and item.args["alias"].columns):
            raise unsupported(item)
        return source
    if isinstance(item, exp.Subquery) and isinstance(item.this, exp.Query):
        only(item, "this", "alias")
        alias = item.args.get("alias")
        names = [column.name for column in alias.columns] if alias is not None else []
        return _result(tell.derived(item.this, outer, names), item.alias)
    raise unsupported(item)


def _result(derived: Derived, alias: str) -> Source:
    noun = f"row of the {derived.label}" if derived.label else derived.noun
    return Source(alias.casefold(), derived.outputs, noun, label=derived.label, is_those=not derived.label)


def _equalities(join: exp.Expr, scope: Scope, source: Source) -> Iterator[exp.Expr]:
    for column in join.args.get("using") or ():
        other = next((s for s in scope.sources if column.name.casefold() in s.outputs), None)
        if other is None:
            raise unsupported(join)
        yield exp.EQ(
            this=exp.column(column.name, table=other.alias), expression=exp.column(column.name, table=source.alias)
        )


def _link(tell: Teller, scope: Scope, outer_joins: list[tuple[Source, list[exp.Expr]]]) -> None:
    optional = [source for source, _ in outer_joins]
    equalities = [condition for condition in scope.conditions if isinstance(condition, exp.EQ)]
    for child, parent, role, _, conditions in links(tell.schema, scope, equalities):
        if parent in optional or child in optional:
            continue
        if parent.child is None and not _is_above(child, parent):
            parent.child, parent.said = child, role
            _settle(tell, scope, conditions)
        elif parent.child is not None and parent.child is not child:
            _settle(tell, scope, conditions)
            scope.shared.append((child, role, parent))
    for source, conditions in outer_joins:
        rest = list(conditions)
        is_child = False
        followed: list[exp.Expr] = []
        for link in links(tell.schema, scope, [c for c in conditions if isinstance(c, exp.EQ)]):
            if source is link.parent and source.child is None:
                source.child, source.said = link.child, link.role
            elif source is link.child and not is_child:
                is_child = True
                source.anchor, source.as_role = link.parent, link.as_role
            else:
                continue
            for condition in link.conditions:
                hear(tell, condition)
            rest = [condition for condition in rest if condition not in link.conditions]
            followed += link.conditions
        missing = _missing(scope, source, followed)
        if missing is not None:
            _settle(tell, scope, [missing])
            scope.without.append(source)
        if source.child is None or rest:
            scope.branches.append((source, rest))


def _settle(tell: Teller, scope: Scope, conditions: list[exp.Expr]) -> None:
    for condition in conditions:
        hear(tell, condition)
        scope.done.add(id(condition))


def _is_above(source: Source | None, other: Source) -> bool:
    while source is not None:
        if source is other:
            return True
        source = source.child
    return False


def _missing(scope: Scope, source: Source, followed: list[exp.Expr]) -> exp.Expr | None:
    """Return the condition that an outer-joined source has no key, which says that there is none."""
    if source.table is None:
        return None
    table = source.table.name.casefold()
    keys = {(table, name.casefold()) for name in source.table.primary_key}
    for condition in followed:
        keys |= {
            own[1].base for side in (condition.this, condition.expression) if (own := scope.own(side)) and own[1].base
        }
    for condition in scope.conditions:
        if isinstance(condition, exp.Is) and isinstance(condition.expression, exp.Null):
            own = scope.own(condition.this)
            if own is not None and own[0] is source and own[1].base in keys:
                return condition
    return None


def narrowed(tell: Teller, scope: Scope) -> str:
    """Return what joins and WHERE say of the rows, as it stands behind their noun, with a blank before it.

    To be asked after everything else of the SELECT has been told: a join that brings what is said elsewhere need not be
    said again.
    """
    clauses: list[Clause] = [
        correlated(tell, condition, scope) or shared(tell, condition, scope) or tell.clause(condition, scope)
        for condition in scope.conditions
        if id(condition) not in scope.done
    ]
    for child, role, parent in scope.shared:
        parent.is_mentioned = child.is_mentioned = True
        clauses.append(Clause(f"the {child.said} has the same {role} as the {_child_of(parent)}"))
    extra = _branches(tell, scope)
    for source in scope.sources:
        below = source.child
        while source.is_mentioned and below is not None:
            below.is_mentioned = True
            below = below.child
    joins: list[Clause] = []
    including: list[str] = []
    for source in scope.sources:
        if source.child is None or source in scope.without or any(source is branch for branch, _ in scope.branches):
            continue
        if source.is_optional:
            if source.is_mentioned and not _is_required(scope, source):
                including.append(source.said)
        elif not source.is_mentioned:
            owner = "" if source.child is scope.head else f" of the {source.child.said}"
            joins.append(Clause(f"there is {a(source.said)}{owner}", adjunct=f"with {a(source.said)}{owner}"))
    for source in scope.without:
        lacking = source.child or source.anchor
        conditions = next((c for branch, c in scope.branches if branch is source), [])
        mods = numbered(_of_branch(tell, scope, source, conditions), is_plural=False)
        what = f"no {in_role(source.said, source.as_role, mods)}"
        if lacking is None or lacking is scope.head:
            clauses.append(Clause(f"there is {what}", has=what, is_long=bool(mods)))
        else:
            clauses.append(Clause(f"the {lacking.said} has {what}", lacking.said, f"has {what}", is_long=True))
    text = modifiers([*joins, *clauses])
    notes = extra
    for source in scope.full:
        source.is_mentioned = True
        others = listed([plural(other.one) for other in scope.sources if other is not source])
        notes += [
            f"including {others} without a matching {source.one} and {plural(source.one)} without matching {others}"
        ]
    if including:
        notes += [f"including those without {listed([a(noun) for noun in including], 'or')}"]
    return text + (f" ({'; '.join(notes)})" if notes else "")


def _child_of(parent: Source) -> str:
    return parent.child.said if parent.child is not None else parent.said


def _is_required(scope: Scope, source: Source) -> bool:
    """Return whether a condition fails where an outer join brings nothing, so that such rows are not there."""
    for condition in scope.conditions:
        if id(condition) in scope.done or not isinstance(condition, (exp.Binary, exp.Between, exp.In)):
            continue
        if isinstance(condition, (exp.Is, exp.Connector, exp.NullSafeEQ)):
            continue
        sides = (condition.this, condition.args.get("expression"))
        if any(
            (own := scope.own(side)) is not None and own[0] is source for side in sides if isinstance(side, exp.Expr)
        ):
            return True
    return False


def _branches(tell: Teller, scope: Scope) -> list[str]:
    notes = []
    for source, conditions in scope.branches:
        if source in scope.without:
            continue
        mods = numbered(_of_branch(tell, scope, source, conditions), is_plural=True)
        if _is_required(scope, source):
            notes.append(f"each with all its {in_role(plural(source.one), source.as_role, mods)}")
            continue
        if source.child is not None or source.table is None:
            notes.append(f"with the {source.one}{mods}, and including those without one")
        elif mods:
            theirs = in_role(plural(source.said), source.as_role, mods)
            notes.append(f"with only those of their {theirs}, and including those without any")
        else:
            notes.append(f"including those without any {in_role(source.said, source.as_role)}")
    return notes


def _of_branch(tell: Teller, scope: Scope, source: Source, conditions: list[exp.Expr]) -> str:
    """Return the conditions of an outer join as they stand behind what it brings."""
    clauses = []
    for condition in conditions:
        found = shared(tell, condition, scope)
        if found is None:
            # Said of what the join brings, where it is about nothing else.
            head, scope.head = scope.head, source
            found = tell.clause(condition, scope)
            scope.head = head
        clauses.append(found)
    return modifiers(clauses)
