"""What the expressions of one SELECT can see: its sources, their columns, and one row that is known to be there."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

from rayfactory.databases.profile import is_constant
from rayfactory.databases.schema import Column, Schema, Table, Value
from rayfactory.models.grammar.cfg import is_plain
from rayfactory.models.grammar.syntax import quote_name, snake

MAX_COLUMNS = 60
"""Columns of one table that a grammar looks at; wider tables lend a spread of theirs."""


MIN_SAMPLE = 12
"""Fewer rows than this tell little of how a column is spread."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Nothing is known of a column in the witness row (other than that it is null)."""


MISSING = Missing()

WitnessValue = Value | None | Missing


@dataclass(frozen=True, slots=True)
class Field:
    """One column as the expressions of a scope see it.

    Attributes:
        source: alias of the source that it belongs to.
        sql: reference to it, quoted and qualified as the scope's style demands.
        qualified: the same with its qualifier in any case, for use inside a nested query.
        label: a readable name for it in snake case, without the table's prefix.
        table: base table that the column is from.
        witness: its value in the witness row; None is null.
        sample: its values in some rows of the scope, the witness row among them: how it is spread after joining.
        present: those of the sample that are constants.
        num_seen: distinct ones among them.
        mean: of a numeric column, over these or over its deciles.
    """

    source: str
    sql: str
    qualified: str
    label: str
    table: Table
    column: Column
    witness: WitnessValue = MISSING
    sample: tuple[WitnessValue, ...] = ()
    present: tuple[Value, ...] = ()
    num_seen: int = 0
    mean: float = 0.0

    @property
    def is_number(self) -> bool:
        return self.column.kind in ("integer", "real")

    @property
    def num_distinct(self) -> int:
        """Distinct values to reckon with: of the column, or fewer where a sample of the scope shows that few occur."""
        overall = self.column.profile.num_distinct
        seen = self.num_seen
        if len(self.sample) < MIN_SAMPLE or seen > len(self.sample) / 3:
            return overall
        return min(overall, seen if seen < 2 else 2 * seen)


@dataclass(frozen=True, slots=True)
class Scope:
    """The sources of one SELECT.

    Attributes:
        dialect: of the database.
        from_sql: what follows FROM.
        joins: join conditions that stand in WHERE (comma joins), to go before all others.
        fields: columns of all sources, in their order.
        num_rows: estimated rows before any predicate.
        grain: base table of which the scope holds one row each (its other sources are joined many to one).
        countable: columns of the grain that are keys and whose different values somebody counts.
        is_profile: whether the grain's rows are combinations of attributes, of which nothing is summed.
    """

    dialect: str
    from_sql: str
    joins: tuple[str, ...]
    fields: tuple[Field, ...]
    num_rows: float
    grain: Table
    countable: frozenset[str] = frozenset()
    is_profile: bool = False

    def field(self, source: str, column: str) -> Field:
        """Return the field of a source's column.

        Raises:
            KeyError: the scope has none such.
        """
        for field in self.fields:
            if field.source == source and field.column.name == column:
                return field
        raise KeyError(f"no column {column!r} of {source!r}")

    def fields_named(self, sqls: Collection[str]) -> list[Field]:
        """Return the fields that are referred to by one of some texts."""
        return [field for field in self.fields if field.sql in sqls]

    @property
    def tables(self) -> tuple[Table, ...]:
        """The base tables whose columns are in sight, each once."""
        return tuple({field.table.name: field.table for field in self.fields}.values())


def usable_columns(table: Table) -> tuple[Column, ...]:
    """Return the columns that can be written about: all of a narrow table, keys and a spread of a wide one."""
    columns = [column for column in table.columns if column.name and is_plain(column.name)]
    if len(columns) <= MAX_COLUMNS:
        return tuple(columns)
    step = len(columns) / MAX_COLUMNS
    kept = {columns[int(position * step)].name for position in range(MAX_COLUMNS)} | set(table.primary_key)
    keys = [column.name for column in columns if column.role == "key"][:MAX_COLUMNS]
    kept.update(keys)
    return tuple(column for column in columns if column.name in kept)


def shared_prefix(table: Table) -> str:
    """Return the prefix, up to an underscore, that all columns of a table share; empty where there is none."""
    if len(table.columns) <= 2:
        return ""
    names = [column.name for column in table.columns]
    # What the first and the last in order share, all share.
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first.rfind("_", 0, length) + 1]


def _mean(values: Sequence[WitnessValue]) -> float:
    numbers = [value for value in values if isinstance(value, (int, float))]
    return math.fsum(numbers) / len(numbers) if numbers else 0.0


def fields_of(table: Table, alias: str, *, qualify: bool) -> tuple[Field, ...]:
    """Return the fields of one base table under an alias."""
    prefix = quote_name(alias) + "."
    skipped = shared_prefix(table)
    return tuple(
        Field(
            source=alias,
            sql=(prefix if qualify else "") + quote_name(column.name),
            qualified=prefix + quote_name(column.name),
            label=snake(column.name.removeprefix(skipped)) or "value",
            table=table,
            column=column,
            mean=_mean(column.profile.quantiles) if column.kind in ("integer", "real") else 0.0,
        )
        for column in usable_columns(table)
    )


