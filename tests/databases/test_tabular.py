"""Folders of CSV and Parquet files, loaded once and again when they change."""

from __future__ import annotations

import gzip
from pathlib import Path

import duckdb
import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.schema import Schema
from rayfactory.errors import BenchmarkError


def load(root: Path, data_dir: Path) -> Schema:
    """Return the schema of a folder of files."""
    benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(root)), data_dir)
    (schema,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), data_dir)
    return schema


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A shop in four formats, with names as people have them."""
    folder = tmp_path / "my shop"
    folder.mkdir()
    (folder / "customers.csv").write_text(
        "id,name,since\n1,Ann,2020-01-31\n2,Bob,2021-02-28\n3,Zoë,\n", encoding="utf-8"
    )
    (folder / "Order lines.csv").write_text(
        "order;customer_id;price;select\n" + "".join(f"{n};{n % 3 + 1};{n}.50;x\n" for n in range(40)), encoding="utf-8"
    )
    (folder / "cities.tsv").write_text("city\tzip\nBerlin\t10115\nMünchen\t80331\n", encoding="utf-8")
    with gzip.open(folder / "log.csv.gz", "wt") as file:
        file.write("day,n\n2020-01-01,1\n")
    duckdb.execute(
        "COPY (SELECT range AS id, 'p' || range AS label FROM range(5)) TO ?", [str(folder / "products.parquet")]
    )
    (folder / "empty.csv").write_text("")
    (folder / ".hidden.csv").write_text("a\n1\n")
    (folder / "README.md").write_text("not a table")
    return folder


def test_each_file_is_a_table(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """Types are found, foreign keys inferred, an empty file is left out with a warning."""
    schema = load(folder, tmp_path / "data")
    assert {table.name: table.num_rows for table in schema.tables} == {
        "customers": 3,
        "Order lines": 40,
        "cities": 2,
        "log": 1,
        "products": 5,
    }
    assert schema.database == "my shop"
    assert schema.dialect == "duckdb"
    assert schema.table("customers").column("since").kind == "date"
    assert schema.table("order lines").column("price").role == "measure"
    assert [(key.table, key.referenced_table, key.source) for key in schema.foreign_keys] == [
        ("Order lines", "customers", "inferred")
    ]
    assert "empty.csv is empty" in caplog.text


def test_files_are_loaded_once_and_again_when_they_change(folder: Path, tmp_path: Path):
    """The same content, wherever it lies, has the same fingerprint; another row makes another database."""
    data_dir = tmp_path / "data"
    first = load(folder, data_dir)
    (database,) = (data_dir / "custom").iterdir()
    modified = database.stat().st_mtime_ns
    (folder / "customers.csv").touch()
    assert load(folder, data_dir) == first
    assert database.stat().st_mtime_ns == modified
    assert load(folder, tmp_path / "elsewhere").fingerprint == first.fingerprint
    with (folder / "customers.csv").open("a", encoding="utf-8") as file:
        file.write("4,Eve,2022-03-31\n")
    changed = load(folder, data_dir)
    assert changed.table("customers").num_rows == 4
    assert changed.fingerprint != first.fingerprint


def test_a_late_row_of_another_type_and_another_encoding(tmp_path: Path):
    """A text after 100,000 numbers, and a file in Windows' encoding, are read whole."""
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "late.csv").write_text("n,m\n" + "".join(f"{n},1\n" for n in range(100_000)) + "none,1\n")
    (folder / "latin.csv").write_bytes("name,n\nJosé,1\nMüller,2\n".encode("latin-1"))
    schema = load(folder, tmp_path / "data")
    assert schema.table("late").num_rows == 100_001
    assert [value for value, _ in schema.table("latin").column("name").profile.common_values] == ["José", "Müller"]


def test_one_file_is_a_database_of_one_table(folder: Path, tmp_path: Path):
    """benchmark.root may be the file itself."""
    schema = load(folder / "customers.csv", tmp_path / "data")
    assert [table.name for table in schema.tables] == ["customers"]


def test_what_is_no_table_is_named(tmp_path: Path):
    """Broken files and two files of one name end with a message, and leave no half-made database."""
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "t.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(BenchmarkError, match=r"t\.parquet' is no table that can be read"):
        load(folder, tmp_path / "data")
    assert list((tmp_path / "data").rglob("*.duckdb")) == []
    (folder / "t.parquet").unlink()
    (folder / "t.csv").write_text("a\n1\n")
    (folder / "T.tsv").write_text("a\n1\n")
    with pytest.raises(BenchmarkError, match="would be one table"):
        load(folder, tmp_path / "data")
