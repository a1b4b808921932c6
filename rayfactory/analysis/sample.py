"""Some queries of a corpus to look at, each with its counts and what is nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.draw import Taken, drawn, of_ids
from rayfactory.records import Features


def sample(corpus: Corpus, taken: Taken, size: int, seed: int) -> list[dict[str, Any]]:
    """Return a draw of the queries, in order, each formatted, with its counts and what is nearest to it.

    Its neighbours are the nearest one that was there before it, and later ones whose nearest it is: at most three.
    """
    places = drawn(len(taken.query_ids), size, seed)
    structures = {taken.query_ids[place]: taken.structures[place] for place in places}
    rows = of_ids(
        corpus,
        list(structures),
        "database, dialect, sql, tables, origin, model, round, row_count, execution_ms, similarity, nearest_id, "
        f"nearest_similarity, {', '.join(Features.__slots__)}",
    )
    near = _neighbours(corpus, list(structures))
    for row in rows:
        structure = structures[row["query_id"]]
        row["formatted"] = row["sql"] if structure is None else structure.formatted
        row["constructs"] = [] if structure is None else sorted(structure.constructs)
        row["neighbours"] = near.get(row["query_id"], [])
    return rows


def _neighbours(corpus: Corpus, query_ids: Sequence[int]) -> Mapping[int, list[dict[str, Any]]]:
    found = corpus.rows(
        "WITH wanted AS (SELECT unnest(?) AS query_id), near AS ("
        "SELECT query_id, nearest_id AS other, nearest_similarity AS similarity FROM R JOIN wanted USING (query_id) "
        "UNION ALL SELECT nearest_id, query_id, nearest_similarity FROM R WHERE nearest_id IN (SELECT query_id "
        "FROM wanted)"
        ") SELECT near.query_id AS query_id, other, near.similarity AS similarity, R.sql AS sql FROM near JOIN "
        "R ON R.query_id = other "
        "QUALIFY row_number() OVER (PARTITION BY near.query_id ORDER BY near.similarity DESC, other) <= 3 "
        "ORDER BY near.query_id, near.similarity DESC, other",
        [list(query_ids)],
    )
    near: dict[int, list[dict[str, Any]]] = {}
    for row in found:
        near.setdefault(row.pop("query_id"), []).append(row)
    return near
