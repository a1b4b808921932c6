"""How fast is a search? The index beside scoring every candidate. Prints one JSON object.

    python benchmarks/retrieval.py [--corpus FILE --dialect duckdb] [--searches 30]

Queries are searched for in an index of the whole corpus. Both sides compare with the same candidates by the same
kernels; the reference works out every distance.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.corpus import add_arguments, chosen_trees
from rayfactory.config import CriticConfig, EmbeddingConfig
from rayfactory.sql import normalise
from rayfactory.tools.embedding import Embedder
from rayfactory.tools.retrieval import Neighbour, QueryIndex
from rayfactory.tools.similarity import Signature, similarity
from rayfactory.tools.tree_edit import flatten


def score_all(
    query: Signature, entries: Sequence[Signature], vectors_ND: npt.NDArray[np.float32], config: CriticConfig
) -> list[Neighbour]:
    """Return the nearest neighbours by scoring every one of the nearest by cosine."""
    nearest = np.argsort(-(vectors_ND @ query.vector), kind="stable")[: config.k * config.candidates_per_neighbour]
    scored = [Neighbour(int(i), similarity(query, entries[i], config)) for i in nearest]
    return sorted(scored, key=lambda neighbour: (-neighbour.similarity, neighbour.id))[: config.k]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--searches", type=int, default=30, help="searches of each kind")
    arguments = parser.parse_args()
    config = CriticConfig()
    trees = chosen_trees(arguments)
    texts = [normalise(tree, arguments.dialect) for tree in trees]
    embedder = Embedder(EmbeddingConfig())
    vectors_ND = embedder.encode(texts)
    entries = [
        Signature(text, flatten(tree), vector) for text, tree, vector in zip(texts, trees, vectors_ND, strict=True)
    ]
    index = QueryIndex(embedder.dimension, config)
    started = time.perf_counter()
    for position, entry in enumerate(entries):
        index.add(position, entry)
    add_us = (time.perf_counter() - started) / len(entries) * 1e6
    queries = entries[:: max(1, len(entries) // arguments.searches)][: arguments.searches]
    started = time.perf_counter()
    ours = [index.search(query) for query in queries]
    ours_ms = (time.perf_counter() - started) / len(queries) * 1e3
    started = time.perf_counter()
    reference = [score_all(query, entries, vectors_ND, config) for query in queries]
    reference_ms = (time.perf_counter() - started) / len(queries) * 1e3
    report = {
        "entries": len(entries),
        "median_nodes": statistics.median(entry.tree.num_nodes for entry in entries if entry.tree),
        "searches": len(queries),
        "ours_ms_per_search": round(ours_ms, 3),
        "reference_ms_per_search": round(reference_ms, 3),
        "ratio": round(reference_ms / ours_ms, 1),
        "exact": ours == reference,
        "add_us": round(add_us, 1),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
