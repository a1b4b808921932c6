"""The figures of a corpus, as `report.json` has them: what the report and the comparison show and nothing else.

Shares are in [0, 1]; what is not known, such as who wrote the queries of a file, is None or empty. Each function is one
section.

Source: SQL-Factory, section 5.2: figures 6 to 8, tables 1 and 2.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.diversity import (
    Moments,
    distinct_ngrams,
    effective_number,
    estimated,
    pairs_of,
    sampled_similarity,
)
from rayfactory.analysis.structure import CONSTRUCTS, Structure, structures_of
from rayfactory.records import DID_NOT_RUN
from rayfactory.tools.similarity import similarity
from rayfactory.tools.statistics import gini

PARSED = 20_000
"""Queries that are parsed anew, at most: of a larger corpus a draw."""

PAIRS = 5_000
"""Pairs that the mean similarity is estimated from."""

PREFIX_PAIRS = 400
"""The same for each point of the curve over the pool's growth."""

POINTS = 40
"""Points of that curve, at most."""

NEAREST_PAIRS = 20

REJECT_EXAMPLES = 3

COUNTED = ("num_joins", "num_predicates", "num_subqueries", "num_aggregates", "num_windows")

TOP = {"num_joins": 5, "num_predicates": 8, "num_subqueries": 3, "num_aggregates": 5, "num_windows": 3}
"""The number from which on queries are counted together."""

TOKEN_BIN = 20
"""Tokens that a bar of the lengths stands for."""

