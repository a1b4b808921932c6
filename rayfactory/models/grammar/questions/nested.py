"""Questions that nest one query in another: counts beside rows, totals of totals, chains of CTEs, rows and peers."""

from __future__ import annotations

from dataclasses import replace

from rayfactory.models.grammar.clauses import Select, engage, grouped, limit, tells_rows_apart, where
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import DeadEndError, Draft
from rayfactory.models.grammar.expressions import (
    Expression,
    dimensions,
    entities,
    measures,
    plural,
    prefixed,
    reads_as_name,
)
from rayfactory.models.grammar.nested_conditions import MAX_CORRELATED
from rayfactory.models.grammar.quantities import names_a_thing
from rayfactory.models.grammar.questions.listing import shown_fields
from rayfactory.models.grammar.scope import with_role
from rayfactory.models.grammar.syntax import JOINS_NESTED, named, snake


def counts_beside(draft: Draft) -> str:
    """Rows with counts or totals of what points to them, as scalar queries in the SELECT list or an outer join."""
    options = [
        ((3.0 if key.table in draft.wanted else 0.0) / (1 + draft.use[key.table] + draft.use[name]) ** 2, key)
        for name in draft.wanted
        for key in draft.graph.children(name)
        if key.table != name and len(key.columns) == 1 and draft.schema.table(name).num_rows <= 20_000
    ]
    options = [(weight * (0.1 if draft.graph.is_profile(key.referenced_table) else 1), key) for weight, key in options]
    options = [option for option in options if option[0] > 0]
    if not options:
        raise DeadEndError
    key = draft.pick(options)
    spine = draft.spine(draft.pick([(3, 1), (1, 2)]), must=key.referenced_table, grain=key.referenced_table)
    inner = draft.spine(1, must=key.table, grain=key.table)
    own = {f.column.name: f for f in inner.scope.fields}
    outer = {f.column.name: f for f in spine.scope.fields if f.source == spine.aliases[0]}
    if key.columns[0] not in own or key.referenced_columns[0] not in outer:
        raise DeadEndError
    child, parent = own[key.columns[0]], outer[key.referenced_columns[0]]
    taken: set[str] = set()
    figures = [m for m in measures(inner.scope) if m.weight == 1.0 and len(m.uses) == 1]
    figure = draft.pick([(1.0, m) for m in figures]) if figures and draft.chance(0.6) else None
    function = draft.pick([(2 if figure and figure.additive else 0, "SUM"), (1, "MAX"), (1, "AVG")])
    aggregate = f"{function}({figure.sql})" if figure else "COUNT(*)"
    prefix = {"SUM": "total", "MAX": "max", "AVG": "avg"}[function]
    name = draft.output(prefixed(prefix, figure.name) if figure else f"num_{plural(snake(key.table))}", taken)
    conditions = draw_conditions(draft, inner.scope, draft.pick([(2, 0), (3, 1), (1, 2)]))
    fields = [f for f in shown_fields(draft, spine, draft.pick([(1, 1), (3, 2), (2, 3)])) if f.sql != parent.sql]
    plain = where(draft, spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0)
    if not fields:
        raise DeadEndError
    shown = [f.qualified for f in fields]
    big = draft.dialect not in JOINS_NESTED and spine.scope.num_rows * inner.scope.num_rows > MAX_CORRELATED
    if big or draft.chance(0.5):
        alias = draft.alias(draft.pick([(1, "per_key"), (1, "child_totals"), (1, "counts")]))
        member = draft.output(f"{child.label}_ref", taken)
        totals = Select(inner.scope.from_sql, [f"{child.sql} AS {member}", f"{aggregate} AS {name}"], where=conditions)
        totals.group = child.sql
        derived = totals.sql()
        if spine.scope.joins:
            raise DeadEndError
        source = draft.source(derived, alias, cte_probability=0.55)
        left = draft.chance(0.6)
        value = f"COALESCE({alias}.{name}, 0)" if left else f"{alias}.{name}"
        join = f"{'LEFT ' if left else ''}JOIN {source} ON {parent.qualified} = {alias}.{member}"
        select = Select(f"{spine.scope.from_sql} {join}", [*shown, named(value, name)], where=plain)
    else:
        ties = " AND ".join([f"{child.qualified} = {parent.qualified}", *conditions])
        scalar = f"(SELECT {aggregate} FROM {inner.scope.from_sql} WHERE {ties})"
        if figure and function == "SUM" and draft.chance(0.4):
            scalar = f"COALESCE({scalar}, 0)"
        select = Select(spine.scope.from_sql, [*shown, f"{scalar} AS {name}"], where=plain)
    select.order = ", ".join([f"{name} DESC", *dict.fromkeys([*shown, parent.qualified])])
    select.limit = limit(draft)
    engage(draft, spine, select)
    return select.sql()


