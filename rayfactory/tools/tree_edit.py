"""The distance between two syntax trees: how many nodes to insert, delete or relabel.

Unit-cost ordered tree edit distance over int arrays, with lower bounds that cost next to nothing, so that most pairs
never need the distance itself. The kernels work on codes: small numbers for the labels of one of the two trees, the
searched one, and 0 for any label that it does not have.

Letters for shapes: N nodes of a tree, L distinct labels of the searched tree and one row for all others, W words of 64
of its nodes, H places of a hash table.

Source: Zhang and Shasha 1989, Simple fast algorithms for the editing distance between trees; Hyyrö 2003, A bit-vector
algorithm for computing Levenshtein and Damerau edit distances, for the bound by sequences.
"""

from __future__ import annotations

import numpy as np
from numba import types

from rayfactory.records import Tree
from rayfactory.tools.compiled import I32, I64, READ_I32, READ_I64, ROWS_I32, ROWS_U64, U32, U64, compiled


def distance(a: Tree, b: Tree) -> int:
    """Return the least number of insertions, deletions and relabellings that turn one tree into the other."""
    return int(_distance(a.labels, a.leftmost, b.labels, b.leftmost))


def label_bound(a: Tree, b: Tree) -> int:
    """Return a lower bound of `distance` from the two bags of labels, in O(N).

    Each node of the larger tree that no equal label of the other can be mapped to costs at least one step.
    """
    return int(_label_bound(a.labels, b.labels))


def lower_bound(a: Tree, b: Tree) -> int:
    """Return a lower bound of `distance`, at least `label_bound`.

    A step on a tree is one step on its preorder and one on its postorder sequence of labels, so neither can
    be further apart than the trees.
    """
    return int(_lower_bound(a.labels, a.leftmost, b.labels, b.leftmost))


@compiled(types.Tuple((I64, I32, I32, types.int64))(READ_I64))
def alphabet(labels):
    """Give the labels of the searched tree their codes.

    Returns:
        int64[H] and int32[H], a hash table of labels and their codes (0: no entry); int32[N], the code of each node;
        L.
    """
    size = 8
    while size < 2 * len(labels):
        size *= 2
    table_H = np.zeros(size, dtype=np.int64)
    codes_H = np.zeros(size, dtype=np.int32)
    codes_N = np.empty(len(labels), dtype=np.int32)
    num_codes = 1
    for node in range(len(labels)):
        place = labels[node] & (size - 1)
        while codes_H[place] != 0 and table_H[place] != labels[node]:
            place = (place + 1) & (size - 1)
        if codes_H[place] == 0:
            table_H[place] = labels[node]
            codes_H[place] = num_codes
            num_codes += 1
        codes_N[node] = codes_H[place]
    return table_H, codes_H, codes_N, num_codes


@compiled(types.void(READ_I64, READ_I32, READ_I64, I32))
def encode(table_H, codes_H, labels, codes_N):
    """Write the code of each label of another tree to the first N of `codes_N`."""
    last = len(table_H) - 1
    for node in range(len(labels)):
        place = labels[node] & last
        while codes_H[place] != 0 and table_H[place] != labels[node]:
            place = (place + 1) & last
        codes_N[node] = codes_H[place]


@compiled(types.int64(READ_I32, types.int64, READ_I32, I32))
def num_common(codes_N, size, counts_L, left_L):
    """Return how many nodes of another tree can be mapped to equal labels of the searched one; `left_L` is written."""
    left_L[:] = counts_L
    left_L[0] = 0
    common = 0
    for node in range(size):
        if left_L[codes_N[node]] > 0:
            left_L[codes_N[node]] -= 1
            common += 1
    return common


@compiled(types.void(READ_I32, READ_I32, types.int64, I32, I32))
def preorder(codes_N, leftmost_N, size, parents_N, out_N):
    """Write the codes of a tree in preorder to the first N of `out_N`; `parents_N` is written too.

    A child stands behind its parent and behind its siblings on the left with all that is below them.
    """
    # First parents, then places in preorder, one over the other: a node's parent comes after it in postorder.
    parent = size - 1
    for node in range(size - 1, -1, -1):
        while leftmost_N[parent] > node:
            parent = parents_N[parent]
        parents_N[node] = parent
        parent = node
    for node in range(size - 1, -1, -1):
        place = 0
        if node < size - 1:
            above = parents_N[node]
            place = parents_N[above] + 1 + leftmost_N[node] - leftmost_N[above]
        parents_N[node] = place
        out_N[place] = codes_N[node]


