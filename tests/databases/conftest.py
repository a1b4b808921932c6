"""What tests of databases share: one data folder with TPC-DS in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayfactory.config import BenchmarkConfig, ExecutionConfig, ProfileConfig
from rayfactory.databases.benchmark import load_schemas, open_benchmark
from rayfactory.databases.schema import Schema


@pytest.fixture(scope="session")
def tpcds_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder in which TPC-DS was made on first use. Not to be written to."""
    folder = tmp_path_factory.mktemp("data")
    open_benchmark(BenchmarkConfig(name="tpcds"), folder)
    return folder


@pytest.fixture(scope="session")
def tpcds_schema(tpcds_data_dir: Path) -> Schema:
    """Return the schema of TPC-DS at scale factor 0.01."""
    benchmark = open_benchmark(BenchmarkConfig(name="tpcds"), tpcds_data_dir)
    (schema,) = load_schemas(benchmark, ProfileConfig(), ExecutionConfig(), tpcds_data_dir)
    return schema