def counted_members(draft: Draft) -> str:
    """Every member of a table, or each kind of them, with what belongs to it elsewhere, be it nothing: LEFT JOIN."""
    options = [
        (
            (0.2 if draft.graph.is_calendar(name) else 1.0) / (1 + draft.use[key.table] + draft.use[name]) ** 2,
            key,
        )
        for name in draft.wanted
        for key in draft.graph.children(name)
        if key.table != name and key.table in draft.wanted and 3 <= draft.schema.table(name).num_rows <= 20_000
    ]
    if not options:
        raise DeadEndError
    key = draft.pick(options)
    draft.style = replace(draft.style, qualify=True, join="on")
    parents = draft.spine(draft.pick([(3, 1), (1, 2)]), must=key.referenced_table, grain=key.referenced_table)
    children = draft.spine(1, must=key.table, grain=key.table)
    outer, inner = parents.aliases[0], children.aliases[0]
    ties = [
        f"{children.scope.field(inner, own).sql} = {parents.scope.field(outer, other).sql}"
        for own, other in zip(key.columns, key.referenced_columns, strict=True)
    ]
    on = " AND ".join([*ties, *draw_conditions(draft, children.scope, draft.pick([(3, 0), (3, 1), (1, 2)]))])
    select = Select(f"{parents.scope.from_sql} LEFT JOIN {children.scope.from_sql} ON {on}")
    own = [f for f in parents.scope.fields if f.source == outer]
    names = [f for f in own if f.column.role in ("text", "identifier") and reads_as_name(f)]
    # A county is shared by many addresses: it names none.
    names = names[:2] if any(f.column.profile.almost_unique for f in names[:2]) else []
    shown_names = [f.sql for f in names]
    select.where = where(draft, parents, draft.pick([(3, 0), (3, 1), (1, 2)]), nested=0, exclude=shown_names)
    member = parents.scope.field(outer, key.referenced_columns[0]).sql
    taken: set[str] = set()
    kinds = [
        f
        for f in with_role(parents.scope, "category")
        if 2 <= f.num_distinct <= 30 and f.sql not in draft.constrained and f.column.kind != "other"
    ]
    if kinds and (not names or draft.chance(0.35)):
        shown = [draft.pick([(1.0, f) for f in kinds])]
        select.items = [shown[0].sql]
        if not draft.graph.is_profile(key.referenced_table) and not draft.graph.is_calendar(key.referenced_table):
            members = draft.output(f"num_{plural(snake(key.referenced_table))}", taken)
            select.items.append(f"COUNT(DISTINCT {member}) AS {members}")
        select.group = shown[0].sql
    elif names:
        shown = names
        select.items = [f.sql for f in names]
        select.group = ", ".join(dict.fromkeys([member, *select.items]))
    else:
        raise DeadEndError
    count = draft.output(f"num_{plural(snake(key.table))}", taken)
    select.items.append(f"COUNT({children.scope.field(inner, key.columns[0]).sql}) AS {count}")
    figures = [m for m in measures(children.scope) if m.weight == 1.0 and len(m.uses) == 1]
    if figures and draft.chance(0.4):
        figure = draft.pick([(1.0, m) for m in figures])
        total = f"COALESCE(SUM({figure.sql}), 0)" if figure.additive else f"AVG({figure.sql})"
        name = prefixed("total" if figure.additive else "avg", figure.name)
        select.items.append(f"{total} AS {draft.output(name, taken)}")
    engage(draft, parents, select)
    way = draft.builder.choice("direction", [(3, " DESC"), (1, "")])
    order = [count + way, *(f.sql for f in shown)]
    select.order = ", ".join(order if len(shown) == 1 and shown[0] in kinds else dict.fromkeys([*order, member]))
    if draft.chance(0.7):
        select.limit = limit(draft)
    return select.sql()


