"""Foreign keys that nobody declared, inferred from names and content.

Conservative: a missing key costs a join, a wrong one makes nonsense.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rayfactory.databases.catalogue import Catalogue, TableStructure, quote
from rayfactory.databases.engine import Connection
from rayfactory.databases.profile import TableContent
from rayfactory.databases.roles import words_of
from rayfactory.databases.schema import ForeignKey, Kind

MAX_VALUES = 1_000
"""So many distinct values of a column are looked up in the column that it may reference."""

MAX_ROWS_FOR_UNIQUENESS = 2_000_000
"""Whether a column without a declared key is unique is found out by reading it; not in tables larger than this."""

_KEY_WORDS = frozenset({"id", "key", "code", "no", "num", "nr", "number", "sk", "pk", "uid"})


@dataclass(frozen=True, slots=True)
class _Target:
    """A column that others may reference: unique, in a table with rows."""

    table: TableStructure
    column: str
    kind: Kind
    is_primary: bool


def infer_foreign_keys(
    connection: Connection, catalogue: Catalogue, contents: Mapping[str, TableContent]
) -> tuple[ForeignKey, ...]:
    """Return foreign keys between tables that no known key connects.

    A column references a unique column of the same kind where its name says so (``customer_id`` or ``customerId`` for
    ``customer.id``, ``customers.customer_id``) and every value of it, or of the first thousand, occurs there.
    """
    targets = list(_targets(connection, catalogue, contents))
    connected = {frozenset((key.table, key.referenced_table)) for key in catalogue.foreign_keys}
    taken = {(key.table, key.columns[0]) for key in catalogue.foreign_keys if len(key.columns) == 1}
    found: list[ForeignKey] = []
    for table in catalogue.tables:
        content = contents[table.name]
        if not content.num_rows:
            continue
        for column, kind, profile in zip(table.columns, content.kinds, content.profiles, strict=True):
            if (table.name, column.name) in taken or not profile.num_distinct or kind not in ("integer", "text"):
                continue
            candidates = [
                (strength, target)
                for target in targets
                if target.kind == kind
                and (target.table.name, target.column) != (table.name, column.name)
                and frozenset((table.name, target.table.name)) not in connected
                and (strength := _strength(table, column.name, target))
            ]
            best = max((strength for strength, _ in candidates), default=0)
            strongest = [target for strength, target in candidates if strength == best]
            # Two equally good ones: nobody can tell which is meant.
            if len(strongest) == 1 and _contains(connection, table.name, column.name, strongest[0]):
                target = strongest[0]
                found.append(ForeignKey(table.name, (column.name,), target.table.name, (target.column,), "inferred"))
    return tuple(_without_mutual(found))


def _targets(connection: Connection, catalogue: Catalogue, contents: Mapping[str, TableContent]) -> Iterable[_Target]:
    for table in catalogue.tables:
        content = contents[table.name]
        # In a table of one row every column is unique.
        if content.num_rows < 2:
            continue
        declared = {key[0] for key in (table.primary_key, *table.unique_keys) if len(key) == 1}
        for column, kind, profile in zip(table.columns, content.kinds, content.profiles, strict=True):
            if kind not in ("integer", "text") or not profile.unique:
                continue
            is_unique = column.name in declared or (
                not table.primary_key
                and _is_key_name(words_of(column.name))
                and _is_unique(connection, table, column.name, content.num_rows)
            )
            if is_unique:
                is_primary = (column.name,) == table.primary_key or not table.primary_key
                yield _Target(table, column.name, kind, is_primary)


def _strength(table: TableStructure, column: str, target: _Target) -> int:
    """Return how clearly a column's name says that it references the target; 0: not at all."""
    own, other = words_of(column), words_of(target.column)
    if not own or not other or not _is_key_name(other):
        return 0
    # Joined, because customer_id, customerId and customerid are one name.
    name, key = "".join(own), "".join(other)
    home = "".join(_singular(words_of(target.table.name)))
    qualified = key if len(other) > 1 or key.startswith(home) else home + key
    in_a_role = any("".join(own[start:]) == qualified for start in range(1, len(own)))
    if table.name == target.table.name:
        # parent_team_id or parent_id
        is_parent = in_a_role or (own[0] == "parent" and own[-1] == other[-1])
        return 2 if target.is_primary and is_parent else 0
    if name == qualified and name != key:
        return 4  # customer_id for customers.id
    if name == key and key not in _KEY_WORDS:
        if not target.is_primary:
            return 1
        return 3 if key.startswith(home) else 2  # customer_id for customers.customer_id rather than for accounts'
    return 2 if target.is_primary and in_a_role else 0  # home_team_id for team.id


def _is_key_name(words: tuple[str, ...]) -> bool:
    return bool(words) and (words[-1] in _KEY_WORDS or words[-1].endswith("id"))


def _singular(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words of a table's name with the last one in the singular, as column names have it."""
    if not words:
        return ()
    last = words[-1]
    if last.endswith("ies") and len(last) > 4:
        last = last[:-3] + "y"
    elif last.endswith(("sses", "xes", "ches", "shes")):
        last = last[:-2]
    elif last.endswith("s") and not last.endswith(("ss", "us", "is")) and len(last) > 3:
        last = last[:-1]
    return (*words[:-1], last)


def _is_unique(connection: Connection, table: TableStructure, column: str, num_rows: int) -> bool:
    if num_rows > MAX_ROWS_FOR_UNIQUENESS:
        return False
    (num_distinct,) = connection.execute(f"SELECT count(DISTINCT {quote(column)}) FROM {quote(table.name)}").fetchall()[
        0
    ]
    return bool(num_distinct == num_rows)


def _contains(connection: Connection, table: str, column: str, target: _Target) -> bool:
    """Whether the target holds every value of the column, or of its first thousand."""
    values = (
        f"SELECT DISTINCT {quote(column)} AS v FROM {quote(table)} WHERE {quote(column)} IS NOT NULL LIMIT {MAX_VALUES}"
    )
    (num_missing,) = connection.execute(
        f"SELECT count(*) FROM ({values}) AS s WHERE s.v NOT IN "
        f"(SELECT {quote(target.column)} FROM {quote(target.table.name)})"
    ).fetchall()[0]
    return bool(num_missing == 0)


def _without_mutual(keys: list[ForeignKey]) -> list[ForeignKey]:
    """Return the keys without those that mirror an earlier one, as in two tables that share one key."""
    seen: set[tuple[str, tuple[str, ...], str, tuple[str, ...]]] = set()
    kept = []
    for key in keys:
        if (key.referenced_table, key.referenced_columns, key.table, key.columns) in seen:
            continue
        seen.add((key.table, key.columns, key.referenced_table, key.referenced_columns))
        kept.append(key)
    return kept