@compiled(types.void(READ_I32, types.int64, ROWS_U64))
def sequence_masks(codes_N, size, masks_LW):
    """Set, in zeros, the bit of each place of a sequence in the row of its code."""
    for place in range(size):
        masks_LW[codes_N[place], place >> 6] |= np.uint64(1) << np.uint64(place & 63)


@compiled(types.int64(ROWS_U64, types.int64, READ_I32, types.int64, U64, U64))
def levenshtein(masks_LW, length, codes_N, size, up_W, down_W):
    """Return the Levenshtein distance of a sequence of codes to that of the masks; `up_W` and `down_W` are written."""
    one = np.uint64(1)
    num_words = (length + 63) // 64
    last_bit = np.uint64((length - 1) & 63)
    for w in range(num_words):
        up_W[w] = ~np.uint64(0)
        down_W[w] = np.uint64(0)
    result = length
    for place in range(size):
        mask_W = masks_LW[codes_N[place]]
        higher = one
        lower = np.uint64(0)
        for w in range(num_words):
            equal = mask_W[w]
            up, down = up_W[w], down_W[w]
            vertical = equal | down
            equal |= lower
            across = (((equal & up) + up) ^ up) | equal
            higher_out = down | ~(across | up)
            lower_out = up & across
            bit = last_bit if w == num_words - 1 else np.uint64(63)
            next_higher = (higher_out >> bit) & one
            next_lower = (lower_out >> bit) & one
            higher_out = (higher_out << one) | higher
            lower_out = (lower_out << one) | lower
            up_W[w] = lower_out | ~(vertical | higher_out)
            down_W[w] = higher_out & vertical
            higher, lower = next_higher, next_lower
        result += np.int64(higher) - np.int64(lower)
    return result


@compiled(types.int64(READ_I32, types.int64, I32, I32))
def keyroots(leftmost_N, size, seen_N, out_N):
    """Write the keyroots, ascending, to `out_N` and return how many they are; `seen_N` is written.

    They are the root and every node with a sibling on its left: the last in postorder of those with one leftmost leaf.
    """
    for node in range(size):
        seen_N[leftmost_N[node]] = node
    count = 0
    for node in range(size):
        if seen_N[leftmost_N[node]] == node:
            out_N[count] = node
            count += 1
    return count


@compiled(types.int64(READ_I32, READ_I32, READ_I32, READ_I32, READ_I32, READ_I32, ROWS_I32, ROWS_I32, U32))
def zhang_shasha(labels_a, leftmost_a, keyroots_a, labels_b, leftmost_b, keyroots_b, trees, forests, before_b):
    """Fill `trees[i, j]`, the distance of the subtrees at i and j, keyroot pair by keyroot pair; return the last.

    Args:
        trees: int32, at least N x N.
        forests: int32, at least N + 1 x N + 1; [x, y]: distance of the forests of the first x and y nodes below the two
            keyroots.
        before_b: uint32, at least N; how many nodes of its keyroot's forest come before the subtree of a node. 0: its
            forest is that one subtree.
    """
    # A leaf becomes a tree by insertions, and a relabelling unless the tree has its label: no forests are needed.
    for root in keyroots_a:
        if leftmost_a[root] == root:
            last = -1
            for node in range(len(labels_b)):
                if labels_b[node] == labels_a[root]:
                    last = node
                trees[root, node] = node - leftmost_b[node] + (last < leftmost_b[node])
    for root in keyroots_b:
        if leftmost_b[root] == root:
            last = -1
            for node in range(len(labels_a)):
                if labels_a[node] == labels_b[root]:
                    last = node
                trees[node, root] = node - leftmost_a[node] + (last < leftmost_a[node])
    # Unsigned places: otherwise each access would first see whether it counts from the end.
    one = np.uintp(1)
    for root_b in keyroots_b:
        leaf_b = leftmost_b[root_b]
        if leaf_b == root_b:
            continue
        first_b, size_b = np.uintp(leaf_b), np.uintp(root_b - leaf_b + 1)
        for y in range(size_b):
            before_b[y] = np.uint32(leftmost_b[first_b + y] - leaf_b)
        for y in range(size_b + one):
            forests[0, y] = y
        for root_a in keyroots_a:
            leaf_a = leftmost_a[root_a]
            if leaf_a == root_a:
                continue
            first_a = np.uintp(leaf_a)
            for x in range(np.uintp(root_a - leaf_a + 1)):
                node_a = first_a + x
                before_a = np.uintp(leftmost_a[node_a] - leaf_a)
                left = np.int32(x + one)
                forests[x + one, 0] = left
                # Two loops, so that the common one is free of branches.
                if before_a == 0:
                    label_a = labels_a[node_a]
                    diagonal = np.int32(x)
                    for y in range(size_b):
                        above = forests[x, y + one]
                        left = min(above, left) + np.int32(1)
                        before = np.uintp(before_b[y])
                        if before == 0:
                            left = min(left, diagonal + np.int32(label_a != labels_b[first_b + y]))
                            trees[node_a, first_b + y] = left
                        else:
                            left = min(left, forests[0, before] + trees[node_a, first_b + y])
                        diagonal = above
                        forests[x + one, y + one] = left
                else:
                    for y in range(size_b):
                        mapped = forests[before_a, np.uintp(before_b[y])] + trees[node_a, first_b + y]
                        left = min(min(forests[x, y + one], left) + np.int32(1), mapped)
                        forests[x + one, y + one] = left
    return trees[len(labels_a) - 1, len(labels_b) - 1]


