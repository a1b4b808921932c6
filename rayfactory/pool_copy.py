"""Pools in object storage, by a copy on this machine that is what the storage has, and is worked with.

Layout of a pool's folder in object storage: as that of a run directory (see `pool`), but that a round's files have
their digest in their names, and the journal is in pieces (see `journal_copy`)::

    run.json, schema.json, summary.json
    rounds/000003/R-5f2b7c01d9e3a846.parquet   files of round 3; no two contents share a name
    rounds/000003.json                         its manifest: the round is committed when this object is there
    journal/..                                 what language models were asked and what they replied
    hold.json                                  who writes (see `hold`)

A round is committed by an object that must not be there yet, which the storage decides: of two processes, one commits
it. Its files are there before, so whoever sees the manifest can have them. Here it becomes visible after that: what
this copy shows is committed. A segment takes the place of its rounds in the same way; what it replaces is removed
afterwards, and who was about to read it looks again.

Layout of the copy, below ``data_dir/pools``::

    <digest of the address>/run/     the run directory
    <digest of the address>/id       what tells this copy from those of other machines
    <digest of the address>/known    the versions of what is here
    <digest of the address>/lock     held by the process that writes
    <digest of the address>/pulling  held while the copy is made to be what the storage has
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from rayfactory.bucket import journal_copy
from rayfactory.bucket.hold import Hold
from rayfactory.bucket.journal_copy import Mirror
from rayfactory.bucket.store import Listed, Store, is_url
from rayfactory.errors import RunDirError
from rayfactory.manifests import part_name, spans

POOLS = "pools"
_SINGLE = ("run.json", "schema.json", "summary.json")
_ROUND_FILE = re.compile(r"rounds/([^/]+)/[^/]+\.parquet")
_LOOKS = 10
_AT_ONCE = 8


class Copy:
    """The copy of a pool on this machine.

    Args:
        url: of the pool.
        data_dir: what it is kept below.

    Raises:
        RunDirError: the address is none, or nothing can be kept there.
    """

    def __init__(self, url: str, data_dir: Path) -> None:
        self.store = Store(url)
        self.url = self.store.url
        self._folder = data_dir / POOLS / hashlib.sha256(self.url.encode()).hexdigest()[:16]
        self.run_dir = self._folder / "run"
        self._hold: Hold | None = None
        self._journal_start = 0
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), (self._folder / "id").open("x") as file:
                file.write(uuid.uuid4().hex)
        except OSError as error:
            raise RunDirError(
                f"no copy of {self.url!r} can be kept in {str(self._folder)!r} ({error}); set data_dir to a folder "
                "that can be written"
            ) from None

    @property
    def journal(self) -> Path:
        """The journal of the copy."""
        return self.run_dir / journal_copy.FOLDER / "completions.jsonl"

    @property
    def mirror(self) -> Mirror:
        """Where the journal is to be brought. For the process that holds the pool."""
        assert self._hold is not None
        return Mirror(self.url, self._hold.number, self._journal_start)

    # -- for who writes -------------------------------------------------------

    def publish(self, part: str, files: Mapping[str, str], manifest: bytes) -> None:
        """Commit a round, or a segment, whose files are in the copy's folder of that name.

        Raises:
            RunDirError: it is not committed: another process has the pool, or the storage cannot be reached.
        """
        self._check()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(
                pool.map(
                    lambda item: self.store.write(_object(part, *item), self.run_dir / "rounds" / part / item[0]),
                    files.items(),
                )
            )
        self._check()
        version = self.store.create(f"rounds/{part}.json", manifest)
        if version is None:
            raise RunDirError(
                f"rounds/{part}.json of {self.url!r} has been committed by another process, which works on the same "
                "run; end one of the two"
            )
        self._note({f"{part}.json": version})

    def put(self, name: str, content: bytes) -> None:
        """Replace one of the files beside the rounds.

        Raises:
            RunDirError: it could not be written.
        """
        self._check()
        self.store.write(name, content)

    def sweep(self, parts: Collection[str]) -> None:
        """Remove rounds that are no part of the pool, any more or at all.

        Raises:
            RunDirError: the storage cannot be reached.
        """
        self._check()
        listed = self.store.listed("rounds")
        over = [name for name in listed if _part_of(name) not in parts]
        # A manifest goes first: without it, its files are nobody's.
        self.store.remove([name for name in over if name.endswith(".json")])
        self.store.remove([name for name in over if not name.endswith(".json")])

    def _check(self) -> None:
        assert self._hold is not None
        self._hold.check()

    # -- what is here ---------------------------------------------------------

    def pull(self) -> None:
        """Make the copy what the storage has.

        Raises:
            RunDirError: it cannot be read, or is damaged.
        """
        for _ in range(_LOOKS):
            listed = self.store.listed()
            if self._pulled(listed):
                return
        raise RunDirError(f"{self.url!r} lacks files of committed rounds; restore them from a backup")

    def _pulled(self, listed: Mapping[str, Listed]) -> bool:
        """Make the copy what was listed; return False where some of it has gone since."""
        if "run.json" not in listed:
            # Where nothing was begun, or somebody has removed it: then what is here is of a run that is no more.
            shutil.rmtree(self.run_dir, ignore_errors=True)
            self._note({}, anew=True)
            return True
        rounds = self.run_dir / "rounds"
        rounds.mkdir(parents=True, exist_ok=True)
        names = [name.removeprefix("rounds/") for name in listed if name.startswith("rounds/")]
        wanted = [part_name(*span) for span in spans(names, f"{self.url}/rounds")]
        for name in _SINGLE:
            if name in listed:
                content = self.store.read(name)
                if content is None:
                    return False
                # A reader holds a lock on the file that is there.
                if not (self.run_dir / name).exists() or (self.run_dir / name).read_bytes() != content:
                    _replace(self.run_dir / name, content)
            else:
                (self.run_dir / name).unlink(missing_ok=True)
        known, sizes = self._known(), dict[str, set[int]]()
        for name, each in listed.items():
            sizes.setdefault(_part_of(name), set()).add(each.size)
        missing = [
            part
            for part in wanted
            if known.get(f"{part}.json") != listed[f"rounds/{part}.json"].version
            or not (rounds / f"{part}.json").exists()
            or not self._is_whole(part, sizes[part])
        ]
        self._remove_others(wanted, missing)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            got = list(pool.map(self._fetch_part, missing))
        self._note({f"{part}.json": version for part, version in zip(missing, got, strict=True) if version})
        if not all(got):
            return False
        size = journal_copy.pull(self.store, listed, self.journal)
        if size is None:
            return False
        self._journal_start = size
        self._note({f"{part}.json": listed[f"rounds/{part}.json"].version for part in wanted}, anew=True)
        return True

    def _is_whole(self, part: str, sizes: Collection[int]) -> bool:
        """Return whether files here are as long as those in the storage: they may not be after a power cut."""
        files = list((self.run_dir / "rounds" / part).glob("*.parquet"))
        return bool(files) and all(path.stat().st_size in sizes for path in files)

    def _fetch_part(self, part: str) -> str:
        """Have the files of a part here, and then its manifest; return its version, empty where a file has gone."""
        rounds = self.run_dir / "rounds"
        found = self.store.read_with_version(f"rounds/{part}.json")
        if found is None:
            return ""
        manifest, version = found
        try:
            files: dict[str, str] = dict(json.loads(manifest)["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirError(
                f"{self.url}/rounds/{part}.json is damaged ({error!r}); restore it from a backup"
            ) from None
        fetched = rounds / f"{part}.fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir()
        for name, digest in files.items():
            if not self.store.fetch(_object(part, name, digest), fetched / name):
                return ""
            with (fetched / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise RunDirError(
                        f"{self.url}/{_object(part, name, digest)} is damaged (its content is not what was written); "
                        "restore it from a backup"
                    )
        shutil.rmtree(rounds / part, ignore_errors=True)
        fetched.replace(rounds / part)
        _replace(rounds / f"{part}.json", manifest)
        return version

    def _remove_others(self, wanted: Collection[str], missing: Collection[str]) -> None:
        """Remove rounds from here that the storage does not have, or has with other content."""
        covered = [_span(part) for part in wanted]

        def is_over(part: str) -> bool:
            first, last = _span(part)
            return part in missing or not any(begin <= first and last <= end for begin, end in covered)

        others = [path for path in (self.run_dir / "rounds").glob("*.json") if is_over(path.stem)]
        if not others:
            return
        with (self.run_dir / "run.json").open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunDirError(
                    f"{self.url!r} has other rounds than the copy of it that a process on this machine reads; end that "
                    "process first"
                ) from None
            for path in others:
                path.unlink()
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def _known(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._folder / "known").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _note(self, versions: Mapping[str, str], *, anew: bool = False) -> None:
        known = {} if anew else self._known()
        _replace(self._folder / "known", json.dumps(known | dict(versions)).encode())

    # -- one at a time --------------------------------------------------------

    @contextmanager
    def _pulling(self) -> Iterator[None]:
        """Have no other process change the copy meanwhile, but for one that writes."""
        with (self._folder / "pulling").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _alone(self) -> IO[str] | None:
        """Return a file that keeps others from writing here until it is closed; None where somebody does."""
        file = (self._folder / "lock").open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return None
        return file

    @contextmanager
    def held(self, say: Callable[[str], None], **seconds: float) -> Iterator[None]:
        """Have the copy be what the storage has, and nobody else write it, for the length of a with statement.

        Args:
            say: tells a person what is waited for.
            seconds: `beat_s` and `dead_after_s` of the hold.

        Raises:
            RunDirError: another process writes it, or the storage cannot be reached.
        """
        with self._pulling():
            lock = self._alone()
            if lock is None:
                raise RunDirError(
                    f"run_dir {self.url!r} is in use by another process of this machine; wait for it, or choose "
                    "another run_dir"
                )
            self._hold = None
            try:
                self._hold = Hold(self.store, (self._folder / "id").read_text(), say, **seconds)
                self.pull()
                journal_copy.merge(self.store, self.store.listed(journal_copy.FOLDER), self.journal, self.mirror)
            except BaseException:
                self._release(lock)
                raise
        try:
            yield
        finally:
            self._release(lock)

    def _release(self, lock: IO[str]) -> None:
        """Let others have the pool. Where the storage cannot be told, they see that there is no sign of life."""
        if self._hold is not None:
            with suppress(RunDirError):
                self._hold.release()
        lock.close()

    def read(self) -> Path:
        """Return the run directory here, as the storage has it now.

        Raises:
            RunDirError: the storage cannot be read.
        """
        with self._pulling():
            lock = self._alone()
            if lock is None:  # whoever writes it keeps it up to date
                return self.run_dir
            with lock:
                self.pull()
        return self.run_dir


def _object(part: str, name: str, digest: str) -> str:
    path = Path(name)
    return f"rounds/{part}/{path.stem}-{digest[:16]}{path.suffix}"


def _part_of(name: str) -> str:
    """Return the part that an object below `rounds` is of."""
    if match := _ROUND_FILE.fullmatch(name):
        return match[1]
    return name.removeprefix("rounds/").removesuffix(".json")


def _span(part: str) -> tuple[int, int]:
    first, _, last = part.partition("-")
    return int(first), int(last or first)


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that it is there in full or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def beside(place: str) -> Path:
    """Return the folder for what is made of a pool: that of the run, or ``runs/NAME`` here for one elsewhere."""
    return Path("runs", name_of(place)).absolute() if is_url(place) else Path(place)


def name_of(place: str | Path) -> str:
    """Return what a run is called after: the last part of its folder or address."""
    return str(place).rstrip("/").rpartition("/")[2]


def local(place: str | Path, data_dir: Path) -> Path:
    """Return the folder to read a run in: the place itself, or the copy of a pool in object storage, up to date.

    Raises:
        RunDirError: the storage cannot be read.
    """
    return Copy(str(place), data_dir).read() if is_url(str(place)) else Path(place)
