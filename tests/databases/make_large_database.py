"""Make an SQLite database of a given size, with the shape of a large BIRD database.

    python tests/databases/make_large_database.py FILE [MEGABYTES]

A table of events with a long row, a table without row ids, a table with large gaps between its row ids, and a small one
that the others reference.
"""

from __future__ import annotations

import random
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

USERS = 200_000
BATCH_ROWS = 20_000
EVENT_BYTES = 350
"""About what a row of the events takes in the file."""


def make_large_database(path: Path, num_bytes: int) -> int:
    """Make the database and return the number of its events. The same size gives the same content."""
    rng = random.Random(0)
    num_events = int(num_bytes * 0.85 / EVENT_BYTES)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;"
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, country TEXT, joined DATE);"
        "CREATE TABLE events (id INTEGER PRIMARY KEY, user_id INTEGER, kind TEXT, at DATETIME, amount REAL, note TEXT,"
        " payload BLOB);"
        "CREATE TABLE daily (day TEXT, user_id INTEGER, clicks INTEGER, PRIMARY KEY (day, user_id)) WITHOUT ROWID;"
        "CREATE TABLE sparse (id INTEGER PRIMARY KEY, month INTEGER);"
    )
    connection.execute("BEGIN")
    countries = ["DE", "FR", "US", "JP", "BR"]
    connection.executemany(
        "INSERT INTO users VALUES (?, ?, ?, ?)",
        ((n, f"user {n}", countries[n % 5], f"20{n % 20:02}-{n % 12 + 1:02}-{n % 28 + 1:02}") for n in range(USERS)),
    )
    connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", _events(num_events, rng))
    connection.executemany(
        "INSERT INTO daily VALUES (?, ?, ?)",
        ((f"2020-{n % 12 + 1:02}-{n % 28 + 1:02}", n, n % 100) for n in range(num_events // 3)),
    )
    connection.executemany(
        "INSERT INTO sparse VALUES (?, ?)", ((n or 2**62, n % 12 + 1) for n in range(num_events // 3))
    )
    connection.execute("COMMIT")
    connection.close()
    return num_events


def _events(num_events: int, rng: random.Random) -> Iterator[tuple[object, ...]]:
    kinds = ["view", "click", "buy", "return"]
    payload = bytes(200)
    for n in range(num_events):
        at = f"20{n % 20:02}-{n % 12 + 1:02}-{n % 28 + 1:02} {n % 24:02}:00:00"
        yield n, rng.randrange(USERS), kinds[n % 4], at, round(rng.random() * 100, 2), f"note {n} " * 10, payload


if __name__ == "__main__":
    made = make_large_database(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e6) if len(sys.argv) > 2 else 10**9)
    sys.stdout.write(f"{made} events, {Path(sys.argv[1]).stat().st_size / 1e6:.0f} MB\n")
