"""Questions that need window functions: ranks, top of each group, trends, running totals, quantile groups."""

from __future__ import annotations

import re

from rayfactory.models.grammar.clauses import (
    Grouping,
    Select,
    engage,
    grouped,
    having,
    limit,
    num_conditions,
    total_order,
    where,
)
from rayfactory.models.grammar.draft import DeadEndError, Draft, Spine
from rayfactory.models.grammar.expressions import Expression, can_subtract, dimensions, entities, prefixed
from rayfactory.models.grammar.quantities import is_additive, is_record_date, orders_time
from rayfactory.models.grammar.questions.listing import readable_key, shown_fields
from rayfactory.models.grammar.scope import Field, Scope, with_role
from rayfactory.models.grammar.syntax import HAS_QUALIFY, snake

MAX_WINDOW_ROWS = 200_000
"""Rows that a window function over single rows is given."""


def top_of_each_group(draft: Draft) -> str:
    """The first few members of each group by a total or count."""
    spine = draft.spine(draft.pick([(5, 2), (4, 3), (1, 4)]))
    conditions = where(draft, spine, num_conditions(draft), nested=0.2)
    groups = draft.some(
        [key for key in dimensions(spine.scope) if key.num_distinct <= 30 and not set(key.uses) & draft.constrained], 1
    )
    if not groups:
        raise DeadEndError
    entity = draft.chance(0.6)
    grouping = grouped(draft, spine, 2, draft.pick([(3, 1), (1, 2)]), conditions, keys=groups, entity=entity)
    # The first three of two or three are all of them.
    if max([0.0, *(key.num_distinct for key in grouping.keys[1:])]) < 6:
        raise DeadEndError
    select, sql = grouping.select, grouping.value_sql[0]
    if draft.chance(0.2):
        select.having = having(draft, grouping)
    names = [*(key.name for key in grouping.keys), *(value.name for value in grouping.values)]
    function = draft.pick([(3, "RANK"), (3, "ROW_NUMBER"), (1, "DENSE_RANK")])
    ties = ", ".join(grouping.key_sql[1:])
    tie = f", {ties}" if function == "ROW_NUMBER" or draft.chance(0.3) else ""
    way = draft.builder.choice("direction", [(5, " DESC"), (1, "")])
    window = f"{function}() OVER (PARTITION BY {grouping.key_sql[0]} ORDER BY {sql}{way}{tie})"
    rank = draft.output(
        draft.pick([(2, "rank_in_group"), (1, "rnk"), (1, "place"), (1, f"{names[0]}_rank")]), set(names)
    )
    count = draft.builder.choice("top", [(1, "<= 3"), (1, "= 1"), (1, "<= 5"), (0.5, "<= 10"), (0.5, "<= 2")])
    order = ", ".join([grouping.keys[0].name, rank, *(key.name for key in grouping.keys[1:])])
    select.items.append(f"{window} AS {rank}")
    how = draft.pick([(5, "cte"), (2, "derived"), (2 if draft.dialect in HAS_QUALIFY else 0, "qualify"), (1, "all")])
    if how == "qualify":
        select.qualify = f"{window} {count}"
        if draft.chance(0.5):
            select.items.pop()
            order = ", ".join(names)
        select.order = order
        return select.sql()
    if how == "all":
        select.order = order
        return select.sql()
    shown = [*names, rank] if draft.chance(0.6) else names
    alias = draft.alias(draft.pick([(2, "ranked"), (1, "ranking"), (1, "scored")]))
    source = draft.source(select.sql(), alias, cte_probability=float(how == "cte"))
    return Select(source, shown, where=[f"{rank} {count}"], order=order).sql()


_RUNS_ON = frozenset("year quarter season".split())
_WITH_YEAR = re.compile(r"\d{4}")


def _runs_on(scope: Scope, key: Expression) -> bool:
    """Whether periods of that name follow each other in its order: years; quarters that say of which year they are."""
    words = set(key.name.split("_"))
    if "year" in words or not words & _RUNS_ON:
        return "year" in words
    values = [str(value) for f in scope.fields_named(key.uses) for value in (*f.present, *f.column.profile.examples)]
    return bool(values) and all(_WITH_YEAR.match(value) for value in values)


