"""Databases that are files, on the nodes that work with them: there already, or brought from the node of the driver."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayfactory.cluster.losses import as_own
from rayfactory.config import ClusterConfig
from rayfactory.databases.engine import FILE_DIALECTS, Database
from rayfactory.databases.fingerprint import content_sha256
from rayfactory.databases.node_cache import NodeCache
from rayfactory.errors import DatabaseError

PIECE_BYTES = 16 * 2**20
"""Bytes that go through the object store at a time, for each process that fetches."""

BESIDE = ("", "-wal", ".wal")
"""What the names of a database's files end with: its own, and those of its write-ahead log."""

_LOOKING_S = 120.0
"""Seconds that a node has to say whether it can read the databases."""

logger = logging.getLogger("rayfactory.cluster")


@dataclass(frozen=True, slots=True)
class Shipped(Database):
    """A database that is brought to a node when it is first opened there.

    Attributes:
        digest: of its content.
        sizes: bytes of each of its files, by what their names end with.
        source: the actor that reads them.
        node_id: of the node that it is on.
        cache: folder on the other nodes, and the bytes that it may hold.
    """

    digest: str = ""
    sizes: Mapping[str, int] = field(default_factory=dict)
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
        own = Path(tempfile.gettempdir()) / f"rayfactory-databases-{os.getuid()}"
        try:
            cache = _cache(folder or str(own), max_bytes)
            path = cache.get(self.digest, sum(self.sizes.values()), self._fetch) / Path(self.path).name
        except (OSError, DatabaseError) as error:
            where = socket.gethostname()
            raise DatabaseError(f"database {self.name!r} cannot be brought to {where}: {error}") from error
        return Database(self.name, self.dialect, str(path))

    def _fetch(self, folder: Path) -> None:
        import ray

        path = folder / Path(self.path).name
        for ending, size in self.sizes.items():
            with path.with_name(path.name + ending).open("wb") as file:
                for start in range(0, size, PIECE_BYTES):
                    try:
                        file.write(ray.get(self.source.read.remote(self.path + ending, start, PIECE_BYTES)))
                    except ray.exceptions.RayError as error:
                        raise as_own(error, f"{self.path}{ending} cannot be read where the run started") from error
        if content_sha256(path) != self.digest:
            raise DatabaseError(f"{self.path} has changed since the run started; give a copy that nobody writes to")


class DatabaseSource:
    """Reads the files of databases on the node that has them. Those that are asked for first are told beforehand."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = frozenset(paths)
        self._read: dict[str, int] = dict.fromkeys(self._paths, 0)

    def read(self, path: str, start: int, num_bytes: int) -> bytes:
        """Return a piece of a file, shorter at its end."""
        if path not in self._paths:
            raise DatabaseError(f"{path} is no database of this run")
        with Path(path).open("rb") as file:
            file.seek(start)
            piece = file.read(num_bytes)
        self._read[path] += len(piece)
        return piece

    def bytes_read(self) -> dict[str, int]:
        """Return how many bytes of each file have been read."""
        return self._read


_caches: dict[tuple[str, int], NodeCache] = {}


def _cache(folder: str, max_bytes: int) -> NodeCache:
    """Return the cache of this process: what it holds is kept from being removed until the process ends."""
    key = folder, max_bytes
    if key not in _caches:
        _caches[key] = NodeCache(Path(folder), max_bytes)
    return _caches[key]


def shipped(databases: Mapping[str, Database], config: ClusterConfig) -> dict[str, Database]:
    """Return the databases as those that nodes get from this one. Ray has to be connected.

    Raises:
        DatabaseError: one of them cannot be read.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    about: dict[str, tuple[str, dict[str, int]]] = {}
    for name, database in databases.items():
        if database.dialect in FILE_DIALECTS:
            path = Path(database.path)
            try:
                files = [(ending, path.with_name(path.name + ending)) for ending in BESIDE]
                sizes = {ending: file.stat().st_size for ending, file in files if file.is_file()}
                about[name] = content_sha256(path), sizes
            except OSError as error:
                raise DatabaseError(f"database {name!r} ({path}) cannot be read: {error}") from error
    node_id = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    paths = [databases[name].path + ending for name, (_, sizes) in about.items() for ending in sizes]
    actor: Any = ray.remote(DatabaseSource)
    source = actor.options(
        name="databases", scheduling_strategy=here, max_restarts=-1, max_task_retries=3, max_concurrency=8
    ).remote(paths)
    cache = config.database_cache, int(config.database_cache_gb * 1e9)
    return dict(databases) | {
        name: Shipped(name, databases[name].dialect, databases[name].path, "", digest, sizes, source, node_id, cache)
        for name, (digest, sizes) in about.items()
    }


def where_databases_are(databases: Mapping[str, Database]) -> dict[str, Any]:
    """Return the options of an actor that opens databases: it keeps off the nodes that cannot read them.

    Those nodes are told by name in a warning.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    wanted = {
        name: (database.path, Path(database.path).stat().st_size)
        for name, database in databases.items()
        if database.dialect in FILE_DIALECTS and not isinstance(database, Shipped)
    }
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]  # type: ignore[no-untyped-call]
    if not wanted or not others:
        return {}
    look: Any = ray.remote(_unreadable)
    asked = {
        look.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False), max_retries=0
        ).remote(wanted): node
        for node in others
    }
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOKING_S)
    kept_off = []
    for reference in answered:
        try:
            found: str = ray.get(reference)
        except ray.exceptions.RayError:
            continue  # the node is gone
        if found:
            node = asked[reference]
            kept_off.append(node["NodeID"])
            logger.warning(
                "node %s (%s) cannot read %s; its work goes to the others. Put the databases there at the same path, "
                "or set cluster.databases=shipped",
                node["NodeManagerHostname"],
                node["NodeManagerAddress"],
                found,
            )
    return {"label_selector": {"ray.io/node-id": f"!in({','.join(kept_off)})"}} if kept_off else {}


def _unreadable(wanted: Mapping[str, tuple[str, int]]) -> str:
    """Return which of the files cannot be read here, as a message; empty where all can."""
    bad = []
    for name, (path, size) in wanted.items():
        try:
            with Path(path).open("rb") as file:
                found = os.fstat(file.fileno()).st_size
            if found != size:
                bad.append(f"{name} ({path} has {found:,} bytes, and {size:,} where the run started)")
        except OSError as error:
            bad.append(f"{name} ({path}: {error.strerror})")
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    return ", ".join(bad[:3]) + more
