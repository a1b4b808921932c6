"""Names as a query spells them: quoted where they must be, and output names that say what they hold."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import lru_cache

from sqlglot import exp

from rayfactory.databases.schema import Table
from rayfactory.models.grammar.syntax import KEYWORDS

ALIASES_TO_AVOID = ("as", "is", "in", "on", "or", "by", "to", "no", "of", "do", "if")
"""Initials that read as words of the language."""

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SYSTEM = re.compile(r"^(sqlite|duckdb|pg|pragma)_+", re.IGNORECASE)


def identifier(name: str) -> exp.Identifier:
    """Return a name, quoted where either dialect needs it."""
    return exp.Identifier(this=name, quoted=not _PLAIN.fullmatch(name) or name.lower() in KEYWORDS)


def column(alias: str, name: str) -> exp.Column:
    """Return a column of a source."""
    return exp.Column(this=identifier(name), table=identifier(alias))


def shared_prefix(table: Table) -> str:
    """Return the word and underscore that all column names of a table begin with; empty where there is none."""
    return _shared_prefix(tuple([own.name for own in table.columns]))


@lru_cache(maxsize=4096)
def _shared_prefix(names: tuple[str, ...]) -> str:
    if len(names) < 2:
        return ""
    head, separator, _ = names[0].partition("_")
    shared = f"{head}{separator}"
    return shared if separator and all(name.startswith(shared) for name in names) else ""


def plain_name(table: Table | None, name: str) -> str:
    """Return a column's name without the prefix that all of its table share: ``net_paid`` for ``ss_net_paid``."""
    return _plain_name(name if table is None else name[len(shared_prefix(table)) :] or name)


@lru_cache(maxsize=8192)
def _plain_name(name: str) -> str:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    plain = "_".join(word.lower() for word in words) or "value"
    return plain if _PLAIN.fullmatch(plain) else f"col_{plain}"


def new_name(wanted: str, taken: Collection[str]) -> str:
    """Return `wanted`, or it with a number where the name is taken (case-insensitive) or a keyword.

    What a database keeps for itself begins with its own name.
    """
    wanted = _SYSTEM.sub("", wanted) if _PLAIN.fullmatch(wanted) else "result"
    wanted = wanted if _PLAIN.fullmatch(wanted) else f"t_{wanted}"
    if wanted.lower() in KEYWORDS:
        wanted = f"{wanted}_value"
    folded = {name.casefold() for name in taken}
    candidate, number = wanted, 2
    while candidate.casefold() in folded:
        candidate, number = f"{wanted}_{number}", number + 1
    return candidate


def table_alias(table: str, taken: Collection[str]) -> str:
    """Return the initials of a table's words, numbered where they are taken: ``ss`` for ``store_sales``."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", table)
    initials = "".join(word[0].lower() for word in words) or "t"
    return new_name(initials, [*taken, *ALIASES_TO_AVOID])
