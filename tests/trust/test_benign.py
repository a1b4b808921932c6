"""Queries that people and this program write are not turned down by the first wall."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from benchmarks.corpus import official_tpcds
from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.engine import connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar import write_queries
from rayfactory.tools.execution import examine
from tests.trust import benign


def refusals(queries: Iterator[str] | list[str], dialect: str) -> tuple[int, list[str]]:
    """Return how many queries there are, and what is said of those that are turned down."""
    count, refused = 0, []
    for sql in queries:
        count += 1
        examined = examine(sql, dialect)
        if examined.reason is not None:
            refused.append(f"{examined.reason}: {examined.detail}: {sql}")
    return count, refused


def own(schema: Schema, count: int) -> Iterator[str]:
    """Yield queries that the Generation Agent's rule writes over random tables of a database."""
    rng = Random(schema.database)
    names = [table.name for table in schema.tables]
    for start in range(0, count, 10):
        tables = rng.sample(names, min(len(names), rng.randint(1, 4)))
        yield from write_queries(schema, tables, min(10, count - start), rng, None)


def spider_schemas(shared_data: Path, folder: Path) -> list[Schema]:
    benchmark = open_benchmark(BenchmarkConfig(name="spider", root=str(shared_data / "spider")), folder)
    return list(load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), folder))


@pytest.mark.parametrize("dialect", ["postgres", "mysql"])
def test_what_people_ask_a_server_passes_and_runs(dialect: str, request: pytest.FixtureRequest):
    server = request.getfixturevalue("postgresql_server" if dialect == "postgres" else "mariadb_server")
    engine = connect(server.make("benign", *benign.TABLES[dialect]), ExecutionConfig())
    assert refusals(list(benign.STATEMENTS[dialect]), dialect) == (len(benign.STATEMENTS[dialect]), [])
    for sql in benign.STATEMENTS[dialect]:
        assert engine.run(sql).row_count > 0, sql
    engine.close()


def test_official_queries():
    assert refusals(official_tpcds(), "duckdb") == (99, [])


@pytest.mark.realdata
def test_gold_of_spider_and_bird(shared_data: Path):
    lines = (shared_data / "spider" / "dev_gold.sql").read_text(encoding="utf-8").splitlines()
    gold = [line.partition("\t")[0] for line in lines if line.strip()]
    gold += [each["sql"] for each in json.loads((shared_data / "bird" / "dev.json").read_text(encoding="utf-8"))]
    assert refusals(gold, "sqlite") == (1_034 + 1_534, [])


@pytest.mark.realdata
def test_own_queries_over_spider(shared_data: Path, tmp_path: Path):
    schemas = spider_schemas(shared_data, tmp_path)
    for schema in schemas[::4]:
        assert refusals(own(schema, 10), schema.dialect)[1] == []


@pytest.mark.slow
@pytest.mark.realdata
def test_eighteen_thousand_own_queries_over_spider(shared_data: Path, tmp_path: Path):
    """With the gold and the official ones these are more than 20,000."""
    total = 0
    for schema in spider_schemas(shared_data, tmp_path):
        count, refused = refusals(own(schema, 230), schema.dialect)
        assert refused == []
        total += count
    assert total >= 18_000
