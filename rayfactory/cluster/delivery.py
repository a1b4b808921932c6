"""Databases that are files, on the nodes that work with them: there already, or brought from the node of the driver."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayfactory.cluster.losses import as_own, brief, is_loss
from rayfactory.config import ClusterConfig
from rayfactory.databases.engine import FILE_DIALECTS, Database
from rayfactory.databases.fingerprint import content_sha256
from rayfactory.databases.node_cache import NodeCache
from rayfactory.errors import DatabaseError

PIECE_BYTES = 16 * 2**20
"""Bytes that go through the object store at a time, for each process that fetches."""

BESIDE = ("-wal", ".wal")
"""What is put behind a database's name for its write-ahead log."""

_LOOKING_S = 120.0
"""Seconds that a node has to say whether it can read the databases."""

logger = logging.getLogger("rayfactory.cluster")


@dataclass(frozen=True, slots=True)
class Shipped(Database):
    """A database that is brought to a node when it is first opened there.

    Attributes:
        digest: of its content.
        files: its files where the run started, by their paths.
        source: the actor that reads them.
        node_id: of the node that it is on.
        cache: folder on the other nodes, and the bytes that it may hold.
    """

    digest: str = ""
    files: Mapping[str, SourceFile] = field(default_factory=dict)
    source: Any = None
    node_id: str = ""
    cache: tuple[str, int] = ("", 0)

    def here(self) -> Database:
        """Return the database as it is on this machine.

        Raises:
            DatabaseError: it cannot be brought here.
        """
        import ray

        if ray.get_runtime_context().get_node_id() == self.node_id:
            return Database(self.name, self.dialect, self.path)
        folder, max_bytes = self.cache
        sizes = {Path(path).name: about.size for path, about in self.files.items()}
        # What the file is called is part of it: DuckDB calls its catalogue so. Of a large file the digest has a sample;
        # two that differ elsewhere have other times.
        about = json.dumps([self.digest, sorted(sizes.items()), [about.modified_ns for about in self.files.values()]])
        key = hashlib.sha256(about.encode()).hexdigest()
        try:
            path = _cache(folder, max_bytes).get(key, sizes, self._fetch) / Path(self.path).name
        except (OSError, DatabaseError) as error:
            where = socket.gethostname()
            raise DatabaseError(f"database {self.name!r} cannot be brought to {where}: {error}") from error
        return Database(self.name, self.dialect, str(path))

    def _fetch(self, folder: Path) -> None:
        import ray

        for path, about in self.files.items():
            with (folder / Path(path).name).open("wb") as file:
                for start in range(0, about.size, PIECE_BYTES):
                    try:
                        file.write(ray.get(self.source.read.remote(path, start, PIECE_BYTES)))
                    except ray.exceptions.RayError as error:
                        raise as_own(error, f"{path} cannot be read where the run started") from error
                file.flush()
                os.fsync(file.fileno())
        if content_sha256(folder / Path(self.path).name) != self.digest:
            raise DatabaseError(
                f"{self.path} is not what it was when the run started; give a copy that nobody writes to"
            )


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file as it was when the run started: another one in its place has another inode or time."""

    size: int
    modified_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Look at a file.

        Raises:
            OSError: it is not there.
        """
        about = path.stat()
        return cls(about.st_size, about.st_mtime_ns, about.st_ino)


class DatabaseSource:
    """Reads the files of databases on the node that has them: those that it is told of, as they were then."""

    def __init__(self, files: Mapping[str, SourceFile]) -> None:
        self._files = files
        self._counting = threading.Lock()
        self._read = dict.fromkeys(files, 0)

    def read(self, path: str, start: int, num_bytes: int) -> bytes:
        """Return a piece of a file, shorter at its end.

        Raises:
            DatabaseError: it is no file of a database, or not as it was.
        """
        try:
            with Path(path).open("rb") as file:
                file.seek(start)
                piece = file.read(num_bytes)
            is_same = SourceFile.of(Path(path)) == self._files[path]
        except (OSError, KeyError) as error:
            raise DatabaseError(f"{path} cannot be read ({error})") from error
        if not is_same:
            raise DatabaseError(f"{path} has changed since the run started; give a copy that nobody writes to")
        with self._counting:
            self._read[path] += len(piece)
        return piece

    def bytes_read(self) -> dict[str, int]:
        """Return how many bytes of each file have been read."""
        return self._read


