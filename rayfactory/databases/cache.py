"""A schema as JSON, and the folder where schemas that were read once are kept."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rayfactory.databases.schema import Column, ColumnProfile, ForeignKey, Schema, Table, View

logger = logging.getLogger(__name__)


def schema_to_json(schema: Schema) -> dict[str, Any]:
    """Return a schema as JSON-compatible values."""
    data = asdict(schema)
    del data["_by_name"]
    return data


def schema_from_json(data: dict[str, Any]) -> Schema:
    """Read what `schema_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: the data are not of that form.
    """
    return Schema(
        database=data["database"],
        dialect=data["dialect"],
        tables=tuple(_table(table) for table in data["tables"]),
        foreign_keys=tuple(
            ForeignKey(
                **{**key, "columns": tuple(key["columns"]), "referenced_columns": tuple(key["referenced_columns"])}
            )
            for key in data["foreign_keys"]
        ),
        views=tuple(View(view["name"], tuple(view["base_tables"])) for view in data["views"]),
        fingerprint=data["fingerprint"],
        server=data["server"],
    )


def read_cached(path: Path) -> Schema | None:
    """Return the schema kept in a file, or None where there is none or it is damaged."""
    try:
        return schema_from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.debug("cached schema %s is damaged and is made again: %r", path, error)
        return None


def write_cached(path: Path, schema: Schema) -> None:
    """Keep a schema in a file, which appears whole or not at all. A folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".", suffix=".json", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(schema_to_json(schema), file)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        logger.warning("the schema of %s cannot be kept in %s (%s)", schema.database, path.parent, error)


def _table(data: dict[str, Any]) -> Table:
    return Table(
        name=data["name"],
        columns=tuple(Column(**{**column, "profile": _profile(column["profile"])}) for column in data["columns"]),
        primary_key=tuple(data["primary_key"]),
        num_rows=data["num_rows"],
        description=data["description"],
    )


def _profile(data: dict[str, Any]) -> ColumnProfile:
    return ColumnProfile(
        **{
            **data,
            "quantiles": tuple(data["quantiles"]),
            "common_values": tuple((value, share) for value, share in data["common_values"]),
            "examples": tuple(data["examples"]),
        }
    )
