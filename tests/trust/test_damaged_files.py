"""Files that hold anything at all: each is refused with a message, or recovered, and never ends in another error."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.errors import UserError
from rayfactory.identity import setting_of
from rayfactory.models.chat import read_books
from rayfactory.models.journal import FILE_NAME
from rayfactory.pool import opened
from tests.databases.test_engine import make, numbers
from tests.models.test_journal import done, sent, write
from tests.test_compaction import sizes
from tests.test_pool import IDENTITY, commit

FILES = 5_000
"""Over all kinds."""


def damaged(rng: Random, whole: bytes) -> bytes:
    """Return random bytes: nothing else, or in the place of some of a file's own, which may be cut off as well."""
    how = rng.randrange(5)
    if how == 0:
        return rng.randbytes(rng.choice((0, 1, 15, 100, 4_096)))
    if how == 1:
        return whole[: rng.randrange(1, 200)] + rng.randbytes(rng.randrange(2_000))
    content = bytearray(whole)
    for _ in range(rng.choice((1, 1, 3, 30))):
        place = rng.randrange(len(content))
        length = rng.choice((1, 1, 4, 64))
        content[place : place + length] = rng.randbytes(min(length, len(content) - place))
    return bytes(content[: rng.randrange(len(content))] if how == 4 else content)


def try_each(seed: str, count: int, path: Path, whole: bytes, use: Callable[[], object]) -> int:
    """Put one damaged file after the other at a path and use it; return how many were refused."""
    rng, messages = Random(seed), list[str]()
    for i in range(count):
        path.write_bytes(damaged(rng, whole))
        try:
            use()
        except UserError as error:
            messages.append(str(error))
        except Exception as error:
            raise AssertionError(f"file {i} of {seed}: {error!r}") from error
    assert [message for message in messages if len(message) < 20 or "Traceback" in message] == []
    return len(messages)


@pytest.mark.parametrize("dialect", ["sqlite", "duckdb"])
def test_database(tmp_path: Path, dialect: str):
    database = make(tmp_path, dialect, numbers(dialect, 50))
    path = Path(database.path)
    data = tmp_path / "data"

    def use() -> None:
        benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(path)), data)
        list(load_schemas(benchmark, ProfileConfig(), ExecutionConfig(timeout_s=2), data))
        shutil.rmtree(data, ignore_errors=True)

    count = FILES // 20 * (3 if dialect == "sqlite" else 2)
    assert try_each(dialect, count, path, path.read_bytes(), use) > FILES // 100


def test_parquet(tmp_path: Path):
    path, data = tmp_path / "t.parquet", tmp_path / "data"
    pq.write_table(pa.table({"i": list(range(50)), "s": [f"x{i}" for i in range(50)]}), path)

    def use() -> None:
        benchmark = open_benchmark(BenchmarkConfig(name="custom", root=str(path)), data)
        list(load_schemas(benchmark, ProfileConfig(), ExecutionConfig(timeout_s=2), data))
        shutil.rmtree(data, ignore_errors=True)

    assert try_each("parquet", FILES // 20, path, path.read_bytes(), use) > FILES // 100


def test_journal(tmp_path: Path):
    write(tmp_path, *(record for i in range(20) for record in (sent(i), done(i))))
    path = tmp_path / FILE_NAME
    assert try_each("journal", 3 * FILES // 10, path, path.read_bytes(), lambda: read_books(tmp_path)) > FILES // 100


@pytest.mark.parametrize(
    "name",
    [
        "run.json",
        "rounds/000002.json",
        "rounds/000002/R.parquet",
        "rounds/000000-000001/E.parquet",
        "rounds/000000-000001.json",
    ],
)
def test_run_directory(tmp_path: Path, name: str):
    with sizes(2), opened(tmp_path, IDENTITY) as pool:
        for num_rows in (2, 1, 2):
            commit(pool, num_rows)
            pool.compact()
    path = tmp_path / name

    def use() -> None:
        setting_of(tmp_path, "seed")
        with opened(tmp_path, IDENTITY) as pool:
            assert pool.num_rows == 5

    assert try_each(name, FILES // 10, path, path.read_bytes(), use) > FILES // 50
