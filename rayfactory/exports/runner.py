"""Run the queries of this folder and print, for each, how many rows it has and how long it took.

    python run.py DATABASE=FILE [DATABASE=FILE ...]

DATABASE is a name in queries.jsonl, and FILE its SQLite or DuckDB file; it is opened read-only. What has another number
of rows than when it was exported is marked. Needs nothing but Python, and the package duckdb for DuckDB files.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

FOLDER = Path(__file__).resolve().parent


def opened(file: str, dialect: str) -> Any:
    """Return a read-only connection."""
    if dialect == "sqlite":
        return sqlite3.connect(f"file:{quote(str(Path(file).resolve()))}?mode=ro", uri=True)
    if dialect == "duckdb":
        import duckdb

        return duckdb.connect(file, read_only=True)
    sys.exit(f"run.py opens SQLite and DuckDB files; for {dialect} use the server's own client with the .sql files")


def main() -> None:
    """Run the queries of the databases that are named."""
    files = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if not files or not all(files.values()):
        sys.exit(__doc__)
    connections = {}
    num_differing = 0
    for line in (FOLDER / "queries.jsonl").read_text("utf-8").splitlines():
        query = json.loads(line)
        database = query["database"]
        if database not in files:
            continue
        if database not in connections:
            connections[database] = opened(files[database], query["dialect"])
        sql = (FOLDER / query["file"]).read_text("utf-8").rstrip().removesuffix(";")
        started = time.perf_counter()
        try:
            found: object = len(connections[database].execute(sql).fetchall())
        except Exception as error:  # noqa: BLE001 - of either database
            found = f"error: {error}"
        elapsed_ms = (time.perf_counter() - started) * 1e3
        mark = "" if found == query["row_count"] else f"  was {query['row_count']} rows"
        num_differing += bool(mark)
        sys.stdout.write(f"{query['file']}\t{found}\t{elapsed_ms:.1f} ms{mark}\n")
    if not connections:
        sys.exit(f"no database of {FOLDER / 'queries.jsonl'} is named")
    if num_differing:
        sys.exit(f"{num_differing} queries differ from what they returned when they were exported")


if __name__ == "__main__":
    main()
