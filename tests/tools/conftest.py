from __future__ import annotations

from pathlib import Path

import duckdb
import duckdb_extension_tpcds
import pytest
from sqlglot import exp

from rayfactory.sql import parse


@pytest.fixture(scope="session")
def official_trees() -> list[exp.Expr]:
    """Return the 99 official queries of TPC-DS."""
    (extension,) = Path(duckdb_extension_tpcds.__file__).parent.glob("extensions/*/tpcds.duckdb_extension")
    with duckdb.connect() as connection:
        connection.execute(f"LOAD '{extension}'")
        queries = connection.execute("SELECT query FROM tpcds_queries() ORDER BY query_nr").fetchall()
    return [parse(query, "duckdb") for (query,) in queries]
