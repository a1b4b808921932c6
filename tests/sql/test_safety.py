"""Only SELECTs made of known-safe parts pass; the refusal names the part."""

import json

import pytest

from rayfactory.errors import StatementError
from rayfactory.sql import check_safe, check_text, parse
from rayfactory.tools.execution import examine

HOSTILE = [
    ("duckdb", "DELETE FROM t", "DELETE"),
    ("duckdb", "CREATE TEMP TABLE x AS SELECT 1", "CREATE"),
    ("duckdb", "COPY t TO '/tmp/x'", "COPY"),
    ("duckdb", "ATTACH '/tmp/x.db'", "ATTACH"),
    ("duckdb", "PRAGMA database_list", "PRAGMA"),
    ("duckdb", "SET threads = 1", "SET"),
    ("duckdb", "INSTALL httpfs", "INSTALL"),
    ("duckdb", "SELECT * FROM read_csv('/etc/passwd')", "read_csv"),
    ("duckdb", "SELECT * FROM glob('/*')", "GLOB"),
    ("duckdb", "SELECT * FROM query('SELECT 1')", "QUERY"),
    ("duckdb", "SELECT * FROM duckdb_settings()", "DUCKDB_SETTINGS"),
    ("duckdb", "SELECT getenv('HOME')", "getenv"),
    ("duckdb", "SELECT current_setting('memory_limit')", "current_setting"),
    ("duckdb", "SELECT * FROM information_schema.tables", "information_schema"),
    ("duckdb", "SELECT random()", "RAND"),
    ("duckdb", "SELECT lpad('a', 1000000000, 'b')", "pad"),
    ("duckdb", "SELECT lpad('a', n, 'b') FROM t", "pad"),
    ("duckdb", "SELECT printf('%1000000000d', 1)", "printf"),
    ("duckdb", "SELECT levenshtein(a, b) FROM t", "levenshtein"),
    ("sqlite", "SELECT printf('%.*c', 100000000, 'x')", "printf"),
    ("sqlite", "SELECT zeroblob(1000000000)", "zeroblob"),
    ("sqlite", "SELECT load_extension('x')", "load_extension"),
    ("sqlite", "SELECT randomblob(1000000000)", "randomblob"),
    ("sqlite", "SELECT * FROM sqlite_master", "sqlite_master"),
    ("sqlite", "SELECT * FROM pragma_table_info('t')", "pragma_table_info"),
    ("sqlite", "VACUUM INTO '/tmp/x'", "VACUUM"),
    ("postgres", "SELECT pg_sleep(1)", "pg_sleep"),
    ("postgres", 'SELECT "pg_sleep"(1)', "pg_sleep"),
    ("postgres", "SELECT pg_catalog.upper('x')", "pg_catalog.upper"),
    ("postgres", "SELECT (0.1::float8).pg_sleep", "pg_sleep"),
    ("postgres", "SELECT a[1].pg_sleep FROM t", "pg_sleep"),
    ("postgres", "SELECT repeat('x', 1000000000)", "repeat"),
    ("postgres", "SELECT 't'::regclass", "ObjectIdentifier"),
    ("postgres", "SELECT regclass 't'", "ObjectIdentifier"),
    ("postgres", "SELECT CAST('t' AS pg_catalog.regclass)", "pg_catalog.regclass"),
    ("postgres", "SELECT CAST(s AS xml) FROM t", "XML"),
    ("postgres", "SELECT current_user", "CURRENT_USER"),
    ("postgres", "SELECT session_user", "SESSION_USER"),
    ("postgres", "SELECT user", "user"),
    ("postgres", "SELECT current_role", "current_role"),
    ("postgres", "SELECT current_catalog", "CURRENT_CATALOG"),
    ("postgres", "SELECT current_schema", "CURRENT_SCHEMA"),
    ("postgres", "SELECT * FROM current_user", "current_user"),
    ("postgres", "SELECT t.xmin FROM t", "xmin"),
    ("postgres", "SELECT * FROM pg_settings", "pg_settings"),
    ("postgres", 'SELECT * FROM "pg_settings"', "pg_settings"),
    ("postgres", "SELECT * FROM information_schema.tables", "information_schema"),
    ("postgres", "SELECT * FROM generate_series(1, 10)", "GENERATE_SERIES"),
    ("postgres", "SELECT * FROM ROWS FROM (pg_ls_dir('.'))", "Table"),
    ("postgres", "SELECT i FROM t TABLESAMPLE SYSTEM (5)", "TableSample"),
    ("postgres", "SELECT 1 OPERATOR(pg_catalog.+) 2", "Operator"),
    ("postgres", "SELECT i FROM t WHERE i IN (SELECT i FROM t FOR SHARE)", "locking"),
    ("postgres", "SELECT i INTO u FROM t", "INTO"),
    ("postgres", "WITH x AS (DELETE FROM t RETURNING i) SELECT i FROM x", "Delete"),
    ("mysql", "SELECT sleep(1)", "sleep"),
    ("mysql", "SELECT SLEEP (1)", "sleep"),
    ("mysql", "SELECT `sleep`(1)", "sleep"),
    ("mysql", "SELECT shop.upper('x')", "shop.upper"),
    ("mysql", "SELECT @x", "Parameter"),
    ("mysql", "SELECT @@datadir", "SessionParameter"),
    ("mysql", "SELECT current_user", "CURRENT_USER"),
    ("mysql", "SELECT current_role", "current_role"),
    ("mysql", "SELECT database()", "CURRENT_SCHEMA"),
    ("mysql", "SELECT found_rows()", "found_rows"),
    ("mysql", "SELECT _utf8 'x'", "Introducer"),
    ("mysql", "SELECT SQL_CALC_FOUND_ROWS i FROM t", "how to run"),
    ("mysql", "SELECT SQL_CACHE i FROM t", "SQL_CACHE"),
    ("mysql", "SELECT i FROM t LOCK IN SHARE MODE", "locking"),
    ("mysql", "SELECT i FROM t FOR UPDATE", "locking"),
    ("mysql", "SELECT * FROM mysql.user", "mysql"),
    ("mysql", "SELECT * FROM performance_schema.threads", "performance_schema"),
    ("mysql", "SELECT * FROM sys.version", "sys"),
    ("mysql", "SELECT i FROM t USE INDEX (x)", "IndexTableHint"),
    ("mysql", "SELECT lastval(u)", "lastval"),
    ("mysql", "SELECT replace(replace(replace(s, 'x', 'xx'), 'x', 'xx'), 'x', 'xx') FROM t", "REPLACE"),
    ("mysql", "SELECT replace(replace(replace(s, 'x', s), s, 'x'), 'x', s) FROM t", "REPLACE"),
]


