"""ORDER BY in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from sqlglot import exp

from rayfactory.databases.schema import Kind
from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Teller, only
from rayfactory.downstream.realiser.words import listed

_TIMES = frozenset({"date", "timestamp", "time"})


def order_words(tell: Teller, items: Sequence[exp.Expr], scope: Scope, values: Sequence[Phrase] = ()) -> str:
    """Return what rows are sorted by: "age from highest to lowest, then name in alphabetical order".

    Args:
        values: the items in words, where that is known already.
    """
    told: list[tuple[str, str]] = []
    for i, item in enumerate(items):
        assert isinstance(item, exp.Ordered)
        only(item, "this", "desc", "nulls_first")
        phrase = values[i] if values else tell.value(item.this, scope)
        way = ways(tell, item, kind_of(item.this, scope))
        is_plain = len(items) > 1 and not item.args.get("desc")
        told.append((phrase.text, way[1] if is_plain else " ".join(filter(None, way))))
    parts = []
    for way_words, group in groupby(told, key=lambda pair: pair[1]):
        names = [name for name, _ in group]
        each = ", each" if len(names) > 1 and way_words else ""
        parts.append(f"{listed(names)}{each} {way_words}".rstrip())
    return ", then by ".join(parts)


def ways(tell: Teller, item: exp.Expr, kind: Kind) -> tuple[str, str]:
    """Return the direction, and where missing values go if that is not the database's own way."""
    is_descending = bool(item.args.get("desc"))
    way = direction(tell, kind, is_descending=is_descending)
    dialect = tell.schema.dialect
    default = {"duckdb": False, "postgres": is_descending}.get(dialect, not is_descending)
    first = bool(item.args.get("nulls_first"))
    return way, f"(missing values {'first' if first else 'last'})" if first != default else ""


def direction(tell: Teller, kind: Kind, *, is_descending: bool) -> str:
    """Return in which order values of that kind come."""
    if kind in _TIMES:
        return "from latest to earliest" if is_descending else "from earliest to latest"
    if kind == "text":
        return "in reverse alphabetical order" if is_descending else "in alphabetical order"
    if kind in {"integer", "real"}:
        return tell.style.descending if is_descending else tell.style.ascending
    return "in descending order" if is_descending else "in ascending order"


def superlative(kind: Kind, *, is_descending: bool) -> str:
    """Return what is first in that order: "highest"."""
    if kind in _TIMES:
        return "latest" if is_descending else "earliest"
    if kind == "text":
        return "alphabetically last" if is_descending else "alphabetically first"
    return "highest" if is_descending else "lowest"
