"""The schemas of a run, however many: what a plan needs of all of them, and the rest of one when it is asked for."""

from __future__ import annotations

import os
import pickle
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from weakref import finalize

from rayfactory.databases.schema import Schema

MAX_HELD = 256
"""Schemas that a process has in memory: with their hints some 10 kB to 1 MB each."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a schema that is not in memory.

    Attributes:
        dialect, fingerprint: as of the schema.
        num_tables: base tables.
        num_populated: those of them that have rows.
    """

    dialect: str
    fingerprint: str
    num_tables: int
    num_populated: int

    @classmethod
    def of(cls, schema: Schema) -> About:
        """Say what is known of a schema."""
        return cls(schema.dialect, schema.fingerprint, len(schema.tables), len(schema.populated))


class Schemas(Mapping[str, Schema]):
    """Schemas by database, of which `MAX_HELD` are in memory: those that were asked for last.

    Args:
        about: what is known of each, in the order of the run.
        read: gives the schema of a database; any thread may call it.
    """

    def __init__(self, about: Mapping[str, About], read: Callable[[str], Schema]) -> None:
        self.about = about
        self._read = read
        self._held: OrderedDict[str, Schema] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, database: str) -> Schema:
        with self._lock:
            schema = self._held.get(database)
            if schema is not None:
                self._held.move_to_end(database)
                return schema
        if database not in self.about:
            raise KeyError(database)
        schema = self._read(database)
        with self._lock:
            self._held[database] = schema
            if len(self._held) > MAX_HELD:
                self._held.popitem(last=False)
        return schema

    def __iter__(self) -> Iterator[str]:
        return iter(self.about)

    def __len__(self) -> int:
        return len(self.about)

    def __reduce__(self) -> tuple[type[Schemas], tuple[Mapping[str, About], Callable[[str], Schema]]]:
        return Schemas, (self.about, self._read)


class _Spool:
    """Schemas in a temporary file, which goes with this object."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="rayfactory-schemas-")  # noqa: SIM115 - closed with the object
        finalize(self, self._file.close)
        self._places: dict[str, tuple[int, int]] = {}

    def add(self, schema: Schema) -> None:
        content = pickle.dumps(schema, pickle.HIGHEST_PROTOCOL)
        self._places[schema.database] = self._file.tell(), len(content)
        self._file.write(content)

    def read(self, database: str) -> Schema:
        start, size = self._places[database]
        self._file.flush()
        schema: Schema = pickle.loads(os.pread(self._file.fileno(), size, start))  # noqa: S301 - this process wrote it
        return schema


def held(schemas: Iterable[Schema]) -> Mapping[str, Schema]:
    """Return schemas by database: all in memory where they are few; else most of them in a temporary file."""
    spool, about, few = _Spool(), dict[str, About](), dict[str, Schema]()
    for schema in schemas:
        about[schema.database] = About.of(schema)
        spool.add(schema)
        if len(about) <= MAX_HELD:
            few[schema.database] = schema
        else:
            few.clear()
    return few if len(about) <= MAX_HELD else Schemas(about, spool.read)


def about(schemas: Mapping[str, Schema]) -> Mapping[str, About]:
    """Return what a plan needs of all schemas, without reading any that is not in memory."""
    if isinstance(schemas, Schemas):
        return schemas.about
    return {name: About.of(schema) for name, schema in schemas.items()}