@pytest.mark.parametrize(("dialect", "sql", "part"), HOSTILE)
def test_refusal_names_the_part(dialect, sql, part):
    with pytest.raises(StatementError) as raised:
        check_safe(parse(sql, dialect), dialect)
    assert raised.value.reason in {"refused", "parse"}
    if raised.value.reason == "refused":
        assert part.casefold() in str(raised.value).casefold() or "COMMAND" in str(raised.value)


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        # Comments that MySQL runs, and hints that change settings.
        ("mysql", "SELECT 1 /*! + sleep(1) */"),
        ("mysql", "SELECT 1 /*!50000 + sleep(1) */"),
        ("mysql", "SELECT 1 /*M! + sleep(1) */"),
        ("mysql", "SELECT 1 /*m!100000 + sleep(1) */"),
        ("mysql", "SELECT i FROM t /*! INTO OUTFILE '/tmp/x' */"),
        ("mysql", "SELECT /*+ SET_VAR(max_execution_time = 0) */ i FROM t"),
        ("postgres", "SELECT /*+ SeqScan(t) */ i FROM t"),
        # Comments in comments end at another place.
        ("postgres", "SELECT 1 /* /* */ , pg_sleep(1) */"),
        ("mysql", "SELECT 1 /* /* */ , sleep(1) -- */"),
        # What ends a line to one does not to the other.
        ("postgres", "SELECT 1 -- \r , pg_sleep(1)"),
        ("mysql", "SELECT 1 -- \r , sleep(1)"),
        ("mysql", "SELECT 5--3"),
        ("mysql", "SELECT 1 # + sleep(1)"),
        ("mysql", "SELECT 1 --\x01 + sleep(1)"),
        # Texts with something before them, or in dollars.
        ("postgres", "SELECT E'\\', pg_sleep(1), E'\\'"),
        ("postgres", "SELECT e'x'"),
        ("postgres", "SELECT U&'x'"),
        ("postgres", 'SELECT U&"\\0069" FROM t'),
        ("postgres", 'SELECT i FROM U&"\\0070g_class"'),
        ("postgres", "SELECT B'1', X'f'"),
        ("postgres", "SELECT N'x'"),
        ("postgres", "SELECT $$x$$"),
        ("postgres", "SELECT $x$ ' $x$, pg_sleep(1), $x$ ' $x$"),
        ("postgres", "SELECT i FROM t WHERE i = $1"),
        ("mysql", "SELECT _utf8'x'"),
        ("mysql", "SELECT n'x'"),
        ("mysql", "SELECT x'41', b'1', 0x41, 0b1"),
        # Signs and letters of one dialect alone.
        ("mysql", "SELECT {fn sleep(1)}"),
        ("mysql", "SELECT @x := 1"),
        ("mysql", "SELECT i FROM t WHERE i = ?"),
        ("mysql", "SELECT 1a FROM t"),
        ("postgres", "SELECT 1a FROM t"),
        ("postgres", "SELECT i\u00a0FROM t"),
        ("postgres", "SELECT 'x\x00'"),
        ("mysql", "SELECT 'x\x00'"),
        ("mysql", "SELECT '\\\x00', sleep(1), '"),
        # No SELECT, though sqlglot turns one into a SELECT.
        ("postgres", "TABLE t"),
        ("mysql", "(TABLE t)"),
        ("postgres", "VALUES (1)"),
        ("mysql", "HANDLER t READ FIRST"),
        ("postgres", "EXPLAIN ANALYZE SELECT 1"),
    ],
)
def test_text_that_a_server_may_read_differently_is_refused(dialect: str, sql: str):
    with pytest.raises(StatementError) as raised:
        check_text(sql, dialect)
    assert raised.value.reason == "refused"
    assert examine(sql, dialect).reason in ("refused", "parse")


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("postgres", "SELECT '\\', s, 'it''s', '' FROM \"t\" -- it's\nWHERE i = 1 /* it's */"),
        ("postgres", "SELECT i::numeric(10, 2), date '2000-01-01', interval'1 day' FROM public.t WHERE s ~* '^x'"),
        ("postgres", "(SELECT i FROM t) UNION ALL (SELECT 1.5e-3);"),
        ("postgres", "SELECT \"user\", t.user, array[1, 2][1], '{1}'::int[] FROM t"),
        ("mysql", "SELECT 'a\\'b', \"a\\\"b\", 'it''s', \"it's\", '\\\\' FROM `t` -- it's\nWHERE i = 1 /* it's */"),
        ("mysql", "SELECT replace(replace(replace(replace(s, '(', ''), ')', ''), '&', 'and'), '.', ' ') FROM t"),
        ("mysql", "SELECT s FROM t WHERE s LIKE '%\\_%' AND d > NOW() - INTERVAL 1 MONTH LIMIT 2, 3;"),
        ("mysql", "SELECT 'a' 'b', CAST(i AS UNSIGNED), i DIV 2, i <=> 1, !i FROM t"),
    ],
)
def test_text_that_all_read_alike_passes(dialect: str, sql: str):
    check_text(sql, dialect)
    assert examine(sql, dialect).reason is None


