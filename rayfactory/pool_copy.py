"""Pools in object storage, by a copy on this machine that is what the storage has, and is worked with.

A round becomes visible here after it is committed there (see `bucket.stored_pool`): what this copy shows is committed.
It holds nothing that is not in the storage, but for the last second of a journal, and is made anew where it is gone.

Layout, below ``data_dir/pools``::

    <digest of the address>/run/     the run directory
    <digest of the address>/id       what tells this copy from those of other machines
    <digest of the address>/known    the versions of the manifests that are here
    <digest of the address>/lock     held by the process that writes
    <digest of the address>/pulling  held while the copy is made to be what the storage has
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from rayfactory.bucket import journal_copy
from rayfactory.bucket.hold import Hold
from rayfactory.bucket.journal_copy import Mirror
from rayfactory.bucket.store import Listed, Store, is_url
from rayfactory.bucket.stored_pool import AT_ONCE, RUN, StoredPool, is_covered, manifest_name, object_name, part_of
from rayfactory.errors import RunDirError
from rayfactory.files import replace_file, sha256_of
from rayfactory.manifests import part_name, spans
from rayfactory.models.journal import FILE_NAME

POOLS = "pools"
_BESIDE = ("schema.json", "summary.json")
_PLACES = ("AWS_ENDPOINT_URL", "AZURE_STORAGE_ACCOUNT_NAME")
"""Variables that make another storage of the same address."""

_LOOKS = 10
_ORPHAN_S = 30.0
"""Ray takes some seconds to end what a killed run has left."""


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
        place = "\n".join([self.url, *(os.environ.get(name, "") for name in _PLACES)])
        self._folder = data_dir / POOLS / hashlib.sha256(place.encode()).hexdigest()[:16]
        self.run_dir = self._folder / "run"
        self._hold: Hold | None = None
        self._journal_start = 0
        self._stored = StoredPool(self.store)
        with self._writable():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError), (self._folder / "id").open("x") as file:
                file.write(uuid.uuid4().hex)

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """Tell what is to be done where files of the copy cannot be written."""
        try:
            yield
        except OSError as error:
            raise RunDirError(
                f"the copy of {self.url!r} in {str(self._folder)!r} cannot be written ({error}); make room or give "
                "permission there, or set data_dir to another folder"
            ) from error

    @property
    def journal(self) -> Path:
        """The journal of the copy."""
        return self.run_dir / journal_copy.FOLDER / FILE_NAME

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
        version = self._stored.publish(part, self.run_dir / "rounds" / part, files, manifest)
        with self._writable():
            self._note({part: version.tag})

    def put(self, name: str, content: bytes) -> None:
        """As `StoredPool.put`."""
        self._stored.put(name, content)

    def sweep(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """As `StoredPool.sweep`."""
        self._stored.sweep(parts)

    # -- what is here ---------------------------------------------------------

    def pull(self, *, verify: bool = False) -> None:
        """Make the copy what the storage has, but for the journal.

        Args:
            verify: whether files that are here are read, to see whether they are what was written.

        Raises:
            RunDirError: it cannot be read, or is damaged.
        """
        with self._writable():
            for _ in range(_LOOKS):
                if self._pulled(self.store.listed("rounds"), verify=verify):
                    return
        raise RunDirError(f"{self.url!r} lacks files of committed rounds; restore them from a backup")

    def _pulled(self, listed: Mapping[str, Listed], *, verify: bool) -> bool:
        """Make the copy what was listed; return False where some of it has gone since."""
        run = self.store.read_with_version(RUN)
        if run is None:
            # Nothing was begun, or somebody has removed it: then what is here is of a run that is no more.
            with self._unread():
                shutil.rmtree(self.run_dir, ignore_errors=True)
            self._stored.run_version = None
            self._note({}, anew=True)
            return True
        content, self._stored.run_version = run
        beside = {name: self.store.read(name) for name in _BESIDE}
        rounds = self.run_dir / "rounds"
        rounds.mkdir(parents=True, exist_ok=True)
        names = [name.removeprefix("rounds/") for name in listed if name.startswith("rounds/")]
        wanted = [part_name(*span) for span in spans(names, f"{self.url}/rounds")]
        sizes: dict[str, set[int]] = {}
        for name, each in listed.items():
            if (part := part_of(name)) is not None:
                sizes.setdefault(part, set()).add(each.size)
        known = self._known()
        tags = {part: listed[manifest_name(part)].tag for part in wanted}
        missing = [
            part
            for part in wanted
            if known.get(part) != tags[part] or not self._is_whole(part, sizes[part], verify=verify)
        ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            fetched = dict(zip(missing, pool.map(self._fetch_part, missing), strict=True))
        if None in fetched.values():
            return False
        others = [path.stem for path in rounds.glob("*.json") if path.stem not in wanted]
        covered = [part for part in others if is_covered(part, wanted)]
        replaces = any((rounds / f"{part}.json").exists() for part in missing) or len(covered) < len(others)
        is_other = (self.run_dir / RUN).exists() and (self.run_dir / RUN).read_bytes() != content
        with self._unread(must=replaces or is_other) as nobody_reads:
            if is_other and wanted:
                journal_copy.set_aside(self.journal)  # what was paid here was paid for another run
            if is_other or not (self.run_dir / RUN).exists():
                replace_file(self.run_dir / RUN, content)
            for name, found in beside.items():
                if found is None:
                    (self.run_dir / name).unlink(missing_ok=True)
                else:
                    replace_file(self.run_dir / name, found)
            for part in others:
                if nobody_reads and part not in covered:
                    _remove(rounds, part)
            # In their order, so that who reads meanwhile sees no gap.
            for part, manifest in fetched.items():
                assert manifest is not None
                shutil.rmtree(rounds / part, ignore_errors=True)
                (rounds / f"{part}.fetched").replace(rounds / part)
                replace_file(rounds / f"{part}.json", manifest)
            for part in covered:
                if nobody_reads:
                    _remove(rounds, part)
        self._note(tags, anew=True)
        return True

    def _is_whole(self, part: str, sizes: Collection[int], *, verify: bool) -> bool:
        """Return whether the files of a part are here; they may not be after a power cut."""
        rounds = self.run_dir / "rounds"
        try:
            files: dict[str, str] = json.loads((rounds / f"{part}.json").read_bytes())["files"]
            return all((rounds / part / name).stat().st_size in sizes for name in files) and not (
                verify and any(sha256_of(rounds / part / name) != digest for name, digest in files.items())
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _fetch_part(self, part: str) -> bytes | None:
        """Have the files of a part beside their place; return its manifest, None where some of it has gone."""
        manifest = self.store.read(manifest_name(part))
        if manifest is None:
            return None
        try:
            files: dict[str, str] = dict(json.loads(manifest)["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunDirError(
                f"{self.url}/{manifest_name(part)} is damaged ({error!r}); restore it from a backup"
            ) from None
        fetched = self.run_dir / "rounds" / f"{part}.fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir()
        for name, digest in files.items():
            if not self.store.fetch(object_name(part, name, digest), fetched / name):
                return None
            if sha256_of(fetched / name) != digest:
                raise RunDirError(
                    f"{self.url}/{object_name(part, name, digest)} is damaged (its content is not what was written); "
                    "restore it from a backup"
                )
        return manifest

    @contextmanager
    def _unread(self, *, must: bool = True) -> Iterator[bool]:
        """Have nobody read the copy meanwhile; give whether that is so.

        Raises:
            RunDirError: somebody does, and it `must` be.
        """
        try:
            file = (self.run_dir / RUN).open("r+b")
        except FileNotFoundError:
            yield True
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_alone = True
            except OSError:
                is_alone = False
            if must and not is_alone:
                raise RunDirError(
                    f"{self.url!r} has another run than the copy of it that a process on this machine reads; end that "
                    "process first"
                )
            yield is_alone

    def _known(self) -> dict[str, str]:
        try:
            return dict(json.loads((self._folder / "known").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _note(self, tags: Mapping[str, str], *, anew: bool = False) -> None:
        known = {} if anew else self._known()
        replace_file(self._folder / "known", json.dumps(known | dict(tags)).encode())

    def _pull_journal(self) -> list[journal_copy.Piece]:
        with self._writable(), TemporaryDirectory(dir=self._folder, prefix="pulled-") as scratch:
            self._journal_start, pieces = journal_copy.pull(self.store, self.journal, Path(scratch))
        return pieces

    # -- one at a time --------------------------------------------------------

    @contextmanager
    def _pulling(self) -> Iterator[None]:
        """Have no other process change the copy meanwhile, but for one that writes."""
        with (self._folder / "pulling").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for left in self._folder.glob("pulled-*"):
                shutil.rmtree(left, ignore_errors=True)
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
                with journal_copy.alone(self.journal, _ORPHAN_S):
                    # A copy of the copy on another machine is another one.
                    own = f"{(self._folder / 'id').read_text()} {socket.gethostname()} {uuid.getnode():x}"
                    self._hold = Hold(self.url, own, say, **seconds)
                    self.store.watch = self._hold.check
                    self.pull(verify=True)
                    journal_copy.merge(self.store, self.journal, self.mirror, self._pull_journal())
            except BaseException:
                self._release(lock)
                raise
        try:
            yield
        finally:
            self._release(lock)

    def _release(self, lock: IO[str]) -> None:
        """Let others have the pool."""
        self.store.watch = lambda: None
        try:
            if self._hold is not None:
                with suppress(RunDirError):
                    self._hold.release()
        finally:
            lock.close()

    def read(self, *, journal: bool = False) -> Path:
        """Return the run directory here, as the storage has it now.

        Args:
            journal: whether the journal is wanted too.

        Raises:
            RunDirError: the storage cannot be read.
        """
        with self._pulling():
            lock = self._alone()
            if lock is None:  # whoever writes it keeps it up to date
                return self.run_dir
            with lock:
                self.pull()
                if journal:
                    self._pull_journal()
        return self.run_dir


def _remove(rounds: Path, part: str) -> None:
    (rounds / f"{part}.json").unlink()
    shutil.rmtree(rounds / part, ignore_errors=True)


def beside(place: str) -> Path:
    """Return the folder for what is made of a pool: that of the run, or ``runs/NAME`` here for one elsewhere."""
    return Path("runs", name_of(place)).absolute() if is_url(place) else Path(place)


def name_of(place: str | Path) -> str:
    """Return what a run is called after: the last part of its folder or address."""
    return str(place).rstrip("/").rpartition("/")[2]


def local(place: str | Path, data_dir: Path, *, journal: bool = False) -> Path:
    """Return the folder to read a run in: the place itself, or the copy of a pool in object storage, up to date.

    Args:
        place: a folder, or an address.
        data_dir: what copies are kept below.
        journal: whether the journal is wanted too.

    Raises:
        RunDirError: the storage cannot be read.
    """
    return Copy(str(place), data_dir).read(journal=journal) if is_url(str(place)) else Path(place)
