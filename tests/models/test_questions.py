"""Single questions of the schema grammar, over databases made so that they would go wrong."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schema, open_benchmark
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar.draft import DeadEndError, Draft
from rayfactory.models.grammar.questions.branching import branches
from rayfactory.models.grammar.questions.grouping import subtotals
from rayfactory.models.grammar.skeleton import KeyGraph, are_alike


@contextmanager
def opened(folder: Path, ddl: str, rows: dict[str, list[tuple[object, ...]]]) -> Iterator[tuple[Schema, Engine]]:
    """Yield an SQLite database of some tables with rows, as the program sees it."""
    path = folder / "made.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(ddl)
    for table, values in rows.items():
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)
    connection.commit()
    connection.close()
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(path)), folder)
    (database,) = benchmark.databases
    schema = load_schema(benchmark, database, ProfileConfig(), ExecutionConfig(), folder)
    engine = connect(database, ExecutionConfig())
    yield schema, engine
    engine.close()


def drafts(schema: Schema, engine: Engine, number: int) -> Iterator[Draft]:
    wanted = [table.name for table in schema.tables]
    for seed in range(number):
        yield Draft(KeyGraph(schema), wanted, Random(seed), engine, Counter())


def test_subtotals_are_of_groups_and_not_of_the_only_row(tmp_path: Path) -> None:
    """Beside the name of a table's single row there is a key by which totals differ."""
    rng = Random(3)
    ddl = """CREATE TABLE warehouse (warehouse_id INTEGER PRIMARY KEY, warehouse_name TEXT);
        CREATE TABLE sale (sale_id INTEGER PRIMARY KEY, warehouse_id INTEGER REFERENCES warehouse (warehouse_id),
        channel TEXT, size TEXT, quantity INTEGER, price REAL);"""
    sales: list[tuple[object, ...]] = [
        (i, 1, rng.choice(["web", "shop", "mail"]), rng.choice(["small", "large"]), rng.randint(1, 90), rng.random())
        for i in range(600)
    ]
    asked = 0
    with opened(tmp_path, ddl, {"warehouse": [(1, "Central Depot")], "sale": sales}) as (schema, engine):
        for draft in drafts(schema, engine, 60):
            try:
                sql = draft.fixed(subtotals(draft))
            except DeadEndError:
                continue
            asked += 1
            found = draft.rows(sql)
            assert len(found) > 2, sql
            assert found[0][0] != "Central Depot", sql
    assert asked > 5


def test_branches_that_are_to_be_alike_are_several(tmp_path: Path) -> None:
    """Days and profiles tie only tables that are alike; where one of them is left alone there is no question."""
    ddl = """CREATE TABLE calendar (day_id INTEGER PRIMARY KEY, day DATE, year INTEGER, month INTEGER, weekday TEXT);
        CREATE TABLE b1 (b1_id INTEGER PRIMARY KEY, grade TEXT); CREATE TABLE b2 (b2_id INTEGER PRIMARY KEY, rank TEXT);
        CREATE TABLE pilot (pilot_id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE driver (driver_id INTEGER PRIMARY KEY, name TEXT);"""
    keys = {"day_id": "calendar", "b1_id": "b1", "b2_id": "b2", "pilot_id": "pilot", "driver_id": "driver"}
    facts = {
        "air_trip": ("day_id", "b1_id", "b2_id", "pilot_id"),
        "road_trip": ("day_id", "b1_id", "b2_id", "driver_id"),
        "flight_log": ("day_id", "pilot_id"),
        "drive_note": ("day_id", "driver_id"),
    }
    rng = Random(5)
    rows: dict[str, list[tuple[object, ...]]] = {
        "calendar": [(i, f"2024-{1 + i % 12:02}-{1 + i % 28:02}", 2024, 1 + i % 12, f"day{i % 7}") for i in range(40)],
        "b1": [(i, f"grade {i % 4}") for i in range(40)],
        "b2": [(i, f"rank {i % 3}") for i in range(40)],
        "pilot": [(i, f"Pilot {i}") for i in range(40)],
        "driver": [(i, f"Driver {i}") for i in range(40)],
    }
    for table, columns in facts.items():
        declared = ", ".join(f"{name} INTEGER REFERENCES {keys[name]} ({name})" for name in columns)
        ddl += f"CREATE TABLE {table} ({table}_id INTEGER PRIMARY KEY, {declared}, hours INTEGER);"
        rows[table] = [(i, *(rng.randrange(40) for _ in columns), rng.randint(1, 9)) for i in range(200)]
    with opened(tmp_path, ddl, rows) as (schema, engine):
        assert are_alike(schema, "air_trip", "road_trip")
        for draft in drafts(schema, engine, 30):
            for found in (branches(draft, 2, apart=True, alike=True), branches(draft, 2, apart=True)):
                tables = {branch.key.table for branch in found}
                shared = found[0].key.referenced_table
                assert tables == {"air_trip", "road_trip"} or (len(found) == 2 and shared in ("pilot", "driver"))
            loose = [table for table in draft.wanted if table not in ("pilot", "driver", "road_trip")]
            with pytest.raises(DeadEndError):
                branches(Draft(draft.graph, loose, draft.rng, engine, Counter()), 2, apart=True, alike=True)


CLOCK = "hour INTEGER, minute INTEGER, second INTEGER"
CALENDAR = "full_dt DATE, month INTEGER, quarter INTEGER, week INTEGER"


@pytest.mark.parametrize(
    ("columns", "row", "is_clock"), [(CLOCK, (7, 30, 0), True), (CALENDAR, ("2024-03-01", 3, 1, 9), False)]
)
def test_clocks_are_told_from_calendars(
    tmp_path: Path, columns: str, row: tuple[object, ...], *, is_clock: bool
) -> None:
    """A clock has no part of a year; both are moments."""
    ddl = f"""CREATE TABLE times (time_id INTEGER PRIMARY KEY, {columns});
        CREATE TABLE event (event_id INTEGER PRIMARY KEY, time_id INTEGER REFERENCES times (time_id));"""
    with opened(tmp_path, ddl, {"times": [(1, *row), (2, *row)], "event": [(1, 1), (2, 2)]}) as (schema, _):
        graph = KeyGraph(schema)
        assert graph.is_calendar("times")
        assert graph.is_clock("times") is is_clock
