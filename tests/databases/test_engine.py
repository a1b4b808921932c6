"""One open database: what runs, what is refused, and what stops a statement."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database, Engine, connect
from rayfactory.errors import DatabaseError, StatementError

LIMITS = ExecutionConfig(timeout_s=1.0, max_rows=1_000)
CROSS_JOIN = "SELECT count(*) FROM t AS a, t AS b, t AS c WHERE a.i + b.i + c.i < 0"


def make(folder: Path, dialect: str, script: str) -> Database:
    """Return a database that holds what a script of statements makes."""
    path = folder / f"shop.{dialect}"
    if dialect == "sqlite":
        with sqlite3.connect(path) as lite:
            lite.executescript(script)
        lite.close()
    else:
        with duckdb.connect(str(path)) as duck:
            duck.execute(script)
    return Database("shop", dialect, str(path))


def numbers(dialect: str, count: int) -> str:
    """Return a script that makes a table t with a number and a text in each row."""
    create = "CREATE TABLE t (i INTEGER, s VARCHAR); INSERT INTO t "
    if dialect == "duckdb":
        return f"{create} SELECT range, 'x' || range FROM range({count});"
    return (
        f"{create} WITH RECURSIVE r(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM r WHERE i < {count - 1}) "
        "SELECT i, 'x' || i FROM r;"
    )


@pytest.fixture(params=["duckdb", "sqlite"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An engine over a table t of 5,000 rows, once in each dialect."""
    opened = connect(make(tmp_path, request.param, numbers(request.param, 5_000)), LIMITS)
    yield opened
    opened.close()


def reason(engine: Engine, sql: str) -> str:
    with pytest.raises(StatementError) as raised:
        engine.run(sql)
    return raised.value.reason


def test_counts_all_rows_and_keeps_the_first(engine: Engine):
    """A result holds the count of all rows and as many of the first as were asked for."""
    result = engine.run("SELECT i, s AS label FROM t WHERE i < 500 ORDER BY i", keep_rows=2)
    assert result.columns == ("i", "label")
    assert result.rows == ((0, "x0"), (1, "x1"))
    assert result.row_count == 500
    assert result.elapsed_ms > 0
    assert engine.run("SELECT * FROM t WHERE i < 0").row_count == 0


def test_rows_beyond_the_limit_are_refused(engine: Engine):
    """A result of exactly max_rows runs, one more row is too many."""
    assert engine.run("SELECT i FROM t WHERE i < 1000").row_count == 1_000
    assert reason(engine, "SELECT i FROM t WHERE i <= 1000") == "too_many_rows"
    assert engine.run("SELECT 1").row_count == 1


def test_a_statement_that_runs_too_long_is_stopped_and_the_next_one_runs(engine: Engine):
    """A timeout is a verdict on one statement, again and again, and leaves the connection whole."""
    for _ in range(2):
        assert reason(engine, CROSS_JOIN) == "timeout"
        assert engine.run("SELECT 1 AS one", keep_rows=1).rows == ((1,),)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP TABLE t",
        "",
        ";",
        "-- nothing",
        "selct 1",
        "SELECT * FROM missing",
        "SELECT '\x00'",
        "SELECT '\ud800'",
        "INSERT INTO t VALUES (1, 'a')",
        "UPDATE t SET i = 0",
        "DELETE FROM t",
        "DROP TABLE t",
        "CREATE TABLE u (i INTEGER)",
        "CREATE TEMP TABLE u (i INTEGER)",
        "ATTACH 'other.db' AS other",
        "VACUUM",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "COPY t TO 'out.csv'",
        "SET threads = 4",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT i FROM reason",
    ],
)
def test_whatever_is_not_one_select_is_an_error(engine: Engine, sql: str):
    """Second statements, writing, files, extensions and Python's own variables are out of reach."""
    assert reason(engine, sql) == "error"


