"""The questions of a pool: table Q in Parquet, in a folder of its own, added to a block of queries at a time.

A block is a file, named after the first and the last query in it and how many there are, that is there in full or not
at all. What was translated is never done again; blocks become larger files as they follow each other.
"""

from __future__ import annotations

import fcntl
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rayfactory.errors import RunDirError
from rayfactory.files import replace_file
from rayfactory.identity import differing
from rayfactory.records import R_SCHEMA, Features

FOLDER = "translation"
"""Folder of a run directory that its questions are in where none is named."""

PAIRS = "pairs.json"
"""What is trained with: the pairs that hold, in the form of BIRD's questions."""

OF_THE_QUERY = ("sql", "tables", "row_count", "execution_ms", *Features.__slots__)
"""Columns of table R that a query which was cut down to its question has anew in table Q."""

REASONS: dict[str, str] = {
    "unsupported": "the rules have no words for the query",
    "too_long": "the prompt does not fit into the model's context window",
    "unanswered": "the model gave no reply, in several attempts",
    "unreadable": "the reply has no question in it",
    "not_aligned": "the verifier says that question and query do not belong together",
    "no_verdict": "the verifier says neither yes nor no",
}
"""Why a query has no question, with what it means."""

FOR_NOW = frozenset({"unanswered", "too_long"})
"""The reasons that are no reasons the next time: such queries are in no table, and are left to do."""

Q_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.int64(), nullable=False),
        pa.field("database", pa.string(), nullable=False),
        pa.field("dialect", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("evidence", pa.string(), nullable=False),
        pa.field("is_simplified", pa.bool_(), nullable=False),
        *(R_SCHEMA.field(name) for name in OF_THE_QUERY),
        pa.field("model", pa.string(), nullable=False),
        pa.field("verifier", pa.string(), nullable=False),
        pa.field("control_right", pa.string()),
        pa.field("control_wrong", pa.string()),
        pa.field("cost_usd", pa.float64(), nullable=False),
    ]
)
"""Table Q, one row for each query that was translated: `reason` is one of `REASONS`, or NULL where the pair is kept.

`sql` and what is counted of it are those of the pair: of the pool's query, or of the one that was made of it.
`control_right` and `control_wrong` are what the verifier said (``yes``, ``no``, ``unclear``) of a pair over this query
that is known to be right, and of one that is known to be wrong; NULL where it was not asked.
"""

_FILE = re.compile(r"(\d+)-(\d+)-\d+\.parquet")


