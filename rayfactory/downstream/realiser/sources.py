"""What FROM brings into sight: tables and derived results, how they hang together, and whose a column is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sqlglot import exp

from rayfactory.databases.schema import Column, ForeignKey, Kind, Schema, Table
from rayfactory.downstream.realiser.words import a, column_words, listed, names, ordinal, plural, role, table_noun

Base = tuple[str, str]
"""A column of a base table: table and column, case-folded."""


@dataclass(frozen=True, slots=True)
class Output:
    """One column of a source: what it is called, what it holds, and which column of a base table it is, if any."""

    words: str
    kind: Kind = "other"
    base: Base | None = None
    column: Column | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """What a query in FROM or WITH yields.

    Attributes:
        outputs: by name, case-folded, in order.
        noun: what one row is called.
        label: which result it is, where there are several.
    """

    outputs: dict[str, Output]
    noun: str
    label: str = ""


@dataclass(slots=True, eq=False)
class Source:
    """One item of FROM.

    Attributes:
        said: what one row is called here, other than any other source's.
        child: the source whose foreign key leads here.
        anchor: the source that its own foreign key leads to, where an outer join follows it.
        as_role: "as bill customer", where several keys lead from it to its anchor.
        is_optional: brought by an outer join, and so may be missing.
    """

    alias: str
    outputs: dict[str, Output]
    noun: str
    table: Table | None = None
    label: str = ""
    is_those: bool = False
    said: str = ""
    child: Source | None = None
    anchor: Source | None = None
    as_role: str = ""
    is_optional: bool = False
    is_mentioned: bool = False

    @property
    def many(self) -> str:
        """What its rows are called together."""
        return f"those {plural(self.noun)}" if self.is_those else plural(self.said)

    @property
    def one(self) -> str:
        """What a row is called."""
        return self.said or self.noun


@dataclass(slots=True)
class Scope:
    """The sources of one SELECT, and what surrounds it.

    Attributes:
        head: whose rows the rows are; None where they are combinations of several sources.
        names: what the query itself calls its columns, case-folded.
        known: what has been given a name, by the text of its expression.
        done: conditions, by identity, that the joins say already.
        conditions: those of WHERE and of inner joins.
        loners: the sources that no key links, where there are several.
        full: what full joins bring.
        without: what outer joins bring, of rows for which they bring nothing.
        branches: what outer joins bring besides, each with its conditions.
        shared: (child, role, parent): a child that has the same parent as another.
    """

    sources: list[Source]
    outer: Scope | None
    head: Source | None = None
    names: dict[str, exp.Expr] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)
    conditions: list[exp.Expr] = field(default_factory=list)
    loners: list[Source] = field(default_factory=list)
    full: list[Source] = field(default_factory=list)
    without: list[Source] = field(default_factory=list)
    branches: list[tuple[Source, list[exp.Expr]]] = field(default_factory=list)
    shared: list[tuple[Source, str, Source]] = field(default_factory=list)

    def find(self, node: exp.Column) -> tuple[Scope, Source, Output] | None:
        """Return whose column it is, looking outwards."""
        table, name = node.table.casefold(), node.name.casefold()
        for source in self.sources:
            if table in {"", source.alias} and name in source.outputs:
                return self, source, source.outputs[name]
        if self.outer is None or any(source.alias == table for source in self.sources):
            return None
        return self.outer.find(node)

    def own(self, node: exp.Expr) -> tuple[Source, Output] | None:
        """Return whose column an expression is, if it is one of this very SELECT."""
        found = self._found(node)
        return (found[1], found[2]) if found is not None and found[0] is self else None

    def alien(self, node: exp.Expr) -> tuple[Source, Output] | None:
        """Return whose column an expression is, if it is one of a surrounding SELECT."""
        found = self._found(node)
        return (found[1], found[2]) if found is not None and found[0] is not self else None

    def _found(self, node: exp.Expr) -> tuple[Scope, Source, Output] | None:
        column = node.unnest()
        return self.find(column) if isinstance(column, exp.Column) else None


def table_source(schema: Schema, name: str, alias: str) -> Source | None:
    """Return a base table as a source, or None where there is none of that name."""
    try:
        table = schema.table(name)
    except KeyError:
        return None
    outputs = {
        column.name.casefold(): Output(
            column_words(table, column), column.kind, (table.name.casefold(), column.name.casefold()), column
        )
        for column in table.columns
    }
    return Source(alias.casefold(), outputs, table_noun(table.name), table)


def referenced(schema: Schema, base: Base | None) -> tuple[ForeignKey, str] | None:
    """Return the key of one column that a column is, and what the row it leads to is called."""
    for key in schema.foreign_keys:
        if base is not None and len(key.columns) == 1 and (key.table.casefold(), key.columns[0].casefold()) == base:
            return key, role_of(schema, key)
    return None


def referenced_base(key: ForeignKey) -> Base:
    """Return the column that a key of one column leads to."""
    return key.referenced_table.casefold(), key.referenced_columns[0].casefold()


def role_of(schema: Schema, key: ForeignKey) -> str:
    """Return what the row is called that a foreign key leads to, as the key's columns have it."""
    noun = table_noun(key.referenced_table)
    if len(key.columns) > 1:
        return noun
    is_same = key.columns[0].casefold() == key.referenced_columns[0].casefold()
    return role(key.columns[0], schema.table(key.table), noun, is_same_name=is_same)


