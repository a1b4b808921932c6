"""IMDB as the Join Order Benchmark has it: 21 tables, published as CSV files without a header line.

Source: Leis et al., How Good Are Query Optimizers, Really?, VLDB 2015; the schema is the one published with it. Its
keys are those that its queries join on.
"""

from __future__ import annotations

import logging
from pathlib import Path

import duckdb

from rayfactory.databases.catalogue import quote
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import ForeignKey
from rayfactory.databases.tabular import files_identity, load_once
from rayfactory.errors import BenchmarkError

logger = logging.getLogger(__name__)

# Column names of each table; those that are not numbers are followed by ":t".
_COLUMNS: dict[str, str] = {
    "aka_name": "id person_id name:t imdb_index:t name_pcode_cf:t name_pcode_nf:t surname_pcode:t md5sum:t",
    "aka_title": (
        "id movie_id title:t imdb_index:t kind_id production_year phonetic_code:t episode_of_id season_nr episode_nr "
        "note:t md5sum:t"
    ),
    "cast_info": "id person_id movie_id person_role_id note:t nr_order role_id",
    "char_name": "id name:t imdb_index:t imdb_id name_pcode_nf:t surname_pcode:t md5sum:t",
    "comp_cast_type": "id kind:t",
    "company_name": "id name:t country_code:t imdb_id name_pcode_nf:t name_pcode_sf:t md5sum:t",
    "company_type": "id kind:t",
    "complete_cast": "id movie_id subject_id status_id",
    "info_type": "id info:t",
    "keyword": "id keyword:t phonetic_code:t",
    "kind_type": "id kind:t",
    "link_type": "id link:t",
    "movie_companies": "id movie_id company_id company_type_id note:t",
    "movie_info": "id movie_id info_type_id info:t note:t",
    "movie_info_idx": "id movie_id info_type_id info:t note:t",
    "movie_keyword": "id movie_id keyword_id",
    "movie_link": "id movie_id linked_movie_id link_type_id",
    "name": "id name:t imdb_index:t imdb_id gender:t name_pcode_cf:t name_pcode_nf:t surname_pcode:t md5sum:t",
    "person_info": "id person_id info_type_id info:t note:t",
    "role_type": "id role:t",
    "title": (
        "id title:t imdb_index:t kind_id production_year imdb_id phonetic_code:t episode_of_id season_nr episode_nr "
        "series_years:t md5sum:t"
    ),
}

TABLES: dict[str, tuple[tuple[str, str], ...]] = {
    table: tuple((name.removesuffix(":t"), "VARCHAR" if name.endswith(":t") else "INTEGER") for name in names.split())
    for table, names in _COLUMNS.items()
}
"""(column, type) of each of the 21 tables; the first column of each is its primary key."""

PRIMARY_KEYS: dict[str, tuple[str, ...]] = dict.fromkeys(TABLES, ("id",))

_REFERENCES: dict[str, dict[str, str]] = {
    "aka_name": {"person_id": "name"},
    "aka_title": {"movie_id": "title", "kind_id": "kind_type"},
    "cast_info": {"person_id": "name", "movie_id": "title", "person_role_id": "char_name", "role_id": "role_type"},
    "complete_cast": {"movie_id": "title", "subject_id": "comp_cast_type", "status_id": "comp_cast_type"},
    "movie_companies": {"movie_id": "title", "company_id": "company_name", "company_type_id": "company_type"},
    "movie_info": {"movie_id": "title", "info_type_id": "info_type"},
    "movie_info_idx": {"movie_id": "title", "info_type_id": "info_type"},
    "movie_keyword": {"movie_id": "title", "keyword_id": "keyword"},
    "movie_link": {"movie_id": "title", "linked_movie_id": "title", "link_type_id": "link_type"},
    "person_info": {"person_id": "name", "info_type_id": "info_type"},
    "title": {"kind_id": "kind_type", "episode_of_id": "title"},
}

FOREIGN_KEYS: tuple[ForeignKey, ...] = tuple(
    ForeignKey(table, (column,), referenced, ("id",), "benchmark")
    for table, references in _REFERENCES.items()
    for column, referenced in references.items()
)


def load_imdb(folder: Path, data_dir: Path) -> tuple[Database, str]:
    """Return a DuckDB database with the benchmark's CSV files, loaded on first use, and the identity of its content.

    Raises:
        BenchmarkError: none of the files is there, or one cannot be read.
    """
    files = {table: folder / f"{table}.csv" for table in TABLES if (folder / f"{table}.csv").is_file()}
    if not files:
        raise BenchmarkError(f"{str(folder)!r} holds none of the Join Order Benchmark's CSV files, such as title.csv")
    if missing := sorted(set(TABLES) - set(files)):
        logger.warning("%s has no CSV file for the tables %s; the others are loaded", folder, ", ".join(missing))
    identity = files_identity(list(files.values()))

    def load(connection: duckdb.DuckDBPyConnection) -> None:
        for table, path in files.items():
            _load_table(connection, table, path)

    return load_once("imdb", data_dir / "imdb", identity, load), identity


def _load_table(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    columns = ", ".join(f"{quote(name)} {column_type}" for name, column_type in TABLES[table])
    connection.execute(f"CREATE TABLE {quote(table)} ({columns}, PRIMARY KEY (id))")
    types = "{" + ", ".join(f"'{name}': '{column_type}'" for name, column_type in TABLES[table]) + "}"
    try:
        # Written by PostgreSQL: no header, a backslash before a quote within quotes, nothing for null.
        connection.execute(
            f"INSERT INTO {quote(table)} SELECT * FROM read_csv(?, header = false, delim = ',', quote = '\"', "
            f"escape = '\\', columns = {types}, auto_detect = false, strict_mode = false, max_line_size = 16777216)",
            [str(path)],
        )
    except duckdb.Error as error:
        message = " ".join(str(error).split())[:300]
        raise BenchmarkError(f"{str(path)!r} is not as the Join Order Benchmark publishes it ({message})") from error
