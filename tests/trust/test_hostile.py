"""Statements that mean harm come to nothing: by both walls together, and by the second one alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import Benchmark, load_schema, load_schemas, open_benchmark
from rayfactory.databases.engine import Database
from rayfactory.databases.sandbox import Sandbox
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.records import Execution
from rayfactory.tools.execution import ExecutionTool
from rayfactory.tools.execution import examine as examine_once
from tests import servers
from tests.trust.bait import Bait
from tests.trust.hostile import BOMB_REASONS, DIALECTS, UNSTOPPABLE, WALL_REASONS, Hostile, statements
from tests.trust.scene import ROWS, SERVER_TIMEOUT_S, Scene, ServerScene, in_time

LIMITS = ExecutionConfig(timeout_s=0.3, max_rows=1_000, memory_mb=256)
SERVER_LIMITS = replace(LIMITS, timeout_s=SERVER_TIMEOUT_S)


@cache
def examine(sql: str, dialect: str) -> Execution:
    """Return what the first wall says; most statements meet it in several tests."""
    return examine_once(sql, dialect)


@pytest.fixture(params=["sqlite", "duckdb"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path, request.param)
    yield scene
    scene.listener.close()


@pytest.fixture(params=["postgres", "mysql"])
def server(request: pytest.FixtureRequest) -> servers.Server:
    name = "postgresql_server" if request.param == "postgres" else "mariadb_server"
    found: servers.Server = request.getfixturevalue(name)
    return found


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
    assert sum(counts.values()) > 8_000
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
    alive = examine("SELECT i FROM t", database.dialect)
    good = in_time(lambda: tool.run("shop", "SELECT i FROM t", alive))
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
    assert in_time(lambda: sandbox.run("shop", "SELECT i FROM t")).row_count == ROWS
    assert outcomes["error"] > 300
    if scene.database.dialect == "duckdb":
        kept = {"threads": "1", "lock_configuration": "true", "enable_external_access": "false"}
        for name, value in kept.items():
            asked = f"SELECT 1 FROM duckdb_settings() WHERE name = '{name}' AND value = '{value}'"
            assert in_time(partial(sandbox.run, "shop", asked)).row_count == 1
    sandbox.close()


@pytest.mark.parametrize("user", ["reader", "owner"])
def test_nothing_comes_of_any_statement_on_a_server(server: servers.Server, user: str, tmp_path: Path):
    """Both walls hold also where the connection is that of somebody who may do anything."""
    scene = ServerScene(server, user)
    database = replace(scene.database, name="shop")
    schema = load_schema(Benchmark("custom", (database,)), database, ProfileConfig(), LIMITS, tmp_path)
    tool = ExecutionTool({"shop": database}, {"shop": schema}, SERVER_LIMITS)
    for statement in of(database.dialect, scene.bait):
        if len(statement.sql) > 20_000:  # seconds to parse, and they were parsed in another test
            continue
        found = tool.run("shop", statement.sql, examine(statement.sql, database.dialect))
        if statement.reasons == WALL_REASONS:
            assert found.reason in WALL_REASONS, statement
        else:
            assert found.reason is None or found.reason in statement.reasons, statement
    scene.check(database.dialect)
    scene.check_content()
    alive = examine("SELECT i FROM t", database.dialect)
    assert in_time(lambda: tool.run("shop", "SELECT i FROM t", alive)).row_count == ROWS
    tool.close()
    scene.close()


def test_nothing_comes_of_any_statement_on_a_server_without_the_first_wall(server: servers.Server):
    """What the server itself lets a reader do, it does without effect: nothing is left of it once it has ended."""
    scene = ServerScene(server)
    sandbox = Sandbox({"shop": scene.database}, SERVER_LIMITS)
    unchanged = scene.settings()
    scene.take_stock()
    outcomes: Counter[str] = Counter()
    for number, statement in enumerate(of(server.dialect, scene.bait)):
        if statement.family == UNSTOPPABLE:
            continue
        try:
            sandbox.run("shop", statement.sql)
            outcomes["ran"] += 1
        except StatementError as error:
            outcomes[error.reason] += 1
        scene.check(statement.sql)
        if number % 20 == 0:
            assert in_time(lambda: sandbox.run("shop", unchanged)).row_count == 1, statement
    scene.check_content()
    assert set(outcomes) <= BOMB_REASONS | {"ran"}
    assert in_time(lambda: sandbox.run("shop", unchanged)).row_count == 1
    assert in_time(lambda: sandbox.run("shop", "SELECT i FROM t")).row_count == ROWS
    assert outcomes["error"] > 1_000
    assert outcomes["timeout"] > 10
    sandbox.close()
    scene.close()
