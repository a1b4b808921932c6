"""What every form of an export is: a class that takes rows one after the other and writes a folder."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from rayfactory.databases.schema import Schema
from rayfactory.exports.rows import Row

_PROVENANCE = ("query_id", "round", "origin", "model", "prompt_sha256", "seed_ids", "cost_usd")
"""Columns that tell where a query is from; every format keeps them."""


@dataclass(frozen=True, slots=True)
class Source:
    """The run that is exported.

    Attributes:
        identity: what `run.json` says of it.
        summary: its `summary.json`; empty where the run has not ended.
        schemas: of its databases by name; empty where they are not needed.
        models: what wrote the queries.
        splits: rows in each split that has some.
        num_skeletons: different ones among all rows.
        split: how rows were divided, one of `validate.SPLITS`.
        has_questions: whether the rows have questions.
    """

    identity: Mapping[str, Any]
    summary: Mapping[str, Any]
    schemas: Mapping[str, Schema]
    models: Sequence[str]
    splits: Mapping[str, int]
    num_skeletons: int
    split: str
    has_questions: bool = False


class Format(ABC):
    """A folder in one form.

    Args:
        folder: that exists and is empty.
        source: the run.
    """

    needs_schemas: ClassVar[bool] = False

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.source = source

    @abstractmethod
    def write(self, row: Row) -> None:
        """Take one row; they come in the order of the pool."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


def provenance(row: Row) -> dict[str, Any]:
    """Return where a query is from."""
    return {name: row.values[name] for name in _PROVENANCE}


class PerSplit(Format):
    """A file for each split, opened when its first row comes."""

    suffix: ClassVar[str]

    def __init__(self, folder: Path, source: Source) -> None:
        super().__init__(folder, source)
        self._files: dict[str, IO[str]] = {}

    def _file(self, split: str) -> tuple[IO[str], bool]:
        """Return the file of a split, and whether it is new."""
        is_new = split not in self._files
        if is_new:
            # Newlines are those that are written: the csv module brings its own.
            self._files[split] = (self.folder / f"{split}{self.suffix}").open("x", encoding="utf-8", newline="")
        return self._files[split], is_new

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()


class JSONArray(PerSplit):
    """A JSON array for each split, an element a line."""

    suffix = ".json"

    @abstractmethod
    def element(self, row: Row) -> dict[str, Any]:
        """Return what stands for a row."""

    def write(self, row: Row) -> None:
        """Write the next element."""
        file, is_new = self._file(row.split)
        file.write("[\n" if is_new else ",\n")
        file.write(to_json(self.element(row)))

    def close(self) -> None:
        """End the arrays."""
        for file in self._files.values():
            file.write("\n]\n")
        super().close()


def to_json(value: Any) -> str:
    """Return a value as JSON on one line."""
    return json.dumps(value, ensure_ascii=False)