def _period(draft: Draft, spine: Spine) -> Expression:
    """Return a period of time to follow a figure over: of a date, or a year or month number."""
    record_dates = {f.sql for f in spine.scope.fields if is_record_date(f.label) or "birth" in f.label}
    options = [
        (key.weight, key)
        for key in dimensions(spine.scope)
        if 3 <= key.num_distinct <= 80
        and not set(key.uses) & record_dates
        and not set(key.uses) & draft.constrained
        # What comes round again, such as weekdays and months of any year, has no before and after.
        and (key.kind in ("date", "timestamp") or _runs_on(spine.scope, key))
        and not key.name.endswith("month_of_year")
    ]
    if not options:
        raise DeadEndError
    return draft.pick(options)


def trend(draft: Draft) -> str:
    """A figure over time with the one before, the change, a running total or a moving average."""
    dated = [
        name
        for name in draft.wanted
        if any(
            (column.role == "date" and not is_record_date(snake(column.name)))
            or column.name.lower().endswith(("year", "season"))
            for column in draft.schema.table(name).columns
        )
    ]
    if not dated:
        raise DeadEndError
    must = draft.pick([(1 / (1 + draft.use[name]) ** 2, name) for name in dated])
    spine = draft.spine(draft.pick([(3, 2), (5, 3)]), must=must)
    period = _period(draft, spine)
    keys = [period]
    parts = [key for key in dimensions(spine.scope) if key.num_distinct <= 12 and not set(key.uses) & set(period.uses)]
    parts = draft.some(parts, 1, spine.scope, keys)
    partition = bool(parts) and draft.chance(0.4)
    if partition:
        keys = [*parts, period]
    grouped_by = [use for key in keys for use in key.uses]
    conditions = where(draft, spine, draft.pick([(2, 0), (4, 1), (3, 2)]), nested=0.2, exclude=grouped_by)
    grouping = grouped(draft, spine, len(keys), 1, conditions, keys=keys, entity=False, plain=True)
    names = [key.name for key in grouping.keys]
    value = grouping.values[0].name
    over_keys = f"PARTITION BY {names[0]} " if partition else ""
    taken = {*names, value}
    direct = draft.chance(0.3)
    figure = grouping.value_sql[0] if direct else value
    time = grouping.key_sql[-1] if direct else names[-1]
    part = f"PARTITION BY {grouping.key_sql[0]} " if partition and direct else over_keys
    over = f"OVER ({part}ORDER BY {time})"
    lag = f"LAG({figure}) {over}"
    options = [
        (3.0, (lag, "previous")),
        (3.0, (f"{figure} - {lag}", "change")),
        (2.0, (f"ROUND(100.0 * ({figure} - {lag}) / NULLIF({lag}, 0), 1)", "growth_pct")),
        (2.0, (f"SUM({figure}) OVER ({part}ORDER BY {time} ROWS UNBOUNDED PRECEDING)", "running_total")),
        (2.0, (f"AVG({figure}) OVER ({part}ORDER BY {time} ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)", "moving_avg")),
        (1.0, (f"MAX({figure}) OVER ({part}ORDER BY {time} ROWS UNBOUNDED PRECEDING)", "best_so_far")),
        (1.0, (f"FIRST_VALUE({figure}) {over}", "first_value_seen")),
        (1.0, (f"LEAD({figure}) {over}", "following")),
        (1.0, (f"RANK() OVER ({part}ORDER BY {figure} DESC)", "rank_of_period")),
    ]
    if value.startswith("avg"):
        options = [option for option in options if option[1][1] != "running_total"]
    items: list[str] = []
    for _ in range(draft.pick([(3, 1), (3, 2), (1, 3)])):
        sql, name = draft.pick(options)
        options = [option for option in options if option[1][1] != name]
        items.append(f"{sql} AS {draft.output(name, taken)}")
    if direct:
        grouping.select.items += items
        grouping.select.order = ", ".join(names)
        return grouping.select.sql()
    cte = draft.alias(draft.pick([(2, "per_period"), (1, "series"), (1, "history"), (1, f"by_{names[-1]}")]))
    source = draft.source(grouping.select.sql(), cte, cte_probability=0.8)
    return Select(source, [*names, value, *items], order=", ".join(names)).sql()


