"""What tests of several rooms share: the real corpora, and one TPC-DS database and one encoder for the whole session."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import duckdb
import duckdb_extension_tpcds
import pytest
from hypothesis import settings

from tests import object_storage, servers
from tests.elsewhere import Elsewhere, started

# Where nobody watches, the same examples every time: a rare one is for a developer to find, not for a gate to stumble on.
settings.register_profile("ci", derandomize=True, deadline=None)
# A test never times: a loaded machine is no fault of the code.
settings.register_profile("local", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# A shell starts what goes to its background with SIGINT ignored, and so would be the runs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

NOBODY = 65534
"""The user id of `nobody`, who owns nothing."""

PROJECT = Path(__file__).resolve().parents[1]

LONGEST = ("cluster", "trust", "tools")
"""The folders of tests that take longest."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first: where several processes share the tests, none is left alone with a long file at the end."""

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=place)


@pytest.fixture(scope="module", autouse=True)
def _no_ray_is_left() -> Iterator[None]:
    """See that the tests of a module leave no connection to Ray, which the next module would stumble on."""
    yield
    if ray := sys.modules.get("ray"):
        assert not ray.is_initialized(), "a test of this module started Ray, or did not leave it"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of the real corpora, or skip. For tests marked `realdata`."""
    folder = Path(os.environ.get("RAYFACTORY_SHARED_DATA", PROJECT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no shared corpora at {folder}; RAYFACTORY_SHARED_DATA names another place")
    return folder


@pytest.fixture(scope="session")
def elsewhere() -> Iterator[Elsewhere]:
    """Yield a cluster for runs that are not about a cluster's beginning or end: to start one is a third of a run."""
    with started() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def storage_server() -> Iterator[object_storage.Storage]:
    """Yield a server of S3."""
    with object_storage.serving() as storage:
        yield storage


@pytest.fixture
def storage(storage_server: object_storage.Storage) -> Iterator[object_storage.Storage]:
    """Yield a server of S3 that this process uses meanwhile."""
    with object_storage.reached(storage_server):
        yield storage_server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[servers.Server]:
    """Yield a PostgreSQL of the session's own, or skip where it is not installed."""
    yield from _served("postgres", servers.postgresql)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[servers.Server]:
    """Yield a MariaDB of the session's own, or skip where it is not installed."""
    yield from _served("mariadbd", servers.mariadb)


def _served(program: str, serving: Callable[[], AbstractContextManager[servers.Server]]) -> Iterator[servers.Server]:
    if servers.program(program) is None:
        pytest.skip(f"the program {program} is not installed; make servers installs it")
    with serving() as server:
        yield server


@pytest.fixture(scope="session")
def tpcds_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a DuckDB file with TPC-DS at scale factor 0.01, straight from DuckDB's generator. Not to be written to."""
    path = tmp_path_factory.mktemp("tpcds") / "tpcds.duckdb"
    (extension,) = Path(duckdb_extension_tpcds.__file__).parent.glob("extensions/*/tpcds.duckdb_extension")
    with duckdb.connect(str(path)) as connection:
        connection.execute(f"LOAD '{extension}'")
        connection.execute("CALL dsdgen(sf=0.01)")
    return path


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the encoder as a `data_dir` keeps it: one for all processes that share the tests.

    To make it takes a start as long again as a whole run. That it is made is for the tests of the encoder, and for those
    runs that begin with an empty `data_dir`.
    """
    from rayfactory.config import EmbeddingConfig
    from rayfactory.tools.embedding import ENCODERS, decided

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / ENCODERS
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            decided(EmbeddingConfig(), folder)
    return folder


@pytest.fixture(scope="session")
def make_data_dir(encoders: Path) -> Callable[[Path], Path]:
    """Return a function that makes a `data_dir` which has the encoder already, and nothing else."""

    def make(path: Path) -> Path:
        path.mkdir()
        (path / encoders.name).symlink_to(encoders)
        return path

    return make


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be somebody to whom file permissions apply, for the length of a with statement: root may do anything."""
    if os.geteuid() != 0:
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return an empty folder that `as_nobody` can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="rayfactory-test-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path
        path.chmod(0o755)
