"""What a pool is in object storage: its objects, how a round is committed, and what may be removed.

Layout, as that of a run directory (see `pool`), but that a round's files have their digest in their names, and the
journal is in pieces (see `journal_copy`)::

    run.json, schema.json, summary.json
    rounds/000003/R-5f2b7c01d9e3a846.parquet   files of round 3; no two contents share a name
    rounds/000003.json                         its manifest: the round is committed when this object is there
    journal/..                                 what language models were asked and what they replied
    hold.json                                  who writes (see `hold`)

A round is committed by an object that must not be there yet, which the storage decides: of two processes, one commits
it. Its files are there before, so whoever sees the manifest can have them. A segment takes the place of its rounds in
the same way.

A process may have been taken over and not have noticed yet, with any of its requests still under way. So nothing is
removed but what something that is committed has replaced for good: what lies within a wider part of the pool, and files
beside a manifest that does not name them. What somebody may yet commit stays: files of a round that has no manifest go
when that round has one. Who was about to read what is removed looks again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rayfactory.bucket.store import Store, Version
from rayfactory.errors import RunDirError

RUN = "run.json"
ROUNDS = "rounds"
AT_ONCE = 4
"""Objects that are read or written at a time."""

_PART = re.compile(rf"{ROUNDS}/(\d{{6,}}(?:-\d{{6,}})?)(\.json|/[^/]+\.parquet)")


class StoredPool:
    """A pool in object storage, for the process that holds it.

    Args:
        store: of the pool.

    Attributes:
        run_version: of `run.json`, as it was read or written last; None: it was not there.
    """

    def __init__(self, store: Store) -> None:
        self.run_version: Version | None = None
        self._store = store

    def publish(self, part: str, folder: Path, files: Mapping[str, str], manifest: bytes) -> Version:
        """Commit a round, or a segment; return the version of its manifest.

        Args:
            part: its name.
            folder: where its files are here.
            files: file name -> sha256 hex digest.
            manifest: what commits it.

        Raises:
            RunDirError: it is not committed: another process has the pool, or the storage cannot be reached.
        """

        def write(item: tuple[str, str]) -> None:
            self._store.write(object_name(part, *item), folder / item[0])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(write, files.items()))
        version = self._store.create(manifest_name(part), manifest)
        if version is None:
            raise RunDirError(
                f"{manifest_name(part)} of {self._store.url!r} has been committed by another process, which works on "
                "the same run; end one of the two"
            )
        return version

    def put(self, name: str, content: bytes) -> None:
        """Replace one of the files beside the rounds.

        Raises:
            RunDirError: it could not be written, or another process has begun the run meanwhile.
        """
        if name != RUN:
            self._store.write(name, content)
            return
        if self.run_version is None:
            version = self._store.create(name, content)
        else:
            version = self._store.replace(name, content, self.run_version)
        if version is None:
            raise RunDirError(f"a run has been begun in {self._store.url!r} by another process; end one of the two")
        self.run_version = version

    def sweep(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """Remove what parts of the pool have replaced for good.

        Args:
            parts: name -> file name -> digest; committed, all of them.

        Raises:
            RunDirError: the storage cannot be reached.
        """
        named = {object_name(part, *item) for part, files in parts.items() for item in files.items()}
        own = [span_of(part) for part in parts]
        over = []
        for name in self._store.listed(ROUNDS):
            part = part_of(name)
            if part is None:
                continue
            span = span_of(part)
            is_within_wider = any(is_within(span, wider) and span != wider for wider in own)
            if is_within_wider or (part in parts and name != manifest_name(part) and name not in named):
                over.append(name)
        # A manifest goes first: without it, its files are nobody's.
        self._store.remove([name for name in over if name.endswith(".json")])
        self._store.remove([name for name in over if not name.endswith(".json")])


def manifest_name(part: str) -> str:
    """Return the name of the object that commits a part."""
    return f"{ROUNDS}/{part}.json"


def object_name(part: str, file: str, digest: str) -> str:
    """Return the name of the object that holds a file of a part, by its content."""
    path = Path(file)
    return f"{ROUNDS}/{part}/{path.stem}-{digest[:16]}{path.suffix}"


def part_of(name: str) -> str | None:
    """Return the part that an object is of; None where it is of none."""
    match = _PART.fullmatch(name)
    return match[1] if match else None


def span_of(part: str) -> tuple[int, int]:
    """Return the first and the last round of a part, by its name."""
    first, _, last = part.partition("-")
    return int(first), int(last or first)


def is_within(span: tuple[int, int], wider: tuple[int, int]) -> bool:
    """Return whether all rounds of one span are in another."""
    return wider[0] <= span[0] and span[1] <= wider[1]


def is_covered(part: str, parts: Iterable[str]) -> bool:
    """Return whether all rounds of a part are in one of others."""
    return any(is_within(span_of(part), span_of(other)) for other in parts)