def base_scope(schema: Schema, aliases: Mapping[str, str], witness: Mapping[tuple[str, str], object] | None) -> Scope:
    """Return the scope of given aliases of base tables, every column qualified.

    Raises:
        KeyError: the database has no such table.
    """
    fields: list[Field] = []
    tables = [schema.table(name) for name in aliases.values()]
    for alias, table in zip(aliases, tables, strict=True):
        fields.extend(fields_of(table, alias, qualify=True))
    from_sql = ", ".join(
        f"{quote_name(table.name)} AS {quote_name(alias)}" for alias, table in zip(aliases, tables, strict=True)
    )
    grain = max(tables, key=lambda table: table.num_rows)
    scope = Scope(schema.dialect, from_sql, (), tuple(fields), float(grain.num_rows), grain)
    if witness is None:
        return scope
    return with_sample(scope, {key: (value,) for key, value in witness.items()}, 0)


def with_sample(scope: Scope, columns: Mapping[tuple[str, str], Sequence[object]], witness: int) -> Scope:
    """Return the scope with the values of some of its rows, keyed by (alias, column), and one of them as witness."""
    fields: list[Field] = []
    for field in scope.fields:
        values = columns.get((field.source, field.column.name))
        if values is None:
            fields.append(field)
        else:
            sample = _constants(values)
            present = tuple(value for value in sample if value is not None and not isinstance(value, Missing))
            fields.append(
                replace(
                    field,
                    sample=sample,
                    witness=sample[witness],
                    present=present,
                    num_seen=len(set(present)),
                    mean=_mean(present) if present and field.is_number else field.mean,
                )
            )
    return replace(scope, fields=tuple(fields))


def _constants(values: Sequence[object]) -> tuple[WitnessValue, ...]:
    """Return the values of one column as constants; one look at their types saves one at each value."""
    types = set(map(type, values))
    if types <= {int, type(None)}:
        return cast("tuple[WitnessValue, ...]", tuple(values))
    if types <= {decimal.Decimal, type(None)}:
        numbers = [value if value is None else float(cast("decimal.Decimal", value)) for value in values]
        return tuple([value if value is None or math.isfinite(value) else MISSING for value in numbers])
    if types <= {str, type(None)}:
        known = {value: as_constant(value) for value in set(values)}
        return tuple([known[value] for value in values])
    return tuple(map(as_constant, values))


def as_constant(value: object) -> WitnessValue:
    """Return what a database handed over as a constant that a query may hold; MISSING where it cannot."""
    kind = type(value)
    if value is None or kind is int or kind is bool:
        return cast("WitnessValue", value)
    if isinstance(value, str):
        return value if is_constant(value) else MISSING
    if isinstance(value, float):
        return value if math.isfinite(value) else MISSING
    if isinstance(value, decimal.Decimal):
        return float(value) if value.is_finite() else MISSING
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return MISSING


def with_role(scope: Scope, *roles: str) -> Sequence[Field]:
    """Return the fields that have one of the roles and hold at least one value."""
    return [field for field in scope.fields if field.column.role in roles and field.column.profile.num_distinct > 0]


def determines(a: Field, b: Field) -> bool:
    """Whether rows that agree in the first column agree in the second, as far as a sample can tell."""
    if a.source != b.source or len(a.sample) < MIN_SAMPLE or a.num_seen > len(a.present) / 2.5 or b.num_seen < 2:
        return False
    image: dict[WitnessValue, WitnessValue] = {}
    pairs = zip(a.sample, b.sample, strict=False)
    return all(image.setdefault(own, other) == other for own, other in pairs if own is not None and other is not None)


def run_together(a: Field, b: Field) -> bool:
    """Whether two columns of codes or dates put rows in one order, as a year and a running number of weeks do."""
    if a.source != b.source or not {a.column.role, b.column.role} <= {"code", "date", "category"}:
        return False
    if min(a.num_seen, b.num_seen) < 3 or len(a.sample) != len(b.sample) or len(a.sample) < MIN_SAMPLE:
        return False
    pairs = [
        (own, other)
        for own, other in zip(a.sample, b.sample, strict=True)
        if own is not None and other is not None and not isinstance(own, Missing) and not isinstance(other, Missing)
    ]
    if len({(type(own), type(other)) for own, other in pairs}) != 1:
        return False
    pairs.sort()  # all of one type, as was seen
    return all(left[1] <= right[1] for left, right in pairwise(pairs))  # type: ignore[operator]  # of one type


def say_the_same(a: Field, b: Field) -> bool:
    """Whether one of two columns tells nothing beside the other: a number and its name, a date and its year."""
    if a.source != b.source:
        return False
    stems = [re.sub("_?(id|code|name|desc|key|sk|no)$", "", field.label) for field in (a, b)]
    if stems[0] == stems[1] != "":
        return True
    return run_together(a, b) or (determines(a, b) and determines(b, a))
