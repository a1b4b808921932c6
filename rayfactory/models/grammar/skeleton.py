"""Join skeletons: a table and what its rows point to, along foreign keys, so that no join multiplies rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from rayfactory.databases.schema import ForeignKey, Schema, Table
from rayfactory.models.grammar.cfg import is_plain
from rayfactory.models.grammar.quantities import is_calendar, names_a_thing
from rayfactory.models.grammar.scope import shared_prefix
from rayfactory.models.grammar.syntax import snake

MAX_DEPTH = 3
"""Foreign keys in a row from the grain to any other table."""

MAX_ATTRIBUTE_VALUES = 60
"""Different values of one attribute of a profile."""

MIN_SHARED_PARENTS = 0.6
"""Of the tables that two tables point to, the least share that both do, for figures of the two to be of one kind."""

MIN_SHARED_PARENTS_NAMESAKES = 0.4
"""The same for tables whose names have a word in common, such as the sales of two channels."""

MAX_FAN_OUT = 1.2
"""Rows of the referenced table for one value of a key that nothing declares unique."""


@dataclass(frozen=True, slots=True)
class Join:
    """A foreign key followed from one table of a skeleton to another.

    Attributes:
        child, parent: positions in `Skeleton.tables`.
    """

    child: int
    parent: int
    key: ForeignKey


@dataclass(frozen=True, slots=True)
class Skeleton:
    """Tables joined many to one: the first is the grain, each other hangs on one before it.

    Attributes:
        joins: one for each table after the first, in order.
    """

    tables: tuple[Table, ...]
    joins: tuple[Join, ...] = ()

    def with_parent(self, child: int, key: ForeignKey, parent: Table) -> Skeleton:
        """Return the skeleton with one more table."""
        join = Join(child, len(self.tables), key)
        return Skeleton((*self.tables, parent), (*self.joins, join))


_PARTS_OF_YEARS = frozenset(("date", "year", "years", "yr", "quarter", "month", "week"))

_KINDS_OF_TABLES = frozenset(("fact", "facts", "dim", "tbl", "table"))


class KeyGraph:
    """The foreign keys of a schema along which a query may join."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        # Names of all tables and columns, in lower case: no alias is one of them.
        self.names = frozenset(
            name.lower() for table in schema.tables for name in (table.name, *(column.name for column in table.columns))
        )
        self.table_names = frozenset(table.name.lower() for table in schema.tables)
        self._parents: dict[str, list[ForeignKey]] = {}
        self._entity_columns: dict[str, frozenset[str]] = {}
        self._paths: dict[str, dict[str, tuple[ForeignKey, ...]]] = {}
        self._alike: dict[tuple[str, str], bool] = {}
        self._children: dict[str, list[ForeignKey]] = {}
        for key in schema.foreign_keys:
            if _can_join(schema, key):
                self._parents.setdefault(key.table, []).append(key)
                self._children.setdefault(key.referenced_table, []).append(key)

        self._profiles = self._find_profiles()

    def _find_profiles(self) -> frozenset[str]:
        found: set[str] = set()
        tables = [table for table in self.schema.populated if self.children(table.name)]
        for _ in range(MAX_DEPTH):
            found.update(
                table.name
                for table in tables
                if _holds_attributes(table)
                and not self.is_calendar(table.name)
                and all(key.referenced_table in found for key in self.parents(table.name))
            )
        return frozenset(found)

    def is_profile(self, table: str) -> bool:
        """Whether the rows of a table are combinations of attributes, such as bands and demographics, not things."""
        return table in self._profiles

    def is_bare(self, table: str) -> bool:
        """Whether there is little to tell of a table's own rows: it has a single one, or combinations of attributes."""
        return self.is_profile(table) or self.schema.table(table).num_rows == 1

    def countable_columns(self, table: str) -> frozenset[str]:
        """Return the columns of a table whose different values somebody counts: customers, orders; not days."""
        pointing = {name for key in self.parents(table) for name in key.columns}
        own = set(self.schema.table(table).primary_key) - pointing
        return self.entity_columns(table) | own

    def parents(self, table: str) -> Sequence[ForeignKey]:
        """Return the keys from the table to others, or itself."""
        return self._parents.get(table, ())

    def children(self, table: str) -> Sequence[ForeignKey]:
        """Return the keys from others, or itself, to the table."""
        return self._children.get(table, ())

    def is_calendar(self, table: str) -> bool:
        """Whether the rows of a table are days or moments."""
        return is_calendar_table(self.schema.table(table))

    def are_alike(self, a: str, b: str) -> bool:
        """Whether two tables hold things of one kind; looked at once."""
        pair = (a, b) if a < b else (b, a)
        if pair not in self._alike:
            self._alike[pair] = are_alike(self.schema, *pair)
        return self._alike[pair]

    def is_clock(self, table: str) -> bool:
        """Whether the rows of a table are the moments of any day."""
        columns = self.schema.table(table).columns
        if any(column.role == "date" or column.kind in ("date", "timestamp") for column in columns):
            return False
        words = {word for column in columns for word in snake(column.name).split("_")}
        return self.is_calendar(table) and not words & _PARTS_OF_YEARS

    def entity_columns(self, table: str) -> frozenset[str]:
        """Return the columns of a table that each point to a thing with a name: customers, not days or profiles."""
        if table not in self._entity_columns:
            self._entity_columns[table] = frozenset(self._find_entity_columns(table))
        return self._entity_columns[table]

    def _find_entity_columns(self, table: str) -> set[str]:
        found: set[str] = set()
        for key in self.parents(table):
            parent = self.schema.table(key.referenced_table)
            prefix = shared_prefix(parent)
            labels = {snake(column.name.removeprefix(prefix)): column.role for column in parent.columns}
            named = any(role in ("identifier", "text") and names_a_thing(label) for label, role in labels.items())
            is_thing = named and names_a_thing(snake(parent.name))
            if is_thing and len(key.columns) == 1 and not is_calendar(labels):
                found.add(key.columns[0])
        return found

    def some_paths(self, table: str) -> dict[str, tuple[ForeignKey, ...]]:
        """Return the paths from a table, the same ones each time."""
        if table not in self._paths:
            self._paths[table] = self.paths(table, Random(0))
        return self._paths[table]

    def paths(self, table: str, rng: Random) -> dict[str, tuple[ForeignKey, ...]]:
        """Return a shortest path of keys to each table that rows of this one point to; ties are drawn."""
        found: dict[str, tuple[ForeignKey, ...]] = {}
        edge: list[tuple[str, tuple[ForeignKey, ...]]] = [(table, ())]
        for _ in range(MAX_DEPTH):
            following: list[tuple[str, tuple[ForeignKey, ...]]] = []
            for name, path in edge:
                keys = list(self.parents(name))
                rng.shuffle(keys)
                for key in keys:
                    parent = key.referenced_table
                    if parent != table and parent not in found:
                        found[parent] = (*path, key)
                        following.append((parent, found[parent]))
            edge = following
        return found


