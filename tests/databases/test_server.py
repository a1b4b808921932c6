"""Databases on real servers: what is read of them, what bounds a statement, and what is said when one cannot be used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rayfactory.config import ExecutionConfig, ProfileConfig
from rayfactory.databases import server as server_module
from rayfactory.databases.benchmark import read_schema
from rayfactory.databases.engine import Database, Engine, connect, open_connection
from rayfactory.databases.metadata import Metadata
from rayfactory.databases.schema import ForeignKey, Kind, Schema
from rayfactory.databases.server import ServerConnection, database_at, open_server, warn_of_rights
from rayfactory.errors import BenchmarkError, DatabaseError, StatementError
from rayfactory.tools.execution import ExecutionTool, examine
from tests.servers import READER_PASSWORD, Server, free_port

LIMITS = ExecutionConfig(timeout_s=30, max_rows=1_000, max_cells=1_500)

NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {}) SELECT {} FROM n"


@pytest.fixture(scope="module", params=["postgresql_server", "mariadb_server"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def made(server: Server) -> Callable[..., Database]:
    """Return a function that makes a database; the server is the session's, so names have to be its own."""

    def make(name: str, *statements: str) -> Database:
        return server.make(f"of_server_{name}", *statements)

    return make


@pytest.fixture(scope="module")
def empty(made: Callable[..., Database]) -> Database:
    return made("empty")


@pytest.fixture
def engine(empty: Database) -> Iterator[Engine]:
    engine = connect(empty, LIMITS)
    yield engine
    engine.close()


def schema_of(database: Database) -> Schema:
    return read_schema(database, Metadata(), ProfileConfig(max_rows=500), LIMITS, fingerprint="")


def reason_of(engine: Engine, sql: str) -> str:
    with pytest.raises(StatementError) as caught:
        engine.run(sql)
    return caught.value.reason


# -- statements ---------------------------------------------------------------


@pytest.mark.parametrize("keep_rows", [0, 1, 3, 200])
def test_all_rows_are_counted_and_the_first_are_kept(engine: Engine, keep_rows: int) -> None:
    result = engine.run(NUMBERS.format(100, "i AS first, 'x' AS second"), keep_rows=keep_rows)
    assert result.columns == ("first", "second")
    assert result.row_count == 100
    assert result.rows == tuple((i + 1, "x") for i in range(min(keep_rows, 100)))


def test_result_without_rows_has_columns(engine: Engine) -> None:
    result = engine.run("SELECT 1 AS a, 2 AS b FROM (SELECT 1 AS c) AS t WHERE c = 2", keep_rows=5)
    assert (result.columns, result.rows, result.row_count) == (("a", "b"), (), 0)


def test_rows_and_cells_are_bounded(engine: Engine) -> None:
    """1,000 rows, or 1,500 cells, are let through, and not one more; what follows is not disturbed."""
    assert engine.run(NUMBERS.format(1_000, "i")).row_count == 1_000
    assert reason_of(engine, NUMBERS.format(1_001, "i")) == "too_many_rows"
    assert engine.run(NUMBERS.format(500, "i, i, i")).row_count == 500
    assert reason_of(engine, NUMBERS.format(501, "i, i + 1, i + 2")) == "too_many_rows"
    assert engine.run("SELECT 7", keep_rows=1).rows == ((7,),)


def test_time_is_bounded_by_the_server_and_from_here(server: Server, empty: Database) -> None:
    """The statement is no longer running when the error arrives, and the next one is answered."""
    engine = connect(empty, ExecutionConfig(timeout_s=0.3))
    if server.dialect == "postgres":
        sleeping = "SELECT pg_sleep(600)"
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()"
        running += " AND state = 'active'"
    else:
        sleeping = "SELECT benchmark(1000000000000, sha2('x', 512))"
        running = "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT benchmark(%'"
    assert reason_of(engine, sleeping) == "timeout"
    for _ in range(200):
        if server.ask("postgres" if server.dialect == "postgres" else "", running) == [(0,)]:
            break
        engine.run("SELECT 1")
    else:
        pytest.fail("the statement still runs")
    engine.close()


