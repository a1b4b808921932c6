"""Only SELECTs made of known-safe parts pass; the refusal names the part."""

import json

import pytest

from rayfactory.errors import StatementError
from rayfactory.sql import check_safe, parse

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
]


@pytest.mark.parametrize(("dialect", "sql", "part"), HOSTILE)
def test_refusal_names_the_part(dialect, sql, part):
    with pytest.raises(StatementError) as raised:
        check_safe(parse(sql, dialect), dialect)
    assert raised.value.reason in {"refused", "parse"}
    if raised.value.reason == "refused":
        assert part.casefold() in str(raised.value).casefold() or "COMMAND" in str(raised.value)


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
