"""Tables that are files of their own, CSV or Parquet: loaded once into one DuckDB database."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb

from rayfactory.databases.catalogue import quote
from rayfactory.databases.engine import Database
from rayfactory.databases.fingerprint import content_sha256
from rayfactory.errors import BenchmarkError

logger = logging.getLogger(__name__)

TABULAR_ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


def table_files(folder: Path) -> list[Path]:
    """Return the CSV and Parquet files of a folder, in ascending order of their names."""
    return sorted(path for path in folder.iterdir() if is_tabular(path))


def is_tabular(path: Path) -> bool:
    """Whether a file is taken for a table, by its name."""
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(TABULAR_ENDINGS)


def table_name(path: Path) -> str:
    """Return the name of the table that a file becomes: the file's without its endings."""
    lowered = path.name.lower()
    ending = max((ending for ending in TABULAR_ENDINGS if lowered.endswith(ending)), key=len)
    return path.name[: -len(ending)]


def files_identity(files: Sequence[Path]) -> str:
    """Return a text that stands for the content of the files.

    Raises:
        OSError: one of them cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}\n{content_sha256(path)}\n".encode())
    return f"files sha256={digest.hexdigest()} duckdb={duckdb.__version__}"


def load_once(name: str, folder: Path, identity: str, load: Callable[[duckdb.DuckDBPyConnection], None]) -> Database:
    """Return a DuckDB database in `folder` that `load` fills, unless one of the same identity is there already.

    Raises:
        BenchmarkError: it cannot be written.
    """
    path = folder / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.duckdb"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # In a folder of its own, then renamed: two processes that start at once both end with a whole file.
            with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as making:
                made = Path(making) / path.name
                # One thread, so that rows come in the same order on every machine.
                connection = duckdb.connect(str(made), config={"threads": 1, "autoinstall_known_extensions": False})
                try:
                    load(connection)
                    connection.execute("CHECKPOINT")
                finally:
                    connection.close()
                made.replace(path)
        except (OSError, duckdb.Error) as error:
            raise BenchmarkError(
                f"{name!r} could not be loaded into {str(folder)!r} ({error}); make room there, or set data_dir to "
                "another folder"
            ) from error
    return Database(name, "duckdb", str(path))


def load_files(name: str, files: Sequence[Path], folder: Path) -> tuple[Database, str]:
    """Return a DuckDB database with one table for each file, and the identity of its content.

    Raises:
        BenchmarkError: a file is no table, or two files give one name.
    """
    names: dict[str, Path] = {}
    for path in files:
        twin = names.setdefault(table_name(path).casefold(), path)
        if twin is not path:
            raise BenchmarkError(f"{str(twin)!r} and {str(path)!r} would be one table; rename or remove one of them")
    try:
        identity = files_identity(files)
    except OSError as error:
        raise BenchmarkError(f"{str(error.filename)!r} cannot be read ({error.strerror})") from error

    def load(connection: duckdb.DuckDBPyConnection) -> None:
        for path in files:
            _load_file(connection, path)

    return load_once(name, folder, identity, load), identity


def _load_file(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    create = f"CREATE TABLE {quote(table_name(path))} AS SELECT * FROM"
    if path.name.lower().endswith(".parquet"):
        attempts = ["read_parquet(?)"]
    elif path.stat().st_size == 0:
        logger.warning("%s is empty; it is left out", path)
        return
    else:
        # Types from the beginning of the file; where a later row does not fit, from all of it. Not UTF-8: Windows'.
        attempts = [
            "read_csv(?)",
            "read_csv(?, sample_size = -1)",
            "read_csv(?, sample_size = -1, encoding = 'latin-1')",
        ]
    failure: duckdb.Error | None = None
    for attempt in attempts:
        try:
            connection.execute(f"{create} {attempt}", [str(path)])
        except duckdb.Error as error:
            failure = failure or error
        else:
            return
    message = " ".join(str(failure).split())[:300]
    raise BenchmarkError(f"{str(path)!r} is no table that can be read ({message}); mend the file or move it away")