def spread_of_groups(draft: Draft) -> str:
    """How a count or total is spread over entities: an aggregate of an aggregate."""
    spine = draft.spine(draft.pick([(2, 1), (4, 2), (2, 3)]))
    named = draft.graph.entity_columns(spine.scope.grain.name)
    grain = [
        f
        for f in spine.scope.fields
        if f.source == spine.aliases[0]
        and f.column.name in named
        and f.num_distinct >= 3
        and not f.column.profile.unique
        and f.column.kind != "other"
    ]
    conditions = where(draft, spine, draft.pick([(1, 0), (3, 1), (3, 2)]), nested=0.2)
    if grain and draft.chance(0.5):
        f = draft.pick([(1.0, f) for f in grain])
        keys = [Expression(f.sql, f.label.removesuffix("_sk"), f.num_distinct, (f.sql,), 1.0, f.column.kind)]
        grouping = grouped(draft, spine, 1, 1, conditions, keys=keys, entity=False, plain=True)
    else:
        grouping = grouped(
            draft, spine, draft.pick([(2, 1), (2, 2)]), 1, conditions, plain=True, entity=draft.chance(0.5)
        )
    value = grouping.values[0].name
    taken = {value, *(key.name for key in grouping.keys)}
    alias = draft.alias(draft.pick([(1, "per_group"), (1, "g"), (1, "subtotals"), (1, "grouped")]))
    source = draft.source(grouping.select.sql(), alias, cte_probability=0.75)
    if len(grouping.keys) > 1 and not tells_rows_apart(spine.scope, grouping.key_sql[0]) and draft.chance(0.6):
        key = grouping.keys[0].name
        functions = draft.rng.sample(["AVG", "MAX", "MIN"], 2)
        names = [draft.output(prefixed(function.lower(), value), taken) for function in functions]
        items = [f"{function}({value}) AS {name}" for function, name in zip(functions, names, strict=True)]
        if draft.chance(0.4):
            items.append(f"COUNT(*) AS {draft.output('num_groups', taken)}")
        return f"SELECT {key}, {', '.join(items)} FROM {source} GROUP BY {key} ORDER BY {names[0]} DESC, {key}"
    if grouping.value_sql[0] == "COUNT(*)" and draft.chance(0.6):
        frequency = draft.output("num_groups", taken)
        return f"SELECT {value}, COUNT(*) AS {frequency} FROM {source} GROUP BY {value} ORDER BY {value}"
    words = {"AVG": "typical", "MAX": "highest", "MIN": "lowest"}
    functions = draft.rng.sample(list(words), draft.pick([(2, 1), (3, 2), (2, 3)]))
    items = [f"{function}({value}) AS {draft.output(f'{words[function]}_{value}', taken)}" for function in functions]
    if draft.chance(0.4):
        items.insert(0, f"COUNT(*) AS {draft.output('num_groups', taken)}")
    return f"SELECT {', '.join(items)} FROM {source}"


def chained(draft: Draft) -> str:
    """Filtered rows, then totals of them, then what exceeds the average total: CTEs that build on each other."""
    spine = draft.spine(draft.pick([(5, 2), (4, 3), (1, 4)]), hidden=draft.pick([(2, 0), (1, 1)]))
    scope = spine.scope
    keys = [key for key in dimensions(scope) if key.num_distinct >= 3 and not key.sql.startswith("CASE")]
    things = entities(scope)
    figures = [m for m in measures(scope) if m.weight >= 0.25]
    if not figures or not (keys or things):
        raise DeadEndError
    if things and draft.chance(0.4):
        f = draft.pick([(1.0, thing) for thing in things])[0]
        key = Expression(f.sql, f.label, f.num_distinct, (f.sql,), 1.0, f.column.kind)
    elif keys:
        key = draft.pick([(key.weight, key) for key in keys])
    else:
        raise DeadEndError
    figures = [m for m in figures if not set(m.uses) & set(key.uses)]
    if not figures:
        raise DeadEndError
    figure = draft.pick([(m.weight, m) for m in figures])
    taken: set[str] = set()
    group, raw = draft.output_of(key, scope, taken), draft.output_of(figure, scope, taken)
    conditions = where(draft, spine, draft.pick([(3, 1), (3, 2), (2, 3)]), nested=0.3)
    base = draft.alias(
        draft.pick([(1, "base"), (1, "filtered"), (1, "selected_rows"), (1, f"chosen_{snake(scope.grain.name)}"[:40])])
    )
    rows = Select(scope.from_sql, [draft.named(key.sql, group), draft.named(figure.sql, raw)], where=conditions)
    engage(draft, spine, rows, shown=False)
    draft.ctes.append(f"{base} AS ({rows.sql()})")
    function = draft.pick([(3 if figure.additive else 0, "SUM"), (2, "AVG"), (1, "MAX")])
    value = draft.output(prefixed({"SUM": "total", "AVG": "avg", "MAX": "max"}[function], figure.name), taken)
    count = draft.output("num_rows", taken)
    totals = draft.alias(draft.pick([(1, "totals"), (1, "aggregated"), (1, "per_group")]))
    items = [group, f"{function}({raw}) AS {value}"]
    names = [group, value]
    if draft.chance(0.5):
        items.append(f"COUNT(*) AS {count}")
        names.append(count)
    draft.ctes.append(f"{totals} AS ({Select(base, items, group=group).sql()})")
    select = Select(totals, names, order=f"{value} DESC, {group}")
    how = draft.pick([(3, "above"), (1, "join"), (1, "rank")])
    compare = draft.builder.choice("comparison", [(3, ">"), (1, "<"), (1, ">=")])
    if how == "rank":
        select.items.append(f"RANK() OVER (ORDER BY {value} DESC) AS {draft.output('place', taken)}")
        select.limit = limit(draft)
    elif how == "above":
        select.where = [f"{value} {compare} (SELECT AVG({value}) FROM {totals})"]
    else:
        overall, mean = draft.alias("overall_average"), draft.output(f"mean_{figure.name}", taken)
        draft.ctes.append(f"{overall} AS (SELECT AVG({value}) AS {mean} FROM {totals})")
        select.items.append(mean)
        select.source += f" CROSS JOIN {overall}"
        select.where = [f"{value} {compare} {mean}"]
    return select.sql()


