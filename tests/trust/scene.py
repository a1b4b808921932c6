"""A database and what hostile statements are after, and whether they got it."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import connect
from rayfactory.errors import StatementError
from tests import servers
from tests.databases.test_engine import make, numbers
from tests.trust.bait import Bait

ROWS = 200
"""Of the table t of the database."""

_OF_A_MOMENT = "'TIMESTAMP', 'RAND_SEED1', 'RAND_SEED2', 'PSEUDO_THREAD_ID', 'LAST_INSERT_ID', 'INSERT_ID'"
"""Variables of a session that are none of its settings."""

SERVER_TIMEOUT_S = 0.2
"""Limit of a hostile statement on a server."""

_BUSY = {
    "postgres": "SELECT query FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' "
    "AND pid <> pg_backend_pid()",
    "mysql": "SELECT info FROM information_schema.processlist WHERE command = 'Query' AND id <> connection_id()",
}
"""What others than the one who asks are doing."""

_POSTGRES_STATE = {
    "busy": _BUSY["postgres"],
    "tables": "SELECT relnamespace::regnamespace::text, relname, relkind::text, oid, relacl::text FROM pg_class",
    "content": "SELECT md5(string_agg(t::text, ',' ORDER BY i)) FROM t",
    "sequence": "SELECT last_value, is_called FROM numbers",
    "functions": "SELECT max(oid), count(*) FROM pg_proc",
    "types": "SELECT max(oid), count(*) FROM pg_type",
    "extensions": "SELECT extname FROM pg_extension UNION SELECT lanname FROM pg_language",
    "people": "SELECT a::text FROM pg_authid AS a UNION SELECT m::text FROM pg_auth_members AS m",
    "settings of people": "SELECT s::text FROM pg_db_role_setting AS s",
    "settings": "SELECT name, setting FROM pg_settings UNION SELECT name, setting FROM pg_file_settings",
    "databases": "SELECT datname, datacl::text FROM pg_database UNION SELECT spcname, NULL FROM pg_tablespace",
    "large objects": "SELECT count(*) FROM pg_largeobject_metadata",
    "locks": "SELECT locktype, mode FROM pg_locks WHERE locktype = 'advisory' OR mode LIKE '%Exclusive%' AND pid IN "
    "(SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend')",
    "replication": "SELECT slot_name FROM pg_replication_slots UNION SELECT roname FROM pg_replication_origin",
    "prepared": "SELECT gid FROM pg_prepared_xacts",
    "statistics": "SELECT stats_reset FROM pg_stat_bgwriter",
}
_MYSQL_STATE = {
    "busy": _BUSY["mysql"],
    "tables": "SELECT table_schema, table_name, engine, create_time FROM information_schema.tables "
    "WHERE table_schema NOT IN ('information_schema', 'performance_schema')",
    "content": "SELECT * FROM t",
    "sequence": "SELECT * FROM numbers",
    "code": "SELECT routine_schema, routine_name FROM information_schema.routines",
    "triggers": "SELECT trigger_name FROM information_schema.triggers",
    "events": "SELECT event_name FROM information_schema.events",
    "plugins": "SELECT plugin_name, plugin_status FROM information_schema.plugins",
    "people": "SELECT * FROM mysql.global_priv",
    "rights": "SELECT * FROM mysql.db",
    "servers": "SELECT * FROM mysql.servers",
    "settings": f"SELECT * FROM information_schema.global_variables WHERE variable_name NOT IN ({_OF_A_MOMENT})",
    "transactions": "SELECT trx_state FROM information_schema.innodb_trx",
    "locks": "SELECT is_used_lock('x'), is_used_lock('y'), is_used_lock('x1')",
}
"""What has to be the same afterwards: by its name, how to ask for it."""


class Listener:
    """Counts who connects to a port of this machine."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.num_connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.num_connections += 1
            connection.close()

    def close(self) -> None:
        self._socket.close()


class Scene:
    """A folder with a database and what statements are after, and what became of it."""

    def __init__(self, folder: Path, dialect: str) -> None:
        self.listener = Listener()
        self.folder = folder
        self.bait = Bait(folder, self.listener.port)
        self.bait.secret.write_text("column0\nsecret\n", encoding="utf-8")
        self.database = make(folder, dialect, numbers(dialect, ROWS))
        self.take_stock()

    def _files(self) -> list[tuple[str, int, int]]:
        return sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in self.folder.iterdir())

    def _content(self) -> dict[str, str]:
        files = [each for each in self.folder.iterdir() if each.is_file()]
        return {each.name: hashlib.sha256(each.read_bytes()).hexdigest() for each in files}

    def take_stock(self) -> None:
        """Take what is there now for what has to stay."""
        self._before, self._content_before = self._files(), self._content()

    def check(self, statement: str) -> None:
        """Fail where a statement left a trace in the folder, or reached the network."""
        assert self._files() == self._before, statement
        assert self.listener.num_connections == 0, statement

    def check_content(self) -> None:
        """Fail where a file holds something else than before."""
        assert self._content() == self._content_before