def as_role(schema: Schema, key: ForeignKey) -> str:
    """Return "as bill customer" for a key that is one of several between the same tables, and "" for the only one."""
    ends = (key.table.casefold(), key.referenced_table.casefold())
    alike = [k for k in schema.foreign_keys if (k.table.casefold(), k.referenced_table.casefold()) == ends]
    return f"as {role_of(schema, key)}" if len(alike) > 1 else ""


def in_role(noun: str, role: str, mods: str = "") -> str:
    """Return a noun with what `as_role` says and with what is said of it: "web sale (as bill customer) whose .."."""
    if not role:
        return noun + mods
    return f"{noun} ({role}){mods}" if mods else f"{noun} {role}"


def is_primary(schema: Schema, base: Base | None) -> bool:
    """Return whether a column alone is the primary key of its table."""
    return base is not None and len(schema.table(base[0]).primary_key) == 1 and is_in_primary(schema, base)


def is_in_primary(schema: Schema, base: Base | None) -> bool:
    """Return whether a column is part of the primary key of its table, and so never missing."""
    return base is not None and base[1] in {name.casefold() for name in schema.table(base[0]).primary_key}


def conjuncts(node: exp.Expr | None) -> Iterator[exp.Expr]:
    """Yield the conditions that AND combines."""
    if node is None:
        return
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(inner, exp.And):
        yield from conjuncts(inner.this)
        yield from conjuncts(inner.expression)
    else:
        yield inner


class Link(NamedTuple):
    """A foreign key that joins two sources.

    Attributes:
        role: what the parent is called, as the child's key has it.
        as_role: what the child is followed by where that would be left open otherwise; see `as_role`.
        conditions: the equalities that follow the key.
    """

    child: Source
    parent: Source
    role: str
    as_role: str
    conditions: list[exp.Expr]


def links(schema: Schema, scope: Scope, equalities: Sequence[exp.Expr]) -> Iterator[Link]:
    """Yield each foreign key that some of the equalities follow."""
    pairs: dict[tuple[int, int], list[tuple[Source, Base, Source, Base, exp.Expr]]] = {}
    for condition in equalities:
        left, right = scope.own(condition.this), scope.own(condition.expression)
        if left is None or right is None or left[0] is right[0] or left[1].base is None or right[1].base is None:
            continue
        for mine, theirs in ((left, right), (right, left)):
            assert mine[1].base is not None
            assert theirs[1].base is not None
            found = pairs.setdefault((id(mine[0]), id(theirs[0])), [])
            found.append((mine[0], mine[1].base, theirs[0], theirs[1].base, condition))
    taken: set[int] = set()
    for items in pairs.values():
        child, parent = items[0][0], items[0][2]
        bases = {(one, other): condition for _, one, _, other, condition in items}
        for key in schema.foreign_keys:
            wanted = [
                ((key.table.casefold(), one.casefold()), (key.referenced_table.casefold(), other.casefold()))
                for one, other in zip(key.columns, key.referenced_columns, strict=True)
            ]
            conditions = [bases[pair] for pair in wanted if pair in bases]
            if len(conditions) == len(wanted) and not any(id(c) in taken for c in conditions):
                taken.update(map(id, conditions))
                yield Link(child, parent, role_of(schema, key), as_role(schema, key), conditions)
        for (one, other), condition in bases.items():
            if id(condition) in taken or parent.table is None or not is_primary(schema, other):
                continue
            if one == other and child.table is None:
                # A derived result that carries the key itself along.
                taken.add(id(condition))
                yield Link(child, parent, parent.noun, "", [condition])
            elif one != other and not is_primary(schema, one) and names(one[1], parent.noun):
                # No key that anybody has declared, but called like one.
                taken.add(id(condition))
                key = ForeignKey(one[0], (one[1],), other[0], (other[1],), "inferred")
                yield Link(child, parent, role_of(schema, key), "", [condition])


def arrange(scope: Scope) -> None:
    """Choose whose rows the rows are."""
    roots = [source for source in scope.sources if source.child is None and source not in scope.without]
    branch = [source for source, _ in scope.branches]
    roots = [source for source in roots if source not in branch]
    scope.head = roots[0] if len(roots) == 1 else None
    scope.loners = roots if len(roots) > 1 else []


def name(scope: Scope) -> None:
    """Call every source by a name of its own."""
    used: set[str] = set()
    for source in scope.sources:
        source.said = source.noun if source is scope.head else source.said or source.noun
    for source in scope.sources:
        same = [other for other in scope.sources if (other.said, other.is_those) == (source.said, source.is_those)]
        if len(same) > 1 and source in same and source.said not in used:
            noun = source.said
            used.add(noun)
            count = 0
            for other in same:
                if other is scope.head:
                    continue
                if other.child is not None and other.child is not scope.head and other.child not in same:
                    candidate = f"{other.child.said} {noun}"
                    if all(candidate != third.said for third in scope.sources):
                        other.said = candidate
                        continue
                count += 1
                other.said = f"{ordinal(count) if scope.head is None or len(same) > 2 else 'other'} {noun}"


def together(scope: Scope) -> str:
    """Return what one row of several sources that no key links is called."""
    sources = scope.loners or scope.sources
    if len(sources) == 2 and sources[0].noun == sources[1].noun and sources[0].said.startswith("first "):
        is_those = sources[0].is_those
        return f"pair of a first and a second {f'of {sources[0].many}' if is_those else sources[0].noun}"
    return "combination of " + listed([f"one of {s.many}" if s.is_those else a(s.said) for s in sources])
