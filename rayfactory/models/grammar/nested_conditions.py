"""Conditions with a query in them: membership, existence, comparison with an average."""

from __future__ import annotations

from collections.abc import Sequence

from rayfactory.databases.schema import ForeignKey
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import Draft, Spine
from rayfactory.models.grammar.scope import Field, Scope, fields_of, with_role
from rayfactory.models.grammar.syntax import JOINS_NESTED, quote_name

MAX_CORRELATED = 4_000_000
"""Rows outside times rows inside of a correlated query, for a database that runs it once for each row outside."""


def membership(draft: Draft, child: Sequence[Field], target: Sequence[Field], scope: Scope) -> list[str]:
    """Return a condition that the row pointed to, which is not in FROM, meets conditions: IN or EXISTS; or none."""
    conditions = draw_conditions(draft, scope, draft.pick([(3, 1), (2, 2)]), nulls=False)
    if not conditions:
        return []
    if len(child) == 1 and draft.chance(0.7):
        return [f"{child[0].sql} IN (SELECT {target[0].sql} FROM {scope.from_sql} WHERE {' AND '.join(conditions)})"]
    ties = [f"{inner.qualified} = {outer.qualified}" for outer, inner in zip(child, target, strict=True)]
    return [f"EXISTS (SELECT 1 FROM {scope.from_sql} WHERE {' AND '.join([*ties, *conditions])})"]


def nested_condition(draft: Draft, spine: Spine) -> str:
    """Return a condition with a nested query over one more table or the same one; empty where none fits."""
    options = [
        (2.0, existence),
        (2.0, above_average),
        (1.5, above_group_average),
    ]
    while options:
        option = draft.pick([(weight, (weight, function)) for weight, function in options])
        options.remove(option)
        condition = option[1](draft, spine)
        if condition:
            return condition
    return ""


def existence(draft: Draft, spine: Spine) -> str:
    """Return a condition that rows elsewhere point to this one, or do not."""
    options: list[tuple[float, tuple[ForeignKey, str]]] = []
    for alias, table in zip(spine.aliases, spine.skeleton.tables, strict=False):
        if draft.graph.is_clock(table.name):
            continue  # what happened in the same second of some day has nothing to do with this
        for key in draft.graph.children(table.name):
            if key.table != key.referenced_table and key.table not in draft.used:
                weight = 1.0 if key.table in draft.wanted else 0.0
                options.append((weight / (1 + draft.use[key.table]), (key, alias)))
    options = [option for option in options if option[0] > 0]
    if not options:
        return ""
    key, alias = draft.pick(options)
    outer_rows = draft.schema.table(key.referenced_table).num_rows
    child = draft.schema.table(key.table)
    correlated = draft.chance(0.5)
    if draft.dialect not in JOINS_NESTED and outer_rows * child.num_rows > MAX_CORRELATED:
        correlated = False
    inner = draft.spine(1, must=key.table, grain=key.table)
    own = {f.column.name: f for f in inner.scope.fields}
    outer = {f.column.name: f for f in spine.scope.fields if f.source == alias}
    if any(name not in own for name in key.columns) or any(name not in outer for name in key.referenced_columns):
        return ""
    conditions = draw_conditions(draft, inner.scope, draft.pick([(3, 1), (2, 2)]), nulls=False)
    if not conditions:
        return ""
    negated = draft.chance(0.3)
    if correlated or len(key.columns) > 1:
        ties = [
            f"{own[a].qualified} = {outer[b].qualified}"
            for a, b in zip(key.columns, key.referenced_columns, strict=True)
        ]
        text = " AND ".join([*ties, *conditions])
        return f"{'NOT ' if negated else ''}EXISTS (SELECT 1 FROM {inner.scope.from_sql} WHERE {text})"
    if negated:
        conditions.append(f"{own[key.columns[0]].sql} IS NOT NULL")
    clause = f" WHERE {' AND '.join(conditions)}"
    word = "NOT IN" if negated else "IN"
    shown = own[key.columns[0]].sql
    return f"{outer[key.referenced_columns[0]].sql} {word} (SELECT {shown} FROM {inner.scope.from_sql}{clause})"


def _comparable(spine: Spine) -> list[Field]:
    return [
        f
        for f in with_role(spine.scope, "measure")
        if f.is_number
        and f.num_distinct > 5
        and isinstance(f.witness, (int, float))
        and not isinstance(f.witness, bool)
    ]


def above_average(draft: Draft, spine: Spine) -> str:
    """Return a condition that compares a measure with its average over the table, perhaps over some rows of it."""
    options = _comparable(spine)
    if not options:
        return ""
    chosen = draft.pick([(1.0, f) for f in options])
    name = chosen.table.name
    if name not in {table.name for table in draft.schema.tables}:
        return ""
    table = draft.schema.table(name)
    alias = draft.alias(f"{name[:1]}x") if draft.style.qualify else name
    inner = next((f for f in fields_of(table, alias, qualify=draft.style.qualify) if f.column == chosen.column), None)
    if inner is None or not isinstance(chosen.witness, (int, float)):
        return ""
    source = f"{quote_name(name)} AS {quote_name(alias)}" if draft.style.qualify else quote_name(name)
    draft.constrained.add(chosen.sql)
    mean = chosen.mean
    above = chosen.witness > mean
    factor = draft.pick([(3, ""), (1, "1.2 * " if above else "0.8 * "), (1, "1.5 * " if above else "0.5 * ")])
    if mean <= 0:
        factor = ""
    return f"{chosen.sql} {'>' if above else '<'} (SELECT {factor}AVG({inner.sql}) FROM {source})"


def above_group_average(draft: Draft, spine: Spine) -> str:
    """Return a condition that compares a measure with its average over rows of its table that share a value."""
    options = [f for f in _comparable(spine) if f.table.name == spine.scope.grain.name]
    if not options:
        return ""
    chosen = draft.pick([(1.0, f) for f in options])
    table = spine.scope.grain
    rows = float(table.num_rows)
    if draft.dialect not in JOINS_NESTED and rows * rows > MAX_CORRELATED:
        return ""
    if rows > 400_000:
        return ""
    named = draft.graph.entity_columns(table.name)
    groups = [
        f
        for f in spine.scope.fields
        if f.source == chosen.source
        and (f.column.role == "category" or f.column.name in named)
        and 2 <= f.column.profile.num_distinct <= max(3, f.column.profile.num_sampled / 3)
        and f.column.kind != "other"
    ]
    if not groups:
        return ""
    group = draft.pick([(1.0, f) for f in groups])
    draft.constrained.add(chosen.sql)
    alias = draft.alias(f"{table.name[:1]}y")
    own = {f.column.name: f for f in fields_of(table, alias, qualify=True)}
    above = isinstance(chosen.witness, (int, float)) and chosen.witness > chosen.mean
    factor = draft.pick([(3, ""), (1, "1.1 * " if above else "0.9 * ")]) if chosen.mean > 0 else ""
    return (
        f"{chosen.sql} {'>' if above else '<'} (SELECT {factor}AVG({own[chosen.column.name].sql}) FROM "
        f"{quote_name(table.name)} AS {quote_name(alias)} WHERE "
        f"{own[group.column.name].sql} = {group.qualified})"
    )
