"""The clauses of one SELECT, put together: conditions with nested queries, groupings, thresholds on groups."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from rayfactory.databases.schema import Table
from rayfactory.models.grammar.conditions import draw_conditions
from rayfactory.models.grammar.draft import DeadEndError, Draft, Spine
from rayfactory.models.grammar.expressions import Expression, aggregates, dimensions, entities
from rayfactory.models.grammar.nested_conditions import membership, nested_condition
from rayfactory.models.grammar.quantities import names_a_thing
from rayfactory.models.grammar.scope import Field, Scope, determines, say_the_same, with_role
from rayfactory.models.grammar.syntax import number


@dataclass(slots=True)
class Select:
    """One SELECT while it is put together; texts may hold references to rules."""

    source: str
    items: list[str] = field(default_factory=list)
    distinct: bool = False
    where: list[str] = field(default_factory=list)
    group: str = ""
    having: str = ""
    qualify: str = ""
    order: str = ""
    limit: str = ""

    def sql(self) -> str:
        """Return its text."""
        parts = [f"SELECT {'DISTINCT ' if self.distinct else ''}{', '.join(self.items)} FROM {self.source}"]
        if self.where:
            parts.append("WHERE " + " AND ".join(self.where))
        for keyword, text in (
            ("GROUP BY", self.group),
            ("HAVING", self.having),
            ("QUALIFY", self.qualify),
            ("ORDER BY", self.order),
            ("LIMIT", self.limit),
        ):
            if text:
                parts.append(f"{keyword} {text}")
        return " ".join(parts)


@dataclass(frozen=True, slots=True)
class Grouping:
    """A grouped SELECT with what it puts out.

    Attributes:
        keys, values: grouping keys and aggregates, under their output names.
        key_sql, value_sql: their expressions.
    """

    select: Select
    keys: tuple[Expression, ...]
    values: tuple[Expression, ...]
    key_sql: tuple[str, ...]
    value_sql: tuple[str, ...]


def num_conditions(draft: Draft) -> int:
    """Return how many conditions a WHERE is to have."""
    return draft.pick([(10, 0), (24, 1), (32, 2), (20, 3), (9, 4), (3, 5), (2, 6)])


def where(draft: Draft, spine: Spine, count: int, nested: float = 0.55, exclude: Sequence[str] = ()) -> list[str]:
    """Return the conditions of a WHERE, comma joins first, nested queries among the others."""
    inner: list[str] = []
    for child, target, scope in spine.hidden:
        inner += membership(draft, child, target, scope)
    if not inner and draft.chance(nested):
        condition = nested_condition(draft, spine)
        if condition:
            inner.append(condition)
    plain = draw_conditions(draft, spine.scope, max(0, count - len(inner)), exclude)
    conditions = plain + inner if draft.chance(0.7) else inner + plain
    return [*spine.scope.joins, *conditions]


_TOKEN = re.compile(r'(?:"(?:[^"]|"")*"|\w)+(?:\.(?:"(?:[^"]|"")*"|\w)+)?')


def idle_sources(draft: Draft, spine: Spine, texts: Sequence[str]) -> list[str]:
    """Return the aliases of joined tables, bridges aside, of which neither a condition nor one of the texts tells."""
    joins = spine.skeleton.joins[: len(spine.aliases) - 1]
    bridges = {join.child for join in joins}
    leaves = [spine.aliases[join.parent] for join in joins if join.parent not in bridges]
    waiting = [alias for alias in leaves if alias not in draft.engaged]
    if not waiting:
        return []
    tokens = {token for text in texts if text not in spine.scope.joins for token in _TOKEN.findall(text)}
    told = {f.source for f in spine.scope.fields if f.sql in tokens or f.qualified in tokens}
    return [alias for alias in waiting if alias not in told]


def engage(draft: Draft, spine: Spine, select: Select, *, shown: bool = True) -> None:
    """Give each joined table that has no other part in the SELECT a condition: no join is for nothing.

    Args:
        shown: whether the name of a table's only row may be put out as well, and be grouped by where there are groups.

    Raises:
        DeadEndError: nothing sensible can be said of such a table.
    """
    texts = [*select.items, *select.where, select.group, select.order, select.having, select.qualify]
    for alias in idle_sources(draft, spine, texts):
        own = replace(spine.scope, fields=tuple(f for f in spine.scope.fields if f.source == alias))
        conditions = draw_conditions(draft, own, 1)
        select.where += conditions
        if conditions:
            continue
        name = only_name(own, alias)
        if name is None or not shown:
            raise DeadEndError
        if select.group:
            select.items.append(name.sql)
            select.group += f", {len(select.items)}" if select.group[0].isdigit() else f", {name.sql}"
        elif any(_AGGREGATE.match(item) for item in select.items):
            select.items.insert(0, name.sql)
            select.group = name.sql if len(select.items) < 2 or draft.chance(0.8) else "1"
        else:
            select.items.append(name.sql)


_AGGREGATE = re.compile(
    r"(?:ROUND\()?(?:100\.0 \* )?(?:COUNT|SUM|AVG|MIN|MAX|MEDIAN|QUANTILE_CONT|STDDEV_SAMP|STRING_AGG)\("
)


def only_name(scope: Scope, alias: str) -> Field | None:
    """Return the column that names the only row of a table; a condition on it would say nothing."""
    options = [
        f
        for f in with_role(scope, "text", "category", "identifier")
        if f.source == alias and f.table.num_rows == 1 and f.column.kind == "text" and names_a_thing(f.label)
    ]
    options = [f for f in options if all(3 <= len(str(value)) <= 30 for value in f.present)]
    ranked = sorted(options, key=lambda f: (f.label.split("_")[-1] != "name", f.column.role == "identifier"))
    return ranked[0] if ranked else None


def grouped(
    draft: Draft,
    spine: Spine,
    num_keys: int,
    num_values: int,
    conditions: Sequence[str],
    *,
    entity: bool | None = None,
    keys: Sequence[Expression] = (),
    plain: bool = False,
) -> Grouping:
    """Return a grouped SELECT, its keys before its aggregates, without HAVING, ORDER BY or LIMIT.

    Args:
        entity: whether the first keys are what tells the rows of a table apart (an id, a name); None: drawn.
        keys: keys to begin with.
        plain: aggregates only of a kind that stays comparable (no minimum, no percentage).

    Raises:
        DeadEndError: the scope has nothing to group by or to measure.
    """
    taken: set[str] = set()
    scope = spine.scope
    chosen = list(keys)
    things = [thing for thing in entities(scope) if not draft.constrained & {f.sql for f in thing}]
    # Rows that are told apart make no groups.
    things = [thing for thing in things if thing[0].source != spine.aliases[0] or not thing[0].column.profile.unique]
    if entity is None:
        entity = bool(things) and draft.chance(0.3)
    if entity and things:
        idle = set(idle_sources(draft, spine, conditions))
        thing = draft.pick([(4.0 if option[0].source in idle else 1.0, option) for option in things])
        chosen += [Expression(f.sql, f.label, f.num_distinct, (f.sql,), 1.0, f.column.kind) for f in thing]
    used = {use for key in chosen for use in key.uses}
    options = [key for key in dimensions(scope) if not used & set(key.uses)]
    options = [key for key in options if not draft.constrained & set(key.uses)]
    idle = set(idle_sources(draft, spine, [*conditions, *(key.sql for key in chosen)]))
    wanted = {f.sql for f in scope.fields if f.source in idle}
    options = [replace(key, weight=4 * key.weight) if wanted & set(key.uses) else key for key in options]
    chosen += draft.some(options, max(0, num_keys - len(chosen)), scope, chosen)
    if not chosen or (all(key.sql.startswith("CASE") for key in chosen) and draft.chance(0.5)):
        raise DeadEndError  # rather another question than one about bands alone
    used = {use for key in chosen for use in key.uses}
    measurable = [value for value in aggregates(scope) if not used & set(value.uses)]
    # The share of one category says little where a condition has chosen among them.
    measurable = [value for value in measurable if not _tests(value) or not draft.constrained & set(value.uses)]
    measurable = [value for value in measurable if not _is_bounded(draft, value)]
    measurable = [value for value in measurable if not set(value.uses) & _single_in_group(spine, chosen)]
    settled = _settled(draft, scope, used)
    measurable = [value for value in measurable if not _tests(value) or value.uses[0] not in settled]
    if plain:
        measurable = [value for value in measurable if value.sql.startswith(("COUNT(*)", "SUM(", "AVG("))]
        measurable = [value for value in measurable if "CASE" not in value.sql and "FILTER" not in value.sql]
    values = draft.some(measurable, num_values)
    if not values:
        raise DeadEndError
    told = [*conditions, *(key.sql for key in chosen), *(value.sql for value in values)]
    for alias in idle_sources(draft, spine, told):
        if only := only_name(spine.scope, alias):
            # Before the last key, which may be the time that a trend follows.
            chosen.insert(len(chosen) - 1, Expression(only.sql, only.label, 1, (only.sql,), 1.0, only.column.kind))
    key_names = [draft.output_of(key, scope, taken) for key in chosen]
    value_names = [draft.output(value.name, taken) for value in values]
    select = Select(scope.from_sql, where=list(conditions))
    for key, name in zip(chosen, key_names, strict=True):
        select.items.append(draft.named(key.sql, name))
    select.items += [f"{value.sql} AS {name}" for value, name in zip(values, value_names, strict=True)]
    select.group = (
        ", ".join(str(position + 1) for position in range(len(chosen)))
        if draft.chance(0.15)
        else ", ".join(key.sql for key in chosen)
    )
    engage(draft, spine, select)
    return Grouping(
        select,
        tuple(replace(key, sql=name, name=name) for key, name in zip(chosen, key_names, strict=True)),
        tuple(
            replace(value, sql=name, name=name, num_distinct=0) for value, name in zip(values, value_names, strict=True)
        ),
        tuple(key.sql for key in chosen),
        tuple(value.sql for value in values),
    )


def having(draft: Draft, grouping: Grouping) -> str:
    """Return a threshold on one aggregate that some groups pass and some do not; empty where there is none.

    It fixes the WHERE of the grouping: the threshold depends on what is left by it.
    """
    select = grouping.select
    select.where = [draft.fixed(condition) for condition in select.where]
    rows = draft.rows(select.sql())
    if len(rows) < 3:
        return ""
    options: list[tuple[float, str]] = []
    first = len(grouping.keys)
    for position, sql in enumerate(grouping.value_sql):
        values = [value for row in rows if (value := as_float(row[first + position])) is not None]
        values.sort()
        if len(values) < 3 or values[0] == values[-1]:
            continue
        for at in (len(values) // 4, len(values) // 2):
            cut = _rounded(values[at])
            if values[0] < cut < values[-1]:
                options.append((1.0, f"{sql} > {number(cut)}"))
        for at in (len(values) // 2, 3 * len(values) // 4):
            cut = _rounded(values[at])
            if values[0] < cut < values[-1]:
                options.append((0.4, f"{sql} < {number(cut)}"))
        low, high = _rounded(values[len(values) // 5]), _rounded(values[4 * len(values) // 5])
        if low < high:
            options.append((0.3, f"{sql} BETWEEN {number(low)} AND {number(high)}"))
    counts = [(0.3, "COUNT(*) > 1")] if not any(sql == "COUNT(*)" for sql in grouping.value_sql) else []
    if not options:
        return ""
    condition = draft.builder.choice("having", options)
    if counts and draft.chance(0.1):
        condition += " AND COUNT(*) > 1"
    return condition


def _is_bounded(draft: Draft, value: Expression) -> bool:
    """Whether it is the least or greatest of a column that a condition bounds already."""
    return value.sql.startswith(("MIN(", "MAX(")) and bool(draft.constrained & set(value.uses))


def _single_in_group(spine: Spine, keys: Sequence[Expression]) -> set[str]:
    """Return the columns of the grain that point to the very thing that a group is: counted, they give one."""
    scope, told = spine.scope, set[str]()
    things = {f.source for f in scope.fields_named({use for key in keys for use in key.uses}) if _names_row(f)}
    for join in spine.skeleton.joins[: len(spine.aliases) - 1]:
        if join.child == 0 and spine.aliases[join.parent] in things:
            told.update(
                f.sql for f in scope.fields if f.source == spine.aliases[0] and f.column.name in join.key.columns
            )
    return told


def tells_rows_apart(scope: Scope, key: str) -> bool:
    """Whether a grouping key is a number or a name, so that a group within it is one of a kind."""
    return any(map(_names_row, scope.fields_named([key])))


def _names_row(f: Field) -> bool:
    return f.column.role in ("identifier", "text")


def _tests(value: Expression) -> bool:
    """Whether an aggregate looks at the rows that meet a condition of its own."""
    return " WHEN " in value.sql or "FILTER" in value.sql


def clocks_tested(draft: Draft, scope: Scope, values: Sequence[Expression]) -> list[str]:
    """Return the columns of the clocks of which aggregates look at a part: mornings have no PM."""
    tested = {f.source for f in scope.fields_named({value.uses[0] for value in values if _tests(value)})}
    return [f.sql for f in scope.fields if f.source in tested and draft.graph.is_clock(f.table.name)]


def _settled(draft: Draft, scope: Scope, keys: Collection[str]) -> set[str]:
    """Return the columns whose value is known within each group, that settle the group, or are of its calendar.

    Of a clock, all are as soon as a condition is on one.
    """
    chosen = scope.fields_named(keys)
    timed = {key.source for key in chosen if draft.graph.is_calendar(key.table.name)}
    timed |= {f.source for f in scope.fields if f.source in draft.engaged and draft.graph.is_clock(f.table.name)}
    return {
        f.sql
        for f in scope.fields
        if f.source in timed
        or (
            f.column.role == "category"
            and any(determines(key, f) or determines(f, key) or say_the_same(key, f) for key in chosen)
        )
    }


def as_float(value: object) -> float | None:
    """Return a number that a database handed over; None for anything else."""
    try:
        return float(value)  # type: ignore[arg-type]  # Decimal and numbers; anything else is no threshold
    except (TypeError, ValueError):
        return None


def _rounded(value: float) -> float:
    cut = float(f"{value:.2g}")
    return int(cut) if cut.is_integer() else cut


def limit(draft: Draft) -> str:
    """Return a number of rows for LIMIT; who runs the query drops one that is not reached."""
    numbers = (1, 3, 5, 8, 10, 12, 15, 20, 25, 30, 40, 50, 75, 100, 200) if draft.shared else (5, 10, 20, 25, 50, 100)
    return draft.builder.choice("limit", [(1.0, str(number)) for number in numbers])


def by_values(draft: Draft, grouping: Grouping) -> str:
    """Return an ORDER BY by one aggregate and then by the keys, so that the order is total."""
    values = grouping.values if draft.shared else [draft.pick([(1.0, expression) for expression in grouping.values])]
    value = draft.builder.choice("value", [(1.0, expression.name) for expression in values])
    way = draft.builder.choice("direction", [(4, " DESC"), (1, "")])
    return ", ".join([value + way, *(key.name for key in grouping.keys)])


def by_keys(grouping: Grouping) -> str:
    """Return an ORDER BY by the keys."""
    return ", ".join(key.name for key in grouping.keys)


def total_order(scope: Scope, shown: Sequence[str], sources: Sequence[tuple[str, Table]]) -> list[str]:
    """Return what makes an order over rows of the scope total: the primary key of its grain, or all that is shown."""
    alias, grain = sources[0]
    own = [f for f in scope.fields if f.source == alias]
    if any(f.sql in shown and f.column.profile.unique and grain.num_rows == f.column.profile.num_sampled for f in own):
        return list(shown)
    keys = [f.sql for name in grain.primary_key for f in own if f.column.name == name]
    return keys if keys and len(keys) == len(grain.primary_key) else list(shown)