class ServerScene:
    """A database on a server, a folder that the server may write to, and what became of both.

    Args:
        user: ``reader``, or ``owner``, who may do anything.
    """

    def __init__(self, server: servers.Server, user: str = "reader") -> None:
        self.server = server
        self.listener = Listener()
        folder = server.folder / f"bait{self.listener.port}"
        folder.mkdir(exist_ok=True)
        if servers.SERVANT is not None:
            os.chown(folder, servers.SERVANT, servers.SERVANT)
        self.bait = Bait(folder, self.listener.port)
        self.bait.secret.write_text("column0\nsecret\n", encoding="utf-8")
        name = f"hostile{self.listener.port}"
        if server.dialect == "postgres":
            made = f"SELECT i, 'x' || i AS s FROM generate_series(0, {ROWS - 1}) AS i"
            statements = [f"CREATE TABLE t AS {made}", "GRANT USAGE ON SCHEMA public TO reader"]
        else:
            made = f"SELECT seq AS i, concat('x', seq) AS s FROM seq_0_to_{ROWS - 1}"
            statements = [f"CREATE TABLE t AS {made}"]
        server.make(name, *statements, "CREATE SEQUENCE numbers", "CREATE TABLE empty (i int)")
        self.database = server.database(name, user)
        self._ears: psycopg.Connection[Any] | None = None
        if server.dialect == "postgres":
            self._ears = psycopg.connect(server.url(name, "owner"), password=servers.OWNER_PASSWORD, autocommit=True)
            self._ears.execute("LISTEN bell")
        self.take_stock()

    def take_stock(self) -> None:
        """Take what is there now for what has to stay."""
        self._files_before, self._before = self._files(), self._state()

    def check(self, statement: str) -> None:
        """Fail where a statement left a trace in the folder, or reached the network."""
        assert self._files() == self._files_before, statement
        assert self.listener.num_connections == 0, statement

    def check_content(self) -> None:
        """Fail where the server holds, is set to, locks or tells something else than before."""
        deadline = time.monotonic() + 20
        # What was left behind ends by the server's own limit.
        while self.server.ask(self.database.name, _BUSY[self.server.dialect]) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = self._state()
        for what, before in self._before.items():
            assert (what, found[what]) == (what, before)
        if self._ears is not None:
            assert list(self._ears.notifies(timeout=0.2)) == []

    def settings(self) -> str:
        """Return a query that has one row as long as the settings of its session are those of a new one."""
        if self.server.dialect == "postgres":
            told = "SELECT md5(string_agg(name || '=' || setting, ',' ORDER BY name)) AS told FROM pg_settings"
        else:
            told = (
                "SELECT md5(group_concat(variable_name, '=', variable_value ORDER BY variable_name)) AS told FROM "
                f"information_schema.session_variables WHERE variable_name NOT IN ({_OF_A_MOMENT})"
            )
        engine = connect(self.database, ExecutionConfig(timeout_s=SERVER_TIMEOUT_S))
        ((value,),) = in_time(lambda: engine.run(told, keep_rows=1)).rows
        engine.close()
        return f"SELECT 1 FROM ({told}) AS x WHERE told = '{value}'"

    def close(self) -> None:
        self.listener.close()
        if self._ears is not None:
            self._ears.close()

    def _files(self) -> list[tuple[str, int, int]]:
        return sorted((each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in self.bait.folder.iterdir())

    def _state(self) -> dict[str, list[tuple[Any, ...]]]:
        state = {}
        for what, sql in (_POSTGRES_STATE if self.server.dialect == "postgres" else _MYSQL_STATE).items():
            state[what] = sorted(self.server.ask(self.database.name, sql), key=repr)
        # What a server writes of its own accord has these names; nothing else may appear.
        top = [each.name for place in (self.server.folder, self.server.folder / "data") for each in place.iterdir()]
        state["files"] = [(name,) for name in sorted(top)]
        return state


def in_time(run: Callable[[], Any]) -> Any:
    """Return what a harmless statement gives, which a loaded machine may not be able to run in the time of a bomb."""
    for _ in range(50):
        with suppress(StatementError):
            found = run()
            if getattr(found, "reason", None) != "timeout":
                return found
    return run()
