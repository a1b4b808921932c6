"""Statements that mean harm come to nothing: by both walls together, and by the second one alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.engine import Database
from rayfactory.databases.sandbox import Sandbox
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.tools.execution import ExecutionTool, examine
from tests.trust.hostile import DIALECTS, WALL_REASONS, Bait, Hostile, statements
from tests.trust.scene import ROWS, Scene

LIMITS = ExecutionConfig(timeout_s=0.3, max_rows=1_000, memory_mb=256)


@pytest.fixture(params=["sqlite", "duckdb"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.listener.close()


def of(dialect: str, bait: Bait) -> list[Hostile]:
    return [statement for statement in statements(bait) if statement.dialect == dialect]


def schema_of(database: Database) -> Schema:
    folder = Path(database.path).parent
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=database.path), folder / "cache")
    (schema,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), folder / "cache")
    return schema


def test_there_are_more_than_a_thousand(tmp_path: Path):
    counts = Counter((each.dialect, each.family) for each in statements(Bait(tmp_path, 1)))
    assert {dialect for dialect, _ in counts} == set(DIALECTS)
    assert sum(counts.values()) > 1_000
    assert min(counts.values()) >= 1


@pytest.mark.parametrize("dialect", DIALECTS)
def test_first_wall_turns_every_one_down_and_says_what_for(dialect: str, tmp_path: Path):
    passed = []
    for statement in of(dialect, Bait(tmp_path, 1)):
        examined = examine(statement.sql, dialect)
        if examined.reason is not None:
            assert examined.reason in WALL_REASONS
            assert examined.detail
        elif statement.reasons == WALL_REASONS:
            passed.append(statement.sql)
            # A file of this name may be a table's name as well; it is no table of the database.
            assert set(examined.tables) - {"t"}, statement
    assert len(passed) <= 40


def test_nothing_comes_of_any_statement(scene: Scene):
    database = replace(scene.database, name="shop")
    tool = ExecutionTool({"shop": database}, {"shop": replace(schema_of(database), database="shop")}, LIMITS)
    scene.take_stock()
    for statement in of(database.dialect, scene.bait):
        found = tool.run("shop", statement.sql, examine(statement.sql, database.dialect))
        if statement.reasons == WALL_REASONS:
            assert found.reason in WALL_REASONS | {"error"}, statement
        else:
            assert found.reason is None or found.reason in statement.reasons, statement
        scene.check(statement.sql)
    good = tool.run("shop", "SELECT i FROM t", examine("SELECT i FROM t", database.dialect))
    assert (good.reason, good.row_count) == (None, ROWS)
    tool.close()


def test_nothing_comes_of_any_statement_without_the_first_wall(scene: Scene):
    """What the database itself lets pass, it does without effect."""
    sandbox = Sandbox({"shop": scene.database}, LIMITS)
    outcomes: Counter[str] = Counter()
    for statement in of(scene.database.dialect, scene.bait):
        try:
            sandbox.run("shop", statement.sql)
            outcomes["ran"] += 1
        except StatementError as error:
            outcomes[error.reason] += 1
        scene.check(statement.sql)
    scene.check_content()
    assert sandbox.run("shop", "SELECT i FROM t").row_count == ROWS
    assert outcomes["error"] > 300
    if scene.database.dialect == "duckdb":
        kept = {"threads": "1", "lock_configuration": "true", "enable_external_access": "false"}
        for name, value in kept.items():
            asked = f"SELECT 1 FROM duckdb_settings() WHERE name = '{name}' AND value = '{value}'"
            assert sandbox.run("shop", asked).row_count == 1
    sandbox.close()
