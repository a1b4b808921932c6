"""What a benchmark's own files say of a database beyond what is in it: keys and descriptions."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayfactory.databases.schema import ForeignKey

logger = logging.getLogger(__name__)

TABLES_FILES = ("tables.json", "dev_tables.json", "train_tables.json", "test_tables.json")
"""Names under which Spider and BIRD publish the schemas of all their databases."""

MAX_DESCRIPTION_CHARS = 200


@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of one database from outside it. Names need not be spelled as in the database.

    Attributes:
        primary_keys: columns by table.
        descriptions: one line by (table, column), both case-folded.
        identity: where not empty, stands for the content of the file, whose bytes differ from one making to the next.
        keys_are_complete: whether no foreign key is left to be inferred.
    """

    primary_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    foreign_keys: tuple[ForeignKey, ...] = ()
    descriptions: Mapping[tuple[str, str], str] = field(default_factory=dict)
    identity: str = ""
    keys_are_complete: bool = False

    def to_json(self) -> str:
        """Return a text that differs whenever the metadata do."""
        return json.dumps(
            [
                sorted(self.primary_keys.items()),
                [[k.table, k.columns, k.referenced_table, k.referenced_columns, k.source] for k in self.foreign_keys],
                sorted(self.descriptions.items()),
                self.identity,
                self.keys_are_complete,
            ],
            ensure_ascii=False,
        )


def read_tables_files(folders: list[Path]) -> dict[str, Metadata]:
    """Return the metadata by database name, from every schema file of Spider or BIRD in the given folders.

    The first file that names a database has the word. A file that is not of that format is left out with a warning.
    """
    found: dict[str, Metadata] = {}
    for folder in folders:
        for name in TABLES_FILES:
            path = folder / name
            if not path.is_file():
                continue
            try:
                entries = json.loads(path.read_text(encoding="utf-8-sig", errors="replace"))
                for entry in entries:
                    found.setdefault(str(entry["db_id"]), _read_entry(entry))
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                logger.warning("%s is not a schema file of Spider or BIRD (%r); it is left out", path, error)
    return found


def read_descriptions(folder: Path) -> dict[tuple[str, str], str]:
    """Return the column descriptions in a ``database_description`` folder of BIRD, by (table, column), case-folded."""
    descriptions: dict[tuple[str, str], str] = {}
    for path in sorted(folder.glob("*.csv")):
        try:
            text = _decode(path.read_bytes())
            for row in csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True):
                cells = {
                    (key or "").strip().lower(): (value or "") for key, value in row.items() if isinstance(value, str)
                }
                column = cells.get("original_column_name", "").strip()
                line = _description(cells)
                if column and line:
                    descriptions[(path.stem.strip().casefold(), column.casefold())] = line
        except (OSError, csv.Error) as error:
            logger.warning("%s cannot be read (%s); its descriptions are left out", path, error)
    return descriptions


def _description(cells: Mapping[str, str]) -> str:
    """Return the column's description, or its plain name, and what its values mean, in one line."""
    what = _one_line(cells.get("column_description", "")) or _one_line(cells.get("column_name", ""))
    values = _one_line(cells.get("value_description", ""))
    line = "; ".join(part for part in (what, values) if part)
    return line if len(line) <= MAX_DESCRIPTION_CHARS else line[: MAX_DESCRIPTION_CHARS - 3].rstrip() + "..."


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _decode(data: bytes) -> str:
    # Published files are UTF-8 with or without a mark, or Windows-1252.
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def _read_entry(entry: Mapping[str, Any]) -> Metadata:
    """Read one database of a schema file: columns are numbered across all tables, and keys are such numbers."""
    tables: list[str] = entry["table_names_original"]
    columns: list[tuple[int, str]] = [(int(table), str(name)) for table, name in entry["column_names_original"]]
    primary_keys: dict[str, tuple[str, ...]] = {}
    for member in entry.get("primary_keys", ()):
        # BIRD writes a composite key as a list of numbers.
        numbers = member if isinstance(member, list) else [member]
        if numbers:
            names = tuple(columns[number][1] for number in numbers)
            primary_keys.setdefault(tables[columns[numbers[0]][0]], names)
    foreign_keys = tuple(
        ForeignKey(
            table=tables[columns[own][0]],
            columns=(columns[own][1],),
            referenced_table=tables[columns[other][0]],
            referenced_columns=(columns[other][1],),
            source="benchmark",
        )
        for own, other in entry.get("foreign_keys", ())
    )
    return Metadata(primary_keys=primary_keys, foreign_keys=foreign_keys)