def test_statement_that_was_stopped_has_no_result(server: Server, empty: Database) -> None:
    """Where the server and this side stop it at once, MariaDB may answer with a row, as if nothing had happened."""
    engine = connect(empty, ExecutionConfig(timeout_s=0.05))
    endless = "pg_sleep(600)" if server.dialect == "postgres" else "benchmark(1000000000000, sha2('x', 512))"
    assert {reason_of(engine, f"SELECT {endless}") for _ in range(40)} == {"timeout"}
    engine.close()


def test_error_is_one_line_without_the_statement(engine: Engine) -> None:
    with pytest.raises(StatementError, match="no_such_table") as caught:
        engine.run("SELECT secret_of_the_statement FROM no_such_table")
    assert caught.value.reason == "error"
    assert "\n" not in str(caught.value)
    assert "secret_of_the_statement" not in str(caught.value)


@pytest.mark.parametrize("sql", ["SELECT '\0'", "SELECT '\ud800'", "", ";", "-- nothing", "SELECT 1; SELECT 2"])
def test_what_is_no_statement_is_an_error(engine: Engine, sql: str) -> None:
    assert reason_of(engine, sql) == "error"
    assert engine.run("SELECT 1").row_count == 1


def test_lost_connection_is_made_again(server: Server, engine: Engine) -> None:
    """Whoever ends it: the statement that ran is recorded as the one it happened to, and the next one runs."""
    if server.dialect == "postgres":
        assert reason_of(engine, "SELECT pg_terminate_backend(pg_backend_pid())") == "crashed"
        assert not engine.is_open
        assert engine.run("SELECT 1").row_count == 1
        server.execute(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'of_server_empty'",
        )
    else:
        ids = server.ask("", "SELECT id FROM information_schema.processlist WHERE db = 'of_server_empty'")
        server.execute("", *[f"KILL CONNECTION {number}" for (number,) in ids])
    # It was idle: nothing tells before it is used.
    assert reason_of(engine, "SELECT 1") == "crashed"
    assert engine.run("SELECT 1").row_count == 1


def test_closing_twice_does_nothing(empty: Database) -> None:
    engine = connect(empty, LIMITS)
    engine.close()
    engine.close()
    assert not engine.is_open
    assert engine.run("SELECT 1").row_count == 1
    engine.close()


# -- what cannot be opened ----------------------------------------------------


