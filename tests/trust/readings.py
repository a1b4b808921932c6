"""What the databases themselves make of a statement: the functions that it calls, the tables that it reads, and whether
it is one query. Nothing is run.

Each reading is the database's own. DuckDB serialises its syntax tree; SQLite asks its authorizer; PostgreSQL writes its
analysed tree to the client's log; MariaDB explains the query and shows how it took it.
"""

from __future__ import annotations

import json
import re
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import duckdb
import psycopg
import pymysql

from tests.servers import OWNER_PASSWORD, Server

_HARMFUL = re.compile(
    r"read_|glob$|sniff|getenv|current_setting|getvariable|pragma_|duckdb_|query|copy|parquet_|load_extension|readfile|"
    r"writefile|edit$|fts|which_secret|nextval|currval|add_parquet|checkpoint|enable_|disable_|sql_auto|json_execute|"
    r"txid|version|sqlite_|random|sleep|write_log|parse_log|current_(schema|database|catalog|user|role|query)"
)
"""Functions of DuckDB and SQLite that read or change something other than their arguments."""

_HARMFUL_ON_SERVERS = re.compile(
    r"^(pg_|lo_|has_|inet_|txid|dblink|set_config|current_setting|setseed|random|rand|gen_random|nextval|lastval|setval|"
    r"currval|query_to|table_to|schema_to|database_to|cursor_to|xpath|ts_stat|version|sleep|benchmark|load_file|get_lock|"
    r"release_|is_used_lock|is_free_lock|user|session_user|system_user|current_user|current_role|current_schema|database|"
    r"schema|connection_id|last_insert_id|uuid|sys_guid|row_count|found_rows|master_|wsrep|name_const|sys_|spider|"
    r"sformat|des_|encrypt|row_security|to_reg|obj_description|col_description|shobj_description)"
)
"""The same of PostgreSQL and MariaDB. (The volatile ones of PostgreSQL are found by what it says of them.)"""


class Reading(ABC):
    """One database's reading of statements. It has a table ``t (i, s)``."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the functions and settings that there are."""

    @abstractmethod
    def objections(self, sql: str) -> list[str]:
        """Return what in a statement is not a harmless part of one query; nothing where it is not valid at all."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Let go of the database."""


class DuckDBReading(Reading):
    """DuckDB's."""

    def __init__(self) -> None:
        self._duck = duckdb.connect()

    def names(self) -> list[str]:
        """Return the functions and settings that there are."""
        asked = "SELECT DISTINCT function_name FROM duckdb_functions() UNION SELECT name FROM duckdb_settings()"
        return sorted(str(name) for (name,) in self._duck.execute(asked).fetchall())

    def objections(self, sql: str) -> list[str]:
        """Return what in a statement is not a harmless part of one query."""
        try:
            kinds = [str(statement.type) for statement in self._duck.extract_statements(sql)]
            (text,) = self._duck.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchone() or ("{}",)
        except (duckdb.Error, ValueError):
            return []
        found = [kind for kind in kinds if not kind.endswith("SELECT")] + ["several statements"] * (len(kinds) > 1)
        return found + list(_of_tree(json.loads(text)))


def _of_tree(node: object) -> Iterator[str]:
    """Yield the objections to a statement as DuckDB serialises it."""
    if isinstance(node, list):
        for each in node:
            yield from _of_tree(each)
    elif isinstance(node, dict):
        name = str(node.get("function_name", ""))
        if node.get("class") == "FUNCTION" and _HARMFUL.search(name.lower()):
            yield f"function {name}"
        if node.get("type") == "TABLE_FUNCTION":
            yield "a table function"
        if node.get("type") == "BASE_TABLE" and (
            node.get("catalog_name") or node.get("schema_name") not in ("", "main")
        ):
            yield f"table {node.get('schema_name')}.{node.get('table_name')}"
        for each in node.values():
            yield from _of_tree(each)


class SQLiteReading(Reading):
    """SQLite's."""

    def __init__(self) -> None:
        self._lite = sqlite3.connect(":memory:")
        self._lite.execute("CREATE TABLE t (i INTEGER, s VARCHAR)")
        self._seen: list[str] = []
        self._lite.set_authorizer(self._authorize)

    def names(self) -> list[str]:
        """Return the functions and settings that there are."""
        self._lite.set_authorizer(None)
        rows = self._lite.execute("SELECT name FROM pragma_function_list UNION SELECT name FROM pragma_pragma_list")
        names = sorted({str(name) for (name,) in rows} | {"readfile", "writefile", "edit", "sqlite_schema"})
        self._lite.set_authorizer(self._authorize)
        return names

    def objections(self, sql: str) -> list[str]:
        """Return what in a statement is not a harmless part of one query."""
        self._seen = []
        try:
            self._lite.execute(f"EXPLAIN {sql}")
        except (sqlite3.Error, sqlite3.Warning, ValueError):
            return []
        return self._seen

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION:
            name = (second or "").lower()
            # Here `glob` is the operator, which compares two texts; DuckDB's function lists files.
            if name != "glob" and _HARMFUL.search(name):
                self._seen.append(f"function {second}")
        elif action == sqlite3.SQLITE_READ:
            if (first or "").lower().startswith(("sqlite_", "pragma_", "dbstat")):
                self._seen.append(f"table {first}")
        elif action not in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
            self._seen.append(f"action {action} on {first}")
        return sqlite3.SQLITE_OK


