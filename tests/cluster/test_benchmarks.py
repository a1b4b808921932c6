"""Every kind of benchmark ends with its target, and every row of it runs again on a fresh connection."""

import csv
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rayfactory.compose import compose
from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import connect as connect_database
from rayfactory.pool import connect
from rayfactory.runs import open_databases
from tests.databases.make_bird_folder import make_bird_folder
from tests.databases.make_imdb_files import make_imdb_files
from tests.models.store import make_store
from tests.servers import READER_PASSWORD
from tests.shop import make_shop

ROOT = Path(__file__).resolve().parents[2]


def grow(tmp_path, benchmark, root, target, *more, variables=None):
    """Run the command line to its end; return the summary and the pool's rows (database, sql, row_count)."""
    overrides = [
        f"+benchmark={benchmark}", f"benchmark.root={root}", f"target={target}", f"run_dir={tmp_path / 'run'}",
        f"data_dir={tmp_path / 'data'}", "cluster.dashboard=false", "cluster.workers=1", "display.mode=lines", *more,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "rayfactory", *overrides], cwd=ROOT, env={**os.environ, **(variables or {})},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = connect(tmp_path / "run").sql("SELECT database, sql, row_count FROM R").fetchall()
    assert len(rows) == target
    config = compose(overrides)
    databases, _ = open_databases(config)
    for database, sql, row_count in rows:
        engine = connect_database(databases[database], config.execution)
        assert engine.run(sql).row_count == row_count, sql
        engine.close()
    return json.loads((tmp_path / "run" / "summary.json").read_text()), rows


@pytest.mark.realdata
def test_spider(tmp_path, shared_data, make_data_dir, elsewhere):
    """Rows follow the tables; ten of the real databases."""
    make_data_dir(tmp_path / "data")
    names = "concert_singer,pets_1,world_1,tvshow,museum_visit,battle_death,book_2,singer,orchestra,ship_1"
    summary, rows = grow(
        tmp_path, "spider", shared_data / "spider", 150, f"benchmark.databases=[{names}]", "round.requests=10",
        *elsewhere.overrides, variables=elsewhere.variables,
    )  # fmt: skip
    assert summary["databases"] == 10
    assert min(sum(row[0] == name for row in rows) for name in names.split(",")) >= 5
    assert summary["executability"] >= 0.98


@pytest.mark.realdata
def test_bird(tmp_path, shared_data, make_data_dir, elsewhere):
    """BIRD's folder layout, with the keys that only its dev_tables.json knows."""
    make_data_dir(tmp_path / "data")
    make_bird_folder(shared_data / "bird" / "dev_tables.json", tmp_path / "bird")
    summary, _ = grow(tmp_path, "bird", tmp_path / "bird", 120, *elsewhere.overrides, variables=elsewhere.variables)
    assert summary["databases"] == 11
    assert summary["executability"] >= 0.98


@pytest.mark.realdata
def test_imdb(tmp_path, shared_data, make_data_dir, elsewhere):
    """The Join Order Benchmark's CSV files, with real values."""
    make_data_dir(tmp_path / "data")
    make_imdb_files(shared_data / "imdb" / "column_values.json", tmp_path / "imdb")
    summary, _ = grow(
        tmp_path, "imdb", tmp_path / "imdb", 120, "round.requests=10",
        *elsewhere.overrides, variables=elsewhere.variables,
    )  # fmt: skip
    assert summary["tables"] == 21
    assert summary["executability"] >= 0.98


@pytest.mark.parametrize("server", ["postgresql_server", "mariadb_server"])
def test_database_on_a_server(tmp_path, request, elsewhere, server):
    """An address is enough. Its password is in no file of the run, and the server keeps nothing of it."""
    server = request.getfixturevalue(server)
    database, _ = make_store(tmp_path, "", server)
    address = database.path.replace("reader@", f"reader:{READER_PASSWORD}@")
    done = start(tmp_path, elsewhere, f"benchmark.url={address}", "target=30", "round.requests=4")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "30 rows of" in done.stdout
    assert "could" not in done.stderr  # its user may only read
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if READER_PASSWORD.encode() in path.read_bytes()]
    assert READER_PASSWORD not in done.stdout + done.stderr
    engine = connect_database(database, ExecutionConfig())
    for sql, row_count in connect(tmp_path / "run").sql("SELECT sql, row_count FROM R").fetchall():
        assert engine.run(sql).row_count == row_count, sql
    engine.close()
    again = start(tmp_path, elsewhere, f"benchmark.url={address}", "target=30", "round.requests=4")
    assert "is complete: 30 rows" in again.stdout, again.stdout + again.stderr


def start(tmp_path, on, *overrides):
    """Run the command line over a database of one's own to its end."""
    words = [
        "+benchmark=custom", f"run_dir={tmp_path / 'run'}", f"data_dir={tmp_path / 'data'}", "cluster.dashboard=false",
        "cluster.workers=1", "display.mode=lines", *on.overrides, *overrides,
    ]  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "rayfactory", *words], cwd=ROOT, env=os.environ | on.variables, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_folder_of_csv_files(tmp_path):
    """Each file becomes a table; keys are inferred. The first run of somebody new, who has no `data_dir` yet."""
    connection = sqlite3.connect(make_shop(tmp_path / "shop.sqlite"))
    folder = tmp_path / "csv"
    folder.mkdir()
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        cursor = connection.execute(f"SELECT * FROM {name}")
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[column[0] for column in cursor.description], *cursor.fetchall()])
    summary, _ = grow(tmp_path, "custom", folder, 60, "round.requests=5")
    assert summary["databases"] == 1
    assert summary["tables_covered"] >= 5