def _holds_attributes(table: Table) -> bool:
    """Whether a table has nothing but keys and attributes of few values."""
    others = [column for column in table.columns if column.role not in ("key", "opaque")]
    return bool(others) and all(
        column.role in ("category", "code", "measure") and column.profile.num_distinct <= MAX_ATTRIBUTE_VALUES
        for column in others
    )


def are_alike(schema: Schema, a: str, b: str) -> bool:
    """Whether two tables hold things of one kind, so that somebody puts figures of both into one column.

    Such tables point to much the same tables. Days count only where there is nothing else.

    Args:
        a, b: names of base tables.
    """
    if a == b:
        return True
    above = [{key.referenced_table for key in schema.foreign_keys if key.table == name} - {a, b} for name in (a, b)]
    things = [{name for name in parents if not is_calendar_table(schema.table(name))} for parents in above]
    one, two = things if any(things) else above
    words = [snake(name).split("_") for name in (a, b)]
    namesakes = bool({words[0][0], words[0][-1]} & {words[1][0], words[1][-1]} - _KINDS_OF_TABLES)
    needed = MIN_SHARED_PARENTS_NAMESAKES if namesakes else MIN_SHARED_PARENTS
    return bool(one & two) and len(one & two) >= needed * len(one | two)


def is_calendar_table(table: Table) -> bool:
    """Whether the rows of a table are days or times of a day, as far as its columns' names tell."""
    return _are_parts_of_time(tuple([column.name for column in table.columns]), shared_prefix(table))


@lru_cache(maxsize=4096)
def _are_parts_of_time(names: tuple[str, ...], prefix: str) -> bool:
    return is_calendar([snake(name.removeprefix(prefix)) for name in names])


