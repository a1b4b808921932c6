"""The SQL Pool: tables R and E and the rejects of a run, as Parquet files that DuckDB reads.

Layout of a run directory::

    run.json                   what the run is: benchmark, seed, settings and their digest
    rounds/000003/R.parquet    the rows that round 3 admitted; E, S and rejects beside it
    rounds/000003.json         the manifest of round 3: its files with their digests, plan and evaluation
    rounds/000008-000015/      the same four files with the rows of rounds 8 to 15 in their order: a segment
    rounds/000008-000015.json  its manifest: its files with their digests, the manifests of its rounds
    summary.json               written at the end of a run
    journal/                   what language models were asked and what they replied, where there are any
    lock                       held while a process works on the run

The commit of a round is its manifest: files are written and synced first, then the manifest is renamed into
place. A round without a manifest does not exist; what it left behind is removed when the run is opened
again. Rounds are committed in order, so the committed rounds are always 0, 1, .. n - 1.

A segment takes the place of its rounds in the same way, by the rename of its manifest: of all that begins with a
round, the widest is what counts. So each round is there once at any moment, before that rename and after it. What a
segment has replaced is removed when the rename is on the disk for certain and nobody reads: whoever does holds a
shared lock on `run.json` from before looking what there is until the last of it is read. What somebody does read
stays, and no further segment is made until it could go. A run of format 2 has no segments, and gets none.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol
from weakref import finalize

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from rayfactory.compose import default_data_dir
from rayfactory.errors import RunDirError
from rayfactory.files import replace_file, sha256_of, sync_directory, write_durably
from rayfactory.identity import FORMAT, FORMAT_WITHOUT_SEGMENTS, check_run_dir, read_identity
from rayfactory.manifests import (
    Content,
    Manifest,
    Manifests,
    Part,
    PlannedRequest,
    list_parts,
    manifest_to_json,
    part_name,
    part_of,
    read_part,
    read_parts,
    segment_to_json,
)
from rayfactory.pool_copy import local
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA, Evaluation, Tally
from rayfactory.segments import SIZES, due, put_together, read_rounds

_SCHEMAS = {"R": R_SCHEMA, "E": E_SCHEMA, "S": S_SCHEMA, "rejects": REJECTS_SCHEMA}
VIEWS = ("R", "E", "rejects")
ALL_VIEWS = (*VIEWS, "S")
"""With the table that is for rayfactory itself."""


class Remote(Protocol):
    """Where a run directory is a copy of a pool elsewhere: what is to happen there first (see `pool_copy`)."""

    def publish(self, part: str, files: Mapping[str, str], manifest: bytes) -> None:
        """Commit a round or a segment there, by its name, its files with their digests, and its manifest."""

    def put(self, name: str, content: bytes) -> None:
        """Replace one of the files beside the rounds."""

    def sweep(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """Remove what these parts have replaced there, by their names, with their files and digests."""


class Pool:
    """A run directory, opened for writing by this process alone.

    Args:
        run_dir: created where it does not exist.
        remote: what it is a copy of; None: it is none.
        identity: `benchmark`, `seed`, `config_sha256`, ..: what must be equal for the run to go on. What differs is
            told by its name; the members of `settings` and `fingerprints` are told one by one.

    Raises:
        RunDirError: the directory is a file, cannot be written, belongs to another run or process, or is
            not a run directory.
    """

    def __init__(self, run_dir: Path, identity: dict[str, Any], remote: Remote | None = None) -> None:
        self.run_dir = run_dir
        self._remote = remote
        check_run_dir(run_dir, identity)
        try:
            self._rounds_dir.mkdir(parents=True, exist_ok=True)
            self._lock = (run_dir / "lock").open("a")
        except OSError as error:
            raise _not_writable(run_dir, error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunDirError(
                f"run_dir {str(run_dir)!r} is in use by another process; wait for it, or choose another run_dir"
            ) from None
        try:
            # Once more, now that nobody else writes here.
            check_run_dir(run_dir, identity)
            self._parts = [part for part, _ in read_parts(run_dir)]
            self.manifests = Manifests(run_dir, self._parts)
            for part in self._parts:
                self._check_files(part)
            if not self._parts:
                self._put("run.json", _to_json({"format": FORMAT, **identity}))
            known = read_identity(run_dir)
            self._has_segments = known is not None and known["format"] != FORMAT_WITHOUT_SEGMENTS
            self._clean()
        except OSError as error:
            self._lock.close()
            raise _not_writable(run_dir, error) from None
        except RunDirError:
            self._lock.close()
            raise

    @property
    def _rounds_dir(self) -> Path:
        return self.run_dir / "rounds"

    @property
    def next_round(self) -> int:
        """Number of the round that is committed next."""
        return len(self.manifests)

    @property
    def num_rows(self) -> int:
        """Rows of R in all committed rounds."""
        return self._parts[-1].next_query_id if self._parts else 0

    @property
    def wall_s(self) -> float:
        """Seconds of work on the run up to the last commit."""
        return self._parts[-1].wall_s if self._parts else 0.0

    def _check_files(self, part: Part) -> None:
        for name, digest in part.files.items():
            path = self._rounds_dir / part.name / name
            if sha256_of(path) != digest:
                raise RunDirError(f"{path} is damaged (its content is not what was written); restore it from a backup")

    def _clean(self) -> bool:
        """Remove what is no part of the pool, any more or at all; return False where somebody reads, and it stays."""
        parts = {part.name for part in self._parts}
        if self._remote is not None:
            self._remote.sweep({part.name: part.files for part in self._parts})
        over = [path for path in self._rounds_dir.iterdir() if path.name.removesuffix(".json") not in parts]
        if not over:
            return True
        with _locked(self.run_dir, fcntl.LOCK_EX | fcntl.LOCK_NB) as nobody_reads:
            if not nobody_reads:
                return False
            # That what has replaced it is seen does not mean that it is on the disk: a process may have been killed
            # between the rename and the sync.
            sync_directory(self._rounds_dir)
            for path in over:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        return True

    def commit(
        self,
        tables: dict[str, pa.Table],
        plan: Sequence[PlannedRequest],
        evaluation: Evaluation,
        wall_s: float,
        phase_s: Mapping[str, float] | None = None,
        tallies: Sequence[Tally] = (),
    ) -> Manifest:
        """Make the next round visible, in full or not at all.

        Args:
            tables: ``R``, ``E``, ``S`` and ``rejects`` of the round, in their schemas; R's query_id go on where the
                last round ended.
            plan: the round's requests.
            evaluation: E_t of the round.
            wall_s: seconds of work on the run so far.
            phase_s: seconds of each phase of the round.
            tallies: of the agents that asked a model.

        Raises:
            RunDirError: the round could not be written; the committed ones are as they were.
        """
        number = self.next_round
        directory = self._rounds_dir / part_name(number, number)
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            sync_directory(self._rounds_dir)  # a manifest is never there before the folder that it speaks of
            files = {}
            for name, schema in _SCHEMAS.items():
                path = directory / f"{name}.parquet"
                with path.open("wb") as file:
                    pq.write_table(tables[name].cast(schema), file, compression="zstd")
                    file.flush()
                    os.fsync(file.fileno())
                files[path.name] = sha256_of(path)
            sync_directory(directory)
            manifest = Manifest(
                number,
                self.num_rows,
                tables["R"].num_rows,
                tuple(plan),
                evaluation,
                round(wall_s, 3),
                {phase: round(seconds, 3) for phase, seconds in (phase_s or {}).items()},
                tuple(tallies),
                files,
            )
            content = _to_json(manifest_to_json(manifest))
            if self._remote is not None:
                self._remote.publish(directory.name, files, content)
            write_durably(self._rounds_dir / f"{directory.name}.json", content)
        except OSError as error:
            raise RunDirError(
                f"round {number} could not be written to {str(self.run_dir)!r}: {error.strerror or error}; what was "
                f"committed before it is intact ({number} round{'s' * (number != 1)}); make room or restore access, "
                "then run the same command again"
            ) from error
        self._parts.append(part_of([manifest], files))
        return manifest

    def compact(self) -> None:
        """Put the rounds of the next segment together, if there are as many by now; what the pool holds stays as it is.

        To be called between rounds. It looks for work when their number is a multiple of the smallest segment's.

        Raises:
            RunDirError: it could not be done; the pool is as it was, and a later call tries again.
        """
        if not self._has_segments or self.next_round % SIZES[0]:
            return
        try:
            # What somebody still reads takes as much room as what has replaced it: once, and not once a segment.
            if not self._clean():
                return
            places = due([part.span for part in self._parts])
            if places is None:
                return
            self._parts[places] = [self._segment(self._parts[places])]
            self._clean()
        except (OSError, pa.ArrowException) as error:
            raise RunDirError(
                f"files of rounds could not be put together in {str(self.run_dir)!r} "
                f"({getattr(error, 'strerror', None) or error}); nothing is lost by it, and it is tried again later"
            ) from error

    def _segment(self, parts: Sequence[Part]) -> Part:
        """Write a segment with the rows of some parts, and return it; from then on it is what readers see."""
        name = part_name(parts[0].span[0], parts[-1].span[1])
        directory, manifest = self._rounds_dir / name, self._rounds_dir / f"{name}.json"
        for part in parts:
            self._check_files(part)  # damage is not to be copied, and then vouched for
        contents = [self.manifests.content(part) for part in parts]
        try:
            directory.mkdir()
            sync_directory(self._rounds_dir)
            files, num_rejects = {}, list[int]()
            for table, schema in _SCHEMAS.items():
                path = directory / f"{table}.parquet"
                sources = [self._rounds_dir / part.name / path.name for part in parts]
                counts = put_together(sources, path, schema)
                files[path.name] = sha256_of(path)
                for part, content, count in zip(parts, contents, counts, strict=True):
                    expected = content.counts(table)
                    if expected is not None and sum(expected) != count:
                        raise OSError(f"{part.name}/{path.name} has {count} rows, not {sum(expected)}")
                    if table == "rejects":
                        num_rejects += expected or (count,)
            sync_directory(directory)
            rounds = tuple(each for content in contents for each in content.rounds)
            written = _to_json(segment_to_json(Content(rounds, tuple(num_rejects)), files))
            if self._remote is not None:
                self._remote.publish(name, files, written)
            replace_file(manifest, written)
        except (OSError, pa.ArrowException, RunDirError):
            # The next round is to find the room that it would have had.
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(OSError):
                manifest.with_name(f"{manifest.name}.partial").unlink()
            raise
        return part_of(rounds, files)

    def rows(self, first_round: int, last_round: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of R of rounds `first_round` .. `last_round`, both included; of all columns, or of some."""
        return self._read("R", first_round, last_round, columns)

    def rejects(self, number: int) -> pa.Table:
        """Return the rejects of a round."""
        return self._read("rejects", number, number)

    def compared(self, first_round: int, last_round: int) -> tuple[pa.Table, pa.Table]:
        """Return the rows of S and of E of rounds `first_round` .. `last_round`: what they are compared by."""
        return self._read("S", first_round, last_round), self._read("E", first_round, last_round)

    def _read(self, name: str, first_round: int, last_round: int, columns: Sequence[str] | None = None) -> pa.Table:
        schema = _schema(name, columns)
        return pa.concat_tables([schema.empty_table(), *self.by_round(name, first_round, last_round, columns)])

    def by_round(
        self, name: str, first_round: int, last_round: int, columns: Sequence[str] | None = None
    ) -> Iterator[pa.Table]:
        """Yield the rows of one round after the other, holding few at a time.

        Args:
            name: ``R``, ``E``, ``S`` or ``rejects``.
            first_round: where to begin.
            last_round: where to end, included.
            columns: those that are wanted; None: all.

        Raises:
            RunDirError: a file is not what was written.
        """
        schema = _schema(name, columns)
        for part in self._parts:
            first, last = part.span
            begin, end = max(first_round, first), min(last_round, last)
            if begin > end:
                continue
            path = self._rounds_dir / part.name / f"{name}.parquet"
            try:
                counts = self.manifests.content(part).counts(name)
                yield from read_rounds(path, schema, counts, begin - first, end - first)
            except (OSError, ValueError) as error:
                raise RunDirError(f"{path} cannot be read ({error}); restore it from a backup") from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace `summary.json`.

        Raises:
            RunDirError: it could not be written.
        """
        self._write("summary.json", _to_json(summary))

    def write_schema(self, outlines: Iterable[dict[str, Any]]) -> None:
        """Replace `schema.json`, see `analysis.outline`.

        Raises:
            RunDirError: it could not be written.
        """
        # A line each, and not all of them as objects: there may be thousands.
        content = b"[\n" + b",\n".join(json.dumps(each).encode() for each in outlines) + b"\n]\n"
        self._write("schema.json", content)

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._put(name, content)
        except OSError as error:
            raise _not_writable(self.run_dir, error) from None

    def _put(self, name: str, content: bytes) -> None:
        if self._remote is not None:
            self._remote.put(name, content)
        write_durably(self.run_dir / name, content)

    def close(self) -> None:
        """Let other processes have the run."""
        self._lock.close()


def read_summary(run_dir: Path) -> dict[str, Any]:
    """Return what `summary.json` of a run says; empty where there is none, or it is damaged: nothing rests on it."""
    try:
        found = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_manifests(run_dir: Path) -> list[Manifest]:
    """Return the committed rounds in order.

    Raises:
        RunDirError: a manifest is damaged, or a committed file is missing.
    """
    with _locked(run_dir, fcntl.LOCK_SH):
        return [manifest for _, content in read_parts(run_dir) for manifest in content.rounds]


def count_rows(run_dir: Path) -> int:
    """Return how many rows of R the committed rounds have; 0 where there are none.

    Raises:
        RunDirError: as `read_manifests`.
    """
    with _locked(run_dir, fcntl.LOCK_SH):
        found = list_parts(run_dir)
        return read_part(run_dir, *found[-1])[0].next_query_id if found else 0


class _Reading(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """Holds the lock of somebody who reads; as a file system, because DuckDB keeps those for as long as the database.

    A connection's views are files that are opened with each query, also by what outlives the connection itself: its
    cursors, and relations that have not run yet.
    """

    protocol = "rayfactory-reading"
    cachable = False

    def __init__(self, lock: IO[bytes]) -> None:
        super().__init__()
        finalize(self, lock.close)


def connect(run_dir: str | Path, views: Sequence[str] = VIEWS) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with the views R, E and rejects over the committed rounds of a run.

    The connection shows the rounds that were committed when it was made; it never changes the run. While it is open,
    the run that it is of removes no files.

    Args:
        run_dir: of the run, or the address of a pool in object storage, of which a copy on this machine is read.
        views: those that are wanted.

    Raises:
        RunDirError: there is no run in `run_dir`, or it is damaged, or cannot be read.
    """
    run_dir = local(run_dir, Path(default_data_dir()))
    if read_identity(run_dir) is None:
        raise RunDirError(f"there is no run in {str(run_dir)!r}; give the run_dir of a run that was started")
    lock = (run_dir / "run.json").open("rb")
    try:
        _lock(lock, fcntl.LOCK_SH)
        parts = [part for part, _ in read_parts(run_dir)]
    except RunDirError:
        lock.close()
        raise
    connection = duckdb.connect()
    connection.register_filesystem(_Reading(lock))
    for name in views:
        schema = _SCHEMAS[name]
        columns = ", ".join(f'"{column}"' for column in schema.names)
        if parts:
            files = [run_dir / "rounds" / part.name / f"{name}.parquet" for part in parts]
            source = f"read_parquet([{', '.join(_quoted(str(path.absolute())) for path in files)}])"
            connection.execute(f'CREATE VIEW "{name}" AS SELECT {columns} FROM {source}')
        else:
            empty = schema.empty_table()
            connection.register("empty_round", empty)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT {columns} FROM empty_round')
            connection.unregister("empty_round")
    return connection


