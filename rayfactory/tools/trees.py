"""Syntax trees as arrays: what two statements are compared by."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b

import numpy as np
from sqlglot import exp

from rayfactory.records import Tree


def flatten(expression: exp.Expr) -> Tree:
    """Return the tree of an expression, children in the order of sqlglot's `iter_expressions`.

    It does not recurse, so that the depth of a statement is no limit.
    """
    labels: list[int] = []
    leftmost: list[int] = []
    # A frame is a node: its label, its children that are still to come, and the first leaf below it.
    stack = [(_hash(label(expression)), expression.iter_expressions(), 0)]
    while stack:
        hashed, children, first_leaf = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            labels.append(hashed)
            leftmost.append(first_leaf)
        else:
            stack.append((_hash(label(child)), child.iter_expressions(), len(labels)))
    return Tree(np.array(labels, dtype=np.int64), np.array(leftmost, dtype=np.int32))


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


@lru_cache(maxsize=65_536)
def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big", signed=True)