class PostgreSQLReading(Reading):
    """PostgreSQL's, as its superuser `owner` has it.

    Args:
        database: with the table t.
    """

    def __init__(self, server: Server, database: str) -> None:
        url = server.url(database, "owner")
        self._connection = psycopg.connect(url, password=OWNER_PASSWORD, autocommit=True)
        self._functions = {
            int(oid): (str(name), bool(volatile))
            for oid, name, volatile in self._connection.execute(
                "SELECT oid, proname, provolatile = 'v' FROM pg_proc"
            ).fetchall()
        }
        self._own = {int(oid) for (oid,) in self._connection.execute(_OWN_RELATIONS).fetchall()}
        self._logged: list[str] = []
        self._connection.add_notice_handler(lambda notice: self._logged.append(notice.message_detail or ""))
        self._connection.execute(
            "SET debug_print_parse = on; SET debug_pretty_print = off; SET client_min_messages = log"
        )

    def names(self) -> list[str]:
        """Return the functions and settings that there are."""
        settings = self._connection.execute("SELECT name FROM pg_settings").fetchall()
        return sorted({name for name, _ in self._functions.values()} | {str(name) for (name,) in settings})

    def objections(self, sql: str) -> list[str]:
        """Return what in a statement is not a harmless part of one query."""
        self._logged.clear()
        try:
            with self._connection.cursor() as cursor:
                cursor.execute("BEGIN")
                # The protocol that takes one statement only, as everywhere.
                cursor.execute(f"DECLARE reading NO SCROLL CURSOR FOR {sql}", binary=True)
        except (psycopg.Error, ValueError, UnicodeError):
            return []
        finally:
            self._connection.execute("ROLLBACK")
        trees = [text for text in self._logged if ":querySource" in text]
        return [objection for text in trees for objection in self._of_tree(text)]

    def _of_tree(self, text: str) -> Iterator[str]:
        for number in re.findall(r":(?:funcid|aggfnoid|winfnoid|opfuncid) (\d+)", text):
            name, volatile = self._functions.get(int(number), ("", False))
            if volatile or _HARMFUL_ON_SERVERS.match(name):
                yield f"function {name}"
        # A word without parentheses that asks for a user, a schema or a database; the first ones ask for the time.
        for number in re.findall(r"\{SQLVALUEFUNCTION :op (\d+)", text):
            if int(number) > _LAST_OF_THE_TIME:
                yield f"word {number}"
        if re.search(r":rtekind 3\b", text):
            yield "a table function"
        for number in re.findall(r":rtekind 0 :relid (\d+)", text):
            if int(number) not in self._own:
                yield f"table {number}"
        if "{ROWMARKCLAUSE" in text:
            yield "a lock"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


_OWN_RELATIONS = "SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace"

_LAST_OF_THE_TIME = 8
"""Of the numbers that PostgreSQL gives its words without parentheses: CURRENT_DATE is 0, LOCALTIMESTAMP(n) is 8."""


class MariaDBReading(Reading):
    """MariaDB's, as `owner` has it.

    Args:
        database: with the table t.
    """

    def __init__(self, server: Server, database: str) -> None:
        self._database = database
        self._connection: Any = pymysql.connect(
            host="127.0.0.1", port=server.port, user="owner", password=OWNER_PASSWORD, database=database,
            charset="utf8mb4", autocommit=True,
        )  # fmt: skip
        with closing(self._connection.cursor()) as cursor:
            cursor.execute("SET SESSION max_statement_time = 1")

    def names(self) -> list[str]:
        """Return the functions, words and settings that there are."""
        with closing(self._connection.cursor()) as cursor:
            cursor.execute(
                "SELECT lower(function) FROM information_schema.sql_functions UNION "
                "SELECT lower(variable_name) FROM information_schema.global_variables"
            )
            return sorted(str(name) for (name,) in cursor.fetchall())

    def objections(self, sql: str) -> list[str]:
        """Return what in a statement is not a harmless part of one query."""
        try:
            with closing(self._connection.cursor()) as cursor:
                cursor.execute(f"EXPLAIN EXTENDED {sql}")
                cursor.fetchall()
                cursor.execute("SHOW WARNINGS")
                taken = [str(message) for _, code, message in cursor.fetchall() if code == _TAKEN_AS]
        except (pymysql.MySQLError, ValueError, UnicodeError):
            return []
        return [objection for text in taken for objection in self._of_text(text)]

    def _of_text(self, text: str) -> Iterator[str]:
        # A column without a name is called by the text that makes it; and comments number the queries.
        bare = re.sub(r"'(?:[^'\\]|''|\\.)*'|/\*.*?\*/| AS `(?:[^`]|``)*`", " ", text, flags=re.DOTALL)
        if not re.match(r"[\s(]*(select|with|values)\b", bare):
            yield f"it is taken as {bare[:40]!r}"
        for name in re.findall(r"\b(\w+)\(", bare):
            if _HARMFUL_ON_SERVERS.match(name.lower()):
                yield f"function {name}"
        if "@" in re.sub(r"`(?:[^`]|``)*`", "", bare):
            yield "a variable"
        for schema in re.findall(r"(?<!\.)`(mysql|information_schema|performance_schema|sys)`\.", bare):
            yield f"a table of {schema}"
        if re.search(r"\b(for update|lock in share mode|into outfile|into dumpfile|procedure)\b", bare):
            yield "a lock or a file"

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


_TAKEN_AS = 1003
"""Number of the note that tells how a query was taken."""
