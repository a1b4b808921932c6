"""Both offline authors over any schema: random names, types, keys and sizes, as real databases."""

from __future__ import annotations

import datetime as dt
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfactory.config import ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import read_schema
from rayfactory.databases.engine import Database, connect
from rayfactory.databases.metadata import Metadata
from rayfactory.databases.schema import ForeignKey
from rayfactory.errors import StatementError
from rayfactory.models.grammar import write_queries
from rayfactory.models.variation import write_variations
from rayfactory.sql.safety import check_safe
from rayfactory.sql.statement import parse

TYPES = (
    "INTEGER",
    "BIGINT",
    "TINYINT",
    "DOUBLE",
    "DECIMAL(18,2)",
    "VARCHAR",
    "DATE",
    "TIMESTAMP",
    "TIME",
    "BOOLEAN",
    "BLOB",
)
TEXTS = (
    "",
    "a",
    "Hello World",
    "O'Brien",
    "naïve café",
    "x" * 200,
    "100%",
    "a_b",
    "2001-01-01",
    "12",
    "日本",
    "new\nline",
    "\\",
)
WORDS = (
    "id",
    "order",
    "Select",
    "größe",
    "my col",
    'a"b',
    "it's",
    "price",
    "qty",
    "total_amount",
    "日付",
    "type",
    "rowid",
    "t",
    "1st",
)

# Names that the allow-list takes for files or for the databases' own tables are left out.
names = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1, max_size=10),
).filter(
    lambda name: (
        not name.lower().startswith(("sqlite_", "duckdb_", "pg_", "pragma_"))
        and "/" not in name
        and not name.lower().endswith((".csv", ".parquet"))
    )
)


@dataclass(frozen=True)
class TablePlan:
    """One table to be made.

    Attributes:
        key: columns of the primary key: none, one, or two of which either repeats.
        references: positions of the tables that it points to: before it, after it, itself.
    """

    name: str
    columns: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    references: tuple[int, ...]
    num_rows: int


KEYS = ((), ("own key",), ("own key", "own line"))
SIZES = (0, 1, 2, 15, 80, 300)


@st.composite
def plans(draw: st.DrawFn) -> tuple[TablePlan, ...]:
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold))
    keys = [draw(st.sampled_from(KEYS)) for _ in chosen]
    keyed = [position for position, key in enumerate(keys) if key]
    tables: list[TablePlan] = []
    for name, key in zip(chosen, keys, strict=True):
        columns = draw(
            st.lists(
                st.tuples(names, st.sampled_from(TYPES)), min_size=1, max_size=8, unique_by=lambda c: c[0].casefold()
            )
        )
        references = draw(st.lists(st.sampled_from(keyed), max_size=2)) if keyed else []
        tables.append(TablePlan(name, tuple(columns), key, tuple(references), draw(st.sampled_from(SIZES))))
    return tuple(tables)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def value(rng: Random, declared_type: str) -> object:
    if rng.random() < 0.1:
        return None
    match declared_type:
        case "INTEGER":
            return rng.choice([rng.randint(0, 5), rng.randint(-1000, 1000), rng.randint(0, 2**31 - 1)])
        case "BIGINT":
            return rng.randint(-(2**60), 2**60)
        case "TINYINT":
            return rng.randint(-128, 127)
        case "DOUBLE":
            return rng.choice([rng.random(), rng.random() * 1e300, 0.0, float("inf"), -rng.random() * 1e4])
        case "DECIMAL(18,2)":
            return rng.randint(0, 100_000) / 100
        case "VARCHAR":
            return rng.choice(TEXTS)
        case "BOOLEAN":
            return rng.random() < 0.5
        case "BLOB":
            return b"\x00\xff"
        case _:
            moment = dt.datetime(1990, 1, 1) + dt.timedelta(minutes=rng.randrange(12_000_000))  # noqa: DTZ001
            text = moment.isoformat(sep=" ")
            return {"DATE": text[:10], "TIME": text[11:]}.get(declared_type, text)


