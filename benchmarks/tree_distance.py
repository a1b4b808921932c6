"""How fast is the tree edit distance? Ours beside the `zss` package, on pairs of one corpus. Prints one JSON object.

    python -m benchmarks.tree_distance [--corpus FILE --dialect duckdb] [--pairs 8]

The exit code is 1 where a distance differs, or where ours is not 1,000 times as fast on trees of about a hundred nodes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from benchmarks.corpus import add_arguments, chosen_trees, zss_distance, zss_tree
from rayfactory.records import Tree
from rayfactory.tools.tree_edit import distance, label_bound, lower_bound
from rayfactory.tools.trees import flatten

MIN_RATIO = 1_000
FROM_NODES = 75
"""Median size of the trees from which on the ratio has to be reached: of small ones, calling takes the most time."""

T = TypeVar("T")


def timed(measure: Callable[[T, T], int], pairs: Sequence[tuple[T, T]]) -> tuple[list[int], float]:
    """Return what a measure gives for each pair, and its microseconds a pair."""
    started = time.perf_counter()
    results = [measure(a, b) for a, b in pairs]
    return results, (time.perf_counter() - started) / len(pairs) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--pairs", type=int, default=8, help="pairs that the reference is run on")
    parser.add_argument("--max-nodes", type=int, default=100, help="size of the trees that the reference is run on")
    arguments = parser.parse_args()
    expressions = chosen_trees(arguments)
    random.Random(0).shuffle(expressions)
    trees: list[Tree] = [flatten(expression) for expression in expressions]
    flatten_started = time.perf_counter()
    for expression in expressions:
        flatten(expression)
    flatten_us = (time.perf_counter() - flatten_started) / len(expressions) * 1e6
    all_pairs = list(pairwise(trees))
    exact, ours_all_us = timed(distance, all_pairs)
    rough, label_bound_us = timed(label_bound, all_pairs)
    close, lower_bound_us = timed(lower_bound, all_pairs)
    # The reference takes minutes for the largest trees.
    small = [(a, b) for a, b in zip(expressions, trees, strict=True) if b.num_nodes <= arguments.max_nodes]
    few = list(pairwise(tree for _, tree in small))[: arguments.pairs]
    ours, ours_us = timed(distance, few)
    nodes = [zss_tree(expression) for expression, _ in small[: arguments.pairs + 1]]
    reference, reference_us = timed(zss_distance, list(pairwise(nodes)))
    report: dict[str, Any] = {
        "benchmark": "tree_distance",
        "reference": "the zss package, on trees with their labels made beforehand",
        "pairs": len(few),
        "median_nodes": statistics.median(tree.num_nodes for pair in few for tree in pair),
        "ours": round(ours_us, 1),
        "reference_us": round(reference_us, 1),
        "ratio": round(reference_us / ours_us, 1),
        "exact": ours == reference,
        "all_pairs": {
            "pairs": len(all_pairs),
            "median_nodes": statistics.median(tree.num_nodes for tree in trees),
            "flatten_us": round(flatten_us, 1),
            "distance_us": round(ours_all_us, 1),
            "label_bound_us": round(label_bound_us, 2),
            "lower_bound_us": round(lower_bound_us, 2),
            "label_bound_over_distance": round(sum(rough) / sum(exact), 3),
            "lower_bound_over_distance": round(sum(close) / sum(exact), 3),
        },
    }
    print(json.dumps(report))
    if not report["exact"]:
        raise SystemExit("a distance is not that of zss")
    if report["median_nodes"] >= FROM_NODES and report["ratio"] < MIN_RATIO:
        raise SystemExit(f"ratio {report['ratio']} is less than {MIN_RATIO}")


if __name__ == "__main__":
    main()
