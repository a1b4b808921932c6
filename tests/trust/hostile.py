"""Statements that mean harm, in four dialects: what each would do if it could, and how it hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.trust import hostile_files, hostile_servers
from tests.trust.bait import Bait

DIALECTS = ("sqlite", "duckdb", "postgres", "mysql")

BOMB_REASONS = frozenset({"refused", "parse", "error", "timeout", "memory", "crashed", "too_many_rows"})
WALL_REASONS = frozenset({"refused", "parse"})

UNSTOPPABLE = "unstoppable"
"""The family of what MariaDB does not end, neither by its time limit nor by KILL: the first wall alone stands there."""


@dataclass(frozen=True, slots=True)
class Hostile:
    """One statement.

    Attributes:
        family: what kind of harm.
        reasons: with which it may be turned down.
    """

    dialect: str
    family: str
    sql: str
    reasons: frozenset[str]


def _common() -> dict[str, list[str]]:
    return {
        "write": [
            "INSERT INTO t VALUES (1, 'x')",
            "INSERT INTO t SELECT i, s FROM t",
            "UPDATE t SET s = 'x'",
            "DELETE FROM t",
            "DELETE FROM t WHERE i IN (SELECT i FROM t)",
            "REPLACE INTO t VALUES (1, 'x')",
            "MERGE INTO t USING t AS u ON t.i = u.i WHEN MATCHED THEN DELETE",
            "WITH x AS (SELECT 1 AS i) INSERT INTO t SELECT i, 'x' FROM x",
            "WITH x AS (SELECT 1 AS i) DELETE FROM t WHERE i IN (SELECT i FROM x)",
            "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
            "WITH x AS (INSERT INTO t VALUES (1, 'x') RETURNING *) SELECT * FROM x",
            "WITH x AS (UPDATE t SET s = 'x' RETURNING *) SELECT count(*) FROM x",
            "EXPLAIN ANALYZE DELETE FROM t",
            "EXPLAIN INSERT INTO t VALUES (1, 'x')",
            "SELECT * INTO u FROM t",
            "SELECT * FROM t FOR UPDATE",
            "TRUNCATE TABLE t",
        ],
        "ddl": [
            "CREATE TABLE u (i INTEGER)",
            "CREATE TABLE u AS SELECT * FROM t",
            "CREATE VIEW u AS SELECT * FROM t",
            "CREATE INDEX u ON t (i)",
            "CREATE UNIQUE INDEX u ON t (i)",
            "CREATE TRIGGER u AFTER INSERT ON t BEGIN DELETE FROM t; END",
            "CREATE SCHEMA u",
            "CREATE SEQUENCE u",
            "CREATE FUNCTION f() RETURNS INTEGER AS 'SELECT 1'",
            "ALTER TABLE t ADD COLUMN x INTEGER",
            "ALTER TABLE t RENAME TO u",
            "DROP TABLE t",
            "DROP TABLE IF EXISTS t",
            "DROP VIEW IF EXISTS u",
            "ANALYZE t",
            "VACUUM",
            "REINDEX t",
            "COMMENT ON TABLE t IS 'x'",
            "GRANT ALL ON t TO PUBLIC",
        ],
        "temporary": [
            "CREATE TEMP TABLE u AS SELECT * FROM t",
            "CREATE TEMPORARY TABLE u (i INTEGER)",
            "CREATE TEMP VIEW u AS SELECT * FROM t",
            "CREATE TEMP TRIGGER u AFTER INSERT ON t BEGIN SELECT 1; END",
            "INSERT INTO temp.u VALUES (1)",
        ],
        "transaction": ["BEGIN", "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "SAVEPOINT x", "RELEASE x", "END"],
        "prepared": ["PREPARE p AS DELETE FROM t", "EXECUTE p", "DEALLOCATE p"],
        "several": [
            "SELECT 1; DROP TABLE t",
            "SELECT 1;; DELETE FROM t",
            "SELECT ';' ; DROP TABLE t",
            "SELECT 1 /* ; */ ; UPDATE t SET s = 'x'",
            "SELECT 1 -- ;\n; DELETE FROM t",
            "BEGIN; DELETE FROM t; COMMIT",
        ],
    }


def _bombs(dialect: str) -> dict[str, list[str]]:
    many = ", ".join(f"t AS t{i}" for i in range(8))
    repeated = "s"
    for _ in range(40):
        repeated = f"replace({repeated}, 'x', 'xxxxxxxx')"
    doubled = "s"
    for _ in range(40):
        doubled = f"({doubled} || s || {'s' if len(doubled) > 10_000 else doubled})"
    bombs = {
        "recursion": [
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n FROM r",
            "WITH RECURSIVE r(n) AS (SELECT 'x' UNION ALL SELECT n || n FROM r) SELECT max(length(n)) FROM r",
            "WITH RECURSIVE r(n) AS (SELECT 1 UNION SELECT n + 1 FROM r) SELECT sum(n) FROM r",
        ],
        "cross join": [
            f"SELECT count(*) FROM {many} WHERE t0.i + t7.i < 0",
            f"SELECT t0.i FROM {many}",
            f"SELECT DISTINCT t0.s, t1.s, t2.s FROM {many}",
            f"SELECT t0.s FROM {many} ORDER BY t0.s || t1.s || t2.s",
            f"SELECT t0.i, count(*) FROM {many} GROUP BY t0.i, t1.i, t2.i",
        ],
        "text": [
            f"SELECT max(length({repeated})) FROM t",
            f"SELECT max(length({doubled})) FROM t AS a, t AS b, t AS c",
            f"SELECT group_concat(t0.s, ',') FROM {many}",
        ],
        "pattern": [
            "SELECT count(*) FROM t AS a, t AS b, t AS c WHERE a.s || b.s || c.s LIKE '%a%a%a%a%a%a%a%a%a%a%b'",
            f"SELECT '{'a' * 30_000}' LIKE '{'%a' * 20_000}%b'",
        ],
        "nesting": [
            f"SELECT {'(' * 5_000}1{')' * 5_000}",
            f"SELECT {'-' * 1}{'- ' * 5_000}1",
            f"SELECT {'NOT ' * 5_000}1",
            f"SELECT {'abs(' * 3_000}1{')' * 3_000}",
            f"SELECT {' + '.join(['1'] * 20_000)}",
            f"SELECT * FROM {'(SELECT * FROM ' * 1_000}t{') AS x' * 1_000}",
            " UNION ALL ".join(["SELECT 1"] * 3_000),
            f"SELECT CASE {'WHEN 1 = 2 THEN 3 ' * 10_000} END",
        ],
        "literal": [
            f"SELECT '{'x' * 5_000_000}'",
            f"SELECT {'9' * 100_000}",
            f"SELECT i FROM t WHERE i IN ({', '.join(map(str, range(50_000)))})",
            f"SELECT {', '.join(['1'] * 30_000)}",
        ],
    }
    if dialect == "postgres":
        bombs["time"] = [
            "SELECT pg_sleep(1000)",
            "SELECT pg_sleep_for('1 hour')",
            "SELECT pg_sleep_until('9999-01-01')",
            "SELECT i, pg_sleep(0.1) FROM t",
            "SELECT set_config('statement_timeout', '0', false), pg_sleep(0.05) FROM t",
            "SELECT query_to_xml('SELECT set_config(''statement_timeout'', ''0'', false), pg_sleep(10)', true, true, '')",
            "SELECT count(*) FROM t WHERE pg_sleep(i) IS NULL",
            "SELECT CASE WHEN i >= 0 THEN pg_sleep(5) END FROM t",
        ]
        bombs["rows"] = [
            "SELECT * FROM generate_series(1, 100000000000)",
            "SELECT count(*) FROM generate_series(1, 1000000) AS a, generate_series(1, 1000000) AS b",
            "SELECT generate_series(1, 100000000)",
            "SELECT unnest(array_fill(1, ARRAY[10000000]))",
            "SELECT count(DISTINCT a || b) FROM generate_series(1, 30000) AS a, generate_series(1, 30000) AS b",
            "SELECT string_to_table(repeat('x,', 10000000), ',')",
            "SELECT regexp_split_to_table(repeat('x,', 10000000), ',')",
        ]
        bombs["text"] += [
            "SELECT length(repeat('x', 1000000000))",
            "SELECT length(repeat('x', 2000000000))",
            "SELECT lpad('x', 500000000, 'y')",
            "SELECT format('%500000000s', 'x')",
            "SELECT count(string_agg) FROM (SELECT string_agg(repeat(s, 1000), '') FROM t AS a, t AS b) AS x",
            "SELECT array_agg(a.s) FROM t AS a, t AS b, t AS c",
            "SELECT factorial(100000)",
            "SELECT 9 ^ 9 ^ 9::numeric",
        ]
        bombs["pattern"] += [
            "SELECT repeat('a', 100000) ~ '(a*)*(a*)*(a*)*b'",
            "SELECT regexp_replace(repeat('a', 100000), '(a+)+$', 'b')",
            "SELECT 'x' SIMILAR TO repeat('(a|b)*', 1000)",
        ]
    if dialect == "mysql":
        bombs["text"].remove(f"SELECT max(length({repeated})) FROM t")
        bombs[UNSTOPPABLE] = [f"SELECT max(length({repeated})) FROM t"]
        bombs["time"] = [
            "SELECT sleep(1000)",
            "SELECT i, sleep(0.1) FROM t",
            "SELECT benchmark(1000000000, md5('x'))",
            "SELECT benchmark(1000000000, (SELECT count(*) FROM t))",
            "SELECT 1 /*! + sleep(5) */",
            "SELECT CASE WHEN i >= 0 THEN sleep(5) END FROM t",
            "SELECT count(*) FROM t WHERE sleep(i + 1)",
            "SELECT master_gtid_wait('0-1-1')",
        ]
        bombs["text"] += [
            "SELECT length(repeat('x', 1000000000))",
            "SELECT lpad('x', 1000000000, 'y')",
            "SELECT space(1000000000)",
            "SELECT group_concat(a.s, b.s, c.s) FROM t AS a, t AS b, t AS c",
            "SELECT json_arrayagg(a.s) FROM t AS a, t AS b, t AS c",
            "SELECT length(concat(repeat('x', 10000000), repeat('y', 10000000)))",
        ]
        bombs["pattern"] += [
            "SELECT repeat('a', 100000) REGEXP '(a*)*(a*)*(a*)*b'",
            "SELECT regexp_replace(repeat('a', 100000), '(a+)+$', 'b')",
        ]
        bombs["rows"] = [
            "SELECT * FROM seq_1_to_100000000",
            "SELECT count(*) FROM seq_1_to_1000000 AS a, seq_1_to_1000000 AS b",
        ]
    if dialect == "sqlite":
        bombs["text"] += ["SELECT printf('%.*c', 1000000000, 'x')", "SELECT hex(zeroblob(400000000))"]
        bombs["json"] = [
            f"SELECT json('{'[' * 50_000}{']' * 50_000}')",
            "SELECT json_group_array(a.s) FROM t a, t b, t c",
        ]
    if dialect == "duckdb":
        bombs["text"] += [
            "SELECT length(repeat('x', 4000000000))",
            "SELECT max(length(repeat(s, 100000000))) FROM t",
            "SELECT lpad('x', 2000000000, 'y')",
            "SELECT printf('%2000000000d', 1)",
            "SELECT format('{:>2000000000}', 1)",
        ]
        bombs["rows"] = [
            "SELECT * FROM range(100000000000)",
            "SELECT count(DISTINCT r.range) FROM range(100000000000) AS r",
            "SELECT unnest(range(1000000000))",
            "SELECT len(list(a.s)) FROM t AS a, t AS b, t AS c",
            "SELECT * FROM generate_series(1, 100000000000)",
        ]
        bombs["pattern"] += ["SELECT regexp_matches(repeat('a', 100000), '(a*)*(a*)*(a*)*b')"]
        bombs["json"] = [f"SELECT json('{'[' * 50_000}{']' * 50_000}')"]
    return bombs


def _hidden(sql: str) -> Iterator[str]:
    """Yield ways to write a statement that a careless check would not see through."""
    yield sql
    yield sql.swapcase() if "'" not in sql else sql.replace("SELECT", "sElEcT")
    yield f"/* SELECT 1 */ {sql}"
    yield f"-- SELECT 1\n{sql}"
    yield sql.replace(" ", "/**/", 1)
    yield sql.replace(" ", "\n\t", 3)
    yield f"{sql};"
    yield f"SELECT 1; {sql}"
    yield f"{sql}; SELECT 1"
    yield f"\ufeff{sql}"
    yield f"({sql})"


def statements(bait: Bait) -> list[Hostile]:
    """Return all statements, each once."""
    found: dict[tuple[str, str], Hostile] = {}
    own = {
        "sqlite": hostile_files.sqlite,
        "duckdb": hostile_files.duckdb,
        "postgres": hostile_servers.postgres,
        "mysql": hostile_servers.mysql,
    }
    for dialect in DIALECTS:
        for family, written in [*_common().items(), *own[dialect](bait).items()]:
            for sql in written:
                for hidden in _hidden(sql):
                    found.setdefault((dialect, hidden), Hostile(dialect, family, hidden, WALL_REASONS))
        for family, written in _bombs(dialect).items():
            for sql in written:
                reasons = WALL_REASONS if family == UNSTOPPABLE else BOMB_REASONS
                found.setdefault((dialect, sql), Hostile(dialect, family, sql, reasons))
    return list(found.values())
