"""Questions whose answer is a list of rows: look-ups, exceptions, the newest record, rows without a partner."""

from __future__ import annotations

from collections.abc import Sequence

from rayfactory.databases.schema import ForeignKey, Table
from rayfactory.models.grammar.clauses import Select, engage, idle_sources, limit, num_conditions, total_order, where
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import DeadEndError, Draft, Spine
from rayfactory.models.grammar.expressions import bands, measures, plural, reads_as_name
from rayfactory.models.grammar.quantities import code_weight, is_calendar, is_record_date, names_a_thing
from rayfactory.models.grammar.scope import Field, with_role
from rayfactory.models.grammar.syntax import HAS_QUALIFY, JOINS_NESTED, date_part, date_period, snake

_SHOWN_WEIGHT = {"text": 2.0, "category": 2.0, "identifier": 1.5, "date": 1.5, "measure": 1.5, "code": 0.7, "key": 0.1}


def shown_fields(draft: Draft, spine: Spine, count: int) -> list[Field]:
    """Return columns that a reader wants to see, some from each source."""
    calendars = {
        alias for alias in spine.aliases if is_calendar([f.label for f in spine.scope.fields if f.source == alias])
    }
    left = [
        f
        for f in spine.scope.fields
        if f.column.role in _SHOWN_WEIGHT
        and f.column.profile.num_distinct > 0
        # Of a day or a moment a reader wants the date, the year, the hour, not its number.
        and (f.source not in calendars or f.column.role in ("date", "category") or code_weight(f.label) >= 1)
        and "current" not in f.label.split("_")
    ]
    left = [f for f in left if f.column.role != "key"] or left
    idle = set(idle_sources(draft, spine, ()))
    readable = {f.source for f in left if f.column.role == "text" and reads_as_name(f)}
    chosen: list[Field] = []
    while left and len(chosen) < count:
        seen = {f.source for f in chosen}
        weights = [
            (
                _SHOWN_WEIGHT[f.column.role]
                * (0.5 if f.source in seen else 4 if f.source in idle else 1.5)
                * (0.05 if f.num_distinct < 2 and f.table.num_rows > 1 else 1)
                * (0.1 if is_record_date(f.label) or (f.table.num_rows == 1 and not _is_name(f)) else 1)
                * (0.15 if f.column.role == "identifier" and f.source in readable else 1)
                * (1 if names_a_thing(f.label) else 0.1)
                * (0.2 if f.column.role == "code" and code_weight(f.label) < 1 else 1)
                * (8 if f.source in calendars and f.column.role == "date" else 1),
                f,
            )
            for f in left
        ]
        f = draft.pick(weights)
        chosen.append(f)
        left = [other for other in left if other.sql != f.sql and other.label != f.label]
    if not chosen:
        raise DeadEndError
    return chosen


def _is_name(f: Field) -> bool:
    return f.column.role == "text" and reads_as_name(f)


def _dressed(draft: Draft, f: Field, taken: set[str]) -> str:
    """Return a column of a SELECT list, now and then inside a function."""
    column = f.column
    options: list[tuple[float, str, str]] = []
    if column.kind == "text" and column.role == "text":
        options.append((0.06, f"UPPER({f.sql})", f.label))
        options += [(0.05, f"SUBSTR({f.sql}, 1, 20)", f"short_{f.label}")]
    if column.kind == "text" and column.role in ("text", "category") and column.profile.null_fraction > 0.005:
        options.append((0.4, f"COALESCE({f.sql}, 'n/a')", f.label))
    if column.kind in ("date", "timestamp"):
        options.append((0.15, date_part("year", f.sql, draft.dialect), f"{f.label}_year"))
        options.append((0.1, date_period("month", f.sql, draft.dialect), f"{f.label}_month"))
    if column.role == "measure" and column.kind == "real":
        options.append((0.1, f"ROUND({f.sql}, 1)", f.label))
    if column.role == "measure" and column.profile.null_fraction > 0.02 and f.is_number:
        options.append((0.15, f"COALESCE({f.sql}, 0)", f.label))
    sql, name = draft.pick([(weight, (sql, name)) for weight, sql, name in options] + [(1.0, (f.sql, ""))])
    if name:
        return f"{sql} AS {draft.output(name, taken)}"
    if draft.chance(0.15) and snake(column.name) != f.label:
        return draft.named(sql, draft.output(f.label, taken, column.name))
    return sql


