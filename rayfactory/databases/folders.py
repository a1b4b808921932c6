"""Which database files lie in a folder."""

from __future__ import annotations

from pathlib import Path

from rayfactory.databases.engine import Database
from rayfactory.errors import BenchmarkError

DATABASE_ENDINGS = (".sqlite", ".sqlite3", ".db", ".db3", ".s3db", ".duckdb", ".ddb")

_SQLITE_MAGIC = b"SQLite format 3\x00"
_DUCKDB_MAGIC = b"DUCK"  # after a checksum of eight bytes

BENCHMARK_FOLDERS: dict[str, tuple[str, ...]] = {
    "spider": ("database", "test_database"),
    "bird": ("dev_databases", "train_databases", "databases", "database"),
}
"""The folders in which a benchmark ships its databases."""


def dialect_of(path: Path) -> str | None:
    """Return the dialect of a database file, from its first bytes; None where it is neither SQLite nor DuckDB.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    if head == _SQLITE_MAGIC:
        return "sqlite"
    return "duckdb" if head[8:12] == _DUCKDB_MAGIC else None


def benchmark_folders(name: str, root: Path) -> list[Path]:
    """Return the folders of ``<database>/<database>.sqlite`` in a benchmark's folder; the folder itself if it is one.

    Of Spider the first that is there: its test databases contain the others. Of BIRD all of them.
    """
    if any(_published(root)):
        return [root]
    found: list[Path] = []
    for folder_name in BENCHMARK_FOLDERS[name]:
        # Archives unpack to a folder of their own.
        for folder in sorted([root / folder_name, *root.glob(f"*/{folder_name}"), *root.glob(f"*/*/{folder_name}")]):
            if folder not in found and "__MACOSX" not in folder.parts and any(_published(folder)):
                found.append(folder)
        if found and name == "spider":
            break
    return found


def published_databases(folder: Path) -> list[Database]:
    """Return the databases of a folder of ``<database>/<database>.sqlite``."""
    return [Database(path.stem, "sqlite", str(path)) for path in _published(folder)]


def own_databases(folder: Path) -> list[tuple[str, Path]]:
    """Return (name, path) of the database files in a folder and in its subfolders, whatever is in them.

    A name that two files share is completed with the subfolder's or the file's ending.
    """
    paths = [path for path in sorted(folder.iterdir()) if _is_named_database(path)]
    for subfolder in sorted(folder.iterdir()):
        if subfolder.is_dir() and not subfolder.name.startswith((".", "__")):
            paths.extend(path for path in sorted(subfolder.iterdir()) if _is_named_database(path))
    named: dict[str, Path] = {}
    for path in paths:
        alternatives = (path.stem, f"{path.parent.name}_{path.stem}", path.name, f"{path.parent.name}_{path.name}")
        name = next((name for name in alternatives if name not in named), None)
        if name is None:
            raise BenchmarkError(
                f"{str(named[path.name])!r} and {str(path)!r} cannot be told apart; rename one of them"
            )
        named[name] = path
    return sorted(named.items())


def _published(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.glob("*/*.sqlite") if path.stem == path.parent.name and not path.name.startswith(".")
    )


def _is_named_database(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in DATABASE_ENDINGS