def quantile_groups(draft: Draft) -> str:
    """Entities sorted into quartiles or deciles by a figure, and what each of these holds."""
    spine = draft.spine(draft.pick([(4, 2), (3, 3)]))
    conditions = where(draft, spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0.2)
    many = [key for key in dimensions(spine.scope) if key.num_distinct >= 12]
    many = [key for key in many if not draft.constrained & set(key.uses)]
    if not entities(spine.scope) and not many:
        raise DeadEndError
    keys = [draft.pick([(key.weight, key) for key in many])] if many and draft.chance(0.25) else []
    grouping = grouped(draft, spine, 1, 1, conditions, plain=True, keys=keys, entity=not keys)
    if max(key.num_distinct for key in grouping.keys) < 12:
        raise DeadEndError
    value = grouping.values[0].name
    number = draft.pick([(3, "4"), (1, "5"), (2, "10"), (1, "3")])
    word = {"4": "quartile", "5": "quintile", "10": "decile", "3": "tercile"}[number]
    taken = {value, *(key.name for key in grouping.keys)}
    tile = draft.output(word, taken)
    ties = ", ".join(key.name for key in grouping.keys)
    cte = draft.alias(draft.pick([(1, "per_entity"), (1, "figures"), (1, "base_totals")]))
    draft.ctes.append(f"{cte} AS ({grouping.select.sql()})")
    tiled = f"SELECT {ties}, {value}, NTILE({number}) OVER (ORDER BY {value} DESC, {ties}) AS {tile} FROM {cte}"
    if draft.chance(0.35):
        return f"{tiled} ORDER BY {tile}, {ties} LIMIT {limit(draft)}"
    second = draft.alias("tiled")
    items = [tile, f"COUNT(*) AS {draft.output('num_members', taken)}"]
    items += [
        f"{function}({value}) AS {draft.output(prefixed(function.lower(), value), taken)}"
        for function in ("MIN", "MAX", "AVG")
        if draft.chance(0.6)
    ]
    return Select(draft.source(tiled, second, cte_probability=0.5), items, group=tile, order=tile).sql()


