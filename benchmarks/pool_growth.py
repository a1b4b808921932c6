"""What does a search cost when the pool is large, and what memory? Prints one JSON object.

    python -m benchmarks.pool_growth [--run runs/tpcds | --corpus FILE --dialect duckdb] [--small 10000 --large 1000000]

An index is filled with variations of the queries of a corpus: the words of one with every twentieth character another
one, its tree with every twentieth label another one, and its vector moved towards that of another query, and by noise.
Each size has a process of its own, which takes its queries as a run that goes on does, and searches for a few hundred
more, 32 at a time. `ours` is what a search takes at the large size, without embedding, `reference_ms` at the small one,
`ratio` the one over the other; `recall_at_200` compares the nearest by cosine with those of looking at every vector;
`resident_gb` is what the process holds, its peak apart.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.corpus import add_arguments, add_run_argument, chosen_with_vectors
from rayfactory.config import CriticConfig
from rayfactory.records import Tree
from rayfactory.tools.retrieval import QueryIndex
from rayfactory.tools.similarity import Signature
from rayfactory.tools.trees import flatten
from rayfactory.tools.words import sort_tokens

PIECE = 20_000
NUM_SEARCHES = 256
BLOCK = 32
CHANGED = 0.05


def variations(
    vectors_ND: npt.NDArray[np.float32], count: int, seed: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yield (which query each is a variation of, unit vectors), some at a time; the same ones for one seed."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, PIECE):
        size = min(PIECE, count - start)
        ones, others = rng.integers(0, len(vectors_ND), size), rng.integers(0, len(vectors_ND), size)
        share = np.asarray(rng.uniform(0, 0.5, (size, 1)), np.float32)
        moved = (1 - share) * vectors_ND[ones] + share * vectors_ND[others]
        moved += np.asarray(rng.normal(scale=0.2 / np.sqrt(moved.shape[1]), size=moved.shape), np.float32)
        yield ones, moved / np.linalg.norm(moved, axis=1, keepdims=True)


def varied_words(words: pa.Array, rng: np.random.Generator) -> pa.Array:
    """Return texts with some letters and digits replaced."""
    _, offsets, data = words.buffers()
    values = np.frombuffer(data, np.uint8).copy()
    is_word = (values > 47) & (values < 123) & (rng.random(len(values)) < CHANGED)
    values[is_word] = rng.integers(97, 123, int(is_word.sum()))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(words), [None, offsets, pa.py_buffer(values)])


def varied_labels(labels: pa.Array, rng: np.random.Generator) -> pa.Array:
    """Return trees with some labels replaced by ones that no other has."""
    values = labels.values.to_numpy().copy()
    is_changed = rng.random(len(values)) < CHANGED
    values[is_changed] = rng.integers(-(2**62), 2**62, int(is_changed.sum()))
    return pa.LargeListArray.from_arrays(labels.offsets, pa.array(values))


def resident_gb() -> float:
    """Return the memory that this process holds, in GB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e9


