"""Databases in object storage are files here: once for each version, whole, and only those that are wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rayfactory.bucket.store import Store
from rayfactory.config import BenchmarkConfig
from rayfactory.databases.benchmark import open_benchmark
from rayfactory.databases.fetched import FETCHED, fetched
from rayfactory.errors import BenchmarkError
from rayfactory.pool import connect
from tests.elsewhere import Elsewhere
from tests.object_storage import Faults, Storage, faulty, reached
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(storage: Storage, tmp_path: Path) -> str:
    """Return the address of three databases, as Spider has them."""
    url = storage.new_url()
    store = Store(url)
    for name in ("a", "b", "c"):
        store.write(f"{name}/{name}.sqlite", make_shop(tmp_path / f"{name}.sqlite"))
        store.write(f"{name}/schema.sql", b"-- of " + name.encode())
    store.write("tables.json", b"[]")
    return url


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_folder_is_fetched_once(url: str, tmp_path: Path, storage: Storage):
    folder = fetched(url, tmp_path / "data")
    assert files(folder) == {f"{name}/{file}" for name in "abc" for file in (f"{name}.sqlite", "schema.sql")} | {
        "tables.json"
    }
    assert (folder / "a/a.sqlite").read_bytes() == (tmp_path / "a.sqlite").read_bytes()
    faults = Faults(share=0)
    with faulty(storage, faults) as before, reached(before):
        assert fetched(url, tmp_path / "data") == folder
    assert faults.counts.total() == 1  # the list of what is there


def test_new_version_is_fetched_and_what_went_goes(url: str, tmp_path: Path):
    folder = fetched(url, tmp_path / "data")
    with (folder / "a/schema.sql").open("rb") as held:
        Store(url).write("a/schema.sql", b"-- OF A")  # as long as before
        Store(url).remove(["b/b.sqlite"])
        fetched(url, tmp_path / "data")
        assert held.read() == b"-- of a"
    assert (folder / "a/schema.sql").read_bytes() == b"-- OF A"
    assert not (folder / "b/b.sqlite").exists()


def test_file_that_is_not_whole_is_fetched_again(url: str, tmp_path: Path):
    folder = fetched(url, tmp_path / "data")
    (folder / "a/a.sqlite").write_bytes(b"SQLite")
    (folder / "b/b.sqlite").unlink()
    (folder / "c/c.sqlite.partial").write_bytes(b"half of it")
    fetched(url, tmp_path / "data")
    for name in "ab":
        assert (folder / name / f"{name}.sqlite").read_bytes() == (tmp_path / f"{name}.sqlite").read_bytes()
    assert not (folder / "c/c.sqlite.partial").exists()


def test_databases_that_are_not_wanted_stay_away(url: str, tmp_path: Path):
    folder = fetched(url, tmp_path / "data", ["a"])
    assert {name for name in files(folder) if name.endswith(".sqlite")} == {"a/a.sqlite"}
    assert "tables.json" in files(folder)
    fetched(url, tmp_path / "data", ["b"])
    assert {name for name in files(folder) if name.endswith(".sqlite")} == {"a/a.sqlite", "b/b.sqlite"}


def test_one_database_is_fetched(url: str, tmp_path: Path):
    Store(url).write("a/a.sqlite-wal", b"")
    path = fetched(f"{url}/a/a.sqlite", tmp_path / "data")
    assert files(path.parent) == {"a.sqlite", "a.sqlite-wal"}


def test_benchmark_is_opened_from_there(url: str, tmp_path: Path):
    benchmark = open_benchmark(BenchmarkConfig(name="spider", root=url), tmp_path / "data")
    assert [database.name for database in benchmark.databases] == ["a", "b", "c"]
    assert all(FETCHED in database.path for database in benchmark.databases)


def test_nothing_is_named(storage: Storage, tmp_path: Path):
    with pytest.raises(BenchmarkError, match=r"there is nothing at benchmark\.root='s3://"):
        fetched(storage.new_url(), tmp_path)
    with pytest.raises(BenchmarkError, match=r"correct benchmark\.root"):
        fetched("s3://none-of-these/x", tmp_path)
    with pytest.raises(BenchmarkError, match="tpcds is generated here"):
        open_benchmark(BenchmarkConfig(name="tpcds", root=storage.new_url()), tmp_path)


def test_run_over_a_database_there_with_its_pool_there(
    url: str, storage: Storage, tmp_path: Path, elsewhere: Elsewhere
):
    pool = storage.new_url()
    done = subprocess.run(
        [sys.executable, "-m", "rayfactory", "+benchmark=custom", f"benchmark.root={url}/a/a.sqlite",
         f"run_dir={pool}", f"data_dir={tmp_path / 'data'}", "target=10", "round.requests=2",
         "round.queries_per_request=5", "cluster.dashboard=false", "cluster.workers=1", *elsewhere.overrides],
        cwd=ROOT, env=os.environ | elsewhere.variables, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = connect(pool).sql("SELECT DISTINCT database FROM R").fetchall()
    assert found == [("a",)]