@contextmanager
def opened(run_dir: Path, identity: dict[str, Any], remote: Remote | None = None) -> Iterator[Pool]:
    """Open a `Pool` for the length of a with statement."""
    pool = Pool(run_dir, identity, remote)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def _locked(run_dir: Path, how: int) -> Iterator[bool]:
    """Hold the lock of those who read, for the length of a with statement; give whether it could be had.

    Args:
        run_dir: of a run that has been started, or of none.
        how: `fcntl.LOCK_SH` to read, `fcntl.LOCK_EX` to remove.
    """
    try:
        # To hold a lock alone, NFS wants the file open for writing.
        file = (run_dir / "run.json").open("rb" if how & fcntl.LOCK_SH else "r+b")
    except OSError:
        yield False
        return
    with file:
        yield _lock(file, how)


def _lock(file: IO[bytes], how: int) -> bool:
    """Lock a file until it is closed; return False where that cannot be, as on file systems that know no locks.

    A run cannot work on such a file system, so there nothing is removed that is read.
    """
    try:
        fcntl.flock(file, how)
    except OSError:
        return False
    return True


def _schema(name: str, columns: Sequence[str] | None) -> pa.Schema:
    """Return the schema of a table with some of its columns, or all."""
    schema = _SCHEMAS[name]
    return schema if columns is None else pa.schema([schema.field(column) for column in columns])


def _quoted(path: str) -> str:
    """Return a path as DuckDB's read_parquet takes it: with nothing that it would expand to other files."""
    return "'" + re.sub(r"([*?\[])", r"[\1]", path).replace("'", "''") + "'"


def _not_writable(run_dir: Path, error: OSError) -> RunDirError:
    return RunDirError(
        f"run_dir {str(run_dir)!r} cannot be written: {error.strerror or error}; make it writable or choose another"
    )


def _to_json(data: Any) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()