TOKEN_BINS = 15
"""Bars of the lengths; the last has all that are longer."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """The queries that were parsed anew: all, or a draw.

    Attributes:
        query_ids: theirs, ascending.
        structures: in the same order; None for what does not parse.
        databases: in the same order.
    """

    query_ids: list[int]
    structures: list[Structure | None]
    databases: list[str]

    @property
    def parsed(self) -> list[tuple[str, Structure]]:
        """Database and structure of those that parse."""
        pairs = zip(self.databases, self.structures, strict=True)
        return [(database, structure) for database, structure in pairs if structure is not None]


def take_apart(corpus: Corpus, seed: int, limit: int = PARSED) -> Taken:
    """Parse the queries of a corpus, or a draw of them."""
    query_ids = drawn(corpus.num_queries, limit, seed)
    rows = of_ids(corpus, query_ids, "sql, dialect, database")
    columns = {name: outline.columns for name, outline in corpus.outlines.items()}
    queries = [(row["sql"], row["dialect"], row["database"]) for row in rows]
    return Taken(query_ids, list(structures_of(queries, columns)), [row["database"] for row in rows])


def drawn(num_queries: int, limit: int, seed: int) -> list[int]:
    """Return query_ids, ascending: all, or as many as the limit, drawn without replacement."""
    if num_queries <= limit:
        return list(range(num_queries))
    return sorted(random.Random(seed).sample(range(num_queries), limit))


def of_ids(corpus: Corpus, query_ids: Sequence[int], columns: str) -> list[dict[str, Any]]:
    """Return columns of R for some queries, in ascending order of their ids."""
    return corpus.rows(
        f"SELECT query_id, {columns} FROM R WHERE query_id IN (SELECT unnest(?)) ORDER BY query_id", [list(query_ids)]
    )


def measure(corpus: Corpus, taken: Taken, seed: int, say: Say) -> dict[str, Any]:
    """Return every figure of a corpus.

    Args:
        corpus: with at least one query.
        taken: its queries, parsed.
        seed: of what is drawn.
        say: told what is being worked out.
    """
    say("contents")
    found: dict[str, Any] = {
        "corpus": about(corpus, taken),
        "table_1": table_1(corpus),
        "figure_6": figure_6(corpus),
        "figure_7": figure_7(corpus),
    }
    say("similarity")
    found["figure_8"] = figure_8(corpus, seed)
    found["diversity"] = diversity(corpus, taken, seed)
    say("coverage")
    return found | {
        "cost": cost(corpus),
        "work": work(corpus),
        "rejects": rejects(corpus),
        "models": models(corpus),
        "coverage": coverage(corpus, taken),
        "constructs": constructs(taken),
        "nearest_pairs": nearest_pairs(corpus),
    }


# -- what it is ---------------------------------------------------------------


def about(corpus: Corpus, taken: Taken) -> dict[str, Any]:
    """Return what the corpus is, and how much of it was parsed anew."""
    row = corpus.rows(
        "SELECT count(*) AS queries, count(DISTINCT database) AS databases, "
        "count(*) FILTER (origin = 'generation') AS generation, count(*) FILTER (origin = 'expansion') AS expansion, "
        "count(row_count) AS ran, count(*) FILTER (row_count > 0) AS non_empty, avg(similarity) AS mean_similarity, "
        "median(execution_ms) AS median_execution_ms FROM R"
    )[0]
    rejected = corpus.value("SELECT count(*) FROM rejects")
    did_not_run = corpus.value("SELECT count(*) FROM rejects WHERE reason IN (SELECT unnest(?))", [sorted(DID_NOT_RUN)])
    candidates = row["queries"] + rejected
    is_run = corpus.is_run
    return {
        "name": corpus.name,
        "benchmark": corpus.identity.get("benchmark", ""),
        "seed": corpus.identity.get("seed"),
        "rayfactory": corpus.identity.get("rayfactory", ""),
        "config_sha256": corpus.identity.get("config_sha256", ""),
        "models": corpus.identity.get("settings", {}).get("models", {}).get("name", ""),
        "queries": row["queries"],
        "databases": row["databases"],
        "unparsed": corpus.unparsed,
        "taken_apart": len(taken.query_ids),
        "candidates": candidates if is_run else None,
        "executability": _share(candidates - did_not_run, candidates) if is_run else None,
        "non_empty_rate": _share(row["non_empty"], row["queries"]) if row["ran"] else None,
        "admission_rate": _share(row["queries"], candidates) if is_run else None,
        "generation": row["generation"] if is_run else None,
        "expansion": row["expansion"] if is_run else None,
        "expansion_ratio": _share(row["expansion"], row["queries"]) if is_run else None,
        "mean_similarity_at_admission": row["mean_similarity"],
        "median_execution_ms": row["median_execution_ms"],
    }


def table_1(corpus: Corpus) -> dict[str, Any]:
    """Return the paper's table 1: what the queries are about, how many there are, and their price."""
    outlines = corpus.outlines.values()
    num_columns = sum(len(table.columns) for outline in outlines for table in outline.tables)
    return {
        "benchmark": corpus.identity.get("benchmark", "") or corpus.name,
        "databases": len(corpus.outlines) or corpus.value("SELECT count(DISTINCT database) FROM R"),
        "tables": sum(len(outline.tables) for outline in outlines) or None,
        "columns_per_database": num_columns / len(corpus.outlines) if corpus.outlines else None,
        "queries": corpus.num_queries,
        "price_usd": corpus.summary.get("cost_usd"),
    }


# -- what it is made of -------------------------------------------------------