_caches: dict[tuple[str, int], NodeCache] = {}


def _cache(folder: str, max_bytes: int) -> NodeCache:
    """Return the cache of this process: what it holds is kept from being removed until the process ends.

    It is in a folder of its own below the one that is named.
    """
    key = folder, max_bytes
    if key not in _caches:
        own = Path(folder) / "rayfactory-databases" if folder else None
        _caches[key] = NodeCache(own or Path(tempfile.gettempdir()) / f"rayfactory-databases-{os.getuid()}", max_bytes)
    return _caches[key]


def shipped(databases: Mapping[str, Database], config: ClusterConfig) -> dict[str, Database]:
    """Return the databases as those that nodes get from this one. Ray has to be connected.

    Raises:
        DatabaseError: one of them cannot be read.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    about: dict[str, tuple[str, dict[str, SourceFile]]] = {}
    for name, database in databases.items():
        if database.dialect in FILE_DIALECTS:
            try:
                files = {str(path): SourceFile.of(path) for path in _files(database.path)}
                about[name] = content_sha256(Path(database.path)), files
            except OSError as error:
                raise DatabaseError(f"database {name!r} ({database.path}) cannot be read: {error}") from error
    node_id = ray.get_runtime_context().get_node_id()
    actor: Any = ray.remote(DatabaseSource)
    source = actor.options(
        name="databases",
        num_cpus=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        max_restarts=-1,
        max_task_retries=3,
        max_concurrency=8,
    ).remote({path: each for _, files in about.values() for path, each in files.items()})
    cache = config.database_cache, int(config.database_cache_gb * 1e9)
    return dict(databases) | {
        name: Shipped(name, databases[name].dialect, databases[name].path, "", digest, files, source, node_id, cache)
        for name, (digest, files) in about.items()
    }


def _files(path: str) -> list[Path]:
    """Return the files of a database: its own, and its write-ahead log where it has one."""
    beside = [Path(path + ending) for ending in BESIDE]
    return [Path(path), *(each for each in beside if each.is_file())]


def nodes_without(databases: Mapping[str, Database], among: Collection[str]) -> list[str]:
    """Return the ids of the nodes that cannot read the databases; a warning tells each by name.

    Args:
        among: ids of the nodes that are asked.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = {
        name: {str(path): path.stat().st_size for path in _files(database.path)}
        for name, database in databases.items()
        if database.dialect in FILE_DIALECTS and not isinstance(database, Shipped)
    }
    here = ray.get_runtime_context().get_node_id()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    others = [node for node in nodes if node["Alive"] and node["NodeID"] in among and node["NodeID"] != here]
    if not wanted or not others:
        return []
    look: Any = ray.remote(_unreadable)
    asked = {
        look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), max_retries=0
        ).remote(wanted): node
        for node in others
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOKING_S)
    kept_off = []
    for reference, node in asked.items():
        try:
            found = ray.get(reference) if reference in answered else f"anything within {_LOOKING_S:g} s"
        except ray.exceptions.RayError as error:
            if is_loss(error):
                continue  # the node is gone
            found = f"anything ({brief(error)})"
        if found:
            kept_off.append(node["NodeID"])
            logger.warning(
                "node %s (%s) cannot read %s; its work goes to the others. Put the databases there at the same path, "
                "or set cluster.databases=shipped",
                node["NodeManagerHostname"],
                node["NodeManagerAddress"],
                found,
            )
    return kept_off


def keeping_off(node_ids: Sequence[str]) -> dict[str, Any]:
    """Return the options of an actor that is not to be on these nodes."""
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(node_ids)})"}} if node_ids else {}


def _unreadable(wanted: Mapping[str, Mapping[str, int]]) -> str:
    """Return which of the databases cannot be read here, as a message; empty where all can.

    Args:
        wanted: bytes of each of its files by their paths, by the name of the database.
    """
    bad = []
    for name, files in wanted.items():
        for path, size in files.items():
            try:
                with Path(path).open("rb") as file:
                    found = os.fstat(file.fileno()).st_size
                if found != size:
                    bad.append(f"{name} ({path} has {found:,} bytes, and {size:,} where the run started)")
            except OSError as error:
                bad.append(f"{name} ({path}: {error.strerror})")
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return ", ".join(bad[:3]) + more
