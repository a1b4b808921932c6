"""The schemas of many databases in Ray's object store: an actor fetches the ones that it works with."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from typing import Any

from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import Schemas

_IN_ONE_OBJECT = 32
"""Schemas that are put there together: an object costs Ray as much as it takes to write some of them."""


class _FromStore:
    """Reads schemas, by the reference to the object that each is in and its place there."""

    def __init__(self, places: Mapping[str, tuple[Any, int]]) -> None:
        self._places = places

    def __call__(self, database: str) -> Schema:
        import ray

        reference, place = self._places[database]
        # As bytes, of which only those that are wanted become a schema again.
        schema: Schema = pickle.loads(ray.get(reference)[place])  # noqa: S301 - the driver wrote it
        return schema


def in_object_store(schemas: Mapping[str, Schema]) -> Mapping[str, Schema]:
    """Return schemas as actors are to get them: as they are where they are few, else put into the store."""
    if not isinstance(schemas, Schemas):
        return dict(schemas)
    return Schemas(schemas.about, _FromStore(dict(_put(schemas))))


def _put(schemas: Mapping[str, Schema]) -> Iterator[tuple[str, tuple[Any, int]]]:
    import ray

    databases = list(schemas)
    for start in range(0, len(databases), _IN_ONE_OBJECT):
        names = databases[start : start + _IN_ONE_OBJECT]
        reference = ray.put([pickle.dumps(schemas[name], pickle.HIGHEST_PROTOCOL) for name in names])
        yield from ((name, (reference, place)) for place, name in enumerate(names))
