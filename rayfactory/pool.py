"""The SQL Pool: tables R and E and the rejects of a run, as Parquet files that DuckDB reads.

Layout of a run directory::

    run.json                   what the run is: benchmark, seed, settings and their digest
    rounds/000003/R.parquet    the rows that round 3 admitted; E, S and rejects beside it
    rounds/000003.json         the manifest of round 3: its files with their digests, plan and evaluation
    summary.json               written at the end of a run
    journal/                   what language models were asked and what they replied, where there are any
    lock                       held while a process works on the run

The commit of a round is its manifest: files are written and synced first, then the manifest is renamed into
place. A round without a manifest does not exist; what it left behind is removed when the run is opened
again. Rounds are committed in order, so the committed rounds are always 0, 1, .. n - 1.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from rayfactory.errors import RunDirError
from rayfactory.identity import FORMAT, check_run_dir, read_identity
from rayfactory.records import E_SCHEMA, R_SCHEMA, REJECTS_SCHEMA, S_SCHEMA, Evaluation, Origin, Tally

_SCHEMAS = {"R": R_SCHEMA, "E": E_SCHEMA, "S": S_SCHEMA, "rejects": REJECTS_SCHEMA}
_VIEWS = ("R", "E", "rejects")


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """What a later plan needs to know of a request: whom it asked for what."""

    origin: Origin
    database: str
    tables: tuple[str, ...]
    num_queries: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed round.

    Attributes:
        round: its number.
        first_query_id: query_id of its first row of R; the rows are numbered on from there.
        num_rows: rows of R.
        plan: the requests of the round.
        evaluation: E_t of the round.
        wall_s: seconds of work on the run up to this commit, over all its processes.
        phase_s: seconds of each phase of the round: ``plan``, ``produce``, ``write`` (either of the two), ``judge``;
            and ``start``, which a process took until its loop began, in the first round that it commits. Rounds are
            written beside each other and beside judging; where several are planned, or written, at a time, the seconds
            count once, for the round that is ready first.
        tallies: what happened between the agents and their models in planning and writing the round; empty where
            all of them kept to their rules.
        files: file name -> sha256 hex digest.
    """

    round: int
    first_query_id: int
    num_rows: int
    plan: tuple[PlannedRequest, ...]
    evaluation: Evaluation
    wall_s: float
    phase_s: dict[str, float]
    tallies: tuple[Tally, ...]
    files: dict[str, str]

    @property
    def next_query_id(self) -> int:
        """The query_id that the next round starts with."""
        return self.first_query_id + self.num_rows


