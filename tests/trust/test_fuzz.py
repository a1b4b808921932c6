"""The fuzzer sees what gets past the wall, and nothing in what may."""

from __future__ import annotations

import pytest

from rayfactory.records import Execution
from tests.trust import fuzz


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
    ],
)
def test_parsers_object_to_what_reaches_out(dialect: str, sql: str, said: str):
    assert said in ", ".join(fuzz.Parser().objections(sql, dialect))


@pytest.mark.parametrize("dialect", fuzz.DIALECTS)
@pytest.mark.parametrize("sql", fuzz.HARMLESS)
def test_parsers_do_not_object_to_what_is_harmless(dialect: str, sql: str):
    assert fuzz.Parser().objections(sql, dialect) == []


def test_what_passes_the_wall_is_reported(monkeypatch: pytest.MonkeyPatch):
    """With no wall at all there are escapes soon, or on a loaded machine a little later."""
    monkeypatch.setattr(fuzz, "examine", lambda sql, dialect: Execution(None, "", sql))
    found: set[str] = set()
    for seconds in (2, 6, 60):
        escapes = fuzz.fuzz(seconds, 0)["escapes"]
        assert isinstance(escapes, list)
        found |= {escape.partition(":")[0] for escape in escapes}
        if found == set(fuzz.DIALECTS):
            break
    assert found == set(fuzz.DIALECTS)


def test_crash_of_the_wall_is_reported_with_its_statement(monkeypatch: pytest.MonkeyPatch):
    def examine(sql: str, dialect: str) -> None:
        raise KeyError(dialect)

    monkeypatch.setattr(fuzz, "examine", examine)
    report = fuzz.fuzz(0.2, 0)
    assert report["crashed"] == report["statements"]
    assert "KeyError" in str(report["escapes"])