def _can_join(schema: Schema, key: ForeignKey) -> bool:
    child, parent = schema.table(key.table), schema.table(key.referenced_table)
    if not child.num_rows or not parent.num_rows:
        return False
    for own, other in zip(key.columns, key.referenced_columns, strict=True):
        a, b = child.column(own), parent.column(other)
        if not (is_plain(own) and is_plain(other)):
            return False
        if schema.dialect != "sqlite" and a.declared_type != b.declared_type:
            # Comparing a text with a number is an error there as soon as one text is no number.
            numbers = ("integer", "real")
            if not ((a.kind in numbers and b.kind in numbers) or (a.kind == b.kind and a.kind != "other")):
                return False
    if set(parent.primary_key) and set(parent.primary_key) <= set(key.referenced_columns):
        return True
    profiles = [parent.column(name).profile for name in key.referenced_columns]
    most_distinct = max(profile.num_distinct for profile in profiles)
    return most_distinct > 0 and profiles[0].num_sampled <= MAX_FAN_OUT * most_distinct


def draw_skeleton(
    graph: KeyGraph,
    rng: Random,
    must: str,
    wanted: Collection[str],
    num_tables: int,
    use: Mapping[str, float],
    grain: str | None = None,
) -> Skeleton:
    """Draw a skeleton of up to `num_tables` tables (more where a path needs a bridge), `must` among them.

    Tables of `wanted` come first, those with the least `use` foremost; others serve as bridges alone.
    """
    if grain is None:
        grain = _draw_grain(graph, rng, must, wanted, num_tables, use)
    paths = graph.paths(grain, rng)
    targets = [must] if must != grain and must in paths else []
    others = [name for name in paths if name in wanted and name not in targets]
    weights = [_preference(name, paths[name], wanted, use) for name in others]
    while others and len(targets) < num_tables + 2:
        (position,) = rng.choices(range(len(others)), weights)
        targets.append(others.pop(position))
        weights.pop(position)
    schema = graph.schema
    skeleton = Skeleton((schema.table(grain),))
    reached: dict[tuple[ForeignKey, ...], int] = {(): 0}
    for target in targets:
        path = paths[target]
        missing = [path[: length + 1] for length in range(len(path)) if path[: length + 1] not in reached]
        bridges = [step for step in missing[:-1] if step[-1].referenced_table not in wanted]
        if target != must and (len(reached) + len(missing) > num_tables or bridges):
            continue
        for step in missing:
            child = reached[step[:-1]]
            reached[step] = len(skeleton.tables)
            skeleton = skeleton.with_parent(child, step[-1], schema.table(step[-1].referenced_table))
    return skeleton


def _preference(name: str, path: Sequence[ForeignKey], wanted: Collection[str], use: Mapping[str, float]) -> float:
    bridges = sum(key.referenced_table not in wanted for key in path[:-1])
    return 0.05**bridges / (1 + use.get(name, 0)) ** 2


def _draw_grain(
    graph: KeyGraph, rng: Random, must: str, wanted: Collection[str], num_tables: int, use: Mapping[str, float]
) -> str:
    if num_tables <= 1:
        return must
    candidates: list[str] = []
    weights: list[float] = []
    tells = False
    for table in graph.schema.populated:
        is_must = table.name == must
        paths = graph.some_paths(table.name)
        if not is_must and (must not in paths or table.name not in wanted):
            continue
        reachable = sum(name in wanted for name in paths)
        if is_must and not reachable:
            continue
        bare = graph.is_bare(table.name)
        tells = tells or not bare
        bridges = 0 if is_must else sum(key.referenced_table not in wanted for key in paths[must][:-1])
        candidates.append(table.name)
        weights.append((0.02 if bare else 1.0) * 0.1**bridges * min(3, reachable) / (1 + use.get(table.name, 0)))
    if not tells:
        # Nothing that is wanted and tells much points here: any table that does, with something wanted beside it, may.
        for table in graph.schema.populated:
            paths = graph.some_paths(table.name)
            if table.name in (must, *candidates) or must not in paths:
                continue
            reachable = sum(name in wanted for name in paths if name != must)
            weight = (0.02 if graph.is_bare(table.name) else 1.0) * 0.1 ** (len(paths[must]) - 1)
            candidates.append(table.name)
            weights.append(weight * (0.05 + reachable) / (1 + use.get(table.name, 0)))
    if not candidates:
        return must
    (grain,) = rng.choices(candidates, weights)
    return grain