class Translation:
    """The questions of one pool, open for writing by this object alone.

    Args:
        folder: of the translation; see `opened`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blocks = folder / "Q"
        self._blocks.mkdir(exist_ok=True)
        # What has become part of a larger file is in both of them until nobody can be reading it any more.
        there: set[int] = set()
        sizes = {path: (pq.read_metadata(path).num_rows, path.name) for *_, path in _files(self._blocks)}
        for path in sorted(sizes, key=lambda path: sizes[path], reverse=True):
            ids = set(pq.read_table(path, columns=["query_id"], use_threads=False)["query_id"].to_pylist())
            if ids <= there:
                path.unlink()
            there |= ids

    def done(self, columns: Sequence[str] = ("query_id",)) -> pa.Table:
        """Return columns of table Q as it is."""
        return read(self.folder, columns)

    def commit(self, rows: pa.Table) -> None:
        """Add rows of `Q_SCHEMA`, in the order of the pool; queries that have one already stay as they are."""
        if len(rows):
            self._write(rows)

    def compact(self, first: int, last: int) -> None:
        """Make one file of those between two queries. They stay until the translation is opened again."""
        files = sorted((each for each in _files(self._blocks) if first <= each[0] and each[1] <= last), key=_place)
        if len(files) > 1:
            tables = [pq.read_table(path, schema=Q_SCHEMA, use_threads=False) for *_, path in files]
            self._write(pa.concat_tables(tables).sort_by("query_id"))

    def _write(self, rows: pa.Table) -> None:
        ids = rows["query_id"]
        path = self._blocks / f"{ids[0]}-{ids[-1]}-{len(rows)}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(rows, sink)
        try:
            replace_file(path, sink.getvalue().to_pybytes())
        except OSError as error:
            raise RunDirError(
                f"{str(path)!r} cannot be written: {error.strerror or error}; make room or mend it, and give the same "
                "command again: it goes on from there"
            ) from None


@contextmanager
def opened(folder: Path, settings: Mapping[str, Any], journal: Path) -> Iterator[Translation]:
    """Open the translation in a folder, which is made where it does not exist, for the length of a with statement.

    Args:
        folder: of the translation.
        settings: what makes its questions others.
        journal: folder of what was asked of its models. As long as nothing was, and nothing is translated, settings may
            change.

    Raises:
        RunDirError: it was made with other settings, is being written by another process, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("ab")
    except OSError as error:
        raise RunDirError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}; name another folder with output="
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunDirError(
                f"another process translates into {str(folder)!r}; wait for it, or name another folder with output="
            ) from None
        known = settings_of(folder)
        names = differing(known, settings)
        has_begun = any(_files(folder / "Q")) or any(path.stat().st_size for path in journal.glob("*"))
        if names and has_begun:
            raise RunDirError(
                f"{str(folder)!r} was translated with another {', '.join(names)}: {known.get(names[0])!r}, not "
                f"{settings.get(names[0])!r}; set that as it was to go on, or name another folder with output="
            )
        if names:
            replace_file(folder / "settings.json", (json.dumps(settings, indent=1) + "\n").encode())
        yield Translation(folder)


def settings_of(folder: Path) -> dict[str, Any]:
    """Return what a translation was made with; nothing where there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def read(folder: Path, columns: Sequence[str] = Q_SCHEMA.names) -> pa.Table:
    """Return columns of table Q of a translation, in the order of the pool; without rows where there is none yet.

    Raises:
        RunDirError: a file of it cannot be read.
    """
    connection = connect(folder)
    try:
        names = ", ".join(f'"{name}"' for name in columns)
        found = connection.sql(f"SELECT {names} FROM Q ORDER BY query_id").to_arrow_table()
        return found.cast(pa.schema([Q_SCHEMA.field(name) for name in columns]))
    except duckdb.Error as error:
        raise RunDirError(
            f"the translation in {str(folder)!r} cannot be read ({error}); remove the file that is damaged, and its "
            "queries are translated again"
        ) from None
    finally:
        connection.close()


def connect(folder: Path, connection: duckdb.DuckDBPyConnection | None = None) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with the view Q over a translation.

    Args:
        folder: of the translation.
        connection: that gets the view; None: a new one.
    """
    connection = connection or duckdb.connect()
    files = [str(path.absolute()).replace("'", "''") for *_, path in sorted(_files(folder / "Q"), key=_place)]
    columns = ", ".join(f'"{name}"' for name in Q_SCHEMA.names)
    if files:
        listed = ", ".join(f"'{path}'" for path in files)
        # Of a block that is in a larger file too, while these are put together, one copy counts.
        connection.execute(
            f"CREATE VIEW Q AS SELECT {columns} FROM read_parquet([{listed}]) "
            "QUALIFY row_number() OVER (PARTITION BY query_id) = 1"
        )
    else:
        connection.register("no_questions", Q_SCHEMA.empty_table())
        connection.execute(f"CREATE TABLE Q AS SELECT {columns} FROM no_questions")
        connection.unregister("no_questions")
    return connection


def _files(blocks: Path) -> Iterator[tuple[int, int, Path]]:
    """Yield the files of a translation with the first and the last query in each."""
    if blocks.is_dir():
        for path in blocks.iterdir():
            if found := _FILE.fullmatch(path.name):
                yield int(found[1]), int(found[2]), path


def _place(file: tuple[int, int, Path]) -> tuple[int, int]:
    return file[0], -file[1]
