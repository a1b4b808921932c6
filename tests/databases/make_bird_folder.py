"""Make databases with BIRD's folder layout from its published schemas, filled with synthetic rows.

    python tests/databases/make_bird_folder.py DEV_TABLES_JSON FOLDER [ROWS]

Gives FOLDER/dev_tables.json and FOLDER/dev_databases/<db>/<db>.sqlite with a database_description folder each. The files
declare no foreign keys, so that those of dev_tables.json are needed; their values follow them.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

TYPES = {"text": "TEXT", "integer": "INTEGER", "real": "REAL", "number": "REAL", "date": "DATE", "datetime": "DATETIME"}


def make_bird_folder(tables_file: Path, folder: Path, num_rows: int = 120) -> None:
    """Make all databases that the file describes. The same file and number give the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(tables_file, folder / "dev_tables.json")
    for entry in json.loads(tables_file.read_text(encoding="utf-8")):
        place = folder / "dev_databases" / entry["db_id"]
        (place / "database_description").mkdir(parents=True)
        _make_database(entry, place / f"{entry['db_id']}.sqlite", num_rows)
        _describe(entry, place / "database_description")


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _make_database(entry: dict[str, Any], path: Path, num_rows: int) -> None:
    columns: list[tuple[int, str]] = entry["column_names_original"]
    references = {own: other for own, other in entry["foreign_keys"] if own != other}
    keys = [member if isinstance(member, list) else [member] for member in entry["primary_keys"]]
    primary = {number for key in keys for number in key}
    values: dict[int, list[object]] = {}

    def fill(number: int, path_here: frozenset[int] = frozenset()) -> list[object]:
        """Return the values of a column; those of a foreign key are drawn from what it references."""
        if number not in values:
            rng = random.Random(f"{entry['db_id']} {number}")
            target = references.get(number)
            if target is not None and target not in path_here:
                source = fill(target, path_here | {number})
                single = [number] in keys
                values[number] = list(source) if single else [rng.choice(source) for _ in range(num_rows)]
            else:
                kind = entry["column_types"][number]
                name = columns[number][1]
                is_unique = number in primary or number in references.values()
                values[number] = [_value(rng, kind, name, row if is_unique else None) for row in range(num_rows)]
        return values[number]

    connection = sqlite3.connect(path)
    for table, name in enumerate(entry["table_names_original"]):
        numbers = [number for number, (owner, _) in enumerate(columns) if owner == table]
        own_key = next((key for key in keys if columns[key[0]][0] == table), [])
        declared = [f"{_quote(columns[n][1])} {TYPES.get(entry['column_types'][n], 'TEXT')}" for n in numbers]
        if own_key:
            declared.append(f"PRIMARY KEY ({', '.join(_quote(columns[n][1]) for n in own_key)})")
        connection.execute(f"CREATE TABLE {_quote(name)} ({', '.join(declared)})")
        rows = zip(*(fill(number) for number in numbers), strict=True)
        marks = ", ".join("?" * len(numbers))
        connection.executemany(f"INSERT OR IGNORE INTO {_quote(name)} VALUES ({marks})", rows)
    connection.commit()
    connection.close()


def _value(rng: random.Random, kind: str, name: str, row: int | None) -> object:
    """Return one value; of a unique column the one of a row."""
    if row is not None:
        return f"{name[:3]}{row:04}" if kind == "text" else row + 1
    if rng.random() < 0.05:
        return None
    if kind in ("date", "datetime"):
        day = f"{rng.randrange(1990, 2024)}-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
        return day if kind == "date" else f"{day} {rng.randrange(24):02}:00:00"
    if kind == "integer":
        return rng.randrange(1, 500)
    if kind in ("real", "number"):
        return round(rng.uniform(0, 1000), 2)
    few = sum(map(ord, name)) % 3
    return f"{name.lower()} {rng.randrange(6 if few else 90)}"


def _describe(entry: dict[str, Any], folder: Path) -> None:
    for table, name in enumerate(entry["table_names_original"]):
        with (folder / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(
                ["original_column_name", "column_name", "column_description", "data_format", "value_description"]
            )
            for number, (owner, column) in enumerate(entry["column_names_original"]):
                if owner == table:
                    writer.writerow([column, entry["column_names"][number][1], "", entry["column_types"][number], ""])


if __name__ == "__main__":
    make_bird_folder(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 120)