def test_sqlite_pragmas_are_refused(tmp_path: Path):
    """SQLite's settings cannot be read or changed, not even through a table-valued function."""
    engine = connect(make(tmp_path, "sqlite", numbers("sqlite", 10)), LIMITS)
    assert reason(engine, "PRAGMA query_only = OFF") == "error"
    assert reason(engine, "SELECT * FROM pragma_table_info('t')") == "error"
    engine.close()


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_running_changes_no_file(tmp_path: Path, dialect: str):
    """Nothing in the folder appears, vanishes or changes while statements run, however they end."""
    database = make(tmp_path, dialect, numbers(dialect, 5_000))

    def state() -> dict[str, str]:
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tmp_path.iterdir()}

    before = state()
    engine = connect(database, LIMITS)
    for sql in ("SELECT * FROM t ORDER BY s", CROSS_JOIN, "DROP TABLE t", "SELECT i, count(*) FROM t GROUP BY i"):
        with contextlib.suppress(StatementError):
            engine.run(sql)
        assert state() == before
    engine.close()
    assert state() == before


def test_text_that_is_not_utf8_is_read(tmp_path: Path):
    """Bytes of another encoding come back with a replacement character, and count as rows."""
    database = make(
        tmp_path, "sqlite", "CREATE TABLE t (s TEXT); INSERT INTO t VALUES (CAST(x'636166E9' AS TEXT)), ('ok');"
    )
    engine = connect(database, LIMITS)
    assert engine.run("SELECT s FROM t", keep_rows=5).rows == (("caf�",), ("ok",))
    assert engine.run("SELECT s FROM t").row_count == 2
    engine.close()


def test_values_longer_than_the_limit_are_an_error(tmp_path: Path):
    """SQLite refuses to make one huge value, which no timer could stop."""
    engine = connect(make(tmp_path, "sqlite", numbers("sqlite", 10)), LIMITS)
    assert reason(engine, "SELECT length(hex(zeroblob(100000000))) FROM t") == "error"
    engine.close()


def test_duckdb_memory_is_bounded(tmp_path: Path):
    """A statement that needs more than memory_mb is refused for memory, and nothing is spilt to disk."""
    database = make(tmp_path, "duckdb", numbers("duckdb", 10))
    engine = connect(database, ExecutionConfig(timeout_s=20, memory_mb=64))
    sql = "SELECT count(*) FROM (SELECT a.range AS r FROM range(30000000) a ORDER BY hash(a.range) LIMIT 29999999)"
    assert reason(engine, sql) == "memory"
    assert engine.run("SELECT 1").row_count == 1
    assert [path.name for path in tmp_path.iterdir()] == ["shop.duckdb"]
    engine.close()


def test_sqlite_memory_is_bounded(tmp_path: Path):
    """The same for SQLite, in a process of its own, because its heap limit can only be lowered."""
    database = make(tmp_path, "sqlite", numbers("sqlite", 5_000))
    script = (
        "import sys\n"
        "from rayfactory.config import ExecutionConfig\n"
        "from rayfactory.databases.engine import Database, connect\n"
        "from rayfactory.errors import StatementError\n"
        "engine = connect(Database('shop', 'sqlite', sys.argv[1]), ExecutionConfig(timeout_s=30, memory_mb=16))\n"
        "try:\n"
        "    engine.run('SELECT count(*) FROM (SELECT DISTINCT a.s || b.s FROM t AS a, t AS b)')\n"
        "except StatementError as error:\n"
        "    print(error.reason)\n"
        "print(engine.run('SELECT 1').row_count)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, database.path], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert done.stdout.split() == ["memory", "1"]


def test_engines_of_one_process_do_not_disturb_each_other(tmp_path: Path):
    """Two engines over one file work side by side, each with its own clock."""
    database = make(tmp_path, "duckdb", numbers("duckdb", 5_000))
    slow, quick = connect(database, LIMITS), connect(database, LIMITS)
    reasons: list[str] = []
    worker = threading.Thread(target=lambda: reasons.append(reason(slow, CROSS_JOIN)))
    worker.start()
    counts = {quick.run("SELECT i FROM t WHERE i < 7").row_count for _ in range(50)}
    worker.join()
    assert counts == {7}
    assert reasons == ["timeout"]
    slow.close()
    quick.close()


def test_one_thread_serves_all_statements_and_ends_with_the_engine(tmp_path: Path):
    """Running statements starts one timer thread, and closing the engine ends it. Closing twice does nothing."""
    engine = connect(make(tmp_path, "sqlite", numbers("sqlite", 10)), LIMITS)
    before = set(threading.enumerate())
    for _ in range(100):
        engine.run("SELECT 1")
    (watchdog,) = set(threading.enumerate()) - before
    engine.close()
    watchdog.join(timeout=5)
    assert not watchdog.is_alive()
    engine.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=60))