def figure_6(corpus: Corpus) -> dict[str, Any]:
    """Return how many queries have how many joins, predicates, nested queries, aggregates and windows, and tokens."""
    found: dict[str, Any] = {}
    for name in COUNTED:
        top = TOP[name]
        counts = Counter(
            {
                row["n"]: row["queries"]
                for row in corpus.rows(f"SELECT least({name}, {top}) AS n, count(*) AS queries FROM R GROUP BY 1")
            }
        )
        found[name.removeprefix("num_")] = [
            {"count": f"{n}+" if n == top else str(n), "queries": counts[n]} for n in range(top + 1)
        ]
    bins = Counter(
        {
            row["bin"]: row["queries"]
            for row in corpus.rows(
                f"SELECT least(num_tokens // {TOKEN_BIN}, {TOKEN_BINS - 1})::INT AS bin, count(*) AS queries "
                "FROM R GROUP BY 1"
            )
        }
    )
    found["tokens"] = [
        {
            "from": place * TOKEN_BIN,
            "to": (place + 1) * TOKEN_BIN - 1 if place < TOKEN_BINS - 1 else None,
            "queries": bins[place],
        }
        for place in range(TOKEN_BINS)
    ]
    quartiles = corpus.value("SELECT quantile_cont(num_tokens, [0, 0.25, 0.5, 0.75, 1]) FROM R")
    found["token_quartiles"] = [round(value, 1) for value in quartiles]
    at_least = {
        "join": "num_joins >= 1",
        "joins_2_or_more": "num_joins >= 2",
        "predicates_2_or_more": "num_predicates >= 2",
        "predicates_4_or_more": "num_predicates >= 4",
        "subquery": "num_subqueries >= 1",
        "aggregate": "num_aggregates >= 1",
        "window": "num_windows >= 1",
    }
    shares = ", ".join(f"avg(({condition})::INT) AS {name}" for name, condition in at_least.items())
    found["shares"] = corpus.rows(f"SELECT {shares} FROM R")[0]
    return found


def figure_7(corpus: Corpus) -> dict[str, Any]:
    """Return how many queries read each table, how evenly, and how many tables have how many queries."""
    use = {
        (row["database"], row["name"]): row["queries"]
        for row in corpus.rows(
            "SELECT database, name, count(*) AS queries FROM (SELECT database, unnest(tables) AS name FROM R) "
            "GROUP BY ALL"
        )
    }
    known = {
        (name, table.name): table.num_rows for name, outline in corpus.outlines.items() for table in outline.tables
    }
    tables = [
        {
            "database": database,
            "table": table,
            "queries": use.get((database, table), 0),
            "rows": known.get((database, table)),
        }
        for database, table in sorted({*use, *known})
    ]
    # What has no rows cannot be asked about.
    counts = [table["queries"] for table in tables if table["rows"] != 0]
    return {
        "tables": sorted(tables, key=lambda table: (-table["queries"], table["database"], table["table"])),
        # Without a schema nobody knows what is not read.
        "populated": len(counts) if known else None,
        "used": sum(count > 0 for count in counts),
        "gini": gini(counts) if known else None,
        "histogram": histogram(counts),
    }