class Pool:
    """A run directory, opened for writing by this process alone.

    Args:
        run_dir: created where it does not exist.
        identity: `benchmark`, `seed`, `config_sha256`, ..: what must be equal for the run to go on. What differs is
            told by its name; the members of `settings` and `fingerprints` are told one by one.

    Raises:
        RunDirError: the directory is a file, cannot be written, belongs to another run or process, or is
            not a run directory.
    """

    def __init__(self, run_dir: Path, identity: dict[str, Any]) -> None:
        self.run_dir = run_dir
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
            self.manifests: list[Manifest] = list(read_manifests(run_dir))
            for manifest in self.manifests:
                self._check_files(manifest)
            if not self.manifests:
                _write_durably(run_dir / "run.json", _to_json({"format": FORMAT, **identity}))
            self._remove_uncommitted()
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
        return self.manifests[-1].next_query_id if self.manifests else 0

    @property
    def wall_s(self) -> float:
        """Seconds of work on the run up to the last commit."""
        return self.manifests[-1].wall_s if self.manifests else 0.0

    def _check_files(self, manifest: Manifest) -> None:
        for name, digest in manifest.files.items():
            path = self._rounds_dir / _round_name(manifest.round) / name
            if _sha256(path) != digest:
                raise RunDirError(f"{path} is damaged (its content is not what was written); restore it from a backup")

    def _remove_uncommitted(self) -> None:
        committed = {_round_name(manifest.round) for manifest in self.manifests}
        for path in self._rounds_dir.iterdir():
            if path.is_dir() and path.name not in committed:
                shutil.rmtree(path)
            elif path.name.endswith(".partial"):
                path.unlink()

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
        directory = self._rounds_dir / _round_name(number)
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            _sync_directory(self._rounds_dir)  # a manifest is never there before the folder that it speaks of
            files = {}
            for name, schema in _SCHEMAS.items():
                path = directory / f"{name}.parquet"
                with path.open("wb") as file:
                    pq.write_table(tables[name].cast(schema), file, compression="zstd")
                    file.flush()
                    os.fsync(file.fileno())
                files[path.name] = _sha256(path)
            _sync_directory(directory)
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
            _write_durably(self._rounds_dir / f"{directory.name}.json", _to_json(_manifest_to_json(manifest)))
        except OSError as error:
            raise RunDirError(
                f"round {number} could not be written to {str(self.run_dir)!r}: {error.strerror or error}; what was "
                f"committed before it is intact ({number} round{'s' * (number != 1)}); make room or restore access, "
                "then run the same command again"
            ) from error
        self.manifests.append(manifest)
        return manifest

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
        schema = _SCHEMAS[name] if columns is None else pa.schema([_SCHEMAS[name].field(each) for each in columns])
        tables = [schema.empty_table()]
        for number in range(first_round, last_round + 1):
            # Not by `read_table`, which takes as long again to find out what kinds of files there are.
            with pq.ParquetFile(self._rounds_dir / _round_name(number) / f"{name}.parquet") as file:
                tables.append(file.read(schema.names).select(schema.names).cast(schema))
        return pa.concat_tables(tables)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Replace `summary.json`.

        Raises:
            RunDirError: it could not be written.
        """
        try:
            _write_durably(self.run_dir / "summary.json", _to_json(summary))
        except OSError as error:
            raise _not_writable(self.run_dir, error) from None

    def close(self) -> None:
        """Let other processes have the run."""
        self._lock.close()


def read_manifests(run_dir: Path) -> Iterator[Manifest]:
    """Yield the committed rounds in order.

    Raises:
        RunDirError: a manifest is damaged, or a committed file is missing.
    """
    number = 0
    while True:
        path = run_dir / "rounds" / f"{_round_name(number)}.json"
        try:
            manifest = _manifest_from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirError(f"{path} cannot be read ({error!r}); restore it from a backup") from None
        missing = [name for name in manifest.files if not (path.with_suffix("") / name).is_file()]
        if missing:
            raise RunDirError(f"{path.with_suffix('') / missing[0]} is missing; restore it from a backup")
        yield manifest
        number += 1


def connect(run_dir: str | Path) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection with the views R, E and rejects over the committed rounds of a run.

    The connection shows the rounds that were committed when it was made; it never changes the run.

    Raises:
        RunDirError: there is no run in `run_dir`, or it is damaged.
    """
    run_dir = Path(run_dir)
    if read_identity(run_dir) is None:
        raise RunDirError(f"there is no run in {str(run_dir)!r}; give the run_dir of a run that was started")
    manifests = list(read_manifests(run_dir))
    connection = duckdb.connect()
    for name in _VIEWS:
        schema = _SCHEMAS[name]
        columns = ", ".join(f'"{column}"' for column in schema.names)
        if manifests:
            files = [run_dir / "rounds" / _round_name(manifest.round) / f"{name}.parquet" for manifest in manifests]
            source = f"read_parquet([{', '.join(_quoted(str(path.absolute())) for path in files)}])"
            connection.execute(f'CREATE VIEW "{name}" AS SELECT {columns} FROM {source}')
        else:
            empty = schema.empty_table()
            connection.register("empty_round", empty)
            connection.execute(f'CREATE TABLE "{name}" AS SELECT {columns} FROM empty_round')
            connection.unregister("empty_round")
    return connection


@contextmanager
def opened(run_dir: Path, identity: dict[str, Any]) -> Iterator[Pool]:
    """Open a `Pool` for the length of a with statement."""
    pool = Pool(run_dir, identity)
    try:
        yield pool
    finally:
        pool.close()


def _round_name(number: int) -> str:
    return f"{number:06d}"


def _quoted(path: str) -> str:
    """Return a path as DuckDB's read_parquet takes it: with nothing that it would expand to other files."""
    return "'" + re.sub(r"([*?\[])", r"[\1]", path).replace("'", "''") + "'"


def _not_writable(run_dir: Path, error: OSError) -> RunDirError:
    return RunDirError(
        f"run_dir {str(run_dir)!r} cannot be written: {error.strerror or error}; make it writable or choose another"
    )


def _manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "round": manifest.round,
        "first_query_id": manifest.first_query_id,
        "num_rows": manifest.num_rows,
        "plan": [[p.origin, p.database, list(p.tables), p.num_queries] for p in manifest.plan],
        "evaluation": manifest.evaluation.to_json(),
        "wall_s": manifest.wall_s,
        "phase_s": manifest.phase_s,
        "tallies": [asdict(tally) for tally in manifest.tallies],
        "files": manifest.files,
    }


def _manifest_from_json(data: dict[str, Any]) -> Manifest:
    return Manifest(
        round=data["round"],
        first_query_id=data["first_query_id"],
        num_rows=data["num_rows"],
        plan=tuple(PlannedRequest(origin, name, tuple(tables), n) for origin, name, tables, n in data["plan"]),
        evaluation=Evaluation.from_json(data["evaluation"]),
        wall_s=data["wall_s"],
        phase_s=data["phase_s"],
        tallies=tuple(Tally(**tally) for tally in data["tallies"]),
        files=dict(data["files"]),
    )


def _to_json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, content: bytes) -> None:
    """Write a file so that it is there in full or not at all, also after a power cut."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
