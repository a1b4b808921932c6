"""What a block can show: what to group its rows by, what to measure of them, what to list."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from sqlglot import exp

from rayfactory.databases.schema import Column, Schema, Table
from rayfactory.models.grammar import expressions
from rayfactory.models.grammar.quantities import code_weight, is_record_date, names_a_thing
from rayfactory.models.grammar.scope import Scope, fields_of
from rayfactory.models.grammar.skeleton import is_calendar_table
from rayfactory.models.variation.blocks import (
    Block,
    conditioned_columns,
    parsed,
    reference,
)
from rayfactory.models.variation.naming import identifier, new_name, plain_name
from rayfactory.models.variation.resolution import Source

MAX_NAME = 30
"""Characters of a text that says which row of a table it is, and not what is to be said of it."""

BAND_WEIGHT = 0.05
"""Of bands of a quantity as groups, against categories: each query with one is like the others."""


BANDS_ALONE = 0.93
"""How often nothing is grouped where there are only bands to group by."""


@dataclass(frozen=True)
class Term:
    """An expression over a block with the name that an output of it would have.

    Attributes:
        text: as the dialect spells it, every column qualified.
        alias: of the source that it is over.
        column: what it stands for, where it is one column.
        weight: how often an analyst would choose it.
        uses: the columns in it, as `reference` spells them.
        is_period: whether it is a time: a part of a date, a column of a calendar.
        is_band: whether it sorts a quantity into bands.
    """

    text: str
    dialect: str
    name: str
    alias: str
    column: Column | None = None
    weight: float = 1.0
    uses: tuple[str, ...] = ()
    is_period: bool = False
    is_band: bool = False

    @cached_property
    def expression(self) -> exp.Expr:
        """The tree of the text."""
        return parsed(self.text, self.dialect)


def vocabulary(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> Scope | None:
    """Return the block's base tables (or those under some aliases) as the schema grammar sees them; None for none."""
    tables = [(source.alias, source.table) for source in _chosen(block, aliases) if source.table is not None]
    if not tables:
        return None
    grain = next((table for alias, table in tables if alias.casefold() in block.grain), tables[0][1])
    fields = tuple(field for alias, table in tables for field in fields_of(table, alias, qualify=True))
    return Scope(schema.dialect, "", (), fields, float(grain.num_rows), grain)


