"""The figures of a corpus, as `report.json` has them: what the report and the comparison show and nothing else.

Shares are in [0, 1]; what is not known, such as who wrote the queries of a file, is None or empty. Each function is one
section.

Source: SQL-Factory, section 5.2: figures 6 to 8, tables 1 and 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rayfactory.analysis.alike import diversity, figure_8, nearest_pairs
from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.coverage import constructs, coverage
from rayfactory.analysis.draw import Taken
from rayfactory.records import DID_NOT_RUN
from rayfactory.tools.statistics import gini, share

REJECT_EXAMPLES = 3

TOP = {"num_joins": 5, "num_predicates": 8, "num_subqueries": 3, "num_aggregates": 5, "num_windows": 3}
"""The number from which on queries are counted together."""

TOKEN_BIN = 20
"""Tokens that a bar of the lengths stands for."""

TOKEN_BINS = 15
"""Bars of the lengths; the last has all that are longer."""

Say = Callable[[str], None]


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
        "executability": share(candidates - did_not_run, candidates) if is_run else None,
        "non_empty_rate": share(row["non_empty"], row["queries"]) if row["ran"] else None,
        "admission_rate": share(row["queries"], candidates) if is_run else None,
        "generation": row["generation"] if is_run else None,
        "expansion": row["expansion"] if is_run else None,
        "expansion_ratio": share(row["expansion"], row["queries"]) if is_run else None,
        "mean_similarity_at_admission": row["mean_similarity"],
        "median_execution_ms": row["median_execution_ms"],
    }


def table_1(corpus: Corpus) -> dict[str, Any]:
    """Return the paper's table 1: what the queries are about, how many there are, and their price."""
    outlines = corpus.outlines.values()
    num_columns = sum(len(table.columns) for outline in outlines for table in outline.tables)
    paid = cost(corpus)
    return {
        "benchmark": corpus.identity.get("benchmark", "") or corpus.name,
        "databases": len(corpus.outlines) or corpus.value("SELECT count(DISTINCT database) FROM R"),
        "tables": sum(len(outline.tables) for outline in outlines) or None,
        "columns_per_database": num_columns / len(corpus.outlines) if corpus.outlines else None,
        "queries": corpus.num_queries,
        "price_usd": None if paid is None else paid["cost_usd"],
    }


# -- what it is made of -------------------------------------------------------


def figure_6(corpus: Corpus) -> dict[str, Any]:
    """Return how many queries have how many joins, predicates, nested queries, aggregates and windows, and tokens."""
    found: dict[str, Any] = {}
    for name, top in TOP.items():
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


# -- what it took -------------------------------------------------------------


def cost(corpus: Corpus) -> dict[str, Any] | None:
    """Return what was paid, and what the same corpus would have cost from the strong model alone; None for a file.

    That is what a row of the Generation Team has cost, times all rows; it is known where that team's model has a price.
    What was paid is in the run's summary, which its end writes: it is None while a first process is at work.
    """
    if not corpus.is_run:
        return None
    summary = corpus.summary
    if not _is_sound(summary):
        return {"cost_usd": None, "cost_usd_per_1000": None, "strong_model_alone_usd": None, "ledger": []}
    ledger: list[dict[str, Any]] = summary["ledger"]
    # Of the run as its last process left it; it may have gone on since.
    admitted, generation = summary["admitted"], summary["generation"]
    spent = sum(row["cost_usd"] for row in ledger)
    of_generation = sum(row["cost_usd"] for row in ledger if row["agent"] == "generation")
    alone = of_generation / generation * admitted if of_generation and generation else None
    return {
        "cost_usd": spent,
        "unconfirmed_usd": summary["cost_unconfirmed_usd"],
        "cost_usd_per_1000": 1000 * share(spent, admitted),
        "strong_model_alone_usd": alone,
        "saved_share": None if alone is None else 1 - share(spent, alone),
        "tokens_in": summary["tokens_in"],
        "tokens_out": summary["tokens_out"],
        "ledger": ledger,
        "as_of_rows": admitted,
    }


_SUMS = ("admitted", "generation", "cost_unconfirmed_usd", "tokens_in", "tokens_out")
_LEDGER_SUMS = ("requests", "tokens_in", "tokens_cached", "tokens_out", "cost_usd", "unconfirmed_usd")


def _is_sound(summary: Mapping[str, Any]) -> bool:
    """Return whether there is a summary, and its books are as rayfactory wrote them."""
    ledger = summary.get("ledger")
    return (
        isinstance(ledger, list)
        and _are_numbers(summary, _SUMS)
        and all(isinstance(row, dict) and _are_numbers(row, _LEDGER_SUMS) for row in ledger)
        and all(isinstance(row.get(name), str) for row in ledger for name in ("model", "agent"))
    )


def _are_numbers(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(isinstance(row.get(name), (int, float)) for name in names)


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
        "queries_per_second": share(corpus.num_queries, wall_s),
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
        row["executability"] = share(row["ran"], row["candidates"])
        row["admission_rate"] = share(row["admitted"], row["candidates"])
    return found
