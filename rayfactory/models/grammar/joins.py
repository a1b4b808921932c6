"""How a skeleton stands in FROM: its tables under their aliases, joined in one of several spellings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from rayfactory.databases.schema import ForeignKey, Table
from rayfactory.models.grammar.skeleton import Skeleton
from rayfactory.models.grammar.syntax import quote_name, snake

NUM_SAMPLED_ROWS = 40
"""Rows of a join that are looked at before conditions on it are written."""

AliasStyle = Literal["initials", "full", "letter", "numbered"]
JoinStyle = Literal["on", "comma", "using"]


@dataclass(frozen=True, slots=True)
class Style:
    """How one query spells what can be spelled in several ways."""

    alias: AliasStyle
    join: JoinStyle
    qualify: bool
    as_keyword: bool


def source_item(table: Table, alias: str, style: Style) -> str:
    """Return a table as it stands in FROM."""
    if alias == table.name:
        return quote_name(table.name)
    return f"{quote_name(table.name)} {'AS ' if style.as_keyword else ''}{quote_name(alias)}"


def from_clause(skeleton: Skeleton, aliases: Sequence[str], kept: int, style: Style) -> tuple[str, tuple[str, ...]]:
    """Return what stands in FROM for the first `kept` tables, and the conditions that join them where it has none."""
    sources = [source_item(table, alias, style) for table, alias in zip(skeleton.tables, aliases, strict=True)]
    joins = skeleton.joins[: kept - 1]
    if style.join == "comma":
        equalities = [equality(join.key, aliases[join.child], aliases[join.parent]) for join in joins]
        return ", ".join(sources[:kept]), tuple(equalities)
    text = sources[0]
    for join in joins:
        key = join.key
        same = style.join == "using" and [c.lower() for c in key.columns] == [c.lower() for c in key.referenced_columns]
        if same and kept == 2:
            names = ", ".join(quote_name(name) for name in key.columns)
            text += f" JOIN {sources[join.parent]} USING ({names})"
        else:
            word = "JOIN" if style.alias != "numbered" else "INNER JOIN"
            text += f" {word} {sources[join.parent]} ON {equality(key, aliases[join.child], aliases[join.parent])}"
    return text, ()


def role_of(key: ForeignKey) -> str:
    """Return what a key calls the table that it points to: ``bill_customer`` for bill_customer_sk."""
    name = snake(key.columns[0])
    for ending in ("_sk", "_id", "_key", "_code"):
        name = name.removesuffix(ending)
    return name


def equality(key: ForeignKey, child: str, parent: str) -> str:
    """Return the condition that joins two tables, under their aliases, along a key."""
    return " AND ".join(
        f"{quote_name(child)}.{quote_name(own)} = {quote_name(parent)}.{quote_name(other)}"
        for own, other in zip(key.columns, key.referenced_columns, strict=True)
    )


MAX_ROWS_DRAWN = 200_000
"""On a server, rows of a larger table are not looked at one by one to find some."""


def few_rows(table: Table, rng: Random, dialect: str) -> list[str]:
    """Return queries for some rows of a table: evenly spread if there is a way, else the first."""
    name = quote_name(table.name)
    first = f"SELECT * FROM {name} LIMIT 2000"
    if table.num_rows <= 2 * NUM_SAMPLED_ROWS:
        return [first]
    count = 2 * NUM_SAMPLED_ROWS
    step = table.num_rows / count
    offset = rng.random() * step
    if dialect == "postgres":
        method = "SYSTEM" if table.num_rows > MAX_ROWS_DRAWN else "BERNOULLI"
        share = f"{100 * count / table.num_rows:.6f}"
        return [f"SELECT * FROM {name} TABLESAMPLE {method} ({share} PERCENT) REPEATABLE ({int(offset)})", first]
    if dialect == "mysql":
        # A run of rows: there is no number to jump to, and what stands before it is walked over.
        skipped = int(rng.random() * max(0, min(table.num_rows, MAX_ROWS_DRAWN) - count))
        return [f"SELECT * FROM {name} LIMIT {count} OFFSET {skipped}", first]
    numbers = ", ".join(str(int(offset + step * position)) for position in range(count))
    return [f"SELECT * FROM {name} WHERE rowid IN ({numbers})", first]