def test_text_of_a_file_is_not_looked_at():
    check_text("SELECT $$x$$ FROM t", "duckdb")


@pytest.mark.parametrize(
    ("dialect", "sql", "said"),
    [
        ("duckdb", "SELECT i FROM (\ufeffSELECT current_setting('threads'))", "holds what is not a letter"),
        ("sqlite", "SELECT * FROM \ufeffpragma_database_list", "holds what is not a letter"),
        ("duckdb", "SELECT * FROM update('secret.csv')", "the table function update is not allowed"),
    ],
)
def test_what_the_database_reads_differently_is_refused(dialect, sql, said):
    with pytest.raises(StatementError, match=said) as raised:
        check_safe(parse(sql, dialect), dialect)
    assert raised.value.reason == "refused"


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "", ";", "SELECT FROM WHERE", "SELECT (1"])
def test_text_that_is_not_one_statement_does_not_parse(sql):
    with pytest.raises(StatementError) as raised:
        parse(sql, "duckdb")
    assert raised.value.reason == "parse"


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        ("duckdb", 'SELECT a FROM "in/out" JOIN pg_stats USING (i)'),
        ("duckdb", 'SELECT a FROM "x.csv"'),
        ("sqlite", "SELECT json_extract(a, '$.x') FROM t"),
        ("sqlite", "SELECT printf('%.2f of %s', a, 'order 12345 * 2') FROM t"),
        ("duckdb", "SELECT lpad(a, 8, '0') FROM t"),
    ],
)
def test_unusual_but_harmless_passes(dialect, sql):
    check_safe(parse(sql, dialect), dialect)


@pytest.mark.realdata
def test_what_people_wrote_passes(shared_data):
    """None of the gold queries of Spider and BIRD is refused."""
    queries = [line.rsplit("\t", 1)[0] for line in (shared_data / "spider" / "dev_gold.sql").open() if line.strip()]
    queries += [item["sql"] for item in json.loads((shared_data / "bird" / "dev.json").read_text())]
    assert len(queries) > 2_000
    for sql in queries:
        check_safe(parse(sql, "sqlite"), "sqlite")