def histogram(counts: Sequence[int], num_bins: int = 12) -> list[dict[str, int]]:
    """Return how many of the counts fall into each of equally wide bins."""
    if not counts:
        return []
    width = max(1, -(-(max(counts) + 1) // num_bins))
    found = Counter(count // width for count in counts)
    return [
        {"from": place * width, "to": (place + 1) * width - 1, "tables": found[place]}
        for place in range(max(counts) // width + 1)
    ]


# -- how alike ----------------------------------------------------------------


def figure_8(corpus: Corpus, seed: int) -> list[dict[str, Any]]:
    """Return, as the pool grows, the share of expansion, and the mean similarity of its pairs with its interval.

    A point is the pool after a round, or after some rounds where there are many. Of a file there is none.
    """
    manifests = [manifest for manifest in corpus.manifests if manifest.num_rows]
    if not manifests:
        return []
    step = -(-len(manifests) // POINTS)
    chosen = [*manifests[step - 1 :: step]]
    if chosen[-1:] != manifests[-1:]:
        chosen.append(manifests[-1])
    expansion = {
        row["round"]: row["expansion"]
        for row in corpus.rows(
            "SELECT round, sum(count(*) FILTER (origin = 'expansion')) OVER (ORDER BY round) AS expansion "
            "FROM R GROUP BY round"
        )
    }
    draws = {
        manifest.round: pairs_of(manifest.next_query_id, PREFIX_PAIRS, seed + manifest.round) for manifest in chosen
    }
    wanted = sorted({place for pairs in draws.values() for pair in pairs for place in pair})
    signatures = dict(zip(wanted, corpus.signatures(wanted), strict=True))
    points = []
    for manifest in chosen:
        num_queries, pairs = manifest.next_query_id, draws[manifest.round]
        values = [similarity(signatures[a], signatures[b], corpus.weights) for a, b in pairs]
        estimate = estimated(values, all_pairs=len(pairs) == num_queries * (num_queries - 1) // 2) if values else None
        points.append(
            {
                "round": manifest.round,
                "queries": num_queries,
                "state": manifest.evaluation.state,
                "expansion_ratio": _share(expansion.get(manifest.round, 0), num_queries),
                "similarity": None if estimate is None else estimate.mean,
                "low": None if estimate is None else estimate.low,
                "high": None if estimate is None else estimate.high,
                "wall_s": manifest.wall_s,
            }
        )
    return points


def diversity(corpus: Corpus, taken: Taken, seed: int) -> dict[str, Any]:
    """Return how diverse the corpus is; all but the mean similarity depend on how many queries there are."""
    moments: Moments | None = None
    for vectors_ND in corpus.vectors():
        moments = moments or Moments(vectors_ND.shape[1])
        moments.add(vectors_ND)
    assert moments is not None
    parsed = [structure for _, structure in taken.parsed]
    skeletons = Counter(structure.skeleton for structure in parsed)
    return {
        "similarity": mean_similarity(corpus, seed),
        "vendi": vendi_to_json(moments.vendi_score(), moments.num_vectors, len(vectors_ND[0]), corpus.encoder),
        "skeletons": {
            "n": len(parsed),
            "distinct": len(skeletons),
            "distinct_share": _share(len(skeletons), len(parsed)),
            "occur_once_share": _share(sum(skeletons[structure.skeleton] == 1 for structure in parsed), len(parsed)),
            "effective_number": effective_number(structure.skeleton for structure in parsed),
        },
        "distinct_ngrams": {
            "n": len(parsed),
            **{str(length): share for length, share in distinct_ngrams(s.tokens for s in parsed).items()},
        },
    }


def mean_similarity(corpus: Corpus, seed: int) -> dict[str, Any] | None:
    """Return the mean similarity of pairs with its interval; None where there is no pair."""
    if corpus.num_queries < 2:
        return None
    return sampled_similarity(corpus.num_queries, corpus.signatures, corpus.weights, PAIRS, seed).to_json()


def vendi_to_json(score: float, n: int, d: int, encoder: str) -> dict[str, Any]:
    """Return a Vendi score with what it is of: without that it says nothing."""
    return {"score": score, "n": n, "d": d, "kernel": "cosine", "order": 1, "encoder": encoder}


def nearest_pairs(corpus: Corpus) -> list[dict[str, Any]]:
    """Return the pairs that are most alike, of each query with the nearest of those that were there before it."""
    return corpus.rows(
        "SELECT a.query_id AS query_id, a.nearest_id AS nearest_id, a.nearest_similarity AS similarity, a.database AS "
        "database, a.dialect AS dialect, a.sql AS sql, b.sql AS nearest_sql FROM R a JOIN R b ON a.nearest_id = "
        "b.query_id "
        f"ORDER BY a.nearest_similarity DESC, a.query_id LIMIT {NEAREST_PAIRS}"
    )


# -- what it took -------------------------------------------------------------


def cost(corpus: Corpus) -> dict[str, Any] | None:
    """Return what was paid, and what the same corpus would have cost from the strong model alone; None for a file.

    That is what a row of the Generation Team has cost, times all rows; it is known where that team's model has a price.
    What was paid is in the run's summary, which its end writes: it is None while a first process is at work.
    """
    if not corpus.is_run:
        return None
    summary = corpus.summary
    ledger = _ledger(summary)
    if ledger is None:
        return {"cost_usd": None, "cost_usd_per_1000": None, "strong_model_alone_usd": None, "ledger": []}
    spent = sum(row["cost_usd"] for row in ledger)
    # The summary is of the run as its last process left it; it may have gone on since.
    admitted, generation = summary.get("admitted", 0), summary.get("generation", 0)
    of_generation = sum(row["cost_usd"] for row in ledger if row["agent"] == "generation")
    alone = of_generation / generation * admitted if of_generation and generation else None
    return {
        "cost_usd": spent,
        "unconfirmed_usd": summary.get("cost_unconfirmed_usd", 0.0),
        "cost_usd_per_1000": 1000 * _share(spent, admitted),
        "strong_model_alone_usd": alone,
        "saved_share": None if alone is None else 1 - _share(spent, alone),
        "tokens_in": summary.get("tokens_in", 0),
        "tokens_out": summary.get("tokens_out", 0),
        "ledger": ledger,
        "as_of_rows": admitted,
    }


def _ledger(summary: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the ledger of a summary; None where there is no summary, or it is not as rayfactory wrote it."""
    found = summary.get("ledger")
    if not isinstance(found, list) or not isinstance(summary.get("admitted"), int):
        return None
    numbers = ("requests", "tokens_in", "tokens_cached", "tokens_out", "cost_usd", "unconfirmed_usd")
    for row in found:
        if not isinstance(row, dict) or not all(isinstance(row.get(name), (int, float)) for name in numbers):
            return None
    return found


def work(corpus: Corpus) -> dict[str, Any] | None:
    """Return how long it took, by phase and as the pool grew; None for a file. Phases overlap."""
    if not corpus.manifests:
        return None
    wall_s = corpus.manifests[-1].wall_s
    phases = {
        phase: sum(manifest.phase_s.get(phase, 0.0) for manifest in corpus.manifests)
        for phase in ("start", "plan", "produce", "judge")
    }
    return {
        "wall_s": wall_s,
        "rounds": len(corpus.manifests),
        "queries_per_second": _share(corpus.num_queries, wall_s),
        "phase_s": {phase: round(seconds, 3) for phase, seconds in phases.items()},
    }


def rejects(corpus: Corpus) -> list[dict[str, Any]]:
    """Return why candidates were not admitted, most frequent first, with the first examples of each reason."""
    found = corpus.rows("SELECT reason, count(*) AS candidates FROM rejects GROUP BY 1 ORDER BY 2 DESC, 1")
    for row in found:
        row["examples"] = corpus.rows(
            "SELECT database, sql, detail, model, round FROM rejects WHERE reason = ? "
            f"ORDER BY round, sql LIMIT {REJECT_EXAMPLES}",
            [row["reason"]],
        )
    return found


def models(corpus: Corpus) -> list[dict[str, Any]]:
    """Return, for whoever wrote candidates, how many, how many ran and how many were admitted."""
    if not corpus.is_run:
        return []
    found = corpus.rows(
        "SELECT model, origin, count(*) AS candidates, count(*) FILTER (ran) AS ran, count(*) FILTER (admitted) "
        "AS admitted "
        "FROM (SELECT model, origin, true AS ran, true AS admitted FROM R UNION ALL "
        "SELECT model, origin, reason NOT IN (SELECT unnest(?)), false FROM rejects) GROUP BY ALL ORDER BY 2 DESC, 1",
        [sorted(DID_NOT_RUN)],
    )
    for row in found:
        row["executability"] = _share(row["ran"], row["candidates"])
        row["admission_rate"] = _share(row["admitted"], row["candidates"])
    return found


# -- what it leaves out -------------------------------------------------------


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
            {"construct": name, "queries": counts[name], "share": _share(counts[name], n)} for name in CONSTRUCTS
        ],
        "missing": [name for name in CONSTRUCTS if not counts[name]],
    }


# -- a sample to look at ------------------------------------------------------


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
        f"nearest_similarity, {', '.join(COUNTED)}, num_tokens, ast_nodes",
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


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def rounded(value: Any, digits: int = 6) -> Any:
    """Return JSON-compatible values with every fraction rounded, so that the file is as long as it tells."""
    if isinstance(value, Mapping):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(item, digits) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), digits)
    return value
