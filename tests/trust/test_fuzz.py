"""The fuzzer sees what gets past the wall, and nothing in what may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rayfactory.databases.engine import FILE_DIALECTS
from rayfactory.records import Execution
from rayfactory.tools.execution import examine
from tests.trust import fuzz
from tests.trust.hostile import DIALECTS
from tests.trust.readings import DuckDBReading, MariaDBReading, PostgreSQLReading, Reading, SQLiteReading


@pytest.fixture(scope="module")
def readings(request: pytest.FixtureRequest) -> Iterator[dict[str, Reading]]:
    found: dict[str, Reading] = {"sqlite": SQLiteReading(), "duckdb": DuckDBReading()}
    for dialect, name, made, reading_type in (
        ("postgres", "postgresql_server", "generate_series(1, 9) AS g (i)", PostgreSQLReading),
        ("mysql", "mariadb_server", "(SELECT seq AS i FROM seq_1_to_9) AS g", MariaDBReading),
    ):
        server = request.getfixturevalue(name)
        server.make("of_fuzz", f"CREATE TABLE t AS SELECT i, 'x' AS s FROM {made}")
        found[dialect] = reading_type(server, "of_fuzz")
    yield found
    for reading in found.values():
        reading.close()


@pytest.mark.parametrize(
    ("dialect", "sql", "said"),
    [
        ("duckdb", "SELECT i FROM (\ufeffSELECT current_setting('threads') AS i)", "function current_setting"),
        ("duckdb", "SELECT * FROM read_text('secret.csv')", "a table function"),
        ("duckdb", "SELECT * FROM information_schema.tables", "table information_schema.tables"),
        ("duckdb", "SELECT 1; SELECT 2", "several statements"),
        ("duckdb", "DELETE FROM t", "DELETE"),
        ("sqlite", "SELECT load_extension('x')", "function load_extension"),
        ("sqlite", "SELECT name FROM sqlite_master", "table sqlite_master"),
        ("sqlite", "DELETE FROM t", "action"),
        ("postgres", "SELECT pg_read_file('secret.csv')", "function pg_read_file"),
        ("postgres", "SELECT i FROM t ORDER BY random()", "function random"),
        ("postgres", "SELECT i FROM t WHERE s = current_user", "word"),
        ("postgres", "SELECT count(*) FROM (SELECT relname FROM pg_class) AS x", "table"),
        ("postgres", "SELECT * FROM generate_series(1, 2)", "a table function"),
        ("postgres", "SELECT i FROM t FOR UPDATE", "a lock"),
        ("mysql", "SELECT load_file('secret.csv') FROM t", "function load_file"),
        ("mysql", "SELECT i FROM t ORDER BY rand()", "function rand"),
        ("mysql", "SELECT i, @x FROM t", "a variable"),
        ("mysql", "SELECT i, @@version FROM t", "a variable"),
        ("mysql", "SELECT /*!50000 sleep(1) */ FROM t", "function sleep"),
        ("mysql", "SELECT i FROM t WHERE s = current_user", "function current_user"),
        ("mysql", "SELECT count(*) FROM mysql.db", "a table of mysql"),
        ("mysql", "SELECT i FROM t FOR UPDATE", "a lock"),
        ("mysql", "DELETE FROM t", "it is taken as"),
    ],
)
def test_databases_object_to_what_reaches_out(dialect: str, sql: str, said: str, readings: dict[str, Reading]):
    assert said in ", ".join(readings[dialect].objections(sql))


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("sql", fuzz.HARMLESS)
def test_databases_do_not_object_to_what_is_harmless(dialect: str, sql: str, readings: dict[str, Reading]):
    assert readings[dialect].objections(sql) == []
    assert readings[dialect].names()


def test_glob_is_an_operator_of_sqlite_and_a_function_of_duckdb(readings: dict[str, Reading]):
    assert readings["sqlite"].objections("SELECT i FROM t WHERE s GLOB 'x*'") == []
    assert readings["duckdb"].objections("SELECT glob('*') FROM t") == ["function glob"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_fuzzed_from_harmless_statements(dialect: str):
    assert sum(examine(sql, dialect).reason is None for sql in fuzz.HARMLESS) >= len(fuzz.HARMLESS) - 1


def test_what_passes_the_wall_is_reported(monkeypatch: pytest.MonkeyPatch):
    """With no wall at all there are escapes soon, or on a loaded machine a little later."""
    monkeypatch.setattr(fuzz, "examine", lambda sql, dialect: Execution(None, "", sql))
    found: set[str] = set()
    for seconds in (2, 6, 60):
        escapes = fuzz.fuzz(seconds, 0, FILE_DIALECTS)["escapes"]
        assert isinstance(escapes, list)
        found |= {escape.partition(":")[0] for escape in escapes}
        if found == set(FILE_DIALECTS):
            break
    assert found == set(FILE_DIALECTS)


def test_crash_of_the_wall_is_reported_with_its_statement(monkeypatch: pytest.MonkeyPatch):
    def look(sql: str, dialect: str) -> Execution:
        if sql in fuzz.HARMLESS:
            return examine(sql, dialect)
        raise KeyError(dialect)

    monkeypatch.setattr(fuzz, "examine", look)
    report = fuzz.fuzz(0.2, 0, ("sqlite",))
    assert report["crashed"]
    assert "KeyError" in str(report["escapes"])
