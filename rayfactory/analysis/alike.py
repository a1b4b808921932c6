"""How alike the queries of a corpus are: as it grew, as a whole, and the nearest of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rayfactory.analysis.corpus import Corpus
from rayfactory.analysis.diversity import (
    Moments,
    distinct_ngrams,
    effective_number,
    estimated,
    pairs_of,
    sampled_similarity,
)
from rayfactory.analysis.draw import Taken
from rayfactory.tools.similarity import similarity
from rayfactory.tools.statistics import share

PAIRS = 5_000
"""Pairs that the mean similarity is estimated from."""

PREFIX_PAIRS = 400
"""The same for each point of the curve over the pool's growth."""

POINTS = 40
"""Points of that curve, at most."""

NEAREST_PAIRS = 20


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
                "expansion_ratio": share(expansion.get(manifest.round, 0), num_queries),
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
            "distinct_share": share(len(skeletons), len(parsed)),
            "occur_once_share": share(sum(skeletons[structure.skeleton] == 1 for structure in parsed), len(parsed)),
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