def _row_scope(draft: Draft) -> tuple[Spine, Field, list[str]]:
    """Return a spine, a measure of its grain, and the order that makes rows total."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (3, 3)]))
    figures = [f for f in with_role(spine.scope, "measure") if f.is_number and f.num_distinct > 3 and can_subtract(f)]
    figures = [f for f in figures if f.table.num_rows > 1]
    if not figures or spine.scope.num_rows > MAX_WINDOW_ROWS:
        raise DeadEndError
    own = [f for f in figures if f.table.name == spine.scope.grain.name]
    if not own:
        raise DeadEndError  # a quantity of what is pointed to stands there once for each row
    figure = draft.pick([(1.0, f) for f in own])
    ties = total_order(spine.scope, [], list(zip(spine.aliases, spine.skeleton.tables, strict=False)))
    return spine, figure, ties


def row_beside_its_group(draft: Draft) -> str:
    """Rows with the average, maximum or total of their group beside them, perhaps only those that stand out."""
    spine, figure, ties = _row_scope(draft)
    keys = [key for key in dimensions(spine.scope) if figure.sql not in key.uses and not key.sql.startswith("CASE")]
    if not keys or not ties:
        raise DeadEndError
    key = draft.pick([(key.weight, key) for key in keys])
    count = draft.pick([(1, 0), (3, 1), (3, 2), (1, 3)])
    conditions = where(draft, spine, count, nested=0.3, exclude=key.uses)
    fields = [f for f in shown_fields(draft, spine, 2) if f.sql not in (figure.sql, *key.uses)]
    engage(draft, spine, Select("", [key.sql, *(f.sql for f in fields)], where=conditions), shown=False)
    taken: set[str] = set()
    group, own = draft.output_of(key, spine.scope, taken), draft.output(figure.label, taken, figure.column.name)
    names = [draft.output(f.label, taken, f.column.name) for f in fields]
    how = draft.pick([(3, "above"), (2 if is_additive(figure.label) else 0, "share"), (2, "gap")])
    function = "SUM" if how == "share" else draft.pick([(4, "AVG"), (2, "MAX"), (1, "MIN")])
    beside = draft.output(f"{'group' if function != 'SUM' else 'total'}_{function.lower()}_{figure.label}", taken)
    window = f"{function}({figure.sql}) OVER (PARTITION BY {key.sql})"
    select = Select(spine.scope.from_sql, where=conditions)
    select.items = [draft.named(key.sql, group)]
    select.items += [draft.named(f.sql, name) for f, name in zip((*fields, figure), (*names, own), strict=True)]
    tie_names, hidden = [], []
    for tie in ties:
        column = next(f.column.name for f in spine.scope.fields if f.sql == tie)
        tie_names.append(draft.output(column, taken, column))
        hidden.append(draft.named(tie, tie_names[-1]))
    if how == "above" and function in ("AVG", "MAX"):
        select.items += [*hidden, f"{window} AS {beside}"]
        alias = draft.alias(draft.pick([(1, "detail"), (1, "x"), (1, "with_group")]))
        compare = (
            f"{own} > {draft.builder.choice('factor', [(2, ''), (1, '1.5 * '), (1, '2 * ')])}{beside}"
            if function == "AVG"
            else f"{own} = {beside}"
        )
        shown = ", ".join([group, *names, own, beside])
        order = ", ".join([group, f"{own} DESC", *tie_names])
        outer = Select(draft.source(select.sql(), alias, cte_probability=0.5), [shown], where=[compare], order=order)
        outer.limit = limit(draft)
        return outer.sql()
    if how == "share":
        select.items.append(
            f"ROUND(100.0 * {figure.sql} / NULLIF({window}, 0), 2) AS {draft.output('pct_of_group', taken)}"
        )
    else:
        select.items.append(f"{figure.sql} - {window} AS {draft.output(f'gap_to_{function.lower()}', taken)}")
    select.order = ", ".join([group, f"{own} DESC", *ties])
    select.limit = limit(draft)
    return select.sql()


def ranked_rows(draft: Draft) -> str:
    """Rows with their rank, percent rank, or what stands before and after them."""
    spine, figure, ties = _row_scope(draft)
    if not ties:
        raise DeadEndError
    scope = spine.scope
    conditions = where(draft, spine, max(1, num_conditions(draft)), nested=0.3)
    fields = [f for f in shown_fields(draft, spine, draft.pick([(1, 1), (2, 2), (1, 3)])) if f.sql != figure.sql]
    moments = [
        f
        for f in scope.fields
        if f.num_distinct > 5
        and (
            (f.column.role == "date" and not is_record_date(f.label) and "birth" not in f.label)
            or (f.source == spine.aliases[0] and f.column.role == "code" and orders_time(f.label))
        )
    ]
    named = draft.graph.entity_columns(scope.grain.name) if moments else frozenset()
    groups = [
        f
        for f in scope.fields
        if (f.column.role == "category" or (f.source == spine.aliases[0] and f.column.name in named))
        and not draft.graph.is_calendar(f.table.name)
        and f.num_distinct >= 2
        and f.sql not in draft.constrained
        and not f.column.profile.unique
        and f.column.kind != "other"
    ]
    group = readable_key(spine, draft.pick([(1.0, f) for f in groups])) if groups and draft.chance(0.5) else None
    partition = f"PARTITION BY {group.sql} " if group else ""
    if group and group not in fields:
        fields.insert(0, group)
    order = ", ".join([draft.pick([(1.0, f) for f in moments]).sql, *ties]) if moments else ""
    taken: set[str] = set()
    options = [
        (3.0, (f"RANK() OVER ({partition}ORDER BY {figure.sql} DESC)", f"{figure.label}_rank")),
        (1.0, (f"DENSE_RANK() OVER ({partition}ORDER BY {figure.sql} DESC)", f"{figure.label}_dense_rank")),
        (1.0, (f"ROUND(PERCENT_RANK() OVER ({partition}ORDER BY {figure.sql}), 3)", f"{figure.label}_percentile")),
        (1.0, (f"CUME_DIST() OVER ({partition}ORDER BY {figure.sql})", f"{figure.label}_cume_dist")),
        (2.0, (f"{figure.sql} - LAG({figure.sql}) OVER ({partition}ORDER BY {order})", "change_from_previous")),
        (1.0, (f"LAG({figure.sql}, 1, 0) OVER ({partition}ORDER BY {order})", f"previous_{figure.label}")),
        (
            1.0,
            (
                f"SUM({figure.sql}) OVER ({partition}ORDER BY {order} ROWS UNBOUNDED PRECEDING)",
                f"running_{figure.label}",
            ),
        ),
        (
            1.0,
            (
                f"AVG({figure.sql}) OVER ({partition}ORDER BY {order} ROWS BETWEEN 3 PRECEDING AND CURRENT ROW)",
                f"moving_{figure.label}",
            ),
        ),
        (1.0, (f"COUNT(*) OVER ({partition.strip()})", "num_in_group" if partition else "num_overall")),
        (1.0, (f"NTILE(4) OVER ({partition}ORDER BY {figure.sql}, {', '.join(ties)})", f"{figure.label}_quartile")),
    ]
    if not is_additive(figure.label):
        options = [option for option in options if not option[1][1].startswith("running")]
    if not order:
        # Without a time there is no row before, and nothing runs up.
        options = [
            option for option in options if not option[1][1].startswith(("change", "previous", "running", "moving"))
        ]
    select = Select(scope.from_sql, where=conditions)
    select.items = [*(f.sql for f in fields), figure.sql]
    engage(draft, spine, select)
    for _ in range(draft.pick([(4, 1), (2, 2)])):
        sql, name = draft.pick(options)
        options = [option for option in options if option[1][1] != name and "RANK" not in option[1][0]]
        select.items.append(f"{sql} AS {draft.output(name, taken)}")
    select.order = order if order and draft.chance(0.4) else ", ".join([f"{figure.sql} DESC", *ties])
    select.limit = limit(draft)
    return select.sql()


_ROUNDED = re.compile(r"ROUND\((AVG\(.*\)), 2\)")


def grouped_rank(draft: Draft) -> str:
    """Groups with their rank among all, or their distance from the best."""
    spine = draft.spine(draft.pick([(1, 1), (5, 2), (3, 3)]), hidden=draft.pick([(2, 0), (1, 1)]))
    conditions = where(draft, spine, num_conditions(draft), nested=0.3)
    grouping: Grouping = grouped(draft, spine, draft.pick([(3, 1), (2, 2)]), draft.pick([(2, 1), (2, 2)]), conditions)
    sql, value = grouping.value_sql[0], grouping.values[0].name
    rounded = _ROUNDED.fullmatch(sql)
    sql = rounded.group(1) if rounded else sql  # it is rounded at the end
    taken = {key.name for key in grouping.keys} | {own.name for own in grouping.values}
    keys = ", ".join(grouping.key_sql)
    options = [
        (3.0, (f"RANK() OVER (ORDER BY {sql} DESC)", f"{value}_rank")),
        (1.0, (f"DENSE_RANK() OVER (ORDER BY {sql} DESC)", f"{value}_rank")),
        (1.5, (f"{sql} - MAX({sql}) OVER ()", "gap_to_best")),
        (1.5, (f"ROUND({sql} - AVG({sql}) OVER (), 2)", "difference_from_mean")),
        (1.0, (f"SUM({sql}) OVER (ORDER BY {sql} DESC, {keys} ROWS UNBOUNDED PRECEDING)", f"cumulative_{value}")),
        (1.0, (f"NTILE(3) OVER (ORDER BY {sql} DESC, {keys})", "third")),
        (1.0, (f"LAG({sql}) OVER (ORDER BY {sql} DESC, {keys})", "next_better")),
    ]
    if grouping.values[0].kind in ("date", "timestamp"):
        options = options[:2]
    elif not sql.startswith(("SUM(", "COUNT(")):
        options = [option for option in options if not option[1][1].startswith("cumulative")]
    window, name = draft.pick(options)
    grouping.select.items.append(f"{window} AS {draft.output(name, taken)}")
    grouping.select.order = ", ".join([f"{value} DESC", *(key.name for key in grouping.keys)])
    if draft.chance(0.3):
        grouping.select.having = having(draft, grouping)
    if draft.chance(0.4):
        grouping.select.limit = limit(draft)
    return grouping.select.sql()