def beside_group_average(draft: Draft) -> str:
    """Rows that exceed the average of their group, which a derived table gives."""
    spine = draft.spine(draft.pick([(2, 1), (4, 2), (2, 3)]))
    scope = spine.scope
    if scope.joins:
        raise DeadEndError
    own = [f for f in scope.fields if f.source == spine.aliases[0]]
    figures = [f for f in own if f.column.role == "measure" and f.is_number and f.num_distinct > 3]
    named = draft.graph.entity_columns(scope.grain.name)
    keys = [
        f
        for f in own
        if (f.column.role == "category" or f.column.name in named)
        and 2 <= f.column.profile.num_distinct <= f.column.profile.num_sampled / 3
        and f.column.kind != "other"
    ]
    if not figures or not keys:
        raise DeadEndError
    figure, key = draft.pick([(1.0, f) for f in figures]), draft.pick([(1.0, f) for f in keys])
    inner = draft.spine(1, must=scope.grain.name, grain=scope.grain.name)
    twins = {f.column.name: f for f in inner.scope.fields}
    taken: set[str] = set()
    mean, member = draft.output(f"avg_{figure.label}", taken), draft.output(f"{key.label}_group", taken)
    alias = draft.alias(draft.pick([(1, "averages"), (1, "a"), (1, "norms")]))
    twin, other = twins[key.column.name].sql, twins[figure.column.name].sql
    averages = Select(inner.scope.from_sql, [f"{twin} AS {member}", f"AVG({other}) AS {mean}"], group=twin)
    source = draft.source(averages.sql(), alias, cte_probability=0.7)
    conditions = where(draft, spine, draft.pick([(1, 0), (3, 1), (2, 2)]), nested=0.2)
    factor = draft.builder.choice("factor", [(2, ""), (1, "1.2 * "), (1, "1.5 * ")])
    fields = [f for f in shown_fields(draft, spine, draft.pick([(2, 2), (2, 3)])) if f.sql != figure.sql]
    select = Select(f"{scope.from_sql} JOIN {source} ON {key.qualified} = {alias}.{member}")
    select.where = [f"{figure.qualified} > {factor}{alias}.{mean}", *conditions]
    groupable = [f for f in with_role(scope, "category") if 2 <= f.num_distinct <= 30]
    groupable = [f for f in groupable if f.sql not in draft.constrained]
    if groupable and draft.chance(0.4):
        f = draft.pick([(1.0, f) for f in groupable])
        name = draft.output("num_above_average", taken)
        select.items = [f.qualified, f"COUNT(*) AS {name}"]
        select.group, select.order = f.qualified, f"{name} DESC, {f.qualified}"
        engage(draft, spine, select)
        return select.sql()
    select.items = [*(f.qualified for f in fields), figure.qualified, f"{alias}.{mean}"]
    select.order = ", ".join([f"{figure.qualified} DESC", *(f.qualified for f in fields), f"{alias}.{mean}"])
    select.limit = limit(draft)
    engage(draft, spine, select)
    return select.sql()