def lookup(draft: Draft) -> str:
    """Rows that meet conditions, some columns of them, in an order."""
    spine = draft.spine(draft.pick([(1, 1), (4, 2), (5, 3), (3, 4)]), hidden=draft.pick([(2, 0), (1, 1)]))
    taken: set[str] = set()
    fields = shown_fields(draft, spine, draft.pick([(2, 2), (4, 3), (4, 4), (2, 5), (1, 6)]))
    select = Select(spine.scope.from_sql)
    select.where = where(draft, spine, max(1, num_conditions(draft)))
    names = [f.sql for f in fields]
    select.items = [_dressed(draft, f, taken) for f in fields]
    extras = [m for m in measures(spine.scope) if len(m.uses) > 1 and m.weight >= 0.2]
    if extras and draft.chance(0.2):
        extra = draft.pick([(m.weight, m) for m in extras])
        select.items.append(f"{extra.sql} AS {draft.output(extra.name, taken)}")
    banded = [band for f in with_role(spine.scope, "measure") for band in bands(f)]
    if banded and draft.chance(0.05):
        band = draft.pick([(1.0, b) for b in banded])
        select.items.append(f"{band.sql} AS {draft.output(band.name, taken)}")
    sortable = [f for f in fields if f.column.role in ("measure", "date", "text", "code", "category")]
    if all(f.table.name != spine.scope.grain.name for f in fields) or draft.chance(0.2):
        # The different values of quantities are nobody's question.
        fields = [f for f in fields if f.column.role not in ("measure", "key")]
        if not fields:
            raise DeadEndError
        select.distinct = True
        select.items = list(dict.fromkeys(f.sql for f in fields))
        names = select.items.copy()
        engage(draft, spine, select)
        select.order = ", ".join(names) if draft.chance(0.7) else ""
    else:
        engage(draft, spine, select)
        ties = total_order(spine.scope, names, list(zip(spine.aliases, spine.skeleton.tables, strict=False)))
        lead = draft.pick([(1.0, f) for f in sortable]).sql if sortable else ties[0]
        way = draft.builder.choice("direction", [(3, " DESC"), (2, "")])
        select.order = ", ".join([lead + way, *(tie for tie in ties if tie != lead)])
    if select.order and (spine.scope.num_rows > 300 or draft.chance(0.4)):
        select.limit = limit(draft)
        if draft.chance(0.07):
            select.limit += " OFFSET " + draft.builder.choice("offset", [(1, "5"), (1, "10"), (1, "20")])
    if not select.limit and spine.scope.num_rows > 20_000:
        select.order = select.order or ", ".join(names)
        select.limit = limit(draft)
    return select.sql()


def without_partner(draft: Draft) -> str:
    """Rows that no row of another table points to, or that none of some kind points to: an anti-join."""
    child, key = _child_of_wanted(draft)
    spine = draft.spine(draft.pick([(3, 1), (2, 2)]), must=key.referenced_table, grain=key.referenced_table)
    inner = draft.spine(1, must=child, grain=child)
    own = {f.column.name: f for f in inner.scope.fields}
    outer = {f.column.name: f for f in spine.scope.fields if f.source == spine.aliases[0]}
    if any(a not in own for a in key.columns) or any(b not in outer for b in key.referenced_columns):
        raise DeadEndError
    ties = [
        f"{own[a].qualified} = {outer[b].qualified}" for a, b in zip(key.columns, key.referenced_columns, strict=True)
    ]
    conditions = draw_conditions(draft, inner.scope, draft.pick([(2, 0), (3, 1), (2, 2)]))
    plain = where(draft, spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0)
    how = draft.pick([(3, "left"), (3, "exists"), (2, "in")])
    if (
        draft.dialect not in JOINS_NESTED
        and how == "exists"
        and spine.scope.num_rows * inner.scope.num_rows > 4_000_000
    ):
        how = "in"
    if len(key.columns) > 1 and how == "in":
        how = "exists"
    select = Select(spine.scope.from_sql)
    if how == "left" and not spine.scope.joins:
        tie = own[key.columns[0]].qualified
        select.source += f" LEFT JOIN {inner.scope.from_sql} ON {' AND '.join([*ties, *conditions])}"
        select.where = [*plain, f"{tie} IS NULL"]
        if not _unambiguous([*spine.skeleton.tables, *inner.skeleton.tables]) and not draft.style.qualify:
            raise DeadEndError
    elif how == "in":
        shown = own[key.columns[0]]
        rest = [*conditions, f"{shown.sql} IS NOT NULL"]
        text = f"SELECT {shown.sql} FROM {inner.scope.from_sql} WHERE {' AND '.join(rest)}"
        select.where = [*plain, f"{outer[key.referenced_columns[0]].sql} NOT IN ({text})"]
    else:
        text = f"SELECT 1 FROM {inner.scope.from_sql} WHERE {' AND '.join([*ties, *conditions])}"
        select.where = [*plain, f"NOT EXISTS ({text})"]
    groupable = [
        f
        for f in with_role(spine.scope, "category")
        if 2 <= f.num_distinct <= 30 and f.sql not in draft.constrained and f.table.num_rows > 1
    ]
    if groupable and draft.chance(0.45):
        group = draft.pick([(1.0, f) for f in groupable])
        taken: set[str] = set()
        name = draft.output(f"num_{plural(snake(key.referenced_table))}", taken)
        select.items = [group.sql, f"COUNT(*) AS {name}"]
        select.group = group.sql
        select.order = f"{name} DESC, {group.sql}"
        engage(draft, spine, select)
        return select.sql()
    fields = shown_fields(draft, spine, draft.pick([(2, 2), (3, 3), (2, 4)]))
    select.items = [f.sql for f in fields]
    ties = total_order(spine.scope, select.items, list(zip(spine.aliases, spine.skeleton.tables, strict=False)))
    select.order = ", ".join(dict.fromkeys([select.items[0], *ties]))
    select.limit = limit(draft)
    engage(draft, spine, select)
    return select.sql()


