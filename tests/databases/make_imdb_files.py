"""Make small CSV files of the Join Order Benchmark's tables, from a profile of the real values of their columns.

    python tests/databases/make_imdb_files.py COLUMN_VALUES_JSON FOLDER [ROWS]

Ids count from 1 and foreign keys lead to rows that exist; every other value is one that occurs in IMDB.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

from rayfactory.databases import imdb

SMALL_TABLES = {
    "comp_cast_type": 4,
    "company_type": 4,
    "info_type": 113,
    "kind_type": 7,
    "link_type": 18,
    "role_type": 12,
}
"""Rows of the tables that list types, as in IMDB."""


def make_imdb_files(profile_file: Path, folder: Path, num_rows: int = 400) -> None:
    """Make one file for each table. The same profile and number give the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    profile: dict[str, dict[str, Any]] = json.loads(profile_file.read_text(encoding="utf-8"))
    sizes = {table: SMALL_TABLES.get(table, num_rows) for table in imdb.TABLES}
    references = {(key.table, key.columns[0]): key.referenced_table for key in imdb.FOREIGN_KEYS}
    for table, columns in imdb.TABLES.items():
        rng = random.Random(table)
        lines = []
        for row in range(sizes[table]):
            cells = []
            for column, kind in columns:
                if column == "id":
                    cells.append(str(row + 1))
                elif (referenced := references.get((table, column))) is not None:
                    cells.append(str(rng.randrange(sizes[referenced]) + 1))
                else:
                    known = profile.get(table, {}).get(column, {}).get("sampled_distinct_values") or [None]
                    value = known[row] if table in SMALL_TABLES and row < len(known) else rng.choice(known)
                    cells.append(_cell(value, kind))
            lines.append(",".join(cells))
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value: object, kind: str) -> str:
    if value is None:
        return ""
    text = str(value)
    if kind == "INTEGER":
        return str(int(float(text)))
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") + '"'


if __name__ == "__main__":
    make_imdb_files(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 400)
