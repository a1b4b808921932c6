"""The schemas of many databases in Ray's object store: an actor fetches the ones that it works with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rayfactory.databases.schema import Schema
from rayfactory.databases.schemas import Schemas


class _FromStore:
    """Reads schemas, by the references to each."""

    def __init__(self, references: Mapping[str, Any]) -> None:
        self._references = references

    def __call__(self, database: str) -> Schema:
        import ray

        schema: Schema = ray.get(self._references[database])
        return schema


def in_object_store(schemas: Mapping[str, Schema]) -> Mapping[str, Schema]:
    """Return schemas as actors are to get them: as they are where they are few, else each put into the store."""
    if not isinstance(schemas, Schemas):
        return dict(schemas)
    import ray

    return Schemas(schemas.about, _FromStore({name: ray.put(schema) for name, schema in schemas.items()}))