def dimensions(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> list[Term]:
    """Return what an analyst would group the block's rows by."""
    compared, pinned = conditioned_columns(block)
    terms: list[Term] = []
    for source in _chosen(block, aliases):
        if source.table is None:
            terms.extend(
                _column_term(source, own, schema.dialect)
                for own in source.columns.values()
                if own.role in ("category", "code")
                and own.kind in ("text", "integer", "boolean")
                and not own.name.startswith("(")
                and (own.profile.num_sampled == 0 or 2 <= own.profile.num_distinct <= expressions.MAX_GROUPS)
            )
            continue
        scope = vocabulary(block, schema, [source.alias])
        by_text = {} if scope is None else {field.sql: field.column for field in scope.fields}
        for found in [] if scope is None else expressions.dimensions(scope):
            # One group is no grouping, and of the bands of a quantity that is bounded some are empty.
            unwanted = compared if found.sql.startswith("CASE") else pinned
            if not any(use in unwanted for use in found.uses):
                is_band = found.sql.startswith("CASE")
                terms.append(
                    Term(
                        found.sql,
                        schema.dialect,
                        found.name,
                        source.alias,
                        by_text.get(found.sql),
                        BAND_WEIGHT * found.weight if is_band else found.weight,
                        found.uses,
                        tells_time(source.table, [by_text[use] for use in found.uses if use in by_text]),
                        is_band,
                    )
                )
    return terms


def tells_time(table: Table | None, columns: Sequence[Column]) -> bool:
    """Whether what is made of columns of a table is a time: a part of a date, a column of a calendar."""
    return any(own.role == "date" for own in columns) or (table is not None and is_calendar_table(table))


def has_period(block: Block, keys: Sequence[exp.Expr]) -> bool:
    """Whether one of some group keys of a block is a time."""
    for key in keys:
        for node in key.find_all(exp.Column):
            source, own = block.sources.get(node.table.casefold()), block.column_of(node)
            if source is not None and own is not None and tells_time(source.table, [own]):
                return True
    return False


def _chosen(block: Block, aliases: Sequence[str] | None) -> list[Source]:
    wanted = None if aliases is None else {alias.casefold() for alias in aliases}
    absent = block.absent
    return [
        source
        for folded, source in block.sources.items()
        if (wanted is None or folded in wanted) and folded not in absent
    ]


def _column_term(source: Source, own: Column, dialect: str, weight: float = 1.0) -> Term:
    text = reference(source.alias, own.name)
    name = plain_name(source.table, own.name)
    return Term(text, dialect, name, source.alias, own, weight, (text,), tells_time(source.table, [own]))


def measures(block: Block, schema: Schema) -> list[Term]:
    """Return the quantities of a block that can be added up: those whose rows the joins do not repeat."""
    return [
        _column_term(source, own, schema.dialect)
        for source in _chosen(block, sorted(block.grain))
        for own in list(source.columns.values())[:200]
        if own.role == "measure" and own.kind in ("integer", "real") and not own.name.startswith("(")
    ]


def labels(block: Block, schema: Schema, aliases: Sequence[str] | None = None) -> list[Term]:
    """Return what an analyst would list of single rows: names, identifiers, categories, dates, quantities."""
    wanted = ("text", "identifier", "category", "date", "measure", "code")
    _, pinned = conditioned_columns(block)
    return [
        _column_term(source, own, schema.dialect, weight)
        for source in _chosen(block, aliases)
        for own in list(source.columns.values())[:200]
        if own.role in wanted
        and own.kind != "other"
        and not own.name.startswith("(")
        and reference(source.alias, own.name) not in pinned
        and _has_something_to_show(source.table, own)
        and (weight := _label_weight(source.table, own)) > 0
    ]


def _has_something_to_show(table: Table | None, own: Column) -> bool:
    """Whether values are there and differ; of a table of one row what says in a word which it is will do."""
    profile = own.profile
    if table is not None and table.num_rows == 1:
        words = plain_name(table, own.name).split("_")
        return (
            own.kind == "text"
            and profile.num_distinct == 1
            and words[-1] in ("name", "desc", "description", "title", "type")
            and "street" not in words
            and any(3 <= len(str(value)) <= MAX_NAME for value, _ in profile.common_values)
        )
    return profile.num_sampled == 0 or (profile.null_fraction < 0.5 and profile.num_distinct > 1)


def only_names(block: Block, schema: Schema, aliases: Sequence[str]) -> list[Term]:
    """Return the names of tables of one row: groups by one are no choice, but say which it was."""
    tables = {source.alias: source.table for source in _chosen(block, aliases)}
    return [
        term
        for term in labels(block, schema, aliases)
        if (table := tables[term.alias]) is not None and table.num_rows == 1
    ]


def _label_weight(table: Table | None, own: Column) -> float:
    """Return how often an analyst would show a column of single rows."""
    if table is None:
        return 1.0
    name = plain_name(table, own.name)
    if is_calendar_table(table):
        # Of a day its date says all; of a time of day the hour, not the second.
        return {"date": 1.0, "category": 0.0 if "current" in name.split("_") else 0.5, "code": code_weight(name)}.get(
            own.role, 0.0
        )
    if (own.role == "text" and not names_a_thing(name)) or (own.role == "date" and is_record_date(name)):
        return 0.15  # remarks and details
    if own.role != "code":
        return 1.0
    if name.endswith(("_id", "_code")) and any(
        plain_name(table, other.name) in (stem := re.sub(r"_(id|code)$", "", name), f"{stem}_name")
        for other in table.columns
    ):
        return 0.0  # the readable column stands beside it
    return 0.05 if "birth" in name.split("_") else max(0.2, min(1.0, code_weight(name)))


def names_rows(own: Column | None) -> bool:
    """Whether a column tells which thing or event a row is."""
    if own is None or own.role not in ("text", "identifier", "date"):
        return own is not None and own.kind == "other"
    name = plain_name(None, own.name)
    if own.role == "date":
        return not is_record_date(name)
    return names_a_thing(name) if own.role == "text" else not {"street", "suite"} & set(name.split("_"))


def pick(rng: random.Random, terms: Sequence[Term], count: int) -> list[Term]:
    """Return up to `count` terms of different names and columns, spread over the sources.

    At most one is a time, and bands of a quantity come first or not at all.
    """
    waiting = list(terms)
    chosen: list[Term] = []
    while waiting and len(chosen) < count:
        used = {term.alias for term in chosen}
        weights = [term.weight * (0.3 if term.alias in used else 1.0) for term in waiting]
        term = rng.choices(waiting, weights)[0]
        chosen.append(term)
        waiting = [
            other
            for other in waiting
            if other.name != term.name
            and not any(use in term.uses for use in other.uses)
            and not (term.is_period and other.is_period)
            and not other.is_band
        ]
    return chosen


def projection(expression: exp.Expr, name: str, taken: set[str]) -> exp.Expr:
    """Return an output of a SELECT under a name that is not taken, and take it."""
    is_plain = isinstance(expression, exp.Column) and expression.name.casefold() not in taken
    if is_plain and (len(taken) % 2 == 0 or expression.name.casefold() == name.casefold()):
        taken.add(expression.name.casefold())
        return expression.copy()
    alias = new_name(name, taken)
    taken.add(alias.casefold())
    return exp.alias_(expression.copy(), identifier(alias), copy=False)