@compiled(types.int64(READ_I64, READ_I32, READ_I64, READ_I32))
def _distance(labels_a, leftmost_a, labels_b, leftmost_b):
    size_a, size_b = len(labels_a), len(labels_b)
    table_H, codes_H, codes_a, _ = alphabet(labels_a)
    codes_b = np.empty(size_b, dtype=np.int32)
    encode(table_H, codes_H, labels_b, codes_b)
    roots_a, roots_b = np.empty(size_a, dtype=np.int32), np.empty(size_b, dtype=np.int32)
    seen = np.empty(max(size_a, size_b), dtype=np.int32)
    num_a = keyroots(leftmost_a, size_a, seen, roots_a)
    num_b = keyroots(leftmost_b, size_b, seen, roots_b)
    return zhang_shasha(
        codes_a, leftmost_a, roots_a[:num_a], codes_b, leftmost_b, roots_b[:num_b],
        np.empty((size_a, size_b), dtype=np.int32), np.empty((size_a + 1, size_b + 1), dtype=np.int32),
        np.empty(size_b, dtype=np.uint32),
    )  # fmt: skip


@compiled(types.int64(READ_I64, READ_I64))
def _label_bound(labels_a, labels_b):
    table_H, codes_H, codes_a, num_codes = alphabet(labels_a)
    codes_b = np.empty(len(labels_b), dtype=np.int32)
    encode(table_H, codes_H, labels_b, codes_b)
    counts_L = np.bincount(codes_a, minlength=num_codes).astype(np.int32)
    return max(len(labels_a), len(labels_b)) - num_common(codes_b, len(codes_b), counts_L, np.empty_like(counts_L))


@compiled(types.int64(READ_I64, READ_I32, READ_I64, READ_I32))
def _lower_bound(labels_a, leftmost_a, labels_b, leftmost_b):
    size_a, size_b = len(labels_a), len(labels_b)
    bound = _label_bound(labels_a, labels_b)
    table_H, codes_H, codes_a, num_codes = alphabet(labels_a)
    codes_b = np.empty(size_b, dtype=np.int32)
    encode(table_H, codes_H, labels_b, codes_b)
    num_words = (size_a + 63) // 64
    up_W, down_W = np.empty(num_words, dtype=np.uint64), np.empty(num_words, dtype=np.uint64)
    parents = np.empty(max(size_a, size_b), dtype=np.int32)
    before_a, before_b = np.empty_like(codes_a), np.empty_like(codes_b)
    preorder(codes_a, leftmost_a, size_a, parents, before_a)
    preorder(codes_b, leftmost_b, size_b, parents, before_b)
    for a, b in ((codes_a, codes_b), (before_a, before_b)):
        masks_LW = np.zeros((num_codes, num_words), dtype=np.uint64)
        sequence_masks(a, size_a, masks_LW)
        masks_LW[0] = 0
        bound = max(bound, levenshtein(masks_LW, size_a, b, size_b, up_W, down_W))
    return bound