def test_wrong_password_and_wrong_database_say_what_to_do(server: Server, empty: Database) -> None:
    """And the password that was tried is in no message and no representation."""
    wrong = database_at(server.url("of_server_empty"), "not-the-password")
    missing = database_at(server.url("there_is_no_such"), READER_PASSWORD)
    for database, remedy in ((wrong, "RAYFACTORY_DATABASE_PASSWORD"), (missing, "benchmark.url")):
        with pytest.raises(DatabaseError, match=remedy) as caught:
            connect(database, LIMITS)
        chain: BaseException | None = caught.value
        while chain is not None:
            assert database.secret not in str(chain)
            chain = chain.__cause__
        assert database.secret not in repr(database)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_nobody_there(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PATIENCE_S", 0)
    with pytest.raises(DatabaseError, match=r"nobody answers.*benchmark\.url"):
        connect(database_at(f"{scheme}://somebody@127.0.0.1:{free_port()}/shop", ""), LIMITS)


def test_server_of_the_other_kind(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PATIENCE_S", 0)
    monkeypatch.setattr("rayfactory.databases.mysql.CONNECT_TIMEOUT_S", 1)
    scheme = "mysql" if server.dialect == "postgres" else "postgresql"
    with pytest.raises(DatabaseError, match="of_server_empty"):
        connect(database_at(f"{scheme}://reader@127.0.0.1:{server.port}/of_server_empty", READER_PASSWORD), LIMITS)


@pytest.mark.parametrize(
    "url",
    [
        "oracle://user@host/shop",
        "postgresql://host",
        "postgresql://user@host/",
        "mysql:///shop",
        "mysql://user@host:port/shop",
        "mysql://user@host:0/shop",
        "mysql://user@host/shop/orders",
        "shop",
    ],
)
def test_no_address(url: str) -> None:
    with pytest.raises(BenchmarkError, match="write postgresql://"):
        database_at(url, "")


def test_names_in_an_address_may_be_any() -> None:
    database = database_at("postgres://me@host:5433/caf%C3%A9%20d%27or", "s")
    assert (database.name, database.dialect) == ("café d'or", "postgres")
    assert database.path == "postgres://me@host:5433/caf%C3%A9%20d%27or"


# -- rights -------------------------------------------------------------------


def test_user_who_could_write_is_warned_of(server: Server, empty: Database, caplog: pytest.LogCaptureFixture) -> None:
    """With what he could do, and the statements that make one who cannot; a reader hears nothing."""
    owner = server.database("of_server_empty", "owner")
    with caplog.at_level(logging.WARNING):
        for database in (empty, owner):
            connection = open_server(database, 5)
            warn_of_rights(database, connection)
            connection.close()
    (record,) = caplog.records
    message = record.getMessage()
    assert "'of_server_empty'" in message
    assert ("superuser" if server.dialect == "postgres" else "ALL PRIVILEGES on *.*") in message
    assert "GRANT SELECT" in message
    assert owner.secret not in message


def test_rights_short_of_everything_are_named(server: Server, made: Callable[..., Database]) -> None:
    made("rights", "CREATE TABLE till (id INT PRIMARY KEY)", "CREATE TABLE shelf (id INT PRIMARY KEY)")
    if server.dialect == "postgres":
        server.execute("of_server_rights", "CREATE ROLE clerk LOGIN PASSWORD 'clerk' CREATEDB")
        server.execute(
            "of_server_rights", "GRANT INSERT ON till TO clerk", "GRANT pg_read_server_files, pg_monitor TO clerk"
        )
        expected = ["make databases", "act as pg_read_server_files", "write to 'till'"]
    else:
        server.execute("of_server_rights", "CREATE USER clerk IDENTIFIED BY 'clerk'", "GRANT FILE ON *.* TO clerk")
        server.execute("of_server_rights", "GRANT SELECT, INSERT ON of_server_rights.till TO clerk")
        expected = ["FILE on *.*", 'INSERT on "of_server_rights"."till"']
    connection = open_server(database_at(server.url("of_server_rights", "clerk"), "clerk"), 5)
    assert connection.rights() == expected
    connection.close()


# -- structure ----------------------------------------------------------------


def test_structure(server: Server, made: Callable[..., Database]) -> None:
    """Composite keys in pairs, comments, names under any spelling, generated columns, views; keys of indexes count."""
    if server.dialect == "postgres":
        q, own = '"', ""
        comments = ["COMMENT ON TABLE \"Order\" IS 'who buys'", "COMMENT ON COLUMN line.note IS 'as written'"]
        note = "note text"
    else:
        q, own = "`", " COMMENT 'who buys'"
        comments = []
        note = "note varchar(40) COMMENT 'as written'"
    database = made(
        f"structure_{server.dialect}",
        f"CREATE TABLE {q}Order{q} (shop INT, no INT, {q}größe x{q} INT, PRIMARY KEY (no, shop)){own}",
        f"CREATE TABLE line (id INT PRIMARY KEY, no INT NOT NULL, shop INT NOT NULL, up INT REFERENCES line (id), {note},"
        f" twice INT GENERATED ALWAYS AS (no * 2) STORED, FOREIGN KEY (no, shop) REFERENCES {q}Order{q} (no, shop))",
        "CREATE UNIQUE INDEX pair ON line (shop, id)",
        "CREATE VIEW busy AS SELECT no, count(*) AS n FROM line GROUP BY no",
        *comments,
    )
    schema = schema_of(database)
    assert schema.server.startswith("PostgreSQL" if server.dialect == "postgres" else "MariaDB")
    tables = {table.name: table for table in schema.tables}
    assert set(tables) == {"Order", "line"}
    assert tables["Order"].primary_key == ("no", "shop")
    assert tables["Order"].description == "who buys"
    assert [column.name for column in tables["Order"].columns] == ["shop", "no", "größe x"]
    assert tables["line"].column("note").description == "as written"
    assert [column.nullable for column in tables["line"].columns] == [False, False, False, True, True, True]
    assert ForeignKey("line", ("no", "shop"), "Order", ("no", "shop")) in schema.foreign_keys
    if server.dialect == "postgres":  # MariaDB reads past a reference in a column's definition
        assert ForeignKey("line", ("up",), "line", ("id",)) in schema.foreign_keys
    assert [(view.name, view.base_tables) for view in schema.views] == [("busy", ("line",))]


def test_partitions_other_schemas_and_what_may_not_be_read(
    postgresql_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Partitions are their table; what is left out is told; an index over a condition or an expression is no key."""
    database = postgresql_server.make(
        "of_server_parts",
        "CREATE TABLE visit (day date, n int) PARTITION BY RANGE (day)",
        "CREATE TABLE visit_old PARTITION OF visit FOR VALUES FROM ('2000-01-01') TO ('2020-01-01')",
        "CREATE TABLE visit_new PARTITION OF visit FOR VALUES FROM ('2020-01-01') TO ('2030-01-01')",
        "INSERT INTO visit SELECT date '2019-12-01' + i, i FROM generate_series(1, 90) AS g (i)",
        "CREATE TABLE person (id int PRIMARY KEY, name text, mail text UNIQUE)",
        "CREATE UNIQUE INDEX ON person (lower(name))",
        "CREATE UNIQUE INDEX ON person (name) WHERE id > 5",
        "CREATE TABLE payroll (id int)",
        "CREATE SCHEMA archive",
        "CREATE TABLE archive.visit (day date, n int, shop int)",
        "GRANT USAGE ON SCHEMA archive TO reader",
        "GRANT SELECT ON archive.visit TO reader",
    )
    postgresql_server.execute("of_server_parts", "REVOKE ALL ON payroll FROM reader")
    with caplog.at_level(logging.WARNING):
        schema = schema_of(database)
    assert {table.name: table.num_rows for table in schema.tables} == {"visit": 90, "person": 0}
    told = caplog.text
    assert "'payroll'" in told
    assert "'archive'" in told
    connection = open_server(database, 5)
    person = connection.catalogue().find("person")
    connection.close()
    assert person is not None
    assert person.unique_keys == (("mail",),)
    other = database_at(f"{postgresql_server.url('of_server_parts')}?schema=archive", READER_PASSWORD)
    schema = schema_of(other)
    (visit,) = schema.tables
    assert [column.name for column in visit.columns] == ["day", "n", "shop"]
    # The other schema has a table of the same name, and the user may read it.
    tool = ExecutionTool({other.name: other}, {other.name: schema}, LIMITS)
    outcomes = [
        tool.run(other.name, sql, examine(sql, "postgres"))
        for sql in ("SELECT n, shop FROM visit", "SELECT n FROM public.visit", 'SELECT n FROM "public"."visit" AS v')
    ]
    tool.close()
    assert [(outcome.reason, outcome.row_count) for outcome in outcomes] == [(None, 0), ("refused", 0), ("refused", 0)]


VALUES = {
    "postgres": {
        "smallint": ("integer", ["1", "2", "-3"]),
        "bigint": ("integer", ["9007199254740993", "2", "NULL"]),
        "numeric(9,2)": ("real", ["1.5", "2.25", "'NaN'"]),
        "numeric(9,0)": ("real", ["1", "2", "3"]),
        "double precision": ("real", ["1.5", "'Infinity'", "0"]),
        "boolean": ("boolean", ["true", "false", "NULL"]),
        "date": ("date", ["'2020-02-29'", "'infinity'", "'4713-01-01 BC'"]),
        "timestamp": ("timestamp", ["'2020-02-29 12:00:00'", "'-infinity'", "NULL"]),
        "timestamptz": ("other", ["'2020-02-29 12:00:00+02'", "'2021-01-01 00:00:00+00'", "NULL"]),
        "time": ("time", ["'12:30'", "'24:00'", "NULL"]),
        "char(4)": ("text", ["'ab'", "'cd'", "NULL"]),
        "uuid": ("other", ["'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "NULL", "NULL"]),
        "bytea": ("other", ["'\\x00ff'", "NULL", "NULL"]),
        "jsonb": ("other", ["'{\"a\": 1}'", "NULL", "NULL"]),
        "int[]": ("other", ["'{1,2}'", "NULL", "NULL"]),
        "interval": ("other", ["'1 day'", "NULL", "NULL"]),
    },
    "mysql": {
        "smallint": ("integer", ["1", "2", "-3"]),
        "bigint unsigned": ("integer", ["18446744073709551615", "2", "NULL"]),
        "decimal(9,2)": ("real", ["1.5", "2.25", "NULL"]),
        "decimal(9,0)": ("real", ["1", "2", "3"]),
        "double": ("real", ["1.5", "1e300", "0"]),
        "boolean": ("integer", ["true", "false", "NULL"]),
        "bit(8)": ("other", ["b'101'", "NULL", "NULL"]),
        "year": ("integer", ["1999", "2001", "NULL"]),
        "date": ("date", ["'2020-02-29'", "'1000-01-01'", "NULL"]),
        "datetime(3)": ("timestamp", ["'2020-02-29 12:00:00.125'", "NULL", "NULL"]),
        "timestamp null": ("timestamp", ["'2020-02-29 12:00:00'", "NULL", "NULL"]),
        "time": ("time", ["'12:30:00'", "'838:59:59'", "'-01:00:00'"]),
        "char(4)": ("text", ["'ab'", "'cd'", "NULL"]),
        "enum('s','m','l')": ("text", ["'s'", "'l'", "NULL"]),
        "set('a','b')": ("other", ["'a,b'", "''", "NULL"]),
        "blob": ("other", ["x'00ff'", "NULL", "NULL"]),
        "json": ("text", ["'{\"a\": 1}'", "NULL", "NULL"]),
    },
}


def test_kinds_and_values(server: Server, made: Callable[..., Database]) -> None:
    """Every type that a server has in daily use is read; what Python has no value for breaks nothing."""
    types: dict[str, tuple[Kind, list[str]]] = VALUES[server.dialect]  # type: ignore[assignment]
    columns = ", ".join(f"c{number} {declared}" for number, declared in enumerate(types))
    rows = ", ".join(f"({', '.join(values[row] for _, values in types.values())})" for row in range(3))
    database = made(
        f"values_{server.dialect}", f"CREATE TABLE everything ({columns})", f"INSERT INTO everything VALUES {rows}"
    )
    (table,) = schema_of(database).tables
    assert table.num_rows == 3
    found: dict[str, Any] = {declared: column.kind for declared, column in zip(types, table.columns, strict=True)}
    assert found == {declared: kind for declared, (kind, _) in types.items()}
    profiles = {declared: column.profile for declared, column in zip(types, table.columns, strict=True)}
    assert profiles["smallint"].minimum == -3
    assert [value for value, _ in profiles["char(4)"].common_values] == ["ab", "cd"]
    assert "2020-02-29" in profiles["date"].examples
    # And each of them can be counted and kept in what somebody else's statement returns.
    engine = connect(database, LIMITS)
    assert engine.run("SELECT * FROM everything").row_count == 3
    engine.close()


def test_large_table_is_sampled(server: Server, made: Callable[..., Database]) -> None:
    """500 of 20,000 rows are looked at, from all over the table, and the rows are counted."""
    numbers = (
        "SELECT i, i % 7 FROM generate_series(1, 20000) AS g (i)"
        if server.dialect == "postgres"
        else "SELECT seq, seq % 7 FROM seq_1_to_20000"
    )
    database = made(
        f"large_{server.dialect}",
        "CREATE TABLE tall (id INT PRIMARY KEY, seventh INT)",
        f"INSERT INTO tall {numbers}",
        "ANALYZE tall" if server.dialect == "postgres" else "ANALYZE TABLE tall",
    )
    (table,) = schema_of(database).tables
    assert table.num_rows == 20_000
    profile = table.column("id").profile
    assert 250 <= profile.num_sampled <= 1_000
    assert isinstance(profile.minimum, int)
    assert isinstance(profile.maximum, int)
    assert profile.minimum < 5_000
    assert profile.maximum > 15_000
    assert table.column("seventh").profile.num_distinct == 7


def test_connection_is_one_of_a_kind(empty: Database) -> None:
    """What is read of a server is read through the same door as of a file."""
    connection = open_connection(empty, LIMITS)
    assert isinstance(connection, ServerConnection)
    assert connection.execute('SELECT 1 AS "quoted"').fetchall() in ([(1,)], ((1,),))
    connection.close()
