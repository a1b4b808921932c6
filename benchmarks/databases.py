"""Does the driver of a run grow with the number of its databases? Prints one JSON object.

    python -m benchmarks.databases [--databases 100 10000] [--target 1000]

SQLite files are made, of four to eight tables each, whose columns and rows are drawn from a seed and joined along
foreign keys, and no two of which are alike. A run over the smaller and one over the larger number is started as a user
would start it; `growing.watched` says what is measured. `again` is of the same run as it goes on for 200 rows, with
the profiles of its databases at hand. `ratio` is of the memory with the most databases to that with the fewest.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import sys
import tempfile
from pathlib import Path

from benchmarks.growing import watched

_NOUNS = "account artist book branch city client course doctor event film flight game hotel invoice item judge".split()
_PARTS = "age amount area code cost height kind level name note price rank score size status title weight year".split()


def make_database(path: Path, seed: int) -> None:
    """Make an SQLite database that no other seed gives."""
    rng = random.Random(seed)
    connection = sqlite3.connect(path)
    tables = rng.sample(_NOUNS, rng.randint(4, 8))
    for number, table in enumerate(tables):
        parts = rng.sample(_PARTS, rng.randint(3, 7))
        kinds = [rng.choice(("INTEGER", "REAL", "TEXT")) for _ in parts]
        columns = [f"{table}_id INTEGER PRIMARY KEY"]
        columns += [f"{part} {kind}" for part, kind in zip(parts, kinds, strict=True)]
        parent = rng.choice(tables[:number]) if number else None
        if parent:
            columns.append(f"{parent}_id INTEGER REFERENCES {parent}({parent}_id)")
        connection.execute(f"CREATE TABLE {table} ({', '.join(columns)})")
        rows = []
        for key in range(rng.randint(20, 120)):
            row: list[object] = [key]
            for kind in kinds:
                text = f"{rng.choice(_NOUNS)} {rng.randint(1, 30)}"
                row.append(rng.randint(0, 500) if kind == "INTEGER" else rng.gauss(50, 9) if kind == "REAL" else text)
            if parent:
                row.append(rng.randint(0, 19))
            rows.append(row)
        connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", rows)
    connection.commit()
    connection.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--databases", type=int, nargs="+", default=[100, 10_000])
    parser.add_argument("--target", type=int, default=1_000)
    arguments = parser.parse_args()
    runs = []
    for number in sorted(arguments.databases):
        with tempfile.TemporaryDirectory() as folder:
            root, run_dir = Path(folder) / "databases", Path(folder) / "run"
            root.mkdir()
            for i in range(number):
                make_database(root / f"d{i:05d}.sqlite", i)
            settings = ["+benchmark=custom", f"benchmark.root={root}", f"data_dir={folder}/data"]
            took = watched(run_dir, [*settings, f"target={arguments.target}"])
            again = watched(run_dir, [*settings, f"target={arguments.target + 200}"])
            runs.append({"databases": number, "rows": arguments.target, **took, "again": again})
            print(runs[-1], file=sys.stderr)
    ratio = runs[-1]["memory_mb"] / runs[0]["memory_mb"]
    print(json.dumps({"benchmark": "databases", "runs": runs, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
