"""The distance between two syntax trees: how many nodes to insert, delete or relabel.

Unit-cost ordered tree edit distance over int arrays, with lower bounds that cost next to nothing, so that most pairs
never need the distance itself.

Letters for shapes: N nodes of a tree, K keyroots.

Source: Zhang and Shasha 1989, Simple fast algorithms for the editing distance between trees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit, types
from rapidfuzz.distance import Levenshtein
from sqlglot import exp

# Arrays that come out of Ray's object store cannot be written to; a kernel that takes these takes the others too.
_LABELS = types.Array(types.int64, 1, "C", readonly=True)
_POSITIONS = types.Array(types.int32, 1, "C", readonly=True)


@dataclass(frozen=True, slots=True)
class Tree:
    """The shape and the labels of one syntax tree, nodes numbered from 0 in postorder.

    Attributes:
        labels: int64[N], a hash of each node's label, the same in every process.
        leftmost: int32[N], the first leaf below each node.
        keyroots: int32[K], ascending: the root, and every node that has a sibling on its left.
        sorted_labels: int64[N], the labels in ascending order.
        preorder, postorder: a character a node in either order; equal labels have equal characters, and but for one
            chance in a million different labels have different ones.
    """

    labels: npt.NDArray[np.int64]
    leftmost: npt.NDArray[np.int32]
    keyroots: npt.NDArray[np.int32]
    sorted_labels: npt.NDArray[np.int64]
    preorder: str
    postorder: str

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.labels)


def flatten(expression: exp.Expr) -> Tree:
    """Return the tree of an expression, children in the order of sqlglot's `iter_expressions`.

    It does not recurse, so that the depth of a statement is no limit.
    """
    preorder: list[int] = []
    postorder: list[int] = []
    leftmost: list[int] = []
    # A frame is a node: its label, its children that are still to come, and the first leaf below it.
    stack = [(_hash(label(expression)), expression.iter_expressions(), 0)]
    preorder.append(stack[0][0])
    while stack:
        hashed, children, first_leaf = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            postorder.append(hashed)
            leftmost.append(first_leaf)
        else:
            hashed = _hash(label(child))
            preorder.append(hashed)
            stack.append((hashed, child.iter_expressions(), len(postorder)))
    # The last node in postorder of those with one leftmost leaf is the highest of them: a keyroot.
    keyroots = sorted({leaf: node for node, leaf in enumerate(leftmost)}.values())
    labels = np.array(postorder, dtype=np.int64)
    return Tree(
        labels=labels,
        leftmost=np.array(leftmost, dtype=np.int32),
        keyroots=np.array(keyroots, dtype=np.int32),
        sorted_labels=np.sort(labels),
        preorder="".join(map(_character, preorder)),
        postorder="".join(map(_character, postorder)),
    )


def label(node: exp.Expr) -> str:
    """Return what a node is compared by: its class and its scalar arguments, quoting aside.

    Arguments that are None, False or an empty list count as absent.
    """
    scalars = sorted(f"{key}={value!r}" for key, value in _scalars(node) if key != "quoted")
    return " ".join([type(node).__name__, *scalars])


def _scalars(node: exp.Expr) -> Iterator[tuple[str, object]]:
    for key, value in node.args.items():
        if isinstance(value, list):
            items = [item for item in value if item is not None and not isinstance(item, exp.Expr)]
            if items:
                yield key, items
        elif value is not None and value is not False and not isinstance(value, exp.Expr):
            yield key, value


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)


def _character(hashed: int) -> str:
    return chr(0x10000 + (hashed & 0xFFFFF))


def distance(a: Tree, b: Tree) -> int:
    """Return the least number of insertions, deletions and relabellings that turn one tree into the other."""
    return int(_zhang_shasha(a.labels, a.leftmost, a.keyroots, b.labels, b.leftmost, b.keyroots))


def label_bound(a: Tree, b: Tree) -> int:
    """Return a lower bound of `distance` from the two bags of labels, in O(N).

    Each node of the larger tree that no equal label of the other can be mapped to costs at least one step.
    """
    return max(a.num_nodes, b.num_nodes) - int(_num_common(a.sorted_labels, b.sorted_labels))


def lower_bound(a: Tree, b: Tree) -> int:
    """Return a lower bound of `distance`, at least `label_bound`.

    A step on a tree is one step on its preorder and one on its postorder sequence of labels, so neither can
    be further apart than the trees. Two labels that share a character only lower the bound.
    """
    return max(
        label_bound(a, b),
        Levenshtein.distance(a.preorder, b.preorder),
        Levenshtein.distance(a.postorder, b.postorder),
    )


def _compiled(signature: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile for one signature, ahead of the first call, and keep the machine code on disk for the next process."""

    def compile_kernel(kernel: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, cache=True, nogil=True)(kernel)  # type: ignore[no-any-return]
        except RuntimeError:
            # Neither the package's folder nor the user's cache can be written: every process compiles for itself, 1 s.
            return njit(signature, nogil=True)(kernel)  # type: ignore[no-any-return]

    return compile_kernel


@_compiled(types.int64(_LABELS, _LABELS))
def _num_common(a, b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Return the size of the intersection of two sorted bags."""
    i = j = common = 0
    while i < len(a) and j < len(b):
        if a[i] == b[j]:
            common += 1
            i += 1
            j += 1
        elif a[i] < b[j]:
            i += 1
        else:
            j += 1
    return common


@_compiled(types.int64(_LABELS, _POSITIONS, _POSITIONS, _LABELS, _POSITIONS, _POSITIONS))
def _zhang_shasha(labels_a, leftmost_a, keyroots_a, labels_b, leftmost_b, keyroots_b):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Fill `trees[i, j]`, the distance of the subtrees at i and j, keyroot pair by keyroot pair."""
    trees = np.empty((len(labels_a), len(labels_b)), dtype=np.int32)
    # forests[x, y]: distance of the forests of the first x and y nodes below the two keyroots.
    forests = np.empty((len(labels_a) + 1, len(labels_b) + 1), dtype=np.int32)
    # How many nodes of its keyroot's forest come before the subtree of a node; 0: its forest is that one subtree.
    before_b = np.empty(len(labels_b), dtype=np.int32)
    for root_a in keyroots_a:
        first_a = leftmost_a[root_a]
        for root_b in keyroots_b:
            first_b = leftmost_b[root_b]
            size_b = root_b - first_b + 1
            for y in range(size_b):
                before_b[y] = leftmost_b[first_b + y] - first_b
            for y in range(size_b + 1):
                forests[0, y] = y
            for x in range(root_a - first_a + 1):
                node_a = first_a + x
                before_a = leftmost_a[node_a] - first_a
                above, row, start = forests[x], forests[x + 1], forests[before_a]
                subtrees = trees[node_a, first_b : first_b + size_b]
                left = np.int32(x + 1)
                row[0] = left
                # Two loops, so that the common one is free of branches.
                if before_a == 0:
                    for y in range(size_b):
                        left = min(above[y + 1], left) + np.int32(1)
                        if before_b[y] == 0:
                            relabel = labels_a[node_a] != labels_b[first_b + y]
                            left = min(left, above[y] + np.int32(relabel))
                            subtrees[y] = left
                        else:
                            left = min(left, start[before_b[y]] + subtrees[y])
                        row[y + 1] = left
                else:
                    for y in range(size_b):
                        left = min(min(above[y + 1], left) + np.int32(1), start[before_b[y]] + subtrees[y])
                        row[y + 1] = left
    return trees[len(labels_a) - 1, len(labels_b) - 1]
