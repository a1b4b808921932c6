"""How good is a corpus? Prints one JSON object.

    python benchmarks/quality.py --run RUN_DIR [SETTING=VALUE ...]
    python benchmarks/quality.py --corpus FILE --dialect duckdb [--database FILE]

A corpus is a file of queries as `task=compare` takes one: JSON, JSON lines, CSV or SQL. Its queries are run where a
database is given. A run is read from its pool and run again on its own databases, which the settings of the run's
command line name (benchmark.root=...).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlglot import exp

from benchmarks.corpus import official_tpcds, read_corpus
from rayfactory import sql
from rayfactory.analysis.diversity import mean_pairwise_similarity, vendi_score
from rayfactory.compose import compose
from rayfactory.config import CriticConfig, EmbeddingConfig, ExecutionConfig
from rayfactory.databases.engine import Database, connect
from rayfactory.errors import RayfactoryError, StatementError
from rayfactory.records import DID_NOT_RUN, Features
from rayfactory.tools.embedding import Embedder
from rayfactory.tools.similarity import Signature
from rayfactory.tools.statistics import gini
from rayfactory.tools.trees import flatten

SAMPLE_SIZE = 99
"""Queries in one draw: as many as TPC-DS has of its own."""

NUM_DRAWS = 5

EXAMPLES = 3
"""Failures that are quoted."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """One query of a corpus, taken apart."""

    database: str
    sql: str
    text: str
    tree: exp.Expr
    canonical: str
    skeleton: str
    features: Features
    tables: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of running one query; `row_count` is None where it did not run."""

    row_count: int | None
    reason: str = ""
    detail: str = ""


def parse_all(queries: Sequence[str], databases: Sequence[str], dialect: str) -> tuple[list[Parsed], Counter[str]]:
    """Return the queries that parse, and how many do not for each reason."""
    parsed: list[Parsed] = []
    failures: Counter[str] = Counter()
    for query, database in zip(queries, databases, strict=True):
        try:
            tree = sql.parse(query, dialect)
        except StatementError as error:
            failures[str(error)] += 1
            continue
        parsed.append(
            Parsed(
                database=database,
                sql=query,
                text=sql.normalise(tree, dialect),
                tree=tree,
                canonical=sql.canonical(tree, dialect),
                skeleton=sql.skeleton(tree, dialect),
                features=sql.features(tree, query, dialect),
                tables=sql.base_tables(tree),
            )
        )
    return parsed, failures


def measure_content(parsed: Sequence[Parsed]) -> dict[str, Any]:
    """Return what the queries are made of: shares of all of them in [0, 1], and sizes."""
    features = [query.features for query in parsed]
    skeletons = Counter(query.skeleton for query in parsed)
    forms = Counter((query.database, query.canonical) for query in parsed)
    num_tokens = [one.num_tokens for one in features]
    return {
        "shares": {
            "join": _share(one.num_joins >= 1 for one in features),
            "joins_2_or_more": _share(one.num_joins >= 2 for one in features),
            "predicates_2_or_more": _share(one.num_predicates >= 2 for one in features),
            "predicates_4_or_more": _share(one.num_predicates >= 4 for one in features),
            "aggregate": _share(one.num_aggregates >= 1 for one in features),
            "subquery": _share(one.num_subqueries >= 1 for one in features),
            "window": _share(one.num_windows >= 1 for one in features),
            "cte": _share(query.tree.find(exp.CTE) is not None for query in parsed),
            "set_operation": _share(query.tree.find(exp.SetOperation) is not None for query in parsed),
            "skeleton_occurs_once": _share(skeletons[query.skeleton] == 1 for query in parsed),
        },
        "duplicate_canonical_forms": sum(count - 1 for count in forms.values()),
        "most_common_skeletons": [[count, skeleton] for skeleton, count in skeletons.most_common(3) if count > 1],
        "num_tokens": _quantiles(num_tokens),
        "ast_nodes": _quantiles([one.ast_nodes for one in features]),
    }


