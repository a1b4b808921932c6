"""What is in a database: tables, columns, keys, and what their content looks like.

The types here are plain values: they travel between processes, are cached as JSON, and know
nothing of the connection they were read through.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Value = int | float | str | bool
"""A constant as it stands in the database; dates and times are ISO 8601 text."""

Kind = Literal["integer", "real", "text", "date", "timestamp", "time", "boolean", "other"]
"""What the values of a column are, whatever the type is called.

An SQLite column of text that holds only ISO dates has the kind ``date``.
"""

Role = Literal["key", "identifier", "category", "code", "measure", "date", "text", "opaque"]
"""What an analyst would do with a column.

- ``key``: part of a primary or foreign key, or a surrogate: joined on and counted, nothing else.
- ``identifier``: a natural key or number that names one thing (order number, phone, e-mail): counted,
  shown, compared with a value; never grouped by, summed or averaged.
- ``category``: few distinct values: grouped by, filtered with = and IN.
- ``code``: a number that is not a quantity (year, month, zip code, hour): compared, ordered, grouped by when it has few
  distinct values; never summed or averaged.
- ``measure``: a quantity: summed, averaged, compared with ranges.
- ``date``: a date or timestamp: ranges, truncation to month or year.
- ``text``: names and free text with many values: LIKE, shown, counted distinct, ordered.
- ``opaque``: binary, nested or always null: left alone.
"""


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What the rows of a table hold in one column, from a bounded sample of them.

    Attributes:
        num_sampled: rows looked at; all rows of a small table.
        null_fraction: share of nulls among them, in [0, 1].
        num_distinct: distinct values that are not null among the sampled rows.
        minimum, maximum: of integer, real, date, timestamp and time columns; None elsewhere and
            when every value is null.
        quantiles: for the same kinds, the values at 10 %, 20 % .. 90 % of the sorted sample,
            each one a value that occurs; empty elsewhere.
        common_values: (value, share of the sampled rows) of up to 20 most frequent values, most frequent first, ties in
            ascending order; for every kind but ``other``. Text longer than 80 characters is left out.
        examples: up to 5 representative values for a prompt.
    """

    num_sampled: int
    null_fraction: float
    num_distinct: int
    minimum: Value | None = None
    maximum: Value | None = None
    quantiles: tuple[Value, ...] = ()
    common_values: tuple[tuple[Value, float], ...] = ()
    examples: tuple[Value, ...] = ()

    @property
    def unique(self) -> bool:
        """Whether no two sampled rows share a value and none is null."""
        return self.num_sampled > 0 and self.num_distinct == self.num_sampled

    @property
    def almost_unique(self) -> bool:
        """Whether there are more than nine distinct values for ten sampled rows: a name, which few rows share."""
        return self.num_distinct > 0.9 * self.num_sampled


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a base table.

    Attributes:
        name: as the database spells it, unquoted.
        declared_type: as the database spells it, for instance ``DECIMAL(7,2)``; may be empty in SQLite.
        kind: what the values are.
        role: what an analyst would do with them.
        nullable: False only where the database promises it.
        description: one line from the benchmark or from the database's comment; may be empty.
    """

    name: str
    declared_type: str
    kind: Kind
    role: Role
    nullable: bool
    profile: ColumnProfile
    description: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """One base table.

    Attributes:
        primary_key: column names in key order; empty where none is known.
        num_rows: exact number of rows when the schema was read.
    """

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...]
    num_rows: int
    description: str = ""

    def column(self, name: str) -> Column:
        """Return the column of that name (case-insensitive).

        Raises:
            KeyError: no such column.
        """
        folded = name.casefold()
        for column in self.columns:
            if column.name.casefold() == folded:
                return column
        raise KeyError(f"table {self.name!r} has no column {name!r}")


@dataclass(frozen=True, slots=True)
class View:
    """One view: never written about by the offline authors, allowed in what a model writes.

    Attributes:
        base_tables: names of the base tables it reads, as far as its definition tells.
    """

    name: str
    base_tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A reference from one table's columns to another's (or its own), possibly composite.

    Attributes:
        columns, referenced_columns: same length, pairwise.
        source: who says so: the database's own catalogue, the benchmark's files or
            specification, or rayfactory, from names and content.
    """

    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]
    source: Literal["declared", "benchmark", "inferred"] = "declared"


@dataclass(frozen=True, slots=True)
class Schema:
    """One database.

    Attributes:
        database: its name within the benchmark; unique within a run.
        dialect: sqlglot's name of its SQL dialect: ``duckdb``, ``sqlite``, ``postgres`` or ``mysql``.
        tables: base tables in the database's own order.
        foreign_keys: among `tables`; no duplicates; composite keys are one entry.
        fingerprint: sha256 hex digest that changes whenever the content may have; of a database on a server, which may
            change at any time, whenever its structure has.
        server: name and release of the server, such as ``PostgreSQL 15.18``; empty for a file.
    """

    database: str
    dialect: str
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...]
    views: tuple[View, ...] = ()
    fingerprint: str = ""
    server: str = ""
    _by_name: dict[str, Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._by_name.update((table.name.casefold(), table) for table in self.tables)

    def table(self, name: str) -> Table:
        """Return the base table of that name (case-insensitive).

        Raises:
            KeyError: no such base table.
        """
        try:
            return self._by_name[name.casefold()]
        except KeyError:
            raise KeyError(f"database {self.database!r} has no table {name!r}") from None

    @property
    def populated(self) -> tuple[Table, ...]:
        """The base tables that have rows: those that authors write about."""
        return tuple(table for table in self.tables if table.num_rows > 0)


def without_content(schema: Schema) -> Schema:
    """Return a schema that tells nothing of what its columns hold, but for what they are used as."""
    unknown = ColumnProfile(0, 0.0, 0)
    tables = [replace(t, columns=tuple(replace(c, profile=unknown) for c in t.columns)) for t in schema.tables]
    return replace(schema, tables=tuple(tables))
