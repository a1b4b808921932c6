"""Questions whose answer is one line for each group: summaries, pivots, shares, subtotals."""

from __future__ import annotations

from dataclasses import replace

from rayfactory.databases.schema import Value
from rayfactory.models.grammar.clauses import (
    Grouping,
    Select,
    by_keys,
    by_values,
    clocks_tested,
    engage,
    grouped,
    having,
    limit,
    num_conditions,
    tells_rows_apart,
    where,
)
from rayfactory.models.grammar.draft import DeadEndError, Draft, Spine
from rayfactory.models.grammar.expressions import Expression, aggregates, dimensions, measures, plural
from rayfactory.models.grammar.quantities import code_weight, is_calendar
from rayfactory.models.grammar.scope import with_role
from rayfactory.models.grammar.syntax import HAS_GROUP_BY_ALL, HAS_SUBTOTALS, literal, snake


def summary(draft: Draft) -> str:
    """Aggregates by one to three keys."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (4, 3), (3, 4)]), hidden=draft.pick([(3, 0), (1, 1)]))
    conditions = where(draft, spine, num_conditions(draft), nested=0.5)
    grouping = grouped(
        draft, spine, draft.pick([(5, 1), (4, 2), (1, 3)]), draft.pick([(3, 1), (4, 2), (3, 3), (1, 4)]), conditions
    )
    select = grouping.select
    if draft.dialect in HAS_GROUP_BY_ALL and draft.chance(0.15):
        _list_members(draft, spine, grouping)
    if draft.chance(0.55):
        select.having = having(draft, grouping)
    ordered = draft.pick([(5, "values"), (3, "keys"), (1, "")])
    if ordered == "values":
        select.order = by_values(draft, grouping)
        if draft.chance(0.4):
            select.limit = limit(draft)
    elif ordered == "keys":
        select.order = by_keys(grouping)
    return select.sql()


def _list_members(draft: Draft, spine: Spine, grouping: Grouping) -> None:
    """Add the different values of a category, in order, to each group."""
    options = [
        f
        for f in with_role(spine.scope, "category")
        if 2 <= f.num_distinct <= 12
        and f.column.kind == "text"
        and not draft.constrained & {f.sql}
        and not any(f.sql in sql for sql in (*grouping.key_sql, *grouping.value_sql))
    ]
    if options:
        f = draft.pick([(1.0, f) for f in options])
        taken = {output.name for output in (*grouping.keys, *grouping.values)}
        name = draft.output(plural(f.label), taken)
        grouping.select.items.append(f"STRING_AGG(DISTINCT {f.sql}, ', ' ORDER BY {f.sql}) AS {name}")


def brief(draft: Draft) -> str:
    """A short question: one figure, a count by one key, the different values of a column."""
    draft.style = replace(draft.style, alias=draft.pick([(2, "letter"), (1, "initials")]), qualify=False, join="on")
    spine = draft.spine(draft.pick([(2, 1), (5, 2)]), hidden=draft.pick([(2, 0), (1, 1)]))
    scope = spine.scope
    select = Select(scope.from_sql)
    exists = len(spine.skeleton.tables) == 1
    select.where = where(draft, spine, draft.pick([(2, 0), (5, 1), (1, 2)]), nested=1.0 if exists else 0.0)
    keys = [key for key in dimensions(scope) if len(key.sql) < 60 and not set(key.uses) & draft.constrained]
    keys = [key for key in keys if not key.sql.startswith("CASE")]
    values = [value for value in aggregates(scope) if len(value.sql) < 50]
    how = draft.pick([(3, "figure"), (3 if keys else 0, "by_key"), (2 if keys else 0, "values")])
    taken: set[str] = set()
    if how == "values":
        key = draft.pick([(key.weight, key) for key in keys])
        select.distinct = True
        select.items = [
            key.sql if key.sql in {f.sql for f in scope.fields} else f"{key.sql} AS {draft.output(key.name, taken)}"
        ]
        select.order = draft.pick([(1, "1"), (1, "")])
        engage(draft, spine, select)
        return select.sql()
    chosen = draft.some(values, 1)
    if not chosen:
        raise DeadEndError
    figure = chosen[0]
    shown = figure.sql if draft.chance(0.3) else f"{figure.sql} AS {draft.output(figure.name, taken)}"
    if how == "figure":
        select.items = [shown]
        engage(draft, spine, select)
        return select.sql()
    key = draft.pick([(key.weight, key) for key in keys])
    select.items = (
        [key.sql, shown]
        if key.sql in {f.sql for f in scope.fields}
        else [f"{key.sql} AS {draft.output(key.name, taken)}", shown]
    )
    select.group = draft.pick([(2, key.sql), (1, "1")])
    engage(draft, spine, select)
    select.order = draft.pick([(2, "2 DESC, 1"), (2, "1"), (1, "")])
    if select.order and draft.chance(0.3):
        select.limit = limit(draft)
    return select.sql()


def totals(draft: Draft) -> str:
    """Key figures in one line."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (4, 3), (1, 4)]), hidden=draft.pick([(2, 0), (1, 1)]))
    taken: set[str] = set()
    values = draft.some(aggregates(spine.scope), draft.pick([(3, 1), (3, 2), (3, 3), (2, 4)]))
    select = Select(spine.scope.from_sql)
    select.items = [f"{value.sql} AS {draft.output(value.name, taken)}" for value in values]
    exclude = clocks_tested(draft, spine.scope, values)
    select.where = where(draft, spine, max(1, num_conditions(draft)), nested=0.55, exclude=exclude)
    engage(draft, spine, select)
    return select.sql()


