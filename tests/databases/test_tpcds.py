"""TPC-DS: generated once, with every key of its specification, and every key holds."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import duckdb
import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases import tpcds
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.schema import Schema
from rayfactory.errors import BenchmarkError


def test_all_tables_and_columns_are_there(tpcds_schema: Schema):
    """24 tables with 425 columns, each with rows and a primary key."""
    assert len(tpcds_schema.tables) == len(tpcds_schema.populated) == 24
    assert sum(len(table.columns) for table in tpcds_schema.tables) == 425
    assert all(table.primary_key for table in tpcds_schema.tables)


def test_the_keys_are_those_of_the_specification(tpcds_schema: Schema):
    """107 foreign keys, three of them composite, and none is lost on the way into the schema."""
    assert len(tpcds.FOREIGN_KEYS) == 107
    assert tpcds_schema.foreign_keys == tpcds.FOREIGN_KEYS
    assert sum(len(key.columns) == 2 for key in tpcds_schema.foreign_keys) == 3
    # Every surrogate key is one or leads to one; date_dim's other numbers of days are none.
    for table in tpcds_schema.tables:
        connected = {name for key in tpcds_schema.foreign_keys if key.table == table.name for name in key.columns}
        surrogates = {column.name for column in table.columns if column.name.endswith("_sk")}
        assert surrogates <= connected | set(table.primary_key)


def test_every_primary_key_is_unique(tpcds_data_dir: Path, tpcds_schema: Schema):
    """No two rows of a table share its primary key."""
    with duckdb.connect(
        open_benchmark(BenchmarkConfig(name="tpcds"), tpcds_data_dir).databases[0].path, read_only=True
    ) as db:
        for table in tpcds_schema.tables:
            key = ", ".join(table.primary_key)
            duplicates = db.execute(f"SELECT 1 FROM {table.name} GROUP BY {key} HAVING count(*) > 1").fetchall()
            assert not duplicates, table.name


def test_every_foreign_key_holds(tpcds_data_dir: Path, tpcds_schema: Schema):
    """Every value that is not null occurs in the table that it references."""
    violated = {}
    with duckdb.connect(
        open_benchmark(BenchmarkConfig(name="tpcds"), tpcds_data_dir).databases[0].path, read_only=True
    ) as db:
        for key in tpcds_schema.foreign_keys:
            join = " AND ".join(f"a.{a} = b.{b}" for a, b in zip(key.columns, key.referenced_columns, strict=True))
            present = " AND ".join(f"a.{a} IS NOT NULL" for a in key.columns)
            sql = (
                f"SELECT count(*) FROM {key.table} AS a ANTI JOIN {key.referenced_table} AS b ON {join} WHERE {present}"
            )
            (count,) = db.execute(sql).fetchall()[0]
            if count:
                violated[key.table, key.columns] = count
    assert violated == {}


def test_it_is_generated_once(tpcds_data_dir: Path):
    """A second opening uses the file of the first."""
    first = open_benchmark(BenchmarkConfig(name="tpcds"), tpcds_data_dir).databases[0]
    modified = Path(first.path).stat().st_mtime_ns
    assert open_benchmark(BenchmarkConfig(name="tpcds"), tpcds_data_dir).databases[0] == first
    assert Path(first.path).stat().st_mtime_ns == modified
    assert [path.name for path in Path(first.path).parent.iterdir()] == ["tpcds_sf0.01.duckdb"]


def _open(folder: str) -> str:
    return open_benchmark(BenchmarkConfig(name="tpcds"), Path(folder)).databases[0].path


def test_two_processes_that_start_at_once_both_get_it(tmp_path: Path):
    """Generating the same data twice at the same time ends with one whole file and nothing else."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        paths = pool.map(_open, [str(tmp_path)] * 2)
    assert len(set(paths)) == 1
    with duckdb.connect(paths[0], read_only=True) as db:
        assert db.execute("SELECT count(*) FROM store_sales").fetchall() == [(28810,)]
    assert len(list(Path(paths[0]).parent.iterdir())) == 1


def test_two_generations_have_one_fingerprint(tpcds_schema: Schema, tmp_path: Path):
    """The files differ in their bytes; what was generated, and so the schema, does not."""
    benchmark = open_benchmark(BenchmarkConfig(name="tpcds"), tmp_path)
    (again,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), tmp_path)
    assert again == tpcds_schema
    assert again.fingerprint == tpcds_schema.fingerprint != ""


@pytest.mark.parametrize("scale_factor", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_scale_factor_is_refused(tmp_path: Path, scale_factor: float):
    """The message names the setting and a value that works."""
    with pytest.raises(BenchmarkError, match=r"benchmark\.scale_factor=.*such as 0\.01"):
        open_benchmark(BenchmarkConfig(name="tpcds", scale_factor=scale_factor), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    """Where the data cannot be kept, the message names the place and the setting to change."""
    (tmp_path / "tpcds").write_text("a file where a folder is needed")
    with pytest.raises(BenchmarkError, match="data_dir"):
        open_benchmark(BenchmarkConfig(name="tpcds"), tmp_path)
