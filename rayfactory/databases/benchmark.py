"""Which databases a benchmark has, and what is in each of them."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import duckdb

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases import tpcds
from rayfactory.databases.cache import read_cached, write_cached
from rayfactory.databases.catalogue import Catalogue, TableStructure, read_catalogue, resolve_foreign_keys
from rayfactory.databases.engine import Connection, Database, open_connection
from rayfactory.databases.fingerprint import content_sha256, quick_sha256
from rayfactory.databases.metadata import Metadata, read_descriptions, read_tables_files
from rayfactory.databases.profile import TableContent, profile_table
from rayfactory.databases.roles import Facts, role_of
from rayfactory.databases.schema import Column, ForeignKey, Schema, Table
from rayfactory.errors import BenchmarkError, DatabaseError

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
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
    if config.name == "tpcds":
        database = tpcds.make_tpcds(config.scale_factor, data_dir)
        metadata = Metadata(
            tpcds.PRIMARY_KEYS, tpcds.FOREIGN_KEYS, identity=tpcds.content_identity(config.scale_factor)
        )
        return Benchmark("tpcds", (database,), {database.name: metadata})
    root = Path(config.root)
    paths = sorted(path for path in root.glob("*/*.sqlite") if path.stem == path.parent.name)
    folders = [root, root.parent]
    databases = tuple(Database(path.stem, "sqlite", str(path)) for path in paths)
    return Benchmark(config.name, databases, read_tables_files(folders))


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
        schema = load_schema(benchmark, database, profile, limits, data_dir)
        if schema.populated:
            num_found += 1
            yield schema
        else:
            what = "rows" if schema.tables else "tables"
            logger.warning("database %r (%s) has no %s; it is left out", database.name, database.path, what)
    if not num_found:
        raise BenchmarkError(f"no database of benchmark {benchmark.name!r} has any rows; give others in benchmark.root")


def load_schema(
    benchmark: Benchmark, database: Database, profile: ProfileConfig, limits: ExecutionConfig, data_dir: Path
) -> Schema:
    """Return what is in a database, reading it the first time and from `data_dir` afterwards.

    Raises:
        DatabaseError: it cannot be read.
    """
    metadata = benchmark.metadata.get(database.name, Metadata())
    try:
        key = _digest(
            CACHE_VERSION, database.name, quick_sha256(Path(database.path)), asdict(profile), metadata.to_json()
        )
        cached_path = data_dir / "schemas" / f"{key}.json"
        cached = read_cached(cached_path)
        if cached is not None:
            return cached
        content = metadata.identity or content_sha256(Path(database.path))
    except OSError as error:
        raise DatabaseError(
            f"database {database.name!r} ({database.path}): cannot be read ({error.strerror})"
        ) from error
    schema = read_schema(database, metadata, profile, limits, fingerprint=_digest(content, metadata.to_json()))
    write_cached(cached_path, schema)
    return schema


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
    except (sqlite3.Error, duckdb.Error, MemoryError) as error:
        raise DatabaseError(
            f"database {database.name!r} ({database.path}): its content cannot be read ({error}); it may be damaged: give a "
            "whole copy, or leave it out with benchmark.databases"
        ) from error
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
    )


def _with_metadata(catalogue: Catalogue, metadata: Metadata) -> Catalogue:
    """Complete what a database declares with what its benchmark says."""
    primary_keys = {table.casefold(): columns for table, columns in metadata.primary_keys.items()}
    tables = []
    for table in catalogue.tables:
        names = [table.find(name) for name in primary_keys.get(table.name.casefold(), ())]
        known = tuple(name for name in names if name is not None)
        if not table.primary_key and known and len(known) == len(names):
            table = TableStructure(
                table.name, table.columns, known, table.unique_keys, table.has_rowid, table.description
            )
        tables.append(table)
    foreign_keys = resolve_foreign_keys(tables, (*catalogue.foreign_keys, *metadata.foreign_keys))
    return Catalogue(tuple(tables), foreign_keys, catalogue.views)


def _check_width(database: Database, catalogue: Catalogue, profile: ProfileConfig) -> None:
    for table in catalogue.tables:
        if len(table.columns) > profile.max_columns:
            raise DatabaseError(
                f"database {database.name!r}: table {table.name!r} has {len(table.columns)} columns, more than "
                f"profile.max_columns={profile.max_columns}; raise that, or leave the database out with benchmark.databases"
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
