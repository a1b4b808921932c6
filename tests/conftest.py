"""What tests of several rooms share: the real corpora, and one TPC-DS database for the whole session."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import duckdb_extension_tpcds
import pytest
from hypothesis import settings

# Where nobody watches, the same examples every time: a rare one is for a developer to find, not for a gate to stumble on.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real corpora, or skip. For tests marked `realdata`."""
    folder = Path(os.environ.get("RAYFACTORY_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared corpora at {folder}; RAYFACTORY_SHARED_DATA names another place")
    return folder


@pytest.fixture(scope="session")
def tpcds_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a DuckDB file with TPC-DS at scale factor 0.01, straight from DuckDB's generator. Not to be written to."""
    path = tmp_path_factory.mktemp("tpcds") / "tpcds.duckdb"
    (extension,) = Path(duckdb_extension_tpcds.__file__).parent.glob("extensions/*/tpcds.duckdb_extension")
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"LOAD '{extension}'")
        connection.execute("CALL dsdgen(sf=0.01)")
    return path