def measured(
    size: int, texts: Sequence[str], trees: Sequence[Tree], vectors_ND: npt.NDArray[np.float32]
) -> dict[str, Any]:
    """Fill an index and search it; return what that took. For a process of its own."""
    config = CriticConfig()
    words = pa.array([sort_tokens(text).encode() for text in texts], pa.large_binary())
    labels = pa.array([tree.labels for tree in trees], pa.large_list(pa.int64()))
    leftmost = pa.array([tree.leftmost for tree in trees], pa.large_list(pa.int32()))
    before_gb = resident_gb()
    index = QueryIndex(vectors_ND.shape[1], config)
    started = time.perf_counter()
    rng = np.random.default_rng(2)
    for ones, moved in variations(vectors_ND, size, seed=0):
        index.load(
            varied_words(words.take(ones), rng), varied_labels(labels.take(ones), rng), leftmost.take(ones), moved
        )
    fill_s = time.perf_counter() - started
    ((ones, wanted),) = variations(vectors_ND, NUM_SEARCHES, seed=1)
    queries = [
        Signature(np.frombuffer(text, np.uint8), Tree(np.array(tree, np.int64), trees[one].leftmost), vector)
        for one, text, tree, vector in zip(
            ones,
            varied_words(words.take(ones), rng).to_pylist(),
            varied_labels(labels.take(ones), rng).to_pylist(),
            wanted,
            strict=True,
        )
    ]
    index.search(queries[0])
    times_ms = []
    for _ in range(3):
        started = time.perf_counter()
        for start in range(0, NUM_SEARCHES, BLOCK):
            block = queries[start : start + BLOCK]
            committed = index.nearest_committed(wanted[start : start + BLOCK])
            for query, nearest in zip(block, committed, strict=True):
                index.search(query, nearest)
        times_ms.append((time.perf_counter() - started) / NUM_SEARCHES * 1e3)
    num_candidates = config.k * config.candidates_per_neighbour
    found = index.nearest_committed(wanted)
    return {
        "search_ms": min(times_ms),
        "fill_s": fill_s,
        "resident_gb": resident_gb(),
        "resident_before_gb": before_gb,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "found": [positions[np.argsort(-cosines)][:num_candidates].tolist() for positions, cosines in found],
    }


def exact(size: int, vectors_ND: npt.NDArray[np.float32], count: int) -> list[set[int]]:
    """Return the positions of the nearest to each query, from looking at every vector."""
    ((_, wanted),) = variations(vectors_ND, NUM_SEARCHES, seed=1)
    best = np.full((NUM_SEARCHES, 0), 0.0, np.float32)
    places = np.empty((NUM_SEARCHES, 0), np.int64)
    start = 0
    for _, moved in variations(vectors_ND, size, seed=0):
        best = np.concatenate([best, wanted @ moved.T], axis=1)
        piece = np.broadcast_to(np.arange(start, start + len(moved)), (NUM_SEARCHES, len(moved)))
        places = np.concatenate([places, piece], axis=1)
        chosen = np.argpartition(-best, min(count, best.shape[1] - 1), axis=1)[:, :count]
        best, places = np.take_along_axis(best, chosen, axis=1), np.take_along_axis(places, chosen, axis=1)
        start += len(moved)
    return [set(row.tolist()) for row in places]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    add_run_argument(parser)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.set_defaults(limit=2000)
    arguments = parser.parse_args()
    expressions, texts, vectors_ND = chosen_with_vectors(arguments)
    trees = [flatten(expression) for expression in expressions]
    count = min(200, arguments.small)
    found = {}
    for size in (arguments.small, arguments.large):
        with multiprocessing.get_context("spawn").Pool(1) as process:
            found[size] = process.apply(measured, (size, texts, trees, vectors_ND))
    expected = exact(arguments.large, vectors_ND, count)
    small, large = found[arguments.small], found[arguments.large]
    shares = [len(set(ours) & nearest) / count for ours, nearest in zip(large["found"], expected, strict=True)]
    recall = float(np.mean(shares))
    ratio = large["search_ms"] / small["search_ms"]
    report = {
        "benchmark": "pool_growth",
        "reference": f"a search among {arguments.small} queries",
        "queries": arguments.large,
        "ours": round(large["search_ms"], 3),
        "reference_ms": round(small["search_ms"], 3),
        "ratio": round(ratio, 2),
        "recall_at_200": round(recall, 4),
        "resident_gb": round(large["resident_gb"], 2),
        "peak_gb": round(large["peak_gb"], 2),
        "resident_before_gb": round(large["resident_before_gb"], 2),
        "fill_s": round(large["fill_s"], 1),
    }
    print(json.dumps(report))
    if arguments.large >= 1_000_000 and (ratio > 3 or recall < 0.95 or large["resident_gb"] > 6):
        raise SystemExit("a limit is missed: ratio 3, recall 0.95, 6 GB")


if __name__ == "__main__":
    main()
