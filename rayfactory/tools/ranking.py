"""The k most similar of some candidates to one query, in compiled code: exactly those that scoring each would give.

Few candidates need a tree distance. Each is first scored with a bound on it that costs next to nothing; a better bound,
and the distance itself, are worked out only for the candidate that then stands first. So a distance is worked out only
where no bound could have told that the candidate is not among the k.

Letters for shapes: C candidates, K neighbours, P queries of the index.

Source: SQL-Factory, figure 3; the order of evaluation is that of Fagin's threshold algorithm with one list.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import types

from rayfactory.tools import subsequence
from rayfactory.tools.compiled import F64, I64, READ_F64, READ_I32, READ_I64, READ_U8, compiled
from rayfactory.tools.tree_edit import (
    alphabet,
    encode,
    keyroots,
    levenshtein,
    num_common,
    preorder,
    sequence_masks,
    zhang_shasha,
)

# How far the distance to a candidate is known; a neighbour has been found already.
_ROUGH, _CLOSE, _EXACT, _FOUND = range(4)


@compiled(types.float64(types.float64, types.float64, types.float64, READ_F64))
def combined(token, ast, embedding, weights):
    """Return the weighted sum of the three similarities.

    It grows with each of them, rounding included, so an upper bound of one gives an upper bound of the sum.
    """
    return weights[0] * token + weights[1] * ast + weights[2] * embedding


@compiled(types.float64(types.int64, types.int64, types.int64))
def structural(distance, size_a, size_b):
    """Return the structural similarity of two trees at a distance, in [0, 1]; 0 where one of them is empty."""
    if size_a == 0 or size_b == 0:
        return 0.0
    return max(0.0, 1.0 - distance / max(size_a, size_b))


class Query(NamedTuple):
    """The query that is searched for.

    Attributes:
        words: uint8, the words of its text in ascending order, as UTF-8.
        labels: int64[N], of its tree in postorder; empty where it does not parse.
        leftmost: int32[N], as `records.Tree` has it.
    """

    words: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    leftmost: npt.NDArray[np.int32]


class Entries(NamedTuple):
    """The queries of an index, one behind the other.

    Attributes:
        words: uint8, as in `Query`; those of entry i end at `word_ends[i]`.
        word_ends: int64[P].
        labels: int64, as in `Query`; those of entry i end at `tree_ends[i]`.
        leftmost: int32, likewise.
        tree_ends: int64[P].
    """

    words: npt.NDArray[np.uint8]
    word_ends: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    leftmost: npt.NDArray[np.int32]
    tree_ends: npt.NDArray[np.int64]


_QUERY = types.NamedTuple([READ_U8, READ_I64, READ_I32], Query)
_ENTRIES = types.NamedTuple([READ_U8, READ_I64, READ_I64, READ_I32, READ_I64], Entries)


@compiled(types.UniTuple(types.int64, 2)(READ_I64, types.int64))
def _span(ends_P, position):
    """Return where an entry begins and ends."""
    return (ends_P[position - 1] if position > 0 else 0), ends_P[position]


@compiled(types.UniTuple(types.int64, 2)(_QUERY, _ENTRIES, READ_I64, READ_F64, READ_F64, I64, F64))
def rank(query, entries, positions_C, cosines_C, weights, places_K, scores_K):
    """Write the K most similar candidates, best first, ties to the lower position; return how many there are.

    Args:
        query: a `Query`.
        entries: an `Entries`.
        positions_C: int64, ascending, of the candidates in the index.
        cosines_C: float64, their embedding similarity.
        weights: float64[3], of words, structure and embedding.
        places_K: int64, written: indices into `positions_C`.
        scores_K: float64, written: Sim.

    Returns:
        How many neighbours were found, and how many tree distances were worked out.
    """
    labels, leftmost = query.labels, query.leftmost
    num_candidates = len(positions_C)
    size = len(labels)
    largest = 1
    for i in range(num_candidates):
        start, end = _span(entries.tree_ends, positions_C[i])
        largest = max(largest, end - start)
    table_H, codes_H, codes, num_codes = alphabet(labels)
    counts_L = np.zeros(num_codes, dtype=np.int32)
    for node in range(size):
        counts_L[codes[node]] += 1
    left_L = np.empty(num_codes, dtype=np.int32)
    num_words = max(1, (size + 63) // 64)
    post_masks_LW = np.zeros((num_codes, num_words), dtype=np.uint64)
    pre_masks_LW = np.zeros((num_codes, num_words), dtype=np.uint64)
    up_W, down_W = np.empty(num_words, dtype=np.uint64), np.empty(num_words, dtype=np.uint64)
    scratch = np.empty(max(largest, size) + 1, dtype=np.int32)
    other_codes = np.empty(largest, dtype=np.int32)
    other_pre = np.empty(max(largest, size), dtype=np.int32)
    if size:
        sequence_masks(codes, size, post_masks_LW)
        preorder(codes, leftmost, size, scratch, other_pre)
        sequence_masks(other_pre, size, pre_masks_LW)
    roots = np.empty(size, dtype=np.int32)
    roots = roots[: keyroots(leftmost, size, scratch, roots)]
    other_roots = np.empty(largest, dtype=np.int32)
    before = np.empty(largest, dtype=np.uint32)
    # Made when the first distance is.
    trees = np.empty((0, 0), dtype=np.int32)
    forests = np.empty((0, 0), dtype=np.int32)

    word_masks_RW, keys = subsequence.pattern(query.words)
    word_state_W = np.empty(word_masks_RW.shape[1], dtype=np.uint64)
    length = subsequence.num_characters(query.words)

    tokens_C = np.empty(num_candidates, dtype=np.float64)
    bounds_C = np.empty(num_candidates, dtype=np.int64)
    upper_C = np.empty(num_candidates, dtype=np.float64)
    known_C = np.full(num_candidates, _ROUGH, dtype=np.int8)
    for i in range(num_candidates):
        start, end = _span(entries.word_ends, positions_C[i])
        other_words = entries.words[start:end]
        num_both = length + subsequence.num_characters(other_words)
        tokens_C[i] = subsequence.score(subsequence.common(word_masks_RW, keys, word_state_W, other_words), num_both)
        start, end = _span(entries.tree_ends, positions_C[i])
        encode(table_H, codes_H, entries.labels[start:end], other_codes)
        bounds_C[i] = max(size, end - start) - num_common(other_codes, end - start, counts_L, left_L)
        upper_C[i] = combined(tokens_C[i], structural(bounds_C[i], size, end - start), cosines_C[i], weights)
    found = num_distances = 0
    while found < min(len(places_K), num_candidates):
        # At equal scores the vaguer comes first, so that a tie is broken among exact scores only.
        best = -1
        for i in range(num_candidates):
            if known_C[i] != _FOUND and (
                best < 0 or upper_C[i] > upper_C[best] or (upper_C[i] == upper_C[best] and known_C[i] < known_C[best])
            ):
                best = i
        if known_C[best] == _EXACT:
            places_K[found], scores_K[found] = best, upper_C[best]
            known_C[best] = _FOUND
            found += 1
            continue
        known_C[best] += 1
        start, end = _span(entries.tree_ends, positions_C[best])
        other_size = end - start
        if size and other_size:
            other_leftmost = entries.leftmost[start:end]
            encode(table_H, codes_H, entries.labels[start:end], other_codes)
            if known_C[best] == _CLOSE:
                bound = levenshtein(post_masks_LW, size, other_codes, other_size, up_W, down_W)
                preorder(other_codes, other_leftmost, other_size, scratch, other_pre)
                bound = max(bound, levenshtein(pre_masks_LW, size, other_pre, other_size, up_W, down_W))
                bounds_C[best] = max(bounds_C[best], bound)
            else:
                if trees.shape[1] < other_size:
                    # For the largest of those that are measured, which may be far from the largest of all.
                    trees = np.empty((size, other_size), dtype=np.int32)
                    forests = np.empty((size + 1, other_size + 1), dtype=np.int32)
                num_distances += 1
                num_roots = keyroots(other_leftmost, other_size, scratch, other_roots)
                bounds_C[best] = zhang_shasha(
                    codes, leftmost, roots, other_codes[:other_size], other_leftmost, other_roots[:num_roots],
                    trees, forests, before,
                )  # fmt: skip
        ast = structural(bounds_C[best], size, other_size)
        upper_C[best] = combined(tokens_C[best], ast, cosines_C[best], weights)
    return found, num_distances
