"""The tables, columns and keys of a run's databases, as `schema.json` keeps them beside the pool.

Names and types alone, no content: what a report needs to say what a corpus leaves out, without the databases.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rayfactory.databases.schema import Schema

FILE = "schema.json"


@dataclass(frozen=True, slots=True)
class TableOutline:
    """One base table."""

    name: str
    num_rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KeyOutline:
    """A foreign key; the columns are pairwise."""

    table: str
    columns: tuple[str, ...]
    referenced_table: str
    referenced_columns: tuple[str, ...]

    @property
    def pairs(self) -> frozenset[tuple[tuple[str, str], tuple[str, str]]]:
        """The pairs of columns that a join along it equates, as `structure.Structure.joins` has them."""
        found = set()
        for column, referenced in zip(self.columns, self.referenced_columns, strict=True):
            a, b = (self.table.lower(), column.lower()), (self.referenced_table.lower(), referenced.lower())
            found.add((a, b) if a <= b else (b, a))
        return frozenset(found)

    def __str__(self) -> str:
        columns, referenced = ", ".join(self.columns), ", ".join(self.referenced_columns)
        return f"{self.table} ({columns}) -> {self.referenced_table} ({referenced})"


@dataclass(frozen=True, slots=True)
class Outline:
    """One database."""

    database: str
    dialect: str
    tables: tuple[TableOutline, ...]
    foreign_keys: tuple[KeyOutline, ...]

    @property
    def columns(self) -> dict[str, frozenset[str]]:
        """The columns of each table, all in lower case."""
        return {table.name.lower(): frozenset(map(str.lower, table.columns)) for table in self.tables}

    @classmethod
    def of(cls, schema: Schema) -> Outline:
        """Return the outline of a schema."""
        return cls(
            schema.database,
            schema.dialect,
            tuple(
                TableOutline(table.name, table.num_rows, tuple(column.name for column in table.columns))
                for table in schema.tables
            ),
            tuple(
                KeyOutline(key.table, key.columns, key.referenced_table, key.referenced_columns)
                for key in schema.foreign_keys
            ),
        )


def to_json(schemas: Iterable[Schema]) -> Iterator[dict[str, Any]]:
    """Yield the outlines of schemas as `schema.json` has them."""
    for outline in map(Outline.of, schemas):
        yield {
            "database": outline.database,
            "dialect": outline.dialect,
            "tables": [
                {"name": table.name, "rows": table.num_rows, "columns": list(table.columns)} for table in outline.tables
            ],
            "foreign_keys": [
                [key.table, list(key.columns), key.referenced_table, list(key.referenced_columns)]
                for key in outline.foreign_keys
            ],
        }


def read_outlines(run_dir: Path) -> Mapping[str, Outline]:
    """Return the outlines of a run's databases by name; none where the run has no such file, or it cannot be read."""
    try:
        data = json.loads((run_dir / FILE).read_text(encoding="utf-8"))
        outlines = [
            Outline(
                database["database"],
                database["dialect"],
                tuple(
                    TableOutline(table["name"], int(table["rows"]), tuple(table["columns"]))
                    for table in database["tables"]
                ),
                tuple(
                    KeyOutline(table, tuple(columns), referenced, tuple(referenced_columns))
                    for table, columns, referenced, referenced_columns in database["foreign_keys"]
                ),
            )
            for database in data
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}
    return {outline.database: outline for outline in outlines}
