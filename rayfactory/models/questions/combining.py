"""Questions that put several sub-queries beside each other: set operations, one CTE for each branch, nested counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rayfactory.databases.schema import ForeignKey
from rayfactory.models.clauses import Select, grouped, limit, where
from rayfactory.models.draft import DeadEndError, Draft, Spine
from rayfactory.models.expressions import Expression, dimensions, entities, is_summable, measures, plural, prefixed
from rayfactory.models.questions.listing import shown_fields
from rayfactory.models.scope import Field, Scope, with_role
from rayfactory.models.syntax import quotient, snake


@dataclass(frozen=True, slots=True)
class Branch:
    """A table that points to the shared one, over a spine of both."""

    key: ForeignKey
    spine: Spine

    @property
    def shared(self) -> tuple[Field, ...]:
        """The fields of the shared table."""
        alias = self.spine.aliases[1]
        return tuple(f for f in self.spine.scope.fields if f.source == alias)


def branches(draft: Draft, count: int) -> list[Branch]:
    """Return spines of `count` tables that point to one and the same, different tables where there are some.

    Raises:
        DeadEndError: nothing points to any wanted table.
    """
    options: list[tuple[float, str, list[ForeignKey]]] = []
    for table in draft.schema.populated:
        keys = [
            key for key in draft.graph.children(table.name) if key.table in draft.wanted and key.table != table.name
        ]
        if keys and (table.name in draft.wanted or len({key.table for key in keys}) > 1):
            tables = len({key.table for key in keys})
            wanted = 1.0 if table.name in draft.wanted else 0.1
            options.append((wanted * min(tables, 2) ** 2 / (1 + draft.use[table.name]) ** 2, table.name, keys))
    if not options:
        raise DeadEndError
    shared, keys = draft.pick([(weight, (name, keys)) for weight, name, keys in options])
    chosen: list[ForeignKey] = []
    left = keys
    while len(chosen) < count:
        if not left:
            left = [key for key in keys if key not in chosen] or keys
        key = draft.pick([(1 / (1 + draft.use[key.table]) ** 2, key) for key in left])
        chosen.append(key)
        left = [other for other in left if other.table != key.table]
    return [Branch(key, pair(draft, key)) for key in chosen]


def pair(draft: Draft, key: ForeignKey) -> Spine:
    """Return the spine of a table and the one that its key points to."""
    return draft.along(key)


def _twin(branch: Branch, field: Field) -> Field:
    return next(f for f in branch.shared if f.column.name == field.column.name)


def overlap(draft: Draft) -> str:
    """Members that two groups have in common, that only one has, or of either: INTERSECT, EXCEPT, UNION."""
    pair_of = branches(draft, 2)
    first, second = pair_of
    readable = [
        f
        for f in first.shared
        if f.column.role in ("identifier", "text", "category", "code")
        and f.num_distinct > 2
        and f.column.kind != "other"
    ]
    if not readable:
        readable = [f for f in first.shared if f.column.name in first.key.referenced_columns]
    if not readable:
        raise DeadEndError
    count = draft.pick([(3, 1), (3, 2), (1, 3)])
    shown: list[Field] = []
    for f in draft.rng.sample(readable, min(count, len(readable))):
        shown.append(f)
    operator = draft.pick([(3, "INTERSECT"), (3, "EXCEPT"), (2, "UNION")])
    parts = []
    for branch in pair_of:
        conditions = where(draft, branch.spine, draft.pick([(2, 1), (3, 2), (1, 3)]), nested=0.05)
        columns = ", ".join(_twin(branch, f).sql for f in shown)
        parts.append(
            f"SELECT {columns} FROM {branch.spine.scope.from_sql}"
            + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
        )
    text = f" {operator} ".join(parts)
    if draft.chance(0.25):
        alias = draft.alias("members")
        return f"SELECT COUNT(*) AS num_members FROM ({text}) AS {alias}"
    if draft.chance(0.6):
        text += " ORDER BY " + ", ".join(str(position + 1) for position in range(len(shown)))
        if draft.chance(0.6):
            text += f" LIMIT {limit(draft)}"
    return text


def stacked(draft: Draft) -> str:
    """The same figure from several tables, one below the other with a label: UNION ALL, perhaps summed up again."""
    several = branches(draft, draft.pick([(3, 2), (1, 3)]))
    first = several[0]
    keys = [key for key in dimensions(first.spine.scope) if set(key.uses) <= {f.sql for f in first.shared}]
    if not keys:
        raise DeadEndError
    key = draft.pick([(key.weight, key) for key in keys])
    (use,) = key.uses
    base = next(f for f in first.shared if f.sql == use)
    label = draft.output(draft.pick([(1, "source"), (1, "channel"), (1, "origin")]), set())
    taken = {label}
    group, total = (
        draft.output_of(key, first.spine.scope, taken),
        draft.output(draft.pick([(1, "total"), (1, "amount_total"), (1, "figure")]), taken),
    )
    parts = []
    figures = comparable_figures(draft, several) if draft.chance(0.7) else None
    counted = figures is None
    for position, branch in enumerate(several):
        figure = figures[position] if figures else None
        sql = key.sql.replace(base.sql, _twin(branch, base).sql)
        select = Select(branch.spine.scope.from_sql)
        aggregate = f"SUM({figure.sql})" if figure else "COUNT(*)"
        word = snake(branch.key.table)
        if [own.key.table for own in several].count(branch.key.table) > 1:
            word = f"{word} by {snake(branch.key.columns[0])}".replace("_", " ")
        select.items = [f"'{word}' AS {label}", f"{sql} AS {group}", f"{aggregate} AS {total}"]
        select.where = where(draft, branch.spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0.05)
        select.group = sql
        parts.append(select.sql())
    text = " UNION ALL ".join(parts)
    how = draft.pick([(3, "plain"), (2, "derived"), (2, "cte")])
    if how == "plain":
        return f"{text} ORDER BY {label}, {group}" if draft.chance(0.7) else text
    alias = draft.alias(draft.pick([(1, "combined"), (1, "all_sources"), (1, "together")]))
    source = f"({text}) AS {alias}"
    if how == "cte":
        draft.ctes.append(f"{alias} AS ({text})")
        source = alias
    outer = draft.pick([(1, label), (2, group)])
    other = draft.output(f"total_{'rows' if counted else 'value'}", taken)
    items = f"{outer}, SUM({total}) AS {other}"
    if draft.chance(0.4):
        items += f", COUNT(DISTINCT {label if outer == group else group}) AS num_{'sources' if outer == group else plural(group)}"
    return f"SELECT {items} FROM {source} GROUP BY {outer} ORDER BY {other} DESC, {outer}"


def comparable_figures(draft: Draft, several: Sequence[Branch]) -> list[Expression] | None:
    """Return a figure of each branch that can be summed and is of one unit with the others, as names tell."""
    choices = [
        [m for m in measures(branch.spine.scope) if m.weight == 1.0 and len(m.uses) == 1 and is_summable(m)]
        for branch in several
    ]
    options = []
    for figure in choices[0]:
        word = figure.name.split("_")[-1]
        matching = [[m for m in others if m.name.split("_")[-1] == word] for others in choices[1:]]
        if all(matching):
            options.append((1.0, [figure, *(draft.pick([(1.0, m) for m in others]) for others in matching)]))
    return draft.pick(options) if options else None


def side_by_side(draft: Draft) -> str:
    """Figures of two tables for each member that they share, one CTE or derived table for each."""
    two = branches(draft, draft.pick([(4, 2), (2, 3)]))
    first = two[0]
    things = [thing for thing in entities(first.spine.scope) if thing[0].source == first.spine.aliases[1]]
    keys = [
        key
        for key in dimensions(first.spine.scope)
        if set(key.uses) <= {f.sql for f in first.shared} and len(key.uses) == 1
    ]
    entity = bool(things) and draft.chance(0.5)
    if entity:
        f = things[0][0]
        key = Expression(f.sql, f.label, f.num_distinct, (f.sql,), 1.0, f.column.kind)
    elif keys:
        key = draft.pick([(key.weight, key) for key in keys])
    else:
        raise DeadEndError
    base = next(f for f in first.shared if f.sql == key.uses[0])
    taken: set[str] = set()
    group = draft.output_of(key, first.spine.scope, taken)
    names, values = [], []
    texts = []
    extras: list[tuple[int, str]] = []
    for position, branch in enumerate(two):
        figures = [m for m in measures(branch.spine.scope) if m.weight == 1.0]
        figure = draft.pick([(m.weight, m) for m in figures]) if figures and draft.chance(0.75) else None
        sql = key.sql.replace(base.sql, _twin(branch, base).sql)
        select = Select(branch.spine.scope.from_sql)
        function = draft.pick([(3, "SUM"), (1, "AVG")]) if figure is None or is_summable(figure) else "AVG"
        aggregate = f"{function}({figure.sql})" if figure else "COUNT(*)"
        wanted = (
            prefixed("total" if function == "SUM" else "avg", figure.name)
            if figure
            else f"num_{plural(snake(branch.key.table))}"
        )
        value = draft.output(wanted, taken)
        select.items = [f"{sql} AS {group}", f"{aggregate} AS {value}"]
        select.where = where(draft, branch.spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0.05)
        select.group = sql
        words = snake(branch.key.table).split("_")
        if draft.chance(0.35):
            more = [m for m in figures if m.name != (figure.name if figure else "")]
            second = draft.pick([(m.weight, m) for m in more]) if more and draft.chance(0.6) else None
            extra = (
                f"AVG({second.sql})"
                if second
                else "COUNT(DISTINCT "
                + branch.spine.scope.field(branch.spine.aliases[0], branch.key.columns[0]).sql
                + ")"
            )
            extra_name = draft.output(prefixed("avg", second.name) if second else "num_members", taken)
            select.items.append(f"{extra} AS {extra_name}")
            extras.append((position, extra_name))
        names.append(
            draft.alias(
                f"{words[-1] if len(words) > 1 else words[0]}_{draft.pick([(1, 'totals'), (1, 'summary'), (1, 'stats')])}"
            )
        )
        values.append(value)
        texts.append(select.sql())
    join = draft.pick(
        [(3, "JOIN"), (2, "LEFT JOIN"), (1, "FULL OUTER JOIN" if draft.dialect == "duckdb" else "LEFT JOIN")]
    )
    if len(two) > 2:
        join = "JOIN" if draft.chance(0.5) else "LEFT JOIN"
    a, b = (f"{name}.{value}" for name, value in list(zip(names, values, strict=True))[:2])
    if join != "JOIN":
        b_shown = f"COALESCE({b}, 0)"
    else:
        b_shown = b
    member = f"{names[0]}.{group}" if join != "FULL OUTER JOIN" else f"COALESCE({names[0]}.{group}, {names[1]}.{group})"
    items = [f"{member} AS {group}", f"{a} AS {values[0]}", f"{b_shown} AS {values[1]}"]
    items += [f"{names[position]}.{name} AS {name}" for position, name in extras]
    items += [f"{name}.{value} AS {value}" for name, value in list(zip(names, values, strict=True))[2:]]
    if draft.chance(0.6):
        compared = draft.pick(
            [
                (1, (f"{a} - {b_shown}", "difference")),
                (1, (f"ROUND({quotient(f'1.0 * {b_shown}', a, 'duckdb')}, 3)", "ratio")),
            ]
        )
        items.append(f"{compared[0]} AS {draft.output(compared[1], taken)}")
    if draft.chance(0.65):
        draft.ctes += [f"{name} AS ({text})" for name, text in zip(names, texts, strict=True)]
        sources = names
    else:
        sources = [f"({text}) AS {name}" for name, text in zip(names, texts, strict=True)]
    sql = f"SELECT {', '.join(items)} FROM {sources[0]}"
    for name, source in list(zip(names, sources, strict=True))[1:]:
        sql += f" {join} {source} ON {names[0]}.{group} = {name}.{group}"
    if join == "JOIN" and draft.chance(0.3):
        sql += (
            f" WHERE {draft.builder.choice('comparison', [(1, f'{a} > {b}'), (1, f'{b} > {a}'), (1, f'{a} <> {b}')])}"
        )
    way = draft.builder.choice("direction", [(2, " DESC"), (1, "")])
    sql += f" ORDER BY {values[0]}{way}, {group}"
    return f"{sql} LIMIT {limit(draft)}" if draft.chance(0.5) else sql


def counts_beside(draft: Draft) -> str:
    """Rows with counts or totals of what points to them, as scalar queries in the SELECT list or an outer join."""
    options = [
        ((3.0 if key.table in draft.wanted else 0.0) / (1 + draft.use[key.table] + draft.use[name]) ** 2, key)
        for name in draft.wanted
        for key in draft.graph.children(name)
        if key.table != name and len(key.columns) == 1 and draft.schema.table(name).num_rows <= 20_000
    ]
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
    function = draft.pick([(2 if figure and is_summable(figure) else 0, "SUM"), (1, "MAX"), (1, "AVG")])
    aggregate = f"{function}({figure.sql})" if figure else "COUNT(*)"
    prefix = {"SUM": "total", "MAX": "max", "AVG": "avg"}[function]
    name = draft.output(prefixed(prefix, figure.name) if figure else f"num_{plural(snake(key.table))}", taken)
    conditions = draft.conditions(inner.scope, draft.pick([(2, 0), (3, 1), (1, 2)]))
    fields = [f for f in shown_fields(draft, spine, draft.pick([(1, 1), (3, 2), (2, 3)])) if f.sql != parent.sql]
    plain = where(draft, spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0)
    shown = [f.qualified for f in fields] or [parent.qualified]
    big = draft.dialect == "sqlite" and spine.scope.num_rows * inner.scope.num_rows > 4_000_000
    if big or draft.chance(0.5):
        alias = draft.alias(draft.pick([(1, "per_key"), (1, "child_totals"), (1, "counts")]))
        member = draft.output(f"{child.label}_ref", taken)
        clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        derived = f"SELECT {child.sql} AS {member}, {aggregate} AS {name} FROM {inner.scope.from_sql}{clause} GROUP BY {child.sql}"
        if draft.chance(0.55):
            draft.ctes.append(f"{alias} AS ({derived})")
            source = alias
        else:
            source = f"({derived}) AS {alias}"
        if spine.scope.joins:
            raise DeadEndError
        left = draft.chance(0.6)
        value = f"COALESCE({alias}.{name}, 0)" if left else f"{alias}.{name}"
        sql = f"SELECT {', '.join(shown)}, {value} AS {name} FROM {spine.scope.from_sql} {'LEFT ' if left else ''}JOIN {source} ON {parent.qualified} = {alias}.{member}"
    else:
        ties = " AND ".join([f"{child.qualified} = {parent.qualified}", *conditions])
        scalar = f"(SELECT {aggregate} FROM {inner.scope.from_sql} WHERE {ties})"
        if figure and function == "SUM" and draft.chance(0.4):
            scalar = f"COALESCE({scalar}, 0)"
        sql = f"SELECT {', '.join(shown)}, {scalar} AS {name} FROM {spine.scope.from_sql}"
    if plain:
        sql += f" WHERE {' AND '.join(plain)}"
    return f"{sql} ORDER BY {name} DESC, {', '.join(dict.fromkeys([*shown, parent.qualified]))} LIMIT {limit(draft)}"


def spread_of_groups(draft: Draft) -> str:
    """How a count or total is spread over entities: an aggregate of an aggregate."""
    spine = draft.spine(draft.pick([(2, 1), (4, 2), (2, 3)]))
    grain = [
        f
        for f in spine.scope.fields
        if f.source == spine.aliases[0]
        and f.column.role == "key"
        and 3 <= f.num_distinct
        and not f.column.profile.unique
        and f.column.kind != "other"
    ]
    conditions = where(draft, spine, draft.pick([(1, 0), (3, 1), (3, 2)]), nested=0.1)
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
    cte = draft.chance(0.6)
    source = alias if cte else f"({grouping.select.sql()}) AS {alias}"
    if cte:
        draft.ctes.append(f"{alias} AS ({grouping.select.sql()})")
    if len(grouping.keys) > 1 and draft.chance(0.6):
        key = grouping.keys[0].name
        items = [
            key,
            *(
                f"{function}({value}) AS {draft.output(f'{function.lower()}_{value}', taken)}"
                for function in draft.rng.sample(["AVG", "MAX", "MIN"], 2)
            ),
        ]
        if draft.chance(0.4):
            items.append(f"COUNT(*) AS {draft.output('num_groups', taken)}")
        return (
            f"SELECT {', '.join(items)} FROM {source} GROUP BY {key} ORDER BY {items[1].split(' AS ')[1]} DESC, {key}"
        )
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
    """Filtered rows, then totals of them, then what exceeds the average of the totals: CTEs that build on each other."""
    spine = draft.spine(draft.pick([(4, 2), (3, 3), (1, 4)]), hidden=draft.pick([(4, 0), (1, 1)]))
    scope = spine.scope
    keys = [key for key in dimensions(scope) if key.num_distinct >= 3]
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
    conditions = where(draft, spine, draft.pick([(3, 1), (3, 2), (2, 3)]), nested=0.15)
    base = draft.alias(
        draft.pick([(1, "base"), (1, "filtered"), (1, "selected_rows"), (1, f"chosen_{snake(scope.grain.name)}"[:40])])
    )
    clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    draft.ctes.append(f"{base} AS (SELECT {key.sql} AS {group}, {figure.sql} AS {raw} FROM {scope.from_sql}{clause})")
    function = draft.pick([(3 if is_summable(figure) else 0, "SUM"), (2, "AVG"), (1, "MAX")])
    value = draft.output(prefixed({"SUM": "total", "AVG": "avg", "MAX": "max"}[function], figure.name), taken)
    count = draft.output("num_rows", taken)
    totals = draft.alias(draft.pick([(1, "totals"), (1, "aggregated"), (1, "per_group")]))
    has_count = draft.chance(0.5)
    draft.ctes.append(
        f"{totals} AS (SELECT {group}, {function}({raw}) AS {value}{f', COUNT(*) AS {count}' if has_count else ''} FROM {base} GROUP BY {group})"
    )
    shown = f"{group}, {value}{f', {count}' if has_count else ''}"
    how = draft.pick([(3, "above"), (1, "join"), (1, "rank")])
    if how == "rank":
        rank = draft.output("place", taken)
        return f"SELECT {shown}, RANK() OVER (ORDER BY {value} DESC) AS {rank} FROM {totals} ORDER BY {value} DESC, {group} LIMIT {limit(draft)}"
    compare = draft.builder.choice("comparison", [(3, ">"), (1, "<"), (1, ">=")])
    if how == "above":
        return f"SELECT {shown} FROM {totals} WHERE {value} {compare} (SELECT AVG({value}) FROM {totals}) ORDER BY {value} DESC, {group}"
    overall = draft.alias("overall_average")
    mean = draft.output(f"mean_{figure.name}", taken)
    draft.ctes.append(f"{overall} AS (SELECT AVG({value}) AS {mean} FROM {totals})")
    return f"SELECT {shown}, {mean} FROM {totals} CROSS JOIN {overall} WHERE {value} {compare} {mean} ORDER BY {value} DESC, {group}"


def beside_group_average(draft: Draft) -> str:
    """Rows that exceed the average of their group, which a derived table gives."""
    spine = draft.spine(draft.pick([(2, 1), (4, 2), (2, 3)]))
    scope = spine.scope
    if scope.joins:
        raise DeadEndError
    own = [f for f in scope.fields if f.source == spine.aliases[0]]
    figures = [f for f in own if f.column.role == "measure" and f.is_number and f.num_distinct > 3]
    keys = [
        f
        for f in own
        if f.column.role in ("key", "category")
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
    text = f"SELECT {twins[key.column.name].sql} AS {member}, AVG({twins[figure.column.name].sql}) AS {mean} FROM {inner.scope.from_sql} GROUP BY {twins[key.column.name].sql}"
    source = f"({text}) AS {alias}"
    if draft.chance(0.4):
        draft.ctes.append(f"{alias} AS ({text})")
        source = alias
    conditions = where(draft, spine, draft.pick([(1, 0), (3, 1), (2, 2)]), nested=0.1)
    factor = draft.builder.choice("factor", [(2, ""), (1, "1.2 * "), (1, "1.5 * ")])
    fields = [f for f in shown_fields(draft, spine, draft.pick([(2, 2), (2, 3)])) if f.sql != figure.sql]
    shown = ", ".join([*(f.qualified for f in fields), figure.qualified, f"{alias}.{mean}"])
    from_sql = f"{scope.from_sql} JOIN {source} ON {key.qualified} = {alias}.{member}"
    condition = " AND ".join([f"{figure.qualified} > {factor}{alias}.{mean}", *conditions])
    groupable = [f for f in with_role(scope, "category") if 2 <= f.num_distinct <= 30]
    if groupable and draft.chance(0.4):
        f = draft.pick([(1.0, f) for f in groupable])
        name = draft.output("num_above_average", taken)
        return f"SELECT {f.qualified}, COUNT(*) AS {name} FROM {from_sql} WHERE {condition} GROUP BY {f.qualified} ORDER BY {name} DESC, {f.qualified}"
    order = ", ".join(dict.fromkeys([f"{figure.qualified} DESC", *(f.qualified for f in fields)]))
    return f"SELECT {shown} FROM {from_sql} WHERE {condition} ORDER BY {order} LIMIT {limit(draft)}"


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
        clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        order = ", ".join(f.qualified for f in fields)
        return f"SELECT {', '.join(columns)} FROM {spine.scope.from_sql}{clause} ORDER BY {order} LIMIT {limit(draft)}"
    options = []
    for name in draft.wanted:
        table = draft.schema.table(name)
        for key in draft.graph.parents(name):
            if (
                key.referenced_table == name
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
        f for f in first.fields if f.source == spine.aliases[1] and f.column.role in ("text", "identifier", "category")
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
    if not draft.style.qualify and conditions:
        conditions = []
    clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return (
        f"SELECT {', '.join(items)} FROM {first.from_sql} JOIN {twin.scope.from_sql} ON {on}{clause} "
        f"ORDER BY {tie}, {theirs.qualified} LIMIT {limit(draft)}"
    )


def scalar_figures(draft: Draft) -> str:
    """Figures of two or three tables in one line, each a scalar query."""
    taken: set[str] = set()
    items = []
    names = list(draft.wanted)
    draft.rng.shuffle(names)
    names.sort(key=lambda name: draft.use[name])
    for name in names[: draft.pick([(3, 2), (1, 3)])]:
        inner = draft.spine(1, must=name, grain=name)
        figures = [m for m in measures(inner.scope) if m.weight == 1.0]
        figure = draft.pick([(m.weight, m) for m in figures]) if figures and draft.chance(0.6) else None
        function = draft.pick([(2, "AVG"), (1, "MAX"), (1 if figure and is_summable(figure) else 0, "SUM")])
        aggregate = f"{function}({figure.sql})" if figure else "COUNT(*)"
        wanted = f"{function.lower()}_{figure.name}" if figure else f"num_{plural(snake(name))}"
        conditions = draft.conditions(inner.scope, draft.pick([(1, 0), (3, 1), (2, 2)]))
        clause = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        items.append(f"(SELECT {aggregate} FROM {inner.scope.from_sql}{clause}) AS {draft.output(wanted, taken)}")
    return f"SELECT {', '.join(items)}"


def common_values(draft: Draft) -> str:
    """Values of comparable columns of tables that nothing ties together: UNION, INTERSECT, IN."""
    scopes: list[Scope] = []
    names = list(draft.wanted)
    draft.rng.shuffle(names)
    names.sort(key=lambda name: draft.use[name])
    for name in names[:2]:
        scopes.append(draft.spine(1, must=name, grain=name).scope)
    if len(scopes) < 2:
        raise DeadEndError
    pairs = [
        (1.0 + 3 * (a.column.name.lower() == b.column.name.lower()) + 2 * (a.label == b.label), (a, b))
        for a in scopes[0].fields
        for b in scopes[1].fields
        if a.column.kind == b.column.kind == "text"
        and a.column.role in ("text", "category", "identifier")
        and b.column.role == a.column.role
        and set(snake(a.label).split("_")) & set(snake(b.label).split("_"))
    ]
    if not pairs:
        raise DeadEndError
    a, b = draft.pick(pairs)
    name = draft.output(a.label, set())
    conditions = [draft.conditions(scope, draft.pick([(1, 0), (2, 1)])) for scope in scopes]
    clauses = [f" WHERE {' AND '.join(own)}" if own else "" for own in conditions]
    operator = draft.pick([(3, "UNION"), (1, "UNION ALL")])
    if set(a.column.profile.common_values) & set(b.column.profile.common_values) and draft.chance(0.5):
        operator = "INTERSECT"
    return (
        f"SELECT {a.sql} AS {name} FROM {scopes[0].from_sql}{clauses[0]} {operator} "
        f"SELECT {b.sql} FROM {scopes[1].from_sql}{clauses[1]} ORDER BY {name} LIMIT {limit(draft)}"
    )