def subtotals(draft: Draft) -> str:
    """A summary with subtotals: ROLLUP, CUBE or GROUPING SETS, or by UNION ALL where there are none of those."""
    spine = draft.spine(draft.pick([(5, 2), (4, 3), (1, 4)]))
    conditions = where(draft, spine, num_conditions(draft), nested=0.2)
    grouping = grouped(draft, spine, 2, draft.pick([(2, 1), (3, 2), (1, 3)]), conditions, entity=False)
    select = grouping.select
    items = select.items[: len(grouping.keys)]
    ranked = sorted(
        zip(grouping.keys, grouping.key_sql, items, strict=True),
        key=lambda one: (one[0].num_distinct < 2, not _is_year(draft, spine, one[0]), one[0].num_distinct),
    )
    outputs, keys, select.items[: len(ranked)] = zip(*ranked, strict=True)
    # Subtotals are those of the first key: a year stands before its months, and what has fewer values before its parts.
    telling = [sql for key, sql, _ in ranked if key.num_distinct >= 2]
    if not telling:
        raise DeadEndError
    names = [*(key.name for key in outputs), *(value.name for value in grouping.values)]
    if draft.dialect in HAS_SUBTOTALS:
        # The name of a table's only row is of every group.
        always = "".join(f"{sql}, " for sql in keys[len(telling) :])
        forms = [(4, f"{always}ROLLUP ({', '.join(telling)})"), (1, f"{always}CUBE ({', '.join(telling)})")]
        if len(keys) == len(telling) == 2:
            forms += [(2, f"GROUPING SETS (({', '.join(keys)}), ({keys[0]}), ())")]
            forms += [(1, f"GROUPING SETS (({keys[0]}), ({keys[1]}))")]
        select.group = draft.builder.choice("subtotals", forms)
        if draft.chance(0.3):
            select.items.append(f"GROUPING({keys[0]}) AS {draft.output('is_subtotal', set(names))}")
        if draft.chance(0.3):
            select.having = "COUNT(*) > 1"
        select.order = ", ".join(f"{key.name} NULLS LAST" for key in outputs)
        return select.sql()
    key = outputs[0]
    select.where = [draft.fixed(condition) for condition in select.where]
    values = [f"{sql} AS {value.name}" for sql, value in zip(grouping.value_sql, grouping.values, strict=True)]
    select.items = [draft.named(keys[0], key.name), *values]
    select.group = keys[0]
    total = Select(select.source, [f"'total' AS {key.name}", *values], where=select.where)
    return f"{select.sql()} UNION ALL {total.sql()}"


def _is_year(draft: Draft, spine: Spine, key: Expression) -> bool:
    fields = [f for f in spine.scope.fields if f.label == key.name or f.sql in key.uses]
    timed = any(f.column.role == "date" or draft.graph.is_calendar(f.table.name) for f in fields)
    return timed and key.name.split("_")[-1] == "year"


