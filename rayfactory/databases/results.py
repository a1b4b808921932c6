"""When two results are the same, as the benchmarks for text-to-SQL have it in their own evaluations.

BIRD (its `evaluation.py`): the sets of their rows are equal. Spider (test-suite evaluation, `exec_eval.py`; Zhong et
al. 2020): there is an order of the columns with which the rows are equal, as often as they occur; in the order in which
they come where the gold query has ORDER BY. DISTINCT is left out of both queries first.

Values are compared as Python compares them: 1 and 1.0 are equal, 1 and '1' are not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from rayfactory.databases.engine import Result

Row = tuple[object, ...]

RULES = ("bird", "spider", "spider, ordered")
"""The definitions, by name; the last one where rows have to come in the same order."""


def difference(rule: str, gold: Result, predicted: Result) -> str:
    """Return how a result differs from that of the gold query; empty where it is the same by a rule.

    Raises:
        ValueError: it has no rows, although it counted some.
    """
    for result in (gold, predicted):
        if len(result.rows) != result.row_count:
            raise ValueError("rows were not kept")
    wanted, found = ([tuple(map(_hashable, row)) for row in result.rows] for result in (gold, predicted))
    same = same_sets(wanted, found) if rule == "bird" else same_tables(wanted, found, ordered=rule == "spider, ordered")
    if same:
        return ""
    if len(gold.columns) != len(predicted.columns):
        return "other columns"
    if not predicted.rows:
        return "no rows"
    if len(wanted) != len(found):
        return "other number of rows"
    return "other order" if Counter(wanted) == Counter(found) else "other values"


def _hashable(value: object) -> object:
    """Return a value as one that can be in a set: DuckDB and PostgreSQL have lists and structs."""
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return tuple((_hashable(name), _hashable(each)) for name, each in value.items())
    return value


def same_sets(gold: Sequence[Row], predicted: Sequence[Row]) -> bool:
    """Return whether two results are the same for BIRD."""
    return set(gold) == set(predicted)


def same_tables(gold: Sequence[Row], predicted: Sequence[Row], *, ordered: bool) -> bool:
    """Return whether two results are the same for Spider.

    Args:
        gold, predicted: rows.
        ordered: whether rows have to come in the same order.
    """
    if not gold and not predicted:
        return True
    if len(gold) != len(predicted) or len(gold[0]) != len(predicted[0]):
        return False
    # Spider looks at this first. It rejects some results that are equal under an order of columns: where 5 stands in
    # one for 5.0 in the other, their place among the row's values may differ.
    rows = [_put_in_order(row) for row in gold], [_put_in_order(row) for row in predicted]
    if rows[0] != rows[1] if ordered else set(rows[0]) != set(rows[1]):
        return False
    return _have_an_order(gold, predicted, ordered)


def is_ordered(gold: str) -> bool:
    """Return whether the rows of a gold query are compared in their order, for Spider."""
    return "order by" in gold.lower()


def for_spider(query: str) -> str:
    """Return a query as Spider's evaluation runs it.

    Operators in one piece, 2020 for this year, the first statement where there are several, and no DISTINCT.
    """
    for apart in ("> =", "< =", "! ="):
        query = query.replace(apart, apart.replace(" ", ""))
    kept = list[str]()
    for piece in _PIECE.findall(query):
        if piece.lower() != "distinct":
            kept.append(piece)
        if piece == ";":
            break
    return _THIS_YEAR.sub("2020", "".join(kept))


_PIECE = re.compile(
    r"""'(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | \[[^\]]*\] | --[^\n]* | /\*.*?\*/ | \w+ | .""",
    re.VERBOSE | re.DOTALL,
)
"""A query in pieces: quoted texts and names, comments and words each in one."""

_THIS_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.IGNORECASE)


def _put_in_order(row: Row) -> Row:
    return tuple(sorted(row, key=lambda value: f"{value}{type(value)}"))


def _have_an_order(gold: Sequence[Row], predicted: Sequence[Row], ordered: bool) -> bool:
    """Return whether the columns of a result can be put so that its rows are those of another one.

    Columns are chosen one after the other, and each choice is looked at with those before it: a result with many equal
    columns takes one look for each of them, not one for each order.
    """
    num_columns = len(gold[0])

    def columns(rows: Sequence[Row], chosen: Sequence[int]) -> object:
        cut = [tuple(row[column] for column in chosen) for row in rows]
        return cut if ordered else Counter(cut)

    # Columns with the same values are the same choice, unless what they stand beside tells them apart.
    def find(chosen: list[int]) -> bool:
        place = len(chosen)
        if place == num_columns:
            return True
        wanted = columns(gold, range(place + 1))
        tried: list[object] = []
        for column in range(num_columns):
            if column in chosen:
                continue
            found = columns(predicted, [*chosen, column])
            if found != wanted:
                continue
            content = [row[column] for row in predicted]
            if content in tried:
                continue
            tried.append(content)
            if find([*chosen, column]):
                return True
        return False

    return find([])
