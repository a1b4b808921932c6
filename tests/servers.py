"""Real database servers for tests: started on loopback with a folder of their own, and ended with the tests.

Their programs are the system's (`make servers` installs them). Neither runs as root, so root starts them as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import duckdb
import psycopg
import pymysql

from rayfactory.databases.catalogue import Keys
from rayfactory.databases.engine import Database
from rayfactory.databases.server import database_at

NOBODY = 65534

SERVANT = NOBODY if os.geteuid() == 0 else None
"""Whom the servers run as; None: whoever runs the tests."""

OWNER_PASSWORD = "owner-of-it"
READER_PASSWORD = "only-reads"


@dataclass(frozen=True)
class Server:
    """A server with two users: `owner`, who may do anything, and `reader`, who may read what `owner` lets him.

    Attributes:
        dialect: ``postgres`` or ``mysql``.
        port: on 127.0.0.1.
        folder: of its files.
        pid: of its first process.
    """

    dialect: str
    port: int
    folder: Path
    pid: int

    def url(self, database: str, user: str = "reader") -> str:
        """Return the address of a database, without a password."""
        scheme = "postgresql" if self.dialect == "postgres" else "mysql"
        return f"{scheme}://{user}@127.0.0.1:{self.port}/{database}"

    def database(self, name: str, user: str = "reader") -> Database:
        """Return a database of the server."""
        return database_at(self.url(name, user), READER_PASSWORD if user == "reader" else OWNER_PASSWORD)

    def execute(self, database: str, *statements: str) -> None:
        """Run statements as `owner`, each by itself."""
        for _ in self._run(database, statements):
            pass

    def ask(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of `owner`."""
        (rows,) = self._run(database, [sql])
        return rows

    def _run(self, database: str, statements: Sequence[str]) -> Iterator[list[tuple[Any, ...]]]:
        with closing(self._connect(database)) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
                yield list(cursor.fetchall()) if cursor.description else []

    def _connect(self, database: str) -> Any:
        if self.dialect == "postgres":
            return psycopg.connect(self.url(database, "owner"), password=OWNER_PASSWORD, autocommit=True)
        return pymysql.connect(
            host="127.0.0.1",
            port=self.port,
            user="owner",
            password=OWNER_PASSWORD,
            database=database or None,
            charset="utf8mb4",
            autocommit=True,
        )

    def fill(self, database: str, table: str, num_columns: int, rows: Sequence[tuple[object, ...]]) -> None:
        """Put rows into a table as `owner`."""
        if self.dialect == "postgres":
            with (
                psycopg.connect(self.url(database, "owner"), password=OWNER_PASSWORD) as connection,
                connection.cursor() as cursor,
                cursor.copy(f"COPY {table} FROM STDIN") as copy,
            ):
                for row in rows:
                    copy.write_row(row)
            return
        places = ", ".join(["%s"] * num_columns)
        with closing(self._connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute("SET FOREIGN_KEY_CHECKS = 0")
            cursor.executemany(f"INSERT INTO {table} VALUES ({places})", rows)

    def make(self, database: str, *statements: str) -> Database:
        """Make a database with the statements, all of it to be read by `reader`, and return it."""
        if self.dialect == "postgres":
            self.execute("postgres", f'CREATE DATABASE "{database}"')
            reading = (
                "GRANT USAGE ON SCHEMA public TO reader",
                "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
            )
            self.execute(database, *statements, *reading)
        else:
            self.execute("", f"CREATE DATABASE `{database}`", f"GRANT SELECT, SHOW VIEW ON `{database}`.* TO reader")
            self.execute(database, *statements)
        return self.database(database)


def program(name: str) -> str | None:
    """Return the path of a server's program, also where Debian hides it; None where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return found or (str(versions[-1]) if versions else None)


@contextmanager
def postgresql() -> Iterator[Server]:
    """Start PostgreSQL, and end it."""
    with _folder() as folder:
        data = folder / "data"
        password = folder / "password"
        password.write_text(OWNER_PASSWORD, encoding="ascii")
        _hand_over(password)
        _run(
            [
                str(program("initdb")),
                *("-D", str(data), "-U", "owner", "-E", "UTF8", "--no-locale", "--no-sync"),
                *("-A", "scram-sha-256", "--pwfile", str(password)),
            ],
            folder,
        )
        port = free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": folder, "fsync": "off"}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with _started([str(program("postgres")), "-D", str(data), *words], folder) as pid:
            server = Server("postgres", port, folder, pid)
            _wait_for(server, "postgres")
            server.execute("postgres", f"CREATE ROLE reader LOGIN PASSWORD '{READER_PASSWORD}'")
            yield server


@contextmanager
def mariadb() -> Iterator[Server]:
    """Start MariaDB, and end it."""
    with _folder() as folder:
        data = folder / "data"
        _run(
            [
                str(program("mariadb-install-db")),
                *("--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"),
            ],
            folder,
        )
        users = folder / "users.sql"
        users.write_text(
            f"CREATE USER owner IDENTIFIED BY '{OWNER_PASSWORD}';\n"
            "GRANT ALL ON *.* TO owner WITH GRANT OPTION;\n"
            f"CREATE USER reader IDENTIFIED BY '{READER_PASSWORD}';\n",
            encoding="ascii",
        )
        _hand_over(users)
        port = free_port()
        command = [
            str(program("mariadbd")),
            "--no-defaults",
            f"--datadir={data}",
            f"--port={port}",
            "--bind-address=127.0.0.1",
            f"--socket={folder / 'socket'}",
            f"--pid-file={folder / 'pid'}",
            f"--init-file={users}",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=64M",
            "--skip-name-resolve",
        ]
        with _started(command, folder) as pid:
            server = Server("mysql", port, folder, pid)
            _wait_for(server, "")
            yield server


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _folder() -> Iterator[Path]:
    # Not below the folder of the tests, which its owner alone may enter.
    folder = Path(tempfile.mkdtemp(prefix="rayfactory-server-"))
    try:
        _hand_over(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _hand_over(path: Path) -> None:
    if SERVANT is not None:
        os.chown(path, NOBODY, NOBODY)


def _run(command: list[str], folder: Path) -> None:
    with (folder / "log").open("wb") as log:
        code = _start(command, folder, log).wait()
    assert code == 0, f"{command[0]}: {(folder / 'log').read_text(errors='replace')}"


def _start(command: list[str], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "LC_ALL": "C"},
        stdout=log,
        stderr=log,
        user=SERVANT,
        group=SERVANT,
        extra_groups=None if SERVANT is None else [],
    )


@contextmanager
def _started(command: list[str], folder: Path) -> Iterator[int]:
    log = (folder / "log").open("wb")
    process = _start(command, folder, log)
    try:
        yield process.pid
    except BaseException:
        sys.stderr.write((folder / "log").read_text(errors="replace")[-2_000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


def _wait_for(server: Server, database: str) -> None:
    give_up_at = time.monotonic() + 60
    while True:
        try:
            server.execute(database, "SELECT 1")
        except (psycopg.OperationalError, pymysql.OperationalError):
            if time.monotonic() > give_up_at:
                raise
            time.sleep(0.1)
        else:
            return


def copy_tables(source: Path, server: Server, name: str, keys: Keys) -> Database:
    """Make a database on the server with the tables of a DuckDB file, and their keys; the data need not obey these."""
    # One type for whole numbers: the ends of a key have to be of the same one for MySQL.
    types = {"INTEGER": "INTEGER", "BIGINT": "INTEGER", "DOUBLE": "DOUBLE PRECISION", "DATE": "DATE"}
    with duckdb.connect(str(source), read_only=True) as connection:
        tables: dict[str, list[tuple[str, str]]] = {}
        for table, column, declared_type in connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY table_oid, column_index"
        ).fetchall():
            decimal = declared_type if declared_type.startswith("DECIMAL") else "VARCHAR(250)"
            tables.setdefault(table, []).append((column, types.get(declared_type, decimal)))
        statements = []
        for table, columns in tables.items():
            parts = [f"{column} {own}" for column, own in columns]
            if key := keys.primary.get(table):
                parts.append(f"PRIMARY KEY ({', '.join(key)})")
            statements.append(f"CREATE TABLE {table} ({', '.join(parts)})")
        if server.dialect == "mysql":
            statements.insert(0, "SET FOREIGN_KEY_CHECKS = 0")
        for number, foreign in enumerate(keys.foreign):
            unchecked = " NOT VALID" if server.dialect == "postgres" else ""
            statements.append(
                f"ALTER TABLE {foreign.table} ADD CONSTRAINT fk_{number} FOREIGN KEY ({', '.join(foreign.columns)}) "
                f"REFERENCES {foreign.referenced_table} ({', '.join(foreign.referenced_columns)}){unchecked}"
            )
        made = server.make(name, *[statement for statement in statements if "FOREIGN KEY" not in statement])
        for table, columns in tables.items():
            rows = connection.execute(f"SELECT * FROM {table}").fetchall()
            server.fill(name, table, len(columns), rows)
        server.execute(name, *[each for each in statements if "FOREIGN" in each])
    return made
