"""Statements that mean harm, in four dialects: what each would do if it could, and how it hides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

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
    reach = f"host=127.0.0.1 port={bait.port} dbname=x user=x"
    return {
        "copy": [
            f"COPY t TO '{bait.loot}'",
            f"COPY t FROM '{bait.secret}'",
            f"COPY t TO PROGRAM 'touch {bait.loot}'",
            f"COPY (SELECT 1) TO PROGRAM 'touch {bait.loot}'",
            f"COPY (SELECT 1) TO '{bait.loot}'",
            f"COPY t FROM PROGRAM 'cat {bait.secret}'",
            "COPY t TO STDOUT",
            "COPY t FROM STDIN",
            "COPY (DELETE FROM t RETURNING *) TO STDOUT",
        ],
        "files": [
            f"SELECT pg_read_file('{bait.secret}')",
            f"SELECT pg_read_binary_file('{bait.secret}')",
            f"SELECT pg_ls_dir('{bait.folder}')",
            f"SELECT * FROM pg_stat_file('{bait.secret}')",
            "SELECT * FROM pg_ls_logdir()",
            "SELECT * FROM pg_ls_waldir()",
            "SELECT * FROM pg_ls_tmpdir()",
            f"SELECT lo_import('{bait.secret}')",
            f"SELECT lo_export(1, '{bait.loot}')",
            "SELECT lo_create(1)",
            "SELECT lo_creat(-1)",
            "SELECT lo_from_bytea(0, 'x')",
            "SELECT lo_put(lo_create(0), 0, 'x')",
            "SELECT lo_unlink(1)",
            f"SELECT pg_file_write('{bait.loot}', 'x', false)",
            f"SELECT pg_file_unlink('{bait.secret}')",
            "SELECT pg_current_logfile()",
            "SELECT pg_relation_filepath('t')",
        ],
        "functions": [
            "SELECT pg_reload_conf()",
            "SELECT pg_rotate_logfile()",
            "SELECT pg_terminate_backend(1)",
            "SELECT pg_cancel_backend(1)",
            "SELECT pg_stat_reset()",
            "SELECT pg_stat_reset_shared('bgwriter')",
            "SELECT pg_switch_wal()",
            "SELECT pg_create_restore_point('x')",
            "SELECT pg_promote()",
            "SELECT pg_backup_start('x')",
            "SELECT pg_create_physical_replication_slot('x', true)",
            "SELECT pg_create_logical_replication_slot('x', 'test_decoding')",
            "SELECT pg_drop_replication_slot('x')",
            "SELECT pg_replication_origin_create('x')",
            "SELECT pg_logical_emit_message(true, 'x', 'y')",
            "SELECT pg_export_snapshot()",
            "SELECT pg_log_backend_memory_contexts(pg_backend_pid())",
            "SELECT pg_import_system_collations('pg_catalog')",
            "SELECT txid_current()",
            "SELECT pg_current_xact_id()",
            "SELECT nextval('u')",
            "SELECT setval('u', 1)",
            "SELECT currval('u'), lastval()",
            "SELECT nextval('numbers')",
            "SELECT setval('numbers', 77)",
            "SELECT setseed(0.5), random()",
            "SELECT gen_random_uuid()",
            "SELECT inet_server_addr(), inet_client_port()",
            "SELECT version(), pg_backend_pid(), pg_postmaster_start_time()",
            "SELECT current_user, session_user",
            "SELECT user, current_role, current_catalog, current_schema",
            "SELECT has_table_privilege('t', 'DELETE')",
            "SELECT pg_notify('bell', 'x')",
            "SELECT pg_listening_channels()",
            "SELECT (0.1::float8).setseed",
            "SELECT 'pg_shadow'::regclass::oid",
            "SELECT pg_catalog.setseed(0.1)",
        ],
        "locks": [
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_try_advisory_lock(2)",
            "SELECT pg_advisory_lock_shared(3)",
            "SELECT pg_advisory_xact_lock(4)",
            "SELECT pg_try_advisory_xact_lock_shared(5)",
            "SELECT pg_advisory_unlock_all()",
            "SELECT i, pg_try_advisory_lock(i) FROM t",
            "LOCK TABLE t",
            "LOCK TABLE t IN ACCESS EXCLUSIVE MODE NOWAIT",
            "SELECT * FROM t FOR SHARE",
            "SELECT * FROM t FOR NO KEY UPDATE SKIP LOCKED",
            "SELECT * FROM t FOR KEY SHARE",
            "SELECT * FROM (SELECT * FROM t FOR UPDATE) AS x",
        ],
        "network": [
            f"SELECT dblink('{reach}', 'SELECT 1')",
            f"SELECT dblink_connect('{reach}')",
            f"SELECT * FROM dblink('{reach}', 'SELECT 1') AS x(i int)",
            f"CREATE SUBSCRIPTION x CONNECTION '{reach}' PUBLICATION y",
            "CREATE SERVER x FOREIGN DATA WRAPPER postgres_fdw",
            f"IMPORT FOREIGN SCHEMA x FROM SERVER y INTO public OPTIONS (host '{bait.url}')",
        ],
        "inside": [
            "SELECT query_to_xml('DELETE FROM t', true, true, '')",
            "SELECT query_to_xml('DROP TABLE t', true, true, '')",
            "SELECT query_to_xml('SELECT set_config(''role'', ''owner'', false)', true, true, '')",
            f"SELECT query_to_xml('COPY t TO ''{bait.loot}''', true, true, '')",
            "SELECT query_to_xml_and_xmlschema('UPDATE t SET i = 0', true, true, '')",
            "SELECT query_to_xmlschema('DELETE FROM t', true, true, '')",
            "SELECT table_to_xml('pg_authid', true, true, '')",
            "SELECT database_to_xml(true, true, '')",
            "SELECT schema_to_xml('public', true, true, '')",
            "SELECT cursor_to_xml('rayfactory', 1, true, true, '')",
            "SELECT ts_stat('DELETE FROM t RETURNING i')",
            "SELECT * FROM ts_stat('SELECT to_tsvector(s) FROM t')",
            f"SELECT xmlparse(DOCUMENT '<!DOCTYPE x [<!ENTITY y SYSTEM \"file://{bait.secret}\">]><x>&y;</x>')",
            "SELECT xpath('//x', '<x/>')",
        ],
        "catalog": [
            "SELECT * FROM pg_catalog.pg_shadow",
            "SELECT * FROM pg_shadow",
            "SELECT * FROM pg_authid",
            "SELECT * FROM pg_catalog.pg_settings",
            "SELECT * FROM pg_stat_activity",
            "SELECT * FROM pg_hba_file_rules",
            "SELECT * FROM pg_file_settings",
            "SELECT * FROM pg_largeobject",
            "SELECT * FROM pg_locks",
            "SELECT * FROM pg_user_mapping",
            "SELECT * FROM information_schema.tables",
            "UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'",
            "UPDATE pg_catalog.pg_authid SET rolsuper = true",
            "SELECT xmin, ctid, tableoid FROM t",
        ],
        "settings": [
            *(
                f"SELECT set_config('{name}', '{value}', {local})"
                for name, value in _POSTGRES_SETTINGS
                for local in (False, True)
            ),
            "SET statement_timeout = 0",
            "SET LOCAL statement_timeout = 0",
            "SET SESSION AUTHORIZATION owner",
            "SET ROLE owner",
            "SET TRANSACTION READ WRITE",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            "RESET ALL",
            "RESET statement_timeout",
            "ALTER SYSTEM SET work_mem = '1GB'",
            "ALTER SYSTEM RESET ALL",
            "ALTER DATABASE hostile SET work_mem = '1GB'",
            "SELECT current_setting('data_directory')",
            "SHOW ALL",
            "LOAD 'x'",
            "DISCARD ALL",
        ],
        "people": [
            "CREATE ROLE evil SUPERUSER LOGIN",
            "CREATE USER evil",
            "ALTER ROLE reader SUPERUSER",
            "ALTER ROLE reader SET statement_timeout = 0",
            "ALTER USER reader PASSWORD 'x'",
            "DROP ROLE reader",
            "GRANT owner TO reader",
            "GRANT pg_write_server_files TO reader",
            "REASSIGN OWNED BY owner TO reader",
            "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
            "SECURITY LABEL ON TABLE t IS 'x'",
        ],
        "code": [
            "CREATE EXTENSION dblink",
            "CREATE EXTENSION adminpack",
            "CREATE LANGUAGE plperlu",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            f"CREATE FUNCTION f() RETURNS int LANGUAGE c AS '{bait.loot}', 'f'",
            "CREATE PROCEDURE p() LANGUAGE sql AS 'DELETE FROM t'",
            "CREATE OPERATOR + (FUNCTION = f, LEFTARG = int)",
            "CREATE CAST (int AS text) WITH INOUT AS IMPLICIT",
            "CREATE RULE r AS ON SELECT TO t DO INSTEAD SELECT 1",
            "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()",
            "CREATE MATERIALIZED VIEW u AS SELECT * FROM t",
            "REFRESH MATERIALIZED VIEW u",
            "CREATE DOMAIN d AS int CHECK (pg_sleep(1) IS NULL)",
            "CREATE TYPE y AS ENUM ('a')",
            "CREATE PUBLICATION p FOR ALL TABLES",
            "CREATE DATABASE evil",
            f"CREATE TABLESPACE evil LOCATION '{bait.folder}'",
            "CREATE POLICY p ON t USING (false)",
            "CREATE STATISTICS st ON i, s FROM t",
            "DO $$ BEGIN DELETE FROM t; END $$",
            "DO 'BEGIN PERFORM pg_sleep(1); END'",
            f"DO $$ BEGIN EXECUTE 'COPY t TO ''{bait.loot}'''; END $$",
            "CALL p()",
            "LISTEN bell",
            "NOTIFY bell, 'x'",
            "UNLISTEN *",
            "CLUSTER t",
            "CHECKPOINT",
            "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM t",
            "FETCH ALL FROM rayfactory",
            "CLOSE ALL",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "START TRANSACTION READ WRITE",
            "COMMIT AND CHAIN",
        ],
        "written": [
            "SELECT 1; COMMIT; DELETE FROM t",
            "SELECT 1; END; BEGIN; DROP TABLE t; COMMIT",
            "SELECT E'\\'; DROP TABLE t; --'",
            "SELECT $$'$$; DROP TABLE t; --'",
            "SELECT U&'\\0027; DROP TABLE t; --'",
            "SELECT 1 /* /* */ ; DROP TABLE t; -- */",
            "SELECT setseed(0.1) /* /* */ FROM t -- */",
            'SELECT i FROM U&"\\0070g_shadow"',
            "SELECT 1 INTO TEMP u",
            "SELECT 1 INTO UNLOGGED u",
            "SELECT * FROM ROWS FROM (pg_ls_dir('.'))",
            "SELECT * FROM t TABLESAMPLE SYSTEM (nextval('numbers'))",
            "TABLE pg_settings",
            "VALUES (pg_notify('bell', 'x'))",
            "SELECT pg_notify('bell', s) FROM t",
            "EXPLAIN (ANALYZE) SELECT pg_notify('bell', s) FROM t",
            "WITH x AS MATERIALIZED (SELECT pg_notify('bell', s) FROM t) SELECT 1 FROM x",
            "SELECT CASE WHEN pg_notify('bell', 'x') IS NULL THEN 1 END",
            "SELECT count(*) OVER (ORDER BY setseed(0.1)) FROM t",
            "SELECT i FROM t LIMIT nextval('numbers')",
            "SELECT 1 OPERATOR(pg_catalog.+) 2",
        ],
    }


_POSTGRES_SETTINGS = (
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("transaction_read_only", "off"),
    ("default_transaction_read_only", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("client_connection_check_interval", "0"),
    ("search_path", "pg_temp"),
    ("role", "owner"),
    ("session_authorization", "owner"),
    ("session_replication_role", "replica"),
    ("standard_conforming_strings", "off"),
    ("client_encoding", "SQL_ASCII"),
    ("work_mem", "2GB"),
    ("temp_file_limit", "-1"),
    ("log_statement", "all"),
    ("row_security", "off"),
    ("datestyle", "German"),
    ("timezone", "Asia/Tokyo"),
    ("default_tablespace", "pg_global"),
    ("max_parallel_workers_per_gather", "8"),
    ("local_preload_libraries", "x"),
    ("rayfactory.x", "y"),
)
"""Settings of a session, and what a statement would like them to be."""


def _mysql(bait: Bait) -> dict[str, list[str]]:
    return {
        "files": [
            f"SELECT * FROM t INTO OUTFILE '{bait.loot}'",
            f"SELECT * INTO OUTFILE '{bait.loot}' FROM t",
            f"SELECT s FROM t INTO DUMPFILE '{bait.loot}'",
            f"SELECT 1 INTO DUMPFILE '{bait.loot}'",
            f"SELECT i FROM t UNION SELECT 1 INTO OUTFILE '{bait.loot}'",
            f"WITH x AS (SELECT 1) SELECT * FROM x INTO OUTFILE '{bait.loot}'",
            f"SELECT 1 /*! INTO OUTFILE '{bait.loot}' */",
            f"TABLE t INTO OUTFILE '{bait.loot}'",
            f"VALUES (1) INTO OUTFILE '{bait.loot}'",
            f"SELECT load_file('{bait.secret}')",
            f"SELECT length(load_file('{bait.secret}')) FROM t",
            f"LOAD DATA INFILE '{bait.secret}' INTO TABLE t",
            f"LOAD DATA LOCAL INFILE '{bait.secret}' INTO TABLE t",
            f"LOAD XML INFILE '{bait.secret}' INTO TABLE t",
            f"CREATE TABLE u (i int) DATA DIRECTORY = '{bait.folder}'",
            f"CREATE TABLE u (i int) ENGINE = CSV DATA DIRECTORY = '{bait.folder}'",
            "BACKUP STAGE START",
            "SELECT * FROM t PROCEDURE ANALYSE()",
        ],
        "functions": [
            "SELECT sys_exec('touch x')",
            "SELECT sys_eval('id')",
            "SELECT @@datadir",
            "SELECT @@global.secure_file_priv",
            "SELECT current_user()",
            "SELECT current_user",
            "SELECT session_user(), system_user(), user()",
            "SELECT current_role",
            "SELECT version()",
            "SELECT database(), schema()",
            "SELECT connection_id()",
            "SELECT found_rows(), row_count()",
            "SELECT last_insert_id(77)",
            "SELECT uuid(), uuid_short()",
            "SELECT rand(5)",
            "SELECT nextval(numbers)",
            "SELECT NEXT VALUE FOR numbers",
            "SELECT setval(numbers, 77)",
            "SELECT lastval(numbers)",
            "SELECT PREVIOUS VALUE FOR numbers",
            "SELECT master_pos_wait('x', 1, 1)",
            "SELECT master_gtid_wait('0-1-1', 0.01)",
            "SELECT name_const('x', 1)",
            "SELECT extractvalue('<a/>', '/a')",
            "SELECT updatexml('<a/>', '/a', 'x')",
            "SELECT load_file(concat('/etc/', 'passwd'))",
            "SELECT column_create('x', 1)",
            "SELECT encode('x', 'y'), des_encrypt('x')",
            "SELECT {fn user()}",
            "SELECT `user`()",
            "SELECT USER ()",
            "SELECT hostile.f()",
            "SELECT sys.version_major()",
            "SELECT json_table('[1]', '$[*]' COLUMNS (x int PATH '$'))",
            "SELECT i, s FROM t WHERE MATCH (s) AGAINST ('x' WITH QUERY EXPANSION)",
        ],
        "variables": [
            "SELECT @x := 1",
            "SELECT @x := i FROM t",
            "SELECT i INTO @x FROM t LIMIT 1",
            "SELECT i, s FROM t LIMIT 1 INTO @x, @y",
            "SET @x = 1",
            "SELECT @a:=1, @b:=2",
            "SELECT @@session.sql_mode",
            "SELECT @@local.tx_read_only",
            "SELECT @`x`",
        ],
        "locks": [
            "SELECT get_lock('x', 0)",
            "SELECT get_lock('y', 1000)",
            "SELECT get_lock(s, 0) FROM t",
            "SELECT release_lock('x')",
            "SELECT release_all_locks()",
            "SELECT is_used_lock('x'), is_free_lock('x')",
            "SELECT * FROM t LOCK IN SHARE MODE",
            "SELECT * FROM t FOR UPDATE NOWAIT",
            "SELECT * FROM t FOR UPDATE SKIP LOCKED",
            "SELECT * FROM (SELECT * FROM t FOR UPDATE) AS x",
            "LOCK TABLES t WRITE",
            "LOCK TABLES t READ",
            "UNLOCK TABLES",
            "FLUSH TABLES WITH READ LOCK",
        ],
        "catalog": [
            "SELECT * FROM mysql.user",
            "SELECT * FROM mysql.global_priv",
            "SELECT * FROM mysql.general_log",
            "SELECT * FROM information_schema.tables",
            "SELECT * FROM information_schema.processlist",
            "SELECT * FROM information_schema.user_privileges",
            "SELECT * FROM performance_schema.threads",
            "SELECT * FROM sys.session",
            "SHOW DATABASES",
            "SHOW GRANTS",
            "SHOW CREATE TABLE t",
            "SHOW VARIABLES",
            "SHOW PROCESSLIST",
            "SHOW MASTER STATUS",
            "DESCRIBE t",
            "UPDATE mysql.user SET File_priv = 'Y'",
            "INSERT INTO mysql.global_priv VALUES ('x', 'y', '{}')",
        ],
        "settings": [
            *(f"SET {scope} {name} = {value}" for name, value in _MYSQL_SETTINGS for scope in ("SESSION", "GLOBAL")),
            "SET max_statement_time = 0",
            "SET STATEMENT max_statement_time = 0 FOR SELECT 1",
            "SELECT /*+ SET_VAR(max_execution_time = 0) */ 1",
            "SELECT /*! SQL_NO_CACHE */ 1",
            "SELECT SQL_CALC_FOUND_ROWS * FROM t",
            "SELECT HIGH_PRIORITY * FROM t",
            "SET PERSIST max_connections = 1",
            "SET PASSWORD = PASSWORD('x')",
            "SET ROLE ALL",
            "SET DEFAULT ROLE ALL",
            "SET NAMES latin1",
            "SET CHARACTER SET latin1",
            "SET TRANSACTION READ WRITE",
            "SET SESSION TRANSACTION READ WRITE",
            "SET autocommit = 0",
            "USE mysql",
            "RESET QUERY CACHE",
            "RESET MASTER",
            "FLUSH PRIVILEGES",
            "FLUSH TABLES",
            "FLUSH LOGS",
            "FLUSH HOSTS",
            "CACHE INDEX t IN hot",
        ],
        "people": [
            "CREATE USER evil IDENTIFIED BY 'x'",
            "CREATE ROLE evil",
            "ALTER USER reader IDENTIFIED BY 'x'",
            "DROP USER reader",
            "RENAME USER reader TO evil",
            "GRANT ALL ON *.* TO reader",
            "GRANT FILE ON *.* TO reader",
            "REVOKE ALL PRIVILEGES, GRANT OPTION FROM reader",
        ],
        "code": [
            "CREATE FUNCTION sys_exec RETURNS int SONAME 'lib_mysqludf_sys.so'",
            "CREATE PROCEDURE p() DELETE FROM t",
            "CREATE FUNCTION f() RETURNS int DETERMINISTIC RETURN 1",
            "CREATE EVENT e ON SCHEDULE EVERY 1 SECOND DO DELETE FROM t",
            "CREATE TRIGGER u BEFORE INSERT ON t FOR EACH ROW SET NEW.i = 0",
            "CREATE DATABASE evil",
            "DROP DATABASE hostile",
            f"CREATE SERVER x FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1', PORT {bait.port})",
            f"CREATE TABLE u (i int) ENGINE = FEDERATED CONNECTION = 'mysql://x@127.0.0.1:{bait.port}/x/x'",
            f"CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {bait.port}",
            "START SLAVE",
            "INSTALL PLUGIN x SONAME 'x.so'",
            "INSTALL SONAME 'ha_connect'",
            "UNINSTALL PLUGIN innodb",
            "HANDLER t OPEN",
            "HANDLER t READ FIRST",
            "CALL p()",
            "DO get_lock('x', 0)",
            "BEGIN NOT ATOMIC DELETE FROM t; END",
            "PREPARE p FROM 'DELETE FROM t'",
            "EXECUTE IMMEDIATE 'DELETE FROM t'",
            "XA START 'x'",
            "XA RECOVER",
            "KILL 1",
            "KILL QUERY 1",
            "KILL USER owner",
            "SHUTDOWN",
            "RESTART",
            "PURGE BINARY LOGS BEFORE '2000-01-01'",
            "BINLOG 'x'",
            "OPTIMIZE TABLE t",
            "REPAIR TABLE t",
            "CHECK TABLE t",
            "ALTER TABLE t ENGINE = MEMORY",
            "RENAME TABLE t TO u",
            "CREATE SEQUENCE u",
            "CREATE OR REPLACE TABLE t (i int)",
            "INSERT IGNORE INTO t VALUES (1, 'x')",
            "INSERT INTO t SET i = 1 ON DUPLICATE KEY UPDATE i = 2",
            "DELETE QUICK FROM t",
            "DELETE t FROM t JOIN t AS u",
            "START TRANSACTION READ WRITE",
            "COMMIT AND CHAIN",
        ],
        "written": [
            "/*! DELETE FROM t */",
            "/*!50000 DROP TABLE t */",
            "/*M! DELETE FROM t */",
            "SELECT 1 /*! ; DELETE FROM t */",
            "SELECT 1 /*!99999 + */ + get_lock('x', 0)",
            "SELECT 1 /*! + get_lock('x', 0) */",
            "SELECT 1 /*M!100000 + get_lock('x', 0) */",
            "SELECT 1 -- \r + get_lock('x', 0)",
            "SELECT 5--get_lock('x', 0)",
            "SELECT 1 # ' \n + get_lock('x', 0) # '",
            "SELECT '\\'', get_lock('x', 0), '\\''",
            'SELECT "\\"", get_lock(\'x\', 0), "\\""',
            "SELECT _utf8'x', get_lock('x', 0)",
            "SELECT _latin1 x'27', get_lock('x', 0)",
            "SELECT n'x', x'27', 0x27, b'1', get_lock('x', 0)",
            "SELECT 'a' 'b' get_lock('x', 0)",
            "SELECT CASE WHEN get_lock('x', 0) THEN 1 END",
            "SELECT i FROM t ORDER BY get_lock(s, 0)",
            "SELECT count(*) OVER (ORDER BY get_lock('x', 0)) FROM t",
            "WITH x AS (SELECT get_lock('x', 0) AS l) SELECT l FROM x",
            "SELECT EXISTS (SELECT get_lock('x', 0) FROM t)",
            "EXPLAIN SELECT * FROM (SELECT get_lock('x', 0)) AS x",
            "ANALYZE SELECT get_lock('x', 0)",
            "VALUES (get_lock('x', 0))",
        ],
    }


_MYSQL_SETTINGS = (
    ("max_statement_time", "0"),
    ("tx_read_only", "0"),
    ("sql_mode", "'ANSI_QUOTES,NO_BACKSLASH_ESCAPES'"),
    ("time_zone", "'+09:00'"),
    ("lock_wait_timeout", "31536000"),
    ("max_allowed_packet", "1073741824"),
    ("group_concat_max_len", "4294967295"),
    ("sql_log_bin", "0"),
    ("general_log", "1"),
    ("local_infile", "1"),
    ("secure_file_priv", "''"),
    ("read_only", "1"),
    ("max_session_mem_used", "18446744073709551615"),
    ("foreign_key_checks", "0"),
)
"""Settings of a session or the server, and what a statement would like them to be."""


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
    own = {"sqlite": _sqlite, "duckdb": _duckdb, "postgres": _postgres, "mysql": _mysql}
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
