"""The schema grammar over any schema: random names, types, keys and sizes, as real databases."""

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
from rayfactory.errors import StatementError
from rayfactory.models.grammar import write_queries
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
    name: str
    columns: tuple[tuple[str, str], ...]
    has_key: bool
    references: tuple[int, ...]
    num_rows: int


@st.composite
def plans(draw: st.DrawFn) -> tuple[TablePlan, ...]:
    chosen = draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold))
    tables: list[TablePlan] = []
    for position, name in enumerate(chosen):
        columns = draw(
            st.lists(
                st.tuples(names, st.sampled_from(TYPES)), min_size=1, max_size=8, unique_by=lambda c: c[0].casefold()
            )
        )
        keyed = [other for other in range(position) if tables[other].has_key]
        references = draw(st.lists(st.sampled_from(keyed), max_size=2)) if keyed else []
        tables.append(
            TablePlan(
                name, tuple(columns), draw(st.booleans()), tuple(references), draw(st.sampled_from([0, 1, 2, 15, 80]))
            )
        )
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


def build(folder: str, dialect: str, tables: tuple[TablePlan, ...], seed: int) -> Database:
    """Write the planned tables with random rows."""
    path = Path(folder) / "any.db"
    connection: sqlite3.Connection | duckdb.DuckDBPyConnection
    connection = sqlite3.connect(path) if dialect == "sqlite" else duckdb.connect(str(path))
    rng = Random(seed)
    for plan in tables:
        columns = [("own key", "INTEGER PRIMARY KEY")] if plan.has_key else []
        columns += [(f"ref {number}", "INTEGER") for number in range(len(plan.references))]
        columns += [column for column in plan.columns if column[0].casefold() not in {name for name, _ in columns}]
        parts = [f"{quoted(name)} {declared_type}" for name, declared_type in columns]
        for number, other in enumerate(plan.references):
            parts.append(f'FOREIGN KEY ("ref {number}") REFERENCES {quoted(tables[other].name)} ("own key")')
        connection.execute(f"CREATE TABLE {quoted(plan.name)} ({', '.join(parts)})")
        for row in range(plan.num_rows):
            values: list[object] = [row + 1] if plan.has_key else []
            for other in plan.references:
                size = tables[other].num_rows
                values.append(rng.randint(1, size) if size and rng.random() < 0.9 else None)
            values += [value(rng, declared_type) for _, declared_type in columns[len(values) :]]
            marks = ", ".join("?" * len(values))
            connection.execute(f"INSERT INTO {quoted(plan.name)} VALUES ({marks})", values)
    connection.commit()
    connection.close()
    return Database("any", dialect, str(path))


def failures(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> list[str]:
    """Return what does not run of five queries with an engine and five without."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        database = build(folder, dialect, tables, seed)
        schema = read_schema(database, Metadata(), ProfileConfig(), ExecutionConfig(), fingerprint="")
        engine = connect(database, ExecutionConfig())
        for author in (engine, None):
            queries = write_queries(schema, [table.name for table in tables], 5, Random(seed), author)
            assert len(queries) == 5
            for sql in queries:
                try:
                    check_safe(parse(sql, dialect), dialect)
                    engine.run(sql)
                except StatementError as error:
                    found.append(f"{error}: {sql}")
        engine.close()
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.sampled_from(["duckdb", "sqlite"]), plans(), st.integers(0, 2**16))
def test_any_schema(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> None:
    """Over any schema the grammar writes as many queries as it is asked for, and they run."""
    assert not failures(dialect, tables, seed)


@pytest.mark.slow
def test_two_thousand_schemas() -> None:
    """Of the queries over 2,000 random schemas at least 99 % run."""
    failed: list[str] = []

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(["duckdb", "sqlite"]), plans(), st.integers(0, 2**16))
    def run(dialect: str, tables: tuple[TablePlan, ...], seed: int) -> None:
        failed.extend(failures(dialect, tables, seed))

    run()
    assert len(failed) <= 0.01 * 2000 * 10, failed[:10]


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
