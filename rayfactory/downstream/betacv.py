"""How well distances agree with labels: BetaCV.

Letters for shapes: N items.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt


def betacv(distances: npt.NDArray[np.float64], labels: Sequence[Hashable]) -> float:
    """Return the mean distance of two items of one cluster over the mean distance of two of different clusters.

    0 where clusters are points, 1 where distances know nothing of the labels: the smaller, the better. Each pair of
    two items counts once, so a large cluster counts for more than a small one.

    Args:
        distances: [N, N], symmetric and not negative; the diagonal is not looked at.
        labels: the cluster of each item.

    Raises:
        ValueError: the shapes do not fit, a distance is not a number or negative, the matrix is not symmetric, there
            is only one cluster, no two items share one, or items of different clusters are all at distance 0.

    Source: Zaki and Meira, Data Mining and Analysis, 2014, chapter 17.
    """
    distances_NN = np.asarray(distances, dtype=np.float64)
    num_items = len(labels)
    if distances_NN.shape != (num_items, num_items):
        raise ValueError(
            f"distances of shape {distances_NN.shape} for {num_items} labels: expected ({num_items}, {num_items})"
        )
    rows, columns = np.triu_indices(num_items, k=1)
    pairs = distances_NN[rows, columns]
    bad = np.flatnonzero(~(np.isfinite(pairs) & (pairs >= 0)))
    if len(bad):
        a, b = rows[bad[0]], columns[bad[0]]
        raise ValueError(f"the distance of items {a} and {b} is {pairs[bad[0]]}: expected a number from 0 on")
    if not np.allclose(pairs, distances_NN[columns, rows]):
        raise ValueError("the distances are not symmetric: the distance from a to b has to be that from b to a")
    codes: dict[Hashable, int] = {}
    cluster_of = np.array([codes.setdefault(label, len(codes)) for label in labels])
    if len(codes) < 2:
        raise ValueError(f"{len(codes)} cluster among {num_items} labels: BetaCV compares at least 2")
    is_inside = cluster_of[rows] == cluster_of[columns]
    if not is_inside.any():
        raise ValueError(f"{len(codes)} clusters of one item each: BetaCV needs two items of one cluster")
    between = float(pairs[~is_inside].mean())
    if between == 0.0:
        raise ValueError("items of different clusters are all at distance 0: BetaCV would divide by it")
    return float(pairs[is_inside].mean()) / between
