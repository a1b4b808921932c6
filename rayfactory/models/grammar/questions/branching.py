"""Questions that ask several tables the same thing: set operations, and figures stacked up or side by side."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rayfactory.databases.schema import ForeignKey
from rayfactory.models.grammar.clauses import Select, as_float, limit, where
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import DeadEndError, Draft, Spine
from rayfactory.models.grammar.expressions import (
    Expression,
    dimensions,
    entities,
    measures,
    plural,
    prefixed,
    reads_as_name,
)
from rayfactory.models.grammar.quantities import code_weight, is_calendar, names_a_thing
from rayfactory.models.grammar.scope import Field, determines, say_the_same
from rayfactory.models.grammar.syntax import HAS_FULL_JOIN, named, quotient, snake


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


def branches(draft: Draft, count: int, *, apart: bool = False, alike: bool = False) -> list[Branch]:
    """Return spines of `count` tables that point to one and the same, different tables where there are some.

    Args:
        apart: whether no foreign key may come twice; fewer branches than `count` are returned where it has to be.
        alike: whether the tables have to hold things of one kind.

    Raises:
        DeadEndError: nothing points to any wanted table, or too little where branches are to be apart.
    """
    options: list[tuple[float, str, list[ForeignKey]]] = []
    for table in draft.schema.populated:
        keys = [
            key for key in draft.graph.children(table.name) if key.table in draft.wanted and key.table != table.name
        ]
        if alike or _is_loose(draft, table.name):
            keys = [key for key in keys if len(_alike(draft, key, keys)) > 1]
        if len(keys) > apart and (table.name in draft.wanted or len({key.table for key in keys}) > 1):
            tables = len({key.table for key in keys})
            wanted = 1.0 if table.name in draft.wanted else 0.1
            options.append((wanted * min(tables, 2) ** 2 / (1 + draft.use[table.name]) ** 2, table.name, keys))
    if not options:
        raise DeadEndError
    keys = draft.pick([(weight, keys) for weight, _, keys in options])
    first = draft.pick([(1 / (1 + draft.use[key.table]) ** 2, key) for key in keys])
    if alike or _is_loose(draft, first.referenced_table):
        keys = _alike(draft, first, keys)
    if len(keys) <= apart:
        raise DeadEndError
    chosen = [first]
    left = [key for key in keys if key.table != first.table]
    while len(chosen) < (min(count, len(keys)) if apart else count):
        if not left:
            left = [key for key in keys if key not in chosen] or keys
        key = draft.pick([(1 / (1 + draft.use[key.table]) ** 2, key) for key in left])
        chosen.append(key)
        left = [other for other in left if other.table != key.table]
    return [Branch(key, pair(draft, key)) for key in chosen]


def _is_loose(draft: Draft, table: str) -> bool:
    """Whether a table ties nothing together: that two things have a day or a profile in common says nothing of them."""
    return draft.graph.is_calendar(table) or draft.graph.is_profile(table)


def _alike(draft: Draft, key: ForeignKey, keys: Sequence[ForeignKey]) -> list[ForeignKey]:
    """Return those of the keys, itself among them, whose tables hold things of one kind with that of a key."""
    return [other for other in keys if draft.graph.are_alike(key.table, other.table)]


def pair(draft: Draft, key: ForeignKey) -> Spine:
    """Return the spine of a table and the one that its key points to."""
    return draft.along(key)


def _twin(branch: Branch, field: Field) -> Field:
    return next(f for f in branch.shared if f.column.name == field.column.name)


def overlap(draft: Draft) -> str:
    """Members that two groups have in common, that only one has, or of either: INTERSECT, EXCEPT, UNION."""
    pair_of = branches(draft, 2)
    first, _second = pair_of
    readable = [f for f in first.shared if f.num_distinct > 2 and f.column.kind != "other" and names_a_thing(f.label)]
    are_days = is_calendar([f.label for f in first.shared])
    if are_days:
        readable = [f for f in readable if f.column.role == "date" or code_weight(f.label) == 1.5]
    else:
        readable = [f for f in readable if f.column.kind != "text" or reads_as_name(f)]
        names = [f for f in readable if f.column.role in ("identifier", "text")]
        categories = [f for f in readable if f.column.role == "category"]
        # Of a profile, that both groups have some of each kind is no news.
        readable = names or [f for f in categories if f.num_distinct >= 8]
        readable = names + categories if names and draft.chance(0.3) else readable
    if not readable:
        keys = [f for f in first.shared if f.column.name in first.key.referenced_columns]
        readable = [f for f in keys if f.num_distinct > 2 and not f.label.endswith("sk")]
    if not readable:
        raise DeadEndError
    # A quarter and one of its months are of one calendar.
    count = 1 if are_days else draft.pick([(3, 1), (3, 2), (1, 3)])
    shown: list[Field] = []
    for f in draft.rng.sample(readable, len(readable)):
        if len(shown) < count and not any(determines(f, g) or determines(g, f) or say_the_same(f, g) for g in shown):
            shown.append(f)
    operator = draft.pick([(3, "INTERSECT"), (3, "EXCEPT"), (2, "UNION")])
    parts = []
    for branch in pair_of:
        # What tells the two groups apart is what their own tables say, as far as they say anything.
        plain = draft.chance(0.35)
        others = [_twin(branch, f).sql for f in shown] if plain else [f.sql for f in branch.shared]
        conditions = where(draft, branch.spine, draft.pick([(2, 1), (3, 2), (1, 3)]), nested=0.1, exclude=others)
        if len(conditions) == len(branch.spine.scope.joins):
            conditions = where(draft, branch.spine, 1, nested=0, exclude=[_twin(branch, f).sql for f in shown])
        columns = ", ".join(_twin(branch, f).sql for f in shown)
        parts.append(Select(branch.spine.scope.from_sql, [columns], where=conditions).sql())
    text = f" {operator} ".join(parts)
    if not are_days and draft.chance(0.25):
        alias = draft.alias("members")
        return f"SELECT COUNT(*) AS num_members FROM ({text}) AS {alias}"
    if draft.chance(0.6):
        text += " ORDER BY " + ", ".join(str(position + 1) for position in range(len(shown)))
        if draft.chance(0.6):
            text += f" LIMIT {limit(draft)}"
    return text


def stacked(draft: Draft) -> str:
    """The same figure from several tables, one below the other with a label: UNION ALL, perhaps summed up again."""
    several = branches(draft, draft.pick([(3, 2), (1, 3)]), apart=True, alike=True)
    first = several[0]
    keys = [key for key in dimensions(first.spine.scope) if set(key.uses) <= {f.sql for f in first.shared}]
    if not keys:
        raise DeadEndError
    key = draft.pick([(key.weight, key) for key in keys])
    (use,) = key.uses
    base = next(f for f in first.shared if f.sql == use)
    labels = [(1.0, name) for name in ("source", "channel", "origin") if draft.output(name, set()) == name]
    label = draft.pick(labels or [(1.0, draft.output("origin", set()))])
    taken = {label}
    group = draft.output_of(key, first.spine.scope, taken)
    parts = []
    figures = comparable_figures(draft, several) if draft.chance(0.7) else None
    counted = figures is None
    total = draft.output(draft.pick([(1, "total"), (1, "amount_total")]) if figures else "num_rows", taken)
    for position, branch in enumerate(several):
        figure = figures[position] if figures else None
        sql = key.sql.replace(base.sql, _twin(branch, base).sql)
        select = Select(branch.spine.scope.from_sql)
        aggregate = f"SUM({figure.sql})" if figure else "COUNT(*)"
        word = snake(branch.key.table)
        if [own.key.table for own in several].count(branch.key.table) > 1:
            field = branch.spine.scope.field(branch.spine.aliases[0], branch.key.columns[0])
            word = f"{word} by {re.sub('_(sk|id|key|code)$', '', field.label)}".replace("_", " ")
        select.items = [f"'{word}' AS {label}", named(sql, group), f"{aggregate} AS {total}"]
        # What chooses among the rows is of their own table: a condition on what is shared would be on one side alone.
        shared = [f.sql for f in branch.shared]
        select.where = where(draft, branch.spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0.1, exclude=shared)
        select.group = sql
        parts.append(select.sql())
    text = " UNION ALL ".join(parts)
    # Counts of unlike things stand one below the other, but are not added up; nor are the rows of one table, twice.
    is_sum = bool(figures) or len({snake(branch.key.table).split("_")[-1] for branch in several}) == 1
    is_sum = is_sum and len({branch.key.table for branch in several}) == len(several)
    how = draft.pick([(3, "plain"), (2, "derived"), (4, "cte")]) if is_sum else "plain"
    if how == "plain":
        return f"{text} ORDER BY {label}, {group}" if draft.chance(0.7) else text
    alias = draft.alias(draft.pick([(1, "combined"), (1, "all_sources"), (1, "together")]))
    source = draft.source(text, alias, cte_probability=float(how == "cte"))
    outer = draft.pick([(1, label), (2, group)])
    other = draft.output(f"total_{'rows' if counted else 'value'}", taken)
    items = f"{outer}, SUM({total}) AS {other}"
    if outer == group and draft.chance(0.4):
        items += f", COUNT(DISTINCT {label}) AS {draft.output('num_sources', taken)}"
    return f"SELECT {items} FROM {source} GROUP BY {outer} ORDER BY {other} DESC, {outer}"


def comparable_figures(draft: Draft, several: Sequence[Branch]) -> list[Expression] | None:
    """Return a figure of each branch that can be summed and is of one unit with the others, as names tell."""
    choices = [
        [m for m in measures(branch.spine.scope) if m.weight == 1.0 and len(m.uses) == 1 and m.additive]
        for branch in several
    ]
    options = []
    for figure in choices[0]:
        word = figure.name.split("_")[-1]
        matching = [
            [m for m in others if m.name == figure.name] or [m for m in others if m.name.split("_")[-1] == word]
            for others in choices[1:]
        ]
        if all(matching):
            options.append((1.0, [figure, *(draft.pick([(1.0, m) for m in others]) for others in matching)]))
    return draft.pick(options) if options else None


def side_by_side(draft: Draft) -> str:
    """Figures of two tables for each member that they share, one CTE or derived table for each."""
    two = branches(draft, draft.pick([(4, 2), (2, 3)]), apart=True)
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
    compared_figures = comparable_figures(draft, two) if draft.chance(0.75) else None
    extras: list[tuple[int, str]] = []
    for position, branch in enumerate(two):
        figures = [m for m in measures(branch.spine.scope) if m.weight == 1.0]
        figure = compared_figures[position] if compared_figures else None
        sql = key.sql.replace(base.sql, _twin(branch, base).sql)
        select = Select(branch.spine.scope.from_sql)
        aggregate = f"SUM({figure.sql})" if figure else "COUNT(*)"
        wanted = prefixed("total", figure.name) if figure else f"num_{plural(snake(branch.key.table))}"
        value = draft.output(wanted, taken)
        select.items = [named(sql, group), f"{aggregate} AS {value}"]
        # What chooses among the rows is of their own table: a condition on what is shared would be on one side alone.
        shared = [f.sql for f in branch.shared]
        select.where = where(draft, branch.spine, draft.pick([(2, 0), (3, 1), (2, 2)]), nested=0.1, exclude=shared)
        select.group = sql
        words = snake(branch.key.table)[:32].strip("_")
        is_thing = branch.key.columns[0] in draft.graph.entity_columns(branch.key.table)
        more = [m for m in figures if m.name != (figure.name if figure else "")]
        if draft.chance(0.35) and (more or is_thing):
            second = draft.pick([(m.weight, m) for m in more]) if more and (draft.chance(0.6) or not is_thing) else None
            pointing = branch.spine.scope.field(branch.spine.aliases[0], branch.key.columns[0])
            extra = f"AVG({second.sql})" if second else f"COUNT(DISTINCT {pointing.sql})"
            members = plural(re.sub("_(sk|id|key|code)$", "", pointing.label))
            extra_name = draft.output(prefixed("avg", second.name) if second else f"num_{members}", taken)
            select.items.append(f"{extra} AS {extra_name}")
            extras.append((position, extra_name))
        names.append(draft.alias(f"{words}_{draft.pick([(1, 'totals'), (1, 'summary'), (1, 'stats')])}"))
        values.append(value)
        texts.append(select.sql())
    join = draft.pick(
        [(3, "JOIN"), (2, "LEFT JOIN"), (1, "FULL OUTER JOIN" if draft.dialect in HAS_FULL_JOIN else "LEFT JOIN")]
    )
    if len(two) > 2:
        join = "JOIN" if draft.chance(0.5) else "LEFT JOIN"
    a, b = (f"{name}.{value}" for name, value in list(zip(names, values, strict=True))[:2])
    if join != "JOIN":
        b_shown = f"COALESCE({b}, 0)"
    else:
        b_shown = b
    member = f"{names[0]}.{group}" if join != "FULL OUTER JOIN" else f"COALESCE({names[0]}.{group}, {names[1]}.{group})"
    items = [named(member, group), named(a, values[0]), named(b_shown, values[1])]
    items += [f"{names[position]}.{name}" for position, name in extras]
    items += [f"{name}.{value}" for name, value in list(zip(names, values, strict=True))[2:]]
    if draft.chance(0.6):
        compared = draft.pick(
            [
                (1 if compared_figures else 0, (f"{a} - {b_shown}", "difference")),
                (1, (f"ROUND({quotient(f'1.0 * {b_shown}', a, 'duckdb')}, 3)", "ratio")),
            ]
        )
        items.append(f"{compared[0]} AS {draft.output(compared[1], taken)}")
    if draft.chance(0.8):
        draft.ctes += [f"{name} AS ({text})" for name, text in zip(names, texts, strict=True)]
        sources = names
    else:
        sources = [f"({text}) AS {name}" for name, text in zip(names, texts, strict=True)]
    sql = f"SELECT {', '.join(items)} FROM {sources[0]}"
    for name, source in list(zip(names, sources, strict=True))[1:]:
        sql += f" {join} {source} ON {names[0]}.{group} = {name}.{group}"
    if join == "JOIN" and compared_figures and draft.chance(0.4):
        sql = _compared(draft, sql, a, b)
    way = draft.builder.choice("direction", [(2, " DESC"), (1, "")])
    # Each of the sources has a column of the group's name.
    sql += f" ORDER BY {values[0]}{way}, {group if member.startswith('COALESCE') else member}"
    return f"{sql} LIMIT {limit(draft)}" if draft.chance(0.5) else sql


def _compared(draft: Draft, sql: str, a: str, b: str) -> str:
    """Return a join with a condition that one figure exceeds the other, where that holds for some rows and not all."""
    draft.ctes = [draft.fixed(cte) for cte in draft.ctes]
    sql = draft.fixed(sql)
    select, source = sql.split(" FROM ", maxsplit=1)
    prefix = f"WITH {', '.join(draft.ctes)} " if draft.ctes else ""
    rows = draft.rows(f"{prefix}SELECT {a}, {b} FROM {source}")
    pairs = [(as_float(own) or 0.0, as_float(other) or 0.0) for own, other in rows]
    above, below = sum(own > other for own, other in pairs), sum(own < other for own, other in pairs)
    if not above or not below:
        return sql
    return f"{select} FROM {source} WHERE {f'{a} > {b}' if above < below else f'{b} > {a}'}"


_SAYS_LITTLE = frozenset("name type code desc description title id number date kind class status".split())
"""Two columns that share such a word of their names need not hold the same things."""


def common_values(draft: Draft) -> str:
    """Values of comparable columns of tables that nothing ties together: UNION, INTERSECT, IN."""
    names = list(draft.wanted)
    draft.rng.shuffle(names)
    names.sort(key=lambda name: draft.use[name])
    scopes = [draft.spine(1, must=name, grain=name).scope for name in names[:2]]
    if len(scopes) < 2:
        raise DeadEndError
    pairs = [
        (1.0 + 3 * (a.column.name.lower() == b.column.name.lower()) + 2 * (a.label == b.label), (a, b))
        for a in scopes[0].fields
        for b in scopes[1].fields
        if a.column.kind == b.column.kind == "text"
        and a.column.role in ("text", "category", "identifier")
        and b.column.role == a.column.role
        and (a.label == b.label or set(a.label.split("_")) & set(b.label.split("_")) - _SAYS_LITTLE)
        and names_a_thing(a.label)
    ]
    if not pairs:
        raise DeadEndError
    a, b = draft.pick(pairs)
    name = draft.output(a.label, set())
    conditions = [draw_conditions(draft, scope, draft.pick([(1, 0), (2, 1)])) for scope in scopes]
    operator = draft.pick([(3, "UNION"), (1, "UNION ALL")])
    if set(a.column.profile.common_values) & set(b.column.profile.common_values) and draft.chance(0.5):
        operator = "INTERSECT"
    first = Select(scopes[0].from_sql, [draft.named(a.sql, name)], where=conditions[0]).sql()
    second = Select(scopes[1].from_sql, [b.sql], where=conditions[1]).sql()
    return f"{first} {operator} {second} ORDER BY {name} LIMIT {limit(draft)}"