def measure_diversity(
    parsed: Sequence[Parsed], vectors: dict[str, npt.NDArray[np.float32]], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> dict[str, Any]:
    """Return the mean pairwise similarity and the Vendi score of random draws.

    Args:
        parsed: the corpus.
        vectors: embeddings by normalised text; what is missing is encoded, and added.
        num_draws: random draws of `SAMPLE_SIZE`; a corpus that is not larger is drawn once.
        seed: of the draws.
    """
    generator = random.Random(seed)
    size = min(SAMPLE_SIZE, len(parsed))
    draws = [generator.sample(parsed, size) for _ in range(num_draws if len(parsed) > size else 1)]
    missing = sorted({query.text for draw in draws for query in draw} - vectors.keys())
    if missing:
        vectors.update(zip(missing, Embedder(EmbeddingConfig()).encode(missing), strict=True))
    similarities, vendis = [], []
    for draw in draws:
        signatures = [Signature.of(query.text, flatten(query.tree), vectors[query.text]) for query in draw]
        similarities.append(mean_pairwise_similarity(signatures, CriticConfig()))
        vendis.append(vendi_score(np.stack([one.vector for one in signatures])))
    return {
        "sample_size": size,
        "draws": len(draws),
        "mean_pairwise_similarity": round(statistics.fmean(similarities), 4),
        "vendi": round(statistics.fmean(vendis), 3),
        "mean_pairwise_similarity_draws": [round(value, 4) for value in similarities],
        "vendi_draws": [round(value, 3) for value in vendis],
    }


def run_all(queries: Sequence[str], databases: Sequence[str], where: dict[str, Database]) -> list[Ran]:
    """Run every query on a fresh connection to its database."""
    results: list[Ran | None] = [None] * len(queries)
    for name in sorted(set(databases)):
        engine = connect(where[name], ExecutionConfig())
        try:
            for position, query in enumerate(queries):
                if databases[position] == name:
                    try:
                        results[position] = Ran(engine.run(query).row_count)
                    except StatementError as error:
                        results[position] = Ran(None, error.reason, str(error))
        finally:
            engine.close()
    return [result for result in results if result is not None]


def measure_execution(ran: Sequence[Ran], queries: Sequence[str]) -> dict[str, Any]:
    """Return how many queries run and return rows, with a few that do not."""
    failures = [(one, query) for one, query in zip(ran, queries, strict=True) if one.row_count is None]
    return {
        "executability": _share(one.row_count is not None for one in ran),
        "non_empty": _share(bool(one.row_count) for one in ran),
        "failures": dict(Counter(one.reason for one, _ in failures)),
        "failure_examples": [{"detail": one.detail, "sql": query} for one, query in failures[:EXAMPLES]],
    }


def measure_tables(
    used: Sequence[Sequence[str]], databases: Sequence[str], where: dict[str, Database]
) -> dict[str, Any]:
    """Return how evenly the base tables that have rows are used."""
    from rayfactory.databases.engine import open_connection

    counts = Counter(
        (database, table.casefold()) for database, tables in zip(databases, used, strict=True) for table in set(tables)
    )
    populated: list[tuple[str, str]] = []
    for name, database in where.items():
        catalogue = "sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        if database.dialect == "duckdb":
            catalogue = "duckdb_tables() WHERE NOT internal"
        column = "table_name" if database.dialect == "duckdb" else "name"
        connection = open_connection(database, ExecutionConfig())
        try:
            for (table,) in connection.execute(f"SELECT {column} FROM {catalogue}").fetchall():
                quoted = table.replace('"', '""')
                if connection.execute(f'SELECT 1 FROM "{quoted}" LIMIT 1').fetchall():
                    populated.append((name, table.casefold()))
        finally:
            connection.close()
    rows = Counter(databases)
    return {
        "tables_with_rows": len(populated),
        "tables_covered": sum(counts[key] > 0 for key in populated),
        "tables_never_used": [f"{database}.{table}" for database, table in populated if not counts[database, table]],
        "table_gini": round(gini(counts[key] for key in populated), 4),
        "table_rows": {f"{database}.{table}": counts[database, table] for database, table in populated}
        if len(populated) <= 50
        else {},
        "least_rows_of_a_database": min(rows[name] for name in where),
    }


def measure_corpus(path: Path, dialect: str, database: Path | None, *, num_draws: int, seed: int) -> dict[str, Any]:
    """Measure a plain list of queries."""
    queries = read_corpus(path, dialect)
    names = ["corpus"] * len(queries)
    parsed, failures = parse_all(queries, names, dialect)
    report: dict[str, Any] = {"corpus": str(path), "rows": len(queries), "do_not_parse": dict(failures)}
    if database is not None:
        where = {"corpus": Database("corpus", dialect, str(database))}
        report |= measure_execution(run_all(queries, names, where), queries)
        report |= measure_tables([query.tables for query in parsed], [query.database for query in parsed], where)
    report |= measure_content(parsed)
    report["diversity"] = measure_diversity(parsed, {}, num_draws=num_draws, seed=seed)
    return report


def measure_run(run_dir: Path, settings: Sequence[str], *, num_draws: int, seed: int) -> dict[str, Any]:
    """Measure the pool of a run, and run every row of it again."""
    from rayfactory import pool
    from rayfactory.databases.benchmark import open_benchmark

    connection = pool.connect(run_dir)
    rows = connection.execute(
        "SELECT database, dialect, sql, tables, origin, row_count, vector "
        "FROM R JOIN E USING (query_id, database) ORDER BY query_id"
    ).fetchall()
    rejected = Counter[str](
        dict(connection.execute("SELECT reason, count(*) FROM rejects GROUP BY ALL ORDER BY ALL").fetchall())
    )
    connection.close()
    if not rows:
        raise SystemExit(f"{run_dir} holds no rows")
    databases, dialects, queries, tables, origins, row_counts, vectors = (
        list(column) for column in zip(*rows, strict=True)
    )
    benchmark = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["benchmark"]
    config = compose([f"+benchmark={benchmark}", *settings])
    where = {database.name: database for database in open_benchmark(config.benchmark, Path(config.data_dir)).databases}
    parsed, failures = parse_all(queries, databases, dialects[0])
    ran = run_all(queries, databases, where)
    summary = run_dir / "summary.json"
    report: dict[str, Any] = {
        "run": str(run_dir),
        "rows": len(rows),
        "do_not_parse": dict(failures),
        "expansion": _share(origin == "expansion" for origin in origins),
        "candidates": len(rows) + rejected.total(),
        "executability": round(1 - sum(rejected[reason] for reason in DID_NOT_RUN) / (len(rows) + rejected.total()), 4),
        "rejected": dict(rejected),
        "same_row_count": _share(one.row_count == count for one, count in zip(ran, row_counts, strict=True)),
        "summary": json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else None,
    }
    again = measure_execution(ran, queries)
    report["runs_again"] = again.pop("executability")
    report |= again
    report |= measure_tables(tables, databases, where)
    report |= measure_content(parsed)
    known = {}
    if not failures:
        known = {query.text: np.array(vector, dtype=np.float32) for query, vector in zip(parsed, vectors, strict=True)}
    report["diversity"] = measure_diversity(parsed, known, num_draws=num_draws, seed=seed)
    return report


def measure_tpcds() -> dict[str, Any]:
    """Measure the official queries of TPC-DS, the yardstick."""
    queries = official_tpcds()
    parsed, _ = parse_all(queries, ["tpcds"] * len(queries), "duckdb")
    return measure_content(parsed) | {"rows": len(queries), "diversity": measure_diversity(parsed, {})}


def _share(conditions: Any) -> float:
    values = [bool(condition) for condition in conditions]
    return round(sum(values) / len(values), 4) if values else 0.0


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {}
    points = {"min": 0, "p5": 5, "p25": 25, "median": 50, "p75": 75, "p95": 95, "max": 100}
    return {name: int(np.percentile(values, point)) for name, point in points.items()}


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, help="run directory")
    source.add_argument("--corpus", type=Path, help="file of queries")
    parser.add_argument("--dialect", default="duckdb", help="of the corpus: duckdb or sqlite")
    parser.add_argument("--database", type=Path, help="database file to run the corpus on")
    parser.add_argument("--draws", type=int, default=NUM_DRAWS, help="random draws for the diversity")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--reference", action="store_true", help="measure the official TPC-DS queries beside it")
    parser.add_argument("settings", nargs="*", help="settings of the run, such as benchmark.root=PATH")
    arguments = parser.parse_args()
    started = time.perf_counter()
    options = {"num_draws": arguments.draws, "seed": arguments.seed}
    try:
        if arguments.run is not None:
            report = measure_run(arguments.run, arguments.settings, **options)
        else:
            report = measure_corpus(arguments.corpus, arguments.dialect, arguments.database, **options)
    except RayfactoryError as error:
        sys.exit(str(error))
    if arguments.run is not None or arguments.reference:
        report["official_tpcds"] = measure_tpcds()
    report["measured_in_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