def key_of(row: int, plan: TablePlan) -> list[object]:
    """Return the key of a row: its number, or that of a group of three and the place in it."""
    keys: tuple[list[object], ...] = ([], [row + 1], [row // 3 + 1, row % 3 + 1])
    return keys[len(plan.key)]


def build(folder: str, dialect: str, tables: tuple[TablePlan, ...], seed: int) -> tuple[Database, Metadata]:
    """Write the planned tables with random rows; return with them the references that the file does not declare."""
    path = Path(folder) / "any.db"
    connection: sqlite3.Connection | duckdb.DuckDBPyConnection
    connection = sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(str(path))
    rng = Random(seed)
    undeclared: list[ForeignKey] = []
    for position, plan in enumerate(tables):
        others = plan.references
        own = [f"ref {number} {part}" for number, other in enumerate(others) for part in tables[other].key]
        columns = [(name, "INTEGER") for name in (*plan.key, *own)]
        columns += [column for column in plan.columns if column[0].casefold() not in {name for name, _ in columns}]
        parts = [f"{quoted(name)} {declared_type}" for name, declared_type in columns]
        if plan.key:
            parts.append(f"PRIMARY KEY ({', '.join(quoted(name) for name in plan.key)})")
        for number, other in enumerate(others):
            ends = tuple(f"ref {number} {part}" for part in tables[other].key)
            if dialect == "duckdb" and other >= position:  # it knows no table that is made later, and no later row
                undeclared.append(ForeignKey(plan.name, ends, tables[other].name, tables[other].key))
                continue
            parts.append(
                f"FOREIGN KEY ({', '.join(map(quoted, ends))}) REFERENCES {quoted(tables[other].name)} "
                f"({', '.join(map(quoted, tables[other].key))})"
            )
        connection.execute(f"CREATE TABLE {quoted(plan.name)} ({', '.join(parts)})")
        rows: list[list[object]] = []
        for row in range(plan.num_rows):
            values = key_of(row, plan)
            for other in others:
                size = tables[other].num_rows
                is_set = size > 0 and rng.random() < 0.9
                values += key_of(rng.randrange(size), tables[other]) if is_set else [None] * len(tables[other].key)
            rows.append([*values, *(value(rng, declared_type) for _, declared_type in columns[len(values) :])])
        if rows:
            marks = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {quoted(plan.name)} VALUES ({marks})", rows)
    connection.commit()
    connection.close()
    return Database("any", dialect, str(path)), Metadata(foreign_keys=tuple(undeclared))


def outcome(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> tuple[int, list[str]]:
    """Return how many queries both authors wrote over a schema, with an engine and without, and what does not run."""
    found: list[str] = []
    written: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        database, metadata = build(folder, dialect, tables, seed)
        schema = read_schema(database, metadata, ProfileConfig(), ExecutionConfig(), fingerprint="")
        engine = connect(database, ExecutionConfig())
        for looked_up in (engine, None):
            queries = write_queries(schema, [table.name for table in tables], 3, Random(seed), looked_up)
            assert len(queries) == 3
            written += [*queries, *write_variations(schema, queries, 4, Random(seed), looked_up)]
        for sql in written:
            try:
                check_safe(parse(sql, dialect), dialect)
                engine.run(sql)
            except StatementError as error:
                found.append(f"{error}: {sql}")
        engine.close()
    return len(written), found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.sampled_from(["duckdb", "sqlite"]), plans(), st.integers(0, 2**16))
def test_any_schema(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> None:
    """Over any schema the grammar writes as many queries as it is asked for, and they and their variations run."""
    _, failed = outcome(dialect, tables, seed)
    assert not failed


@pytest.mark.slow
def test_two_thousand_schemas() -> None:
    """Of the queries that both authors write over 2,000 random schemas at least 99 % run, and nothing is raised."""
    failed: list[str] = []
    counts: list[int] = []

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(["duckdb", "sqlite"]), plans(), st.integers(0, 2**16))
    def run(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> None:
        written, found = outcome(dialect, tables, seed)
        counts.append(written)
        failed.extend(found)

    run()
    assert len(counts) >= 2000
    assert sum(counts) >= 10 * len(counts), "hardly any variation was written"
    assert len(failed) <= 0.01 * sum(counts), failed[:10]


def test_thousand_columns(tmp_path: Path) -> None:
    """A table of a thousand columns gives queries of ordinary size."""
    path = tmp_path / "wide.db"
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE wide ({', '.join(f'amount_{number} REAL' for number in range(1000))})")
    rng = Random(1)
    for _ in range(30):
        connection.execute(
            f"INSERT INTO wide VALUES ({', '.join('?' * 1000)})", [rng.random() * 100 for _ in range(1000)]
        )
    connection.commit()
    connection.close()
    database = Database("wide", "sqlite", str(path))
    schema = read_schema(database, Metadata(), ProfileConfig(), ExecutionConfig(), fingerprint="")
    engine = connect(database, ExecutionConfig())
    for sql in write_queries(schema, ["wide"], 5, Random(1), engine):
        assert len(sql) < 5_000
        engine.run(sql)
    engine.close()
