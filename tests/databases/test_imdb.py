"""IMDB as the Join Order Benchmark has it, from its CSV files or from a database file."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases import imdb
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.schema import Schema
from rayfactory.errors import BenchmarkError
from tests.databases.make_imdb_files import make_imdb_files


def load(root: Path, data_dir: Path) -> Schema:
    benchmark = open_benchmark(BenchmarkConfig(name="imdb", root=str(root)), data_dir)
    (schema,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), data_dir)
    return schema


def write_csv_files(folder: Path) -> None:
    """Write the 21 files as PostgreSQL writes them: no header, backslash before a quote, nothing for null."""
    folder.mkdir()
    for table, columns in imdb.TABLES.items():
        lines = []
        for row in range(1, 4):
            cells = [
                str(row) if kind == "INTEGER" else f'"{name} \\"{row}\\", ok"' if row < 3 else ""
                for name, kind in columns
            ]
            lines.append(",".join(cells))
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_csv_files_are_loaded_once(tmp_path: Path):
    """All 21 tables with their keys; quotes, commas and nulls as published."""
    folder = tmp_path / "imdb"
    write_csv_files(folder)
    schema = load(folder, tmp_path / "data")
    assert len(schema.tables) == 21
    assert {table.num_rows for table in schema.tables} == {3}
    assert {table.primary_key for table in schema.tables} == {("id",)}
    assert schema.foreign_keys == imdb.FOREIGN_KEYS
    title = schema.table("title").column("title").profile
    assert [value for value, _ in title.common_values] == ['title "1", ok', 'title "2", ok']
    assert title.null_fraction == pytest.approx(1 / 3)
    (loaded,) = (tmp_path / "data" / "imdb").glob("*.duckdb")
    modified = loaded.stat().st_mtime_ns
    assert load(folder.parent, tmp_path / "data") == schema
    assert loaded.stat().st_mtime_ns == modified


def test_a_database_file_gets_the_keys(tmp_path: Path):
    """A file with some of the tables has the keys among those."""
    with duckdb.connect(str(tmp_path / "my.duckdb")) as duck:
        duck.execute("CREATE TABLE title (id INTEGER, kind_id INTEGER); INSERT INTO title VALUES (1, 1), (2, 1);")
        duck.execute("CREATE TABLE kind_type (id INTEGER, kind VARCHAR); INSERT INTO kind_type VALUES (1, 'movie');")
    schema = load(tmp_path / "my.duckdb", tmp_path / "data")
    assert [(key.table, key.columns, key.referenced_table) for key in schema.foreign_keys] == [
        ("title", ("kind_id",), "kind_type")
    ]
    assert load(tmp_path, tmp_path / "data") == schema


def test_a_damaged_file_and_a_missing_one(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A missing table is a warning, a damaged one an error that names it."""
    folder = tmp_path / "imdb"
    write_csv_files(folder)
    (folder / "keyword.csv").unlink()
    assert len(load(folder, tmp_path / "data").tables) == 20
    assert "keyword" in caplog.text
    (folder / "name.csv").write_text("no number,x\n")
    with pytest.raises(BenchmarkError, match=r"name\.csv' is not as the Join Order Benchmark publishes it"):
        load(folder, tmp_path / "data")


def test_without_data_the_message_names_every_way(tmp_path: Path):
    """A folder with something else in it is no IMDB."""
    with pytest.raises(BenchmarkError, match=r"(?s)title\.csv.*benchmark\.root=PATH"):
        open_benchmark(BenchmarkConfig(name="imdb", root=str(tmp_path)), tmp_path / "data")


@pytest.mark.realdata
def test_the_columns_and_keys_are_the_published_ones(shared_data: Path):
    """The tables, columns and kinds of the benchmark's schema, and a foreign key for each of its key indexes."""
    published = {}
    text = (shared_data / "imdb" / "schema.sql").read_text()
    for name, body in re.findall(r"CREATE TABLE (\w+) \((.*?)\n\);", text, re.DOTALL):
        lines = [line.split() for line in body.strip().splitlines()]
        published[name] = tuple((line[0], "INTEGER" if line[1].startswith("integer") else "VARCHAR") for line in lines)
    assert published == imdb.TABLES
    indexes = re.findall(r"on (\w+)\((\w+)\)", (shared_data / "imdb" / "fkindexes.sql").read_text())
    assert set(indexes) <= {(key.table, key.columns[0]) for key in imdb.FOREIGN_KEYS}
    values = json.loads((shared_data / "imdb" / "column_values.json").read_text())
    assert set(values) <= set(imdb.TABLES)


@pytest.mark.realdata
def test_real_values_in_small_files(shared_data: Path, tmp_path: Path):
    """Files made from the values that occur in IMDB load, and every foreign key holds in them."""
    make_imdb_files(shared_data / "imdb" / "column_values.json", tmp_path / "imdb", num_rows=100)
    schema = load(tmp_path / "imdb", tmp_path / "data")
    assert len(schema.populated) == 21
    (path,) = (tmp_path / "data" / "imdb").glob("*.duckdb")
    with duckdb.connect(str(path), read_only=True) as duck:
        for key in schema.foreign_keys:
            join = f"{key.table} AS t ANTI JOIN {key.referenced_table} AS r ON t.{key.columns[0]} = r.id"
            present = f"t.{key.columns[0]} IS NOT NULL"
            assert duck.execute(f"SELECT count(*) FROM {join} WHERE {present}").fetchall() == [(0,)], key
    assert schema.table("title").column("production_year").role == "code"
    assert schema.table("kind_type").column("kind").role == "category"
    assert schema.table("name").column("md5sum").role == "identifier"
