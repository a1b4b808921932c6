"""Which databases a benchmark has, and what is in each of them."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import duckdb

from rayfactory.bucket.store import is_url
from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases import imdb, tpcds
from rayfactory.databases.cache import read_cached, write_cached
from rayfactory.databases.catalogue import Catalogue, TableStructure, read_catalogue, resolve_foreign_keys
from rayfactory.databases.engine import Database, open_connection
from rayfactory.databases.fetched import fetched
from rayfactory.databases.fingerprint import content_sha256, quick_sha256
from rayfactory.databases.folders import benchmark_folders, dialect_of, own_databases, published_databases
from rayfactory.databases.keys import infer_foreign_keys
from rayfactory.databases.metadata import Metadata, read_descriptions, read_tables_files
from rayfactory.databases.profile import TableContent, num_rows, profile_table
from rayfactory.databases.roles import Facts, role_of
from rayfactory.databases.schema import Column, ForeignKey, Schema, Table, without_content
from rayfactory.databases.server import (
    ServerConnection,
    ServerError,
    database_at,
    is_server,
    open_server,
    warn_of_rights,
)
from rayfactory.databases.tabular import is_tabular, load_files, table_files
from rayfactory.errors import BenchmarkError, DatabaseError

logger = logging.getLogger(__name__)

CACHE_VERSION = 8
"""Part of the name of every cached schema: raised whenever the reading of a schema changes."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The databases of a run, and what the benchmark's own files say of them.

    Attributes:
        databases: in ascending order of their names.
        metadata: by database name; a database that the files do not name has none.
    """

    name: str
    databases: tuple[Database, ...]
    metadata: Mapping[str, Metadata] = field(default_factory=dict)


def open_benchmark(config: BenchmarkConfig, data_dir: Path) -> Benchmark:
    """Find the databases of a benchmark, making or loading those that have to be.

    Raises:
        BenchmarkError: they are missing or cannot be used; the message names the remedy.
    """
    try:
        benchmark = _open(config, data_dir)
    except OSError as error:
        raise BenchmarkError(
            f"{str(error.filename)!r} cannot be read ({error.strerror}); check benchmark.root={config.root!r}"
        ) from error
    # Absolute, because a worker may run in another folder.
    by_name = {
        database.name: database
        if is_server(database.dialect)
        else dataclasses.replace(database, path=str(Path(database.path).absolute()))
        for database in benchmark.databases
    }
    return dataclasses.replace(benchmark, databases=tuple(by_name[name] for name in _choose(config, by_name)))


def _choose(config: BenchmarkConfig, names: Collection[str]) -> list[str]:
    """Return the names of the databases to use, out of those found, in ascending order."""
    for name in config.databases:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=3) or sorted(names)[:3]
            raise BenchmarkError(
                f"benchmark.databases names {name!r}, which is none of the {len(names)} databases found; "
                f"there is {', '.join(map(repr, near))}"
            )
    return sorted(set(config.databases) or names)


def _open(config: BenchmarkConfig, data_dir: Path) -> Benchmark:
    if is_url(config.root):
        if config.name == "tpcds":
            raise BenchmarkError(
                f"tpcds is generated here, and benchmark.root={config.root!r} is elsewhere; name a folder, or put what "
                "was generated there and use +benchmark=custom"
            )
        root = fetched(config.root, data_dir, config.databases)
    else:
        root = Path(config.root).expanduser() if config.root else data_dir / config.name
    match config.name:
        case "tpcds":
            return _open_tpcds(config, root)
        case "spider" | "bird":
            return _open_published(config, root)
        case "imdb":
            return _open_imdb(config, root, data_dir)
        case "custom" if config.url:
            if config.root:
                raise BenchmarkError("benchmark.root and benchmark.url name two databases; leave one of them out")
            return Benchmark("custom", (database_at(config.url, os.environ.get(config.password_env, "")),))
        case "custom":
            if not config.root:
                raise BenchmarkError(
                    "benchmark.root is not set; give an SQLite or DuckDB file, a folder of them, or a folder of CSV or "
                    "Parquet files: benchmark.root=PATH. A database on a server: "
                    "benchmark.url=postgresql://USER@HOST/DATABASE"
                )
            return _open_own(config, root, data_dir)
        case _:
            raise BenchmarkError(
                f"there is no benchmark {config.name!r}; there are tpcds, imdb, spider, bird and custom"
            )


def _open_tpcds(config: BenchmarkConfig, root: Path) -> Benchmark:
    database = tpcds.make_tpcds(config.scale_factor, root)
    identity = tpcds.content_identity(config.scale_factor)
    metadata = Metadata(tpcds.PRIMARY_KEYS, tpcds.FOREIGN_KEYS, identity=identity, keys_are_complete=True)
    return Benchmark("tpcds", (database,), {database.name: metadata})


def _open_published(config: BenchmarkConfig, root: Path) -> Benchmark:
    folders = benchmark_folders(config.name, root) if root.is_dir() else []
    databases: dict[str, Database] = {}
    metadata: dict[str, Metadata] = {}
    for folder in folders:
        for database in published_databases(folder):
            databases.setdefault(database.name, database)
        # The schema file lies beside the folder or, where that was unpacked deeper, a level up.
        for name, known in read_tables_files([folder, folder.parent, folder.parent.parent]).items():
            metadata.setdefault(name, known)
    if not databases:
        raise BenchmarkError(_missing(config, root, "no folder of <database>/<database>.sqlite"))
    return Benchmark(config.name, tuple(databases.values()), metadata)


def _open_imdb(config: BenchmarkConfig, root: Path, data_dir: Path) -> Benchmark:
    metadata = Metadata(imdb.PRIMARY_KEYS, imdb.FOREIGN_KEYS, keys_are_complete=True)
    if root.is_file():
        return Benchmark("imdb", (Database("imdb", _dialect(root), str(root)),), {"imdb": metadata})
    if root.is_dir():
        # What was loaded from CSV files lies beside them, under a name of its own.
        files = [path for _, path in own_databases(root) if not path.name.startswith("imdb-")]
        if len(files) == 1:
            return Benchmark("imdb", (Database("imdb", _dialect(files[0]), str(files[0])),), {"imdb": metadata})
        for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
            if (folder / "title.csv").is_file():
                database, identity = imdb.load_imdb(folder, data_dir)
                return Benchmark("imdb", (database,), {"imdb": dataclasses.replace(metadata, identity=identity)})
    raise BenchmarkError(_missing(config, root, "neither a database file nor title.csv and the other CSV files"))


def _open_own(config: BenchmarkConfig, root: Path, data_dir: Path) -> Benchmark:
    folder = data_dir / "custom"
    if is_tabular(root):
        return _open_tables(root.stem, [root], folder)
    if root.is_file():
        database = Database(root.stem, _dialect(root), str(root))
        return Benchmark("custom", (database,))
    if not root.is_dir():
        raise BenchmarkError(f"there is no file or folder {str(root)!r}; check benchmark.root={config.root!r}")
    if found := dict(own_databases(root)):
        # A file that is no database matters only where it is to be used.
        chosen = _choose(config, found)
        return Benchmark("custom", tuple(Database(name, _dialect(found[name]), str(found[name])) for name in chosen))
    if files := table_files(root):
        return _open_tables(root.resolve().name, files, folder)
    raise BenchmarkError(
        f"the folder {str(root)!r} holds no database (.sqlite, .db, .duckdb) and no CSV or Parquet file; "
        f"check benchmark.root={config.root!r}"
    )


def _open_tables(name: str, files: list[Path], folder: Path) -> Benchmark:
    database, identity = load_files(name, files, folder)
    return Benchmark("custom", (database,), {database.name: Metadata(identity=identity)})


def _dialect(path: Path) -> str:
    dialect = dialect_of(path)
    if dialect is None:
        what = (
            "is empty" if path.stat().st_size == 0 else "is neither an SQLite nor a DuckDB database, or it is encrypted"
        )
        raise BenchmarkError(
            f"the file {str(path)!r} {what}; give an unencrypted copy, or name the databases to use in "
            "benchmark.databases"
        )
    return dialect


def _missing(config: BenchmarkConfig, root: Path, what: str) -> str:
    """Return the message for a benchmark that is not there, with every way to get it."""
    ways = []
    if config.downloads:
        ways.append(f"fetch it with: python -m rayfactory +benchmark={config.name} task=download")
    if config.manual:
        ways.append(config.manual)
    ways.append("or, where you have it already, give its place: benchmark.root=PATH")
    state = f"{str(root)!r} holds {what}" if root.exists() else f"there is no file or folder {str(root)!r}"
    return f"benchmark {config.name!r} is not there ({state}).\n  " + "\n  ".join(ways)


def load_schemas(
    benchmark: Benchmark, profile: ProfileConfig, limits: ExecutionConfig, data_dir: Path
) -> Iterator[Schema]:
    """Yield the schema of each database that has rows; one without is left out with a warning.

    Raises:
        BenchmarkError: none of them has rows.
        DatabaseError: one of them cannot be read.
    """
    num_found = 0
    for database in benchmark.databases:
        try:
            schema = load_schema(benchmark, database, profile, limits, data_dir)
        except DatabaseError as error:
            if len(benchmark.databases) == 1:
                raise
            raise DatabaseError(
                f"{error}. To go on without it, name the others in benchmark.databases=[...]"
            ) from error
        if schema.populated:
            num_found += 1
            yield schema if profile.content else without_content(schema)
        elif len(benchmark.databases) > 1:
            what = "rows" if schema.tables else "tables"
            logger.warning("database %r (%s) has no %s; it is left out", database.name, database.path, what)
    if not num_found:
        places = ", ".join(repr(database.path) for database in benchmark.databases[:3])
        raise BenchmarkError(
            f"there is nothing to write about: no table with rows in {places}; fill it, or give another benchmark.root"
        )


def load_schema(
    benchmark: Benchmark, database: Database, profile: ProfileConfig, limits: ExecutionConfig, data_dir: Path
) -> Schema:
    """Return what is in a database, reading it the first time and from `data_dir` afterwards.

    Raises:
        DatabaseError: it cannot be read.
    """
    metadata = benchmark.metadata.get(database.name, Metadata())
    if is_server(database.dialect):
        return _load_from_server(database, metadata, profile, limits, data_dir)
    path = Path(database.path)
    if (folder := path.parent / "database_description").is_dir():
        metadata = dataclasses.replace(metadata, descriptions=read_descriptions(folder))
    if not path.is_file():
        raise DatabaseError(f"database {database.name!r}: there is no file {database.path!r}; check benchmark.root")
    try:
        quick = quick_sha256(path)
        key = _digest(CACHE_VERSION, duckdb.__version__, database.name, quick, asdict(profile), metadata.to_json())
        cached_path = data_dir / "schemas" / f"{key}.json"
        cached = read_cached(cached_path)
        if cached is not None:
            return cached
        content = metadata.identity or content_sha256(path)
    except OSError as error:
        raise DatabaseError(f"database {database.name!r} ({path}): cannot be read ({error.strerror})") from error
    schema = read_schema(database, metadata, profile, limits, fingerprint=_digest(content, metadata.to_json()))
    write_cached(cached_path, schema)
    return schema


MAX_GROWTH = 0.1
"""A database on a server is described anew once a table has this share of rows more or less than when it was read."""


def _load_from_server(
    database: Database, metadata: Metadata, profile: ProfileConfig, limits: ExecutionConfig, data_dir: Path
) -> Schema:
    """Return what is in a database on a server.

    Its content may change at any time. What stands for it is its structure: a run can then be gone on with while the
    database is in use. The description that a run began with is kept while the tables are about as large as they were,
    so that what was asked of a model before an interruption is not asked in other words, and paid for, again.
    """
    connection = open_server(database, limits.timeout_s)
    try:
        warn_of_rights(database, connection)
        catalogue = connection.catalogue()
        structure = _digest(connection.dialect, asdict(catalogue))
        key = _digest(CACHE_VERSION, database.name, database.path, structure, asdict(profile), metadata.to_json())
        cached_path = data_dir / "schemas" / f"{key}.json"
        cached = read_cached(cached_path)
        if cached is not None and _is_as_large(cached, connection):
            return cached
    except ServerError as error:
        raise _unreadable(database, error) from error
    finally:
        connection.close()
    schema = read_schema(database, metadata, profile, limits, fingerprint=_digest(structure, metadata.to_json()))
    write_cached(cached_path, schema)
    return schema


def _is_as_large(schema: Schema, connection: ServerConnection) -> bool:
    """Return whether every table has about as many rows as the schema says."""
    return all(
        abs(num_rows(connection, table.name) - table.num_rows) <= MAX_GROWTH * table.num_rows for table in schema.tables
    )


def _unreadable(database: Database, error: Exception) -> DatabaseError:
    remedy = (
        "check that its user may read it" if is_server(database.dialect) else "it may be damaged: give a whole copy"
    )
    return DatabaseError(
        f"database {database.name!r} ({database.path}): its content cannot be read ({error}); {remedy}, or leave it "
        "out with benchmark.databases"
    )


def read_schema(
    database: Database, metadata: Metadata, profile: ProfileConfig, limits: ExecutionConfig, *, fingerprint: str
) -> Schema:
    """Read and profile a database through a connection of its own.

    Raises:
        DatabaseError: it cannot be read.
    """
    connection = open_connection(database, limits)
    try:
        catalogue = _with_metadata(read_catalogue(connection), metadata)
        _check_width(database, catalogue, profile)
        contents = {table.name: profile_table(connection, table, profile) for table in catalogue.tables}
        if not metadata.keys_are_complete:
            inferred = infer_foreign_keys(connection, catalogue, contents)
            catalogue = dataclasses.replace(catalogue, foreign_keys=(*catalogue.foreign_keys, *inferred))
    except (sqlite3.Error, duckdb.Error, ServerError, MemoryError) as error:
        raise _unreadable(database, error) from error
    finally:
        connection.close()
    return Schema(
        database=database.name,
        dialect=database.dialect,
        tables=tuple(
            _table(table, contents[table.name], catalogue.foreign_keys, metadata) for table in catalogue.tables
        ),
        foreign_keys=catalogue.foreign_keys,
        views=catalogue.views,
        fingerprint=fingerprint,
        server=connection.version if isinstance(connection, ServerConnection) else "",
    )


def _with_metadata(catalogue: Catalogue, metadata: Metadata) -> Catalogue:
    """Complete what a database declares with what its benchmark says."""
    primary_keys = {table.casefold(): columns for table, columns in metadata.primary_keys.items()}
    tables = []
    for table in catalogue.tables:
        names = [table.find(name) for name in primary_keys.get(table.name.casefold(), ())]
        known = tuple(name for name in names if name is not None)
        if not table.primary_key and known and len(known) == len(names):
            table = dataclasses.replace(table, primary_key=known)
        tables.append(table)
    foreign_keys = resolve_foreign_keys(tables, (*catalogue.foreign_keys, *metadata.foreign_keys))
    return Catalogue(tuple(tables), foreign_keys, catalogue.views)


def _check_width(database: Database, catalogue: Catalogue, profile: ProfileConfig) -> None:
    for table in catalogue.tables:
        if len(table.columns) > profile.max_columns:
            raise DatabaseError(
                f"database {database.name!r}: table {table.name!r} has {len(table.columns)} columns, more than "
                f"profile.max_columns={profile.max_columns}; raise that, split the table, or leave the "
                "database out with benchmark.databases"
            )


def _table(
    table: TableStructure, content: TableContent, foreign_keys: tuple[ForeignKey, ...], metadata: Metadata
) -> Table:
    in_keys = set(table.primary_key)
    for key in foreign_keys:
        in_keys.update(key.columns if key.table == table.name else ())
        in_keys.update(key.referenced_columns if key.referenced_table == table.name else ())
    siblings = tuple(column.name for column in table.columns)
    columns = []
    for column, kind, profile in zip(table.columns, content.kinds, content.profiles, strict=True):
        facts = Facts(column.name, column.declared_type, kind, profile, column.name in in_keys, siblings)
        described = metadata.descriptions.get((table.name.casefold(), column.name.casefold()), "")
        columns.append(
            Column(
                name=column.name,
                declared_type=column.declared_type,
                kind=kind,
                role=role_of(facts),
                nullable=column.nullable,
                profile=profile,
                description=column.description or described,
            )
        )
    return Table(table.name, tuple(columns), table.primary_key, content.num_rows, table.description)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
