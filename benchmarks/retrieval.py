"""How fast is a search? The index beside zss over every candidate. Prints one JSON object.

    python -m benchmarks.retrieval [--corpus FILE --dialect duckdb] [--run RUN_DIR] [--searches 60]

Queries are searched for in an index of the whole corpus, on one thread. The reference is what the formula says at its
word: the 200 nearest by cosine, and for each of them rapidfuzz's token_sort_ratio and the tree edit distance of the zss
package; that takes minutes a search, so it is run on a sample of the candidates of some searches (`--pairs`), and its
time for one search is the mean of the sample times 200. `exact` says whether every search of the corpus gives the
neighbours and the scores (to 1e-9) of scoring all 200 with the compiled distance, and every
sampled pair the distance of zss; where they do not, or where the ratio is below 5,000, the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz
from sqlglot import exp

from benchmarks.corpus import add_arguments, add_run_argument, chosen_with_vectors, zss_distance, zss_tree
from rayfactory.config import CriticConfig
from rayfactory.tools.retrieval import Neighbour, QueryIndex
from rayfactory.tools.similarity import Signature, similarity
from rayfactory.tools.tree_edit import distance
from rayfactory.tools.trees import flatten
from rayfactory.tools.vector_store import cosines

MIN_RATIO = 5_000


def nearest_by_cosine(
    query: Signature, vectors_ND: npt.NDArray[np.float32], config: CriticConfig
) -> npt.NDArray[np.int64]:
    """Return the positions of the candidates, nearest first."""
    order = np.argsort(-cosines(query.vector, vectors_ND), kind="stable")
    return order[: config.k * config.candidates_per_neighbour]


def score_all(
    query: Signature, entries: Sequence[Signature], vectors_ND: npt.NDArray[np.float32], config: CriticConfig
) -> list[Neighbour]:
    """Return the nearest neighbours by scoring every candidate."""
    nearest = nearest_by_cosine(query, vectors_ND, config)
    scored = [Neighbour(int(i), similarity(query, entries[i], config)) for i in nearest]
    return sorted(scored, key=lambda neighbour: (-neighbour.similarity, neighbour.position))[: config.k]


def equal(ours: Sequence[Neighbour], expected: Sequence[Neighbour]) -> bool:
    """Return whether two answers have the same neighbours, with scores that are equal to 1e-9."""
    return [one.position for one in ours] == [one.position for one in expected] and all(
        abs(a.similarity - b.similarity) <= 1e-9 for a, b in zip(ours, expected, strict=True)
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_run_argument(parser)
    parser.add_argument("--searches", type=int, default=60, help="searches that are timed")
    parser.add_argument("--pairs", type=int, default=40, help="pairs that the reference is timed on")
    parser.set_defaults(limit=5000)
    arguments = parser.parse_args()
    config = CriticConfig()
    trees, texts, vectors_ND = chosen_with_vectors(arguments)
    entries = [
        Signature.of(text, flatten(tree), vector) for text, tree, vector in zip(texts, trees, vectors_ND, strict=True)
    ]
    index = QueryIndex(vectors_ND.shape[1], config)
    started = time.perf_counter()
    for entry in entries:
        index.add(entry)
    index.commit(len(entries))
    add_us = (time.perf_counter() - started) / len(entries) * 1e6
    searched = list(range(0, len(entries), max(1, len(entries) // arguments.searches)))[: arguments.searches]
    index.search(entries[0])
    before = index.num_distances
    times_ms = []
    for i in searched:
        started = time.perf_counter()
        index.search(entries[i])
        times_ms.append((time.perf_counter() - started) * 1e3)
    num_distances = (index.num_distances - before) / len(searched)
    exact = all(equal(index.search(query), score_all(query, entries, vectors_ND, config)) for query in entries)
    reference_ms, same = reference_of(trees, texts, entries, vectors_ND, searched, arguments.pairs, config)
    num_candidates = min(len(entries), config.k * config.candidates_per_neighbour)
    report: dict[str, Any] = {
        "benchmark": "retrieval",
        "reference": f"token_sort_ratio and zss over all {num_candidates} candidates, one thread",
        "entries": len(entries),
        "median_nodes": statistics.median(entry.tree.num_nodes for entry in entries if entry.tree),
        "searches": len(searched),
        "distances_per_search": round(num_distances, 1),
        "ours": round(statistics.fmean(times_ms), 3),
        "ours_median_ms": round(statistics.median(times_ms), 3),
        "reference_ms": round(reference_ms * num_candidates, 1),
        "ratio": round(reference_ms * num_candidates / statistics.fmean(times_ms), 1),
        "exact": exact and same,
        "add_us": round(add_us, 1),
    }
    print(json.dumps(report))
    if not report["exact"]:
        raise SystemExit("a search does not give what scoring every candidate gives")
    if num_candidates == config.k * config.candidates_per_neighbour and report["ratio"] < MIN_RATIO:
        raise SystemExit(f"ratio {report['ratio']} is less than {MIN_RATIO}")


def reference_of(
    trees: Sequence[exp.Expr],
    texts: Sequence[str],
    entries: Sequence[Signature],
    vectors_ND: npt.NDArray[np.float32],
    searched: Sequence[int],
    num_pairs: int,
    config: CriticConfig,
) -> tuple[float, bool]:
    """Return milliseconds for one pair of a search and one of its candidates, and whether the distances are ours."""
    rng = random.Random(0)
    pairs = []
    for _ in range(num_pairs):
        query = rng.choice(searched)
        pairs.append((query, int(rng.choice(nearest_by_cosine(entries[query], vectors_ND, config)))))
    nodes = {i: zss_tree(trees[i]) for pair in pairs for i in pair}
    found = []
    started = time.perf_counter()
    for a, b in pairs:
        fuzz.token_sort_ratio(texts[a], texts[b])
        found.append(zss_distance(nodes[a], nodes[b]))
    elapsed_ms = (time.perf_counter() - started) / len(pairs) * 1e3
    ours = []
    for a, b in pairs:
        left, right = entries[a].tree, entries[b].tree
        assert left is not None
        assert right is not None
        ours.append(distance(left, right))
    return elapsed_ms, found == ours


if __name__ == "__main__":
    main()