def _unambiguous(tables: Sequence[Table]) -> bool:
    names = [column.name.lower() for table in tables for column in table.columns]
    return len(names) == len(set(names))


def _child_of_wanted(draft: Draft) -> tuple[str, ForeignKey]:
    """Return a wanted child table with its key to another wanted table."""
    options = [
        (
            1.0
            / (1 + draft.use[name] + draft.use[key.referenced_table])
            * (3 if key.referenced_table in draft.wanted else 1)
            * (0.1 if draft.graph.is_profile(key.referenced_table) else 1),
            (name, key),
        )
        for name in draft.wanted
        for key in draft.graph.parents(name)
        if key.table != key.referenced_table
        and draft.schema.table(key.referenced_table).num_rows >= 3
        # That nothing of a kind fell on a day is no news of the day.
        and not draft.graph.is_calendar(key.referenced_table)
    ]
    if not options:
        raise DeadEndError
    return draft.pick(options)


def readable_key(spine: Spine, key: Field) -> Field:
    """Return a key of the grain as a reader knows what it points to: by its number or name.

    Raises:
        DeadEndError: it is a surrogate, and what it points to is not in sight.
    """
    if key.column.role != "key" or not key.label.endswith("sk"):
        return key
    for join in spine.skeleton.joins[: len(spine.aliases) - 1]:
        if join.child == 0 and join.key.columns == (key.column.name,):
            own = [f for f in spine.scope.fields if f.source == spine.aliases[join.parent] and reads_as_name(f)]
            named = [f for f in own if f.column.role == "identifier"] or [f for f in own if f.column.role == "text"]
            if named and named[0].num_distinct > 1:
                return named[0]
    raise DeadEndError


def newest_record(draft: Draft) -> str:
    """The latest (or largest) row of each entity, by ROW_NUMBER."""
    spine = draft.spine(draft.pick([(1, 1), (4, 2), (4, 3)]))
    scope = spine.scope
    if scope.num_rows > 200_000:
        raise DeadEndError
    dates = [f for f in with_role(scope, "date") if f.num_distinct > 3 and not is_record_date(f.label)]
    figures = [f for f in with_role(scope, "measure") if f.num_distinct > 3 and f.source == spine.aliases[0]]
    named = draft.graph.entity_columns(scope.grain.name)
    keys = [
        f
        for f in scope.fields
        if (f.column.role == "category" or (dates and f.source == spine.aliases[0] and f.column.name in named))
        and not draft.graph.is_calendar(f.table.name)
        and f.num_distinct >= 2
        and f.sql not in draft.constrained
        and not f.column.profile.unique
        and f.column.kind != "other"
    ]
    if not keys or not (dates or figures):
        raise DeadEndError
    key = readable_key(spine, draft.pick([(1.0, f) for f in keys]))
    order = draft.pick([(3.0, f) for f in dates] or [(1.0, f) for f in figures])
    fields = [f for f in shown_fields(draft, spine, 3) if f.sql not in (key.sql, order.sql)][:3]
    taken: set[str] = set()
    ties = total_order(scope, [f.sql for f in fields], list(zip(spine.aliases, spine.skeleton.tables, strict=False)))
    last = ", ".join(tie for tie in ties if tie != order.sql) or key.sql
    window = f"ROW_NUMBER() OVER (PARTITION BY {key.sql} ORDER BY {order.sql} DESC, {last})"
    select = Select(scope.from_sql)
    select.where = where(draft, spine, draft.pick([(2, 1), (2, 2)]), nested=0.2, exclude=[key.sql])
    leading = (key, order)
    names = [draft.output(f.label, taken, f.column.name) for f in (*leading, *fields)]
    select.items = [f.sql for f in (*leading, *fields)]
    engage(draft, spine, select, shown=False)
    columns = [draft.named(f.sql, name) for f, name in zip((*leading, *fields), names, strict=True)]
    rank = draft.output(draft.pick([(1, "rn"), (1, "row_num"), (1, "position_in_group")]), taken)
    select.items = [*columns, f"{window} AS {rank}"]
    if draft.dialect in HAS_QUALIFY and draft.chance(0.35):
        select.items = columns
        select.qualify = f"{window} = 1"
        select.order = ", ".join(names)
        select.limit = limit(draft)
        return select.sql()
    count = draft.builder.choice("newest", [(3, "= 1"), (1, "<= 2"), (1, "<= 3")])
    alias = draft.alias(draft.pick([(2, "ranked"), (1, "r"), (1, "newest"), (1, "ordered")]))
    outer = Select(draft.source(select.sql(), alias, cte_probability=0.8), names, where=[f"{rank} {count}"])
    outer.order, outer.limit = ", ".join(names), limit(draft)
    return outer.sql()
