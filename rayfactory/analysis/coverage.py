"""What the queries of a corpus leave out: columns, foreign keys, constructs."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.draw import Taken
from rayfactory.analysis.structure import CONSTRUCTS
from rayfactory.tools.statistics import share


def coverage(corpus: Corpus, taken: Taken) -> dict[str, Any] | None:
    """Return which columns the queries read and which foreign keys they join along; None where no schema is known.

    Tables without rows are left out.
    """
    if not corpus.outlines:
        return None
    columns: dict[str, Counter[tuple[str, str]]] = {}
    joins: dict[str, list[frozenset[Any]]] = {}
    for database, structure in taken.parsed:
        columns.setdefault(database, Counter()).update(structure.columns)
        joins.setdefault(database, []).append(structure.joins)
    unused: list[dict[str, str]] = []
    num_columns = 0
    paths: list[dict[str, Any]] = []
    for name, outline in sorted(corpus.outlines.items()):
        read, equated = columns.get(name, Counter()), joins.get(name, [])
        populated = [table for table in outline.tables if table.num_rows]
        for table in populated:
            num_columns += len(table.columns)
            unused += [
                {"database": name, "table": table.name, "column": column}
                for column in table.columns
                if not read[table.name.lower(), column.lower()]
            ]
        names = {table.name.lower() for table in populated}
        paths += [
            {"database": name, "path": str(key), "queries": sum(key.pairs <= pairs for pairs in equated)}
            for key in outline.foreign_keys
            if {key.table.lower(), key.referenced_table.lower()} <= names
        ]
    return {
        "n": len(taken.parsed),
        "columns": num_columns,
        "columns_used": num_columns - len(unused),
        "unused_columns": unused,
        "join_paths": len(paths),
        "join_paths_used": sum(path["queries"] > 0 for path in paths),
        "paths": sorted(paths, key=lambda path: (path["queries"], path["database"], path["path"])),
    }


def constructs(taken: Taken) -> dict[str, Any]:
    """Return how many queries have each construct, and which no query has."""
    counts = Counter(name for _, structure in taken.parsed for name in structure.constructs)
    n = len(taken.parsed)
    return {
        "n": n,
        "counts": [
            {"construct": name, "queries": counts[name], "share": share(counts[name], n)} for name in CONSTRUCTS
        ],
        "missing": [name for name in CONSTRUCTS if not counts[name]],
    }