def pivot(draft: Draft) -> str:
    """One line for each group and one column for each value of a category, by CASE or FILTER."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (4, 3), (2, 4)]))
    scope = spine.scope
    columns = [
        f
        for f in with_role(scope, "category", "code")
        if 2 <= f.num_distinct <= 14
        and f.column.kind in ("text", "integer", "boolean")
        and (f.column.role == "category" or code_weight(f.label) >= 1)
        and "current" not in f.label.split("_")
    ]
    if not columns:
        raise DeadEndError
    column = draft.pick([(1.0, f) for f in columns])
    counted: dict[Value, int] = {}
    for value in column.present or [value for value, _ in column.column.profile.common_values]:
        counted[value] = counted.get(value, 0) + 1
    values = sorted(counted, key=lambda value: (-counted[value], str(value)))[: draft.pick([(2, 2), (3, 3), (2, 4)])]
    if len(values) < 2:
        raise DeadEndError
    values.sort(key=str)
    own = {f.sql: f.label for f in scope.fields if f.source == column.source}
    # Parts of a calendar or a clock settle each other: mornings have no PM.
    bound = set(own) if is_calendar(own.values()) else {column.sql}
    rows = [option for option in dimensions(scope) if not bound.intersection(option.uses)]
    if not rows:
        raise DeadEndError
    row = draft.pick([(option.weight, option) for option in rows])
    figures = [m for m in measures(scope) if m.weight >= 0.25 and not set(m.uses) & {column.sql, *row.uses}]
    figure = draft.pick([(m.weight, m) for m in figures]) if figures and draft.chance(0.75) else None
    taken: set[str] = set()
    key = draft.output_of(row, scope, taken)
    select = Select(scope.from_sql, [draft.named(row.sql, key)])
    function = draft.pick([(3 if figure is None or figure.additive else 0, "SUM"), (2, "AVG")])
    style = draft.pick([(2, "case"), (1, "filter")])
    for value in values:
        condition = f"{column.sql} = {literal(value, column.column.kind, draft.dialect)}"
        word = snake(str(value))
        name = word if len(word) > 2 and not word[0].isdigit() else f"{column.label}_{word}"
        if figure is None:
            sql = (
                f"COUNT(*) FILTER (WHERE {condition})"
                if style == "filter"
                else f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)"
            )
            name = f"num_{name}"
        elif style == "filter":
            sql = f"{function}({figure.sql}) FILTER (WHERE {condition})"
            name = f"{name}_{figure.name}"
        else:
            other = " ELSE 0" if function == "SUM" else ""
            sql = f"{function}(CASE WHEN {condition} THEN {figure.sql}{other} END)"
            name = f"{name}_{figure.name}"
        select.items.append(f"{sql} AS {draft.output(name, taken)}")
    if draft.chance(0.4):
        total = f"{function}({figure.sql})" if figure else "COUNT(*)"
        select.items.append(f"{total} AS {draft.output('overall', taken)}")
    select.where = where(draft, spine, num_conditions(draft), nested=0.3, exclude=[*bound, *row.uses])
    select.group = row.sql
    engage(draft, spine, select)
    if draft.chance(0.7):
        select.order = key
    return select.sql()


def share_of_total(draft: Draft) -> str:
    """What part of the whole each group makes, by a window over an aggregate or a scalar query."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (4, 3), (2, 4)]))
    conditions = where(draft, spine, num_conditions(draft), nested=0.4)
    grouping = grouped(draft, spine, draft.pick([(4, 1), (3, 2)]), 1, conditions, plain=True)
    (sql,) = grouping.value_sql
    if sql.startswith("AVG"):
        raise DeadEndError
    select = grouping.select
    taken = {key.name for key in grouping.keys} | {value.name for value in grouping.values}
    name = draft.output(draft.pick([(1, "pct_of_total"), (1, "share_of_total"), (1, "percentage")]), taken)
    window = "OVER ()"
    if len(grouping.keys) > 1 and not tells_rows_apart(spine.scope, grouping.key_sql[0]) and draft.chance(0.6):
        window = f"OVER (PARTITION BY {grouping.key_sql[0]})"
    select.items.append(f"ROUND(100.0 * {sql} / NULLIF(SUM({sql}) {window}, 0), 2) AS {name}")
    if draft.chance(0.3):
        rank = draft.output(f"{grouping.values[0].name}_rank", taken)
        select.items.append(f"RANK() OVER (ORDER BY {sql} DESC) AS {rank}")
    if draft.chance(0.25):
        select.having = having(draft, grouping)
    select.order = ", ".join([f"{name} DESC", *(key.name for key in grouping.keys)])
    if draft.chance(0.3):
        select.limit = limit(draft)
    return select.sql()


def above_typical_group(draft: Draft) -> str:
    """Groups whose total exceeds the average total of all groups: HAVING with a nested query."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (3, 3)]))
    conditions = where(draft, spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0)
    grouping = grouped(draft, spine, 1, draft.pick([(3, 1), (2, 2)]), conditions, plain=True)
    select = grouping.select
    select.where = [draft.fixed(condition) for condition in select.where]
    sql, value = grouping.value_sql[0], grouping.values[0]
    inner = Select(select.source, [f"{sql} AS {value.name}"], where=select.where, group=", ".join(grouping.key_sql))
    alias = draft.alias(draft.pick([(1, "per_group"), (1, "group_totals"), (1, "g")]))
    factor = draft.builder.choice("factor", [(3, ""), (1, "1.1 * "), (1, "0.9 * ")])
    compare = draft.builder.choice("comparison", [(3, ">"), (1, ">="), (1, "<")])
    select.having = f"{sql} {compare} (SELECT {factor}AVG({alias}.{value.name}) FROM ({inner.sql()}) AS {alias})"
    select.order = by_values(draft, grouping)
    return select.sql()