def related_rows(draft: Draft) -> str:
    """Rows beside other rows of the same table: what they point to, or what shares a key with them."""
    own_keys = [key for name in draft.wanted for key in draft.graph.parents(name) if key.referenced_table == name]
    if own_keys and draft.chance(0.6):
        key = draft.pick([(1.0, key) for key in own_keys])
        spine = draft.along(key)
        fields = shown_fields(draft, spine, draft.pick([(2, 3), (2, 4)]))
        taken: set[str] = set()
        columns = [f"{f.qualified} AS {draft.output(f'{f.source}_{f.label}', taken)}" for f in fields]
        conditions = where(draft, spine, draft.pick([(2, 1), (2, 2)]), nested=0.6)
        select = Select(spine.scope.from_sql, columns, where=conditions, limit=limit(draft))
        select.order = ", ".join(f.qualified for f in fields)
        return select.sql()
    return pairs_of_rows(draft)


def pairs_of_rows(draft: Draft) -> str:
    """Pairs of rows of one table that point to the same row elsewhere."""
    options = []
    for name in draft.wanted:
        table = draft.schema.table(name)
        for key in draft.graph.parents(name):
            if (
                key.referenced_table == name
                or draft.graph.is_calendar(key.referenced_table)
                or draft.graph.is_profile(key.referenced_table)
                or len(key.columns) > 1
                or len(table.primary_key) != 1
                or table.num_rows > 5000
            ):
                continue
            profile = table.column(key.columns[0]).profile
            if profile.num_distinct and 1.3 <= table.num_rows / profile.num_distinct <= 25:
                options.append((1 / (1 + draft.use[name]), key))
    if not options:
        raise DeadEndError
    key = draft.pick(options)
    spine = draft.along(key)
    if spine.scope.joins:
        raise DeadEndError
    twin = draft.spine(1, must=key.table, grain=key.table)
    alias, other = spine.aliases[0], twin.aliases[0]
    link, identity = key.columns[0], draft.schema.table(key.table).primary_key[0]
    first = spine.scope
    shown = [
        f for f in first.fields if f.source == alias and f.column.role in ("text", "identifier", "category", "measure")
    ]
    shared = [
        f
        for f in first.fields
        if f.source == spine.aliases[1]
        and f.column.role in ("text", "identifier", "category")
        and f.num_distinct > 1
        and names_a_thing(f.label)
    ]
    if not shown:
        raise DeadEndError
    f = draft.pick([(3.0 if f.column.role in ("text", "identifier") else 1.0, f) for f in shown])
    conditions = where(draft, spine, draft.pick([(1, 0), (2, 1), (1, 2)]), nested=0)
    own, theirs = twin.scope.field(other, link), twin.scope.field(other, identity)
    mine = twin.scope.field(other, f.column.name)
    items = [
        f"{f.qualified} AS {draft.output(f'first_{f.label}', set())}",
        f"{mine.qualified} AS {draft.output(f'second_{f.label}', set())}",
    ]
    if shared:
        items.insert(0, draft.pick([(1.0, g) for g in shared]).qualified)
    tie = first.field(alias, identity).qualified
    on = f"{first.field(alias, link).qualified} = {own.qualified} AND {tie} < {theirs.qualified}"
    # Without qualifiers a condition could be meant for either row.
    select = Select(f"{first.from_sql} JOIN {twin.scope.from_sql} ON {on}", items)
    select.where = conditions if draft.style.qualify else []
    select.order, select.limit = f"{tie}, {theirs.qualified}", limit(draft)
    return select.sql()


def scalar_figures(draft: Draft) -> str:
    """Figures of two or three tables in one line, each a scalar query."""
    if len(draft.wanted) < 2:
        raise DeadEndError
    taken: set[str] = set()
    items = []
    names = list(draft.wanted)
    draft.rng.shuffle(names)
    names.sort(key=lambda name: draft.use[name])
    for name in names[: draft.pick([(3, 2), (1, 3)])]:
        inner = draft.spine(1, must=name, grain=name)
        figures = [m for m in measures(inner.scope) if m.weight == 1.0]
        figure = draft.pick([(m.weight, m) for m in figures]) if figures and draft.chance(0.6) else None
        function = draft.pick([(2, "AVG"), (1, "MAX"), (1 if figure and figure.additive else 0, "SUM")])
        aggregate = f"{function}({figure.sql})" if figure else "COUNT(*)"
        wanted = prefixed(function.lower(), figure.name) if figure else f"num_{plural(snake(name))}"
        exclude = figure.uses if figure else ()
        conditions = draw_conditions(draft, inner.scope, draft.pick([(1, 0), (3, 1), (2, 2)]), exclude)
        scalar = Select(inner.scope.from_sql, [aggregate], where=conditions).sql()
        items.append(f"({scalar}) AS {draft.output(wanted, taken)}")
    return f"SELECT {', '.join(items)}"