def test_any_text_gives_a_result_or_a_verdict(engine: Engine, text: str):
    """Whatever is handed over, a StatementError is the only way to fail, and the engine goes on."""
    try:
        engine.run(text)
        engine.run(f"SELECT i FROM t WHERE s = '{text}'")
    except StatementError as error:
        reasons = {"error", "timeout", "memory", "too_many_rows"}
        assert error.reason in reasons  # noqa: PT017
    assert engine.run("SELECT 1").row_count == 1


def test_names_of_any_form_can_be_opened(tmp_path: Path):
    """A path with spaces, quotes, percent signs and Unicode is a path like any other."""
    folder = tmp_path / "a b#%41 'ü' 数据"
    folder.mkdir()
    for dialect in ("duckdb", "sqlite"):
        engine = connect(make(folder, dialect, numbers(dialect, 3)), LIMITS)
        assert engine.run("SELECT * FROM t").row_count == 3
        engine.close()


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_a_file_that_cannot_be_used_names_the_remedy(tmp_path: Path, dialect: str):
    """Missing, foreign, encrypted and truncated files, and folders, end with a DatabaseError that names them."""
    whole = make(tmp_path, dialect, numbers(dialect, 50_000))
    content = Path(whole.path).read_bytes()
    bad = {
        "missing": None,
        "text": b"this is no database" * 500,
        "encrypted": bytes(range(256)) * 64,
        "truncated": content[: len(content) // 2],
        "header": content[:60],
    }
    for name, data in bad.items():
        path = tmp_path / name
        if data is not None:
            path.write_bytes(data)
        with pytest.raises(DatabaseError, match=name):
            connect(Database(name, dialect, str(path)), LIMITS)
        assert path.exists() == (data is not None)
    with pytest.raises(DatabaseError):
        connect(Database("folder", dialect, str(tmp_path)), LIMITS)


def test_a_duckdb_file_that_another_process_writes_is_refused(tmp_path: Path):
    """The message says that another program has the file open, and what to do."""
    database = make(tmp_path, "duckdb", numbers("duckdb", 3))
    script = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen(
        [sys.executable, "-c", script, database.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "open"
        with pytest.raises(DatabaseError, match="another program has it open for writing"):
            connect(database, LIMITS)
    finally:
        writer.communicate()


def test_a_database_in_wal_mode_is_read_without_writing_beside_it(tmp_path: Path):
    """Reading a database in WAL mode leaves no -wal and -shm files behind, even in a folder that is not writable."""
    path = tmp_path / "wal.sqlite"
    lite = sqlite3.connect(path)
    lite.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (i); INSERT INTO t VALUES (1), (2);")
    lite.close()
    assert [file.name for file in tmp_path.iterdir()] == ["wal.sqlite"]
    tmp_path.chmod(0o500)
    try:
        engine = connect(Database("wal", "sqlite", str(path)), LIMITS)
        assert engine.run("SELECT * FROM t").row_count == 2
        engine.close()
    finally:
        tmp_path.chmod(0o700)
    assert [file.name for file in tmp_path.iterdir()] == ["wal.sqlite"]


def test_rows_that_wait_in_a_write_ahead_log_are_seen(tmp_path: Path):
    """A log with committed rows is part of the database."""
    path = tmp_path / "wal.sqlite"
    script = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.executescript('PRAGMA journal_mode = WAL; CREATE TABLE t (i); INSERT INTO t VALUES (1), (2), (3);')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert (tmp_path / "wal.sqlite-wal").stat().st_size > 0
    engine = connect(Database("wal", "sqlite", str(path)), LIMITS)
    assert engine.run("SELECT * FROM t").row_count == 3
    engine.close()


def test_the_same_statement_returns_the_same_rows_on_every_engine(tpcds_path: Path):
    """Without an ORDER BY, two engines return the same rows in the same order."""
    database = Database("tpcds", "duckdb", str(tpcds_path))
    sql = "SELECT ss_store_sk, ss_item_sk, sum(ss_net_paid) FROM store_sales GROUP BY ALL"
    seen = []
    for _ in range(2):
        engine = connect(database, ExecutionConfig())
        seen.append(json.dumps(engine.run(sql, keep_rows=50).rows, default=str))
        engine.close()
    assert seen[0] == seen[1]
    assert os.access(tpcds_path, os.R_OK)
