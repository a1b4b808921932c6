"""Which table every column of a query is of, and what a query shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlglot import exp

from rayfactory.databases.schema import Column, ColumnProfile, Schema, Table
from rayfactory.models.variation.naming import column as _column
from rayfactory.models.variation.naming import identifier
from rayfactory.models.variation.nodes import from_items, output_name, own_nodes, table_name
from rayfactory.models.variation.validity import is_about_itself, settle_grouping

Outputs = dict[str, Column]
"""Columns that a query or source shows, by folded name in order; a computed one has an empty profile."""

AGGREGATES_OF_NUMBERS = (exp.Sum, exp.Avg, exp.Count, exp.CountIf, exp.Stddev, exp.StddevSamp, exp.Variance, exp.Median)


class UnresolvedError(Exception):
    """A query names what is not there, or is of a form that cannot be followed."""


@dataclass(frozen=True, slots=True)
class Source:
    """One item of FROM.

    Attributes:
        alias: the name that columns are qualified with, as written.
        table: the base table; None for a CTE, a view or a derived table.
        optional: on the side of an outer join that may be missing.
    """

    alias: str
    table: Table | None
    columns: Outputs
    optional: bool = False


@dataclass(slots=True)
class Scope:
    """The sources of one SELECT; `outer` is the SELECT around it."""

    outer: Scope | None
    ctes: Mapping[str, Outputs]
    sources: dict[str, Source] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)  # names that USING has merged


def resolve(tree: exp.Expr, schema: Schema, *, copy: bool = True) -> exp.Expr | None:
    """Return the tree (or a copy of it) in which every column names its source and stars are spelt out.

    None where the query names what is not there, shows a column that is not grouped, or is of a form that cannot be
    followed (recursive CTEs, lateral joins, functions in FROM).
    """
    root = exp.Subquery(this=tree.copy() if copy else tree)
    try:
        _resolve_query(root.this, None, {}, schema)
    except (UnresolvedError, RecursionError):
        return None
    result: exp.Expr = root.this
    result.pop()
    return result


def sources_of(select: exp.Select, schema: Schema) -> dict[str, Source]:
    """Return the sources of one SELECT of a resolved query by folded alias, in order."""
    scope = Scope(None, _visible_ctes(select, schema))
    for item, optional in from_items(select):
        _add_source(item, optional, scope, schema, known=True)
    return scope.sources


def outputs_of(query: exp.Expr, schema: Schema) -> Outputs:
    """Return what a query that is already resolved shows."""
    if isinstance(query, exp.Subquery):
        return outputs_of(query.this, schema)
    if isinstance(query, exp.SetOperation):
        return outputs_of(query.this, schema)
    if not isinstance(query, exp.Select):
        return {}
    return _outputs(query, sources_of(query, schema))


# -- resolving ----------------------------------------------------------------


def _resolve_query(query: exp.Expr, outer: Scope | None, ctes: Mapping[str, Outputs], schema: Schema) -> Outputs:
    if isinstance(query, exp.Subquery):
        return _resolve_query(query.this, outer, ctes, schema)
    clause = query.args.get("with_")
    if clause is not None:
        if clause.recursive:
            raise UnresolvedError
        visible = dict(ctes)
        for cte in clause.expressions:
            outputs = _resolve_query(cte.this, outer, visible, schema)
            listed = cte.args["alias"].args.get("columns") or []
            visible[cte.alias.casefold()] = _renamed(outputs, [name.name for name in listed])
        ctes = visible
    if isinstance(query, exp.SetOperation):
        left = _resolve_query(query.this, outer, ctes, schema)
        right = _resolve_query(query.expression, outer, ctes, schema)
        if len(left) != len(right):
            raise UnresolvedError
        _resolve_set_order(query, left)
        return left
    if not isinstance(query, exp.Select) or query.args.get("laterals") or query.args.get("pivots"):
        raise UnresolvedError
    return _resolve_select(query, Scope(outer, ctes), schema)


def _resolve_set_order(query: exp.SetOperation, outputs: Outputs) -> None:
    order = query.args.get("order")
    first: exp.Expr = query
    while isinstance(first, exp.SetOperation):
        first = first.this
    if order is not None and isinstance(first, exp.Select):
        name_in_set_order(first, order)
    for column in order.find_all(exp.Column) if order is not None else ():
        if column.table or column.name.casefold() not in outputs:
            raise UnresolvedError


def name_in_set_order(first: exp.Select, order: exp.Order) -> None:
    """Say by name what ORDER BY of a set operation says by position, and name it in the first branch.

    SQLite knows a column that is qualified there by an alias only.
    """
    for term in order.expressions:
        if isinstance(term.this, exp.Literal) and term.this.is_int:
            part = _at(first.expressions, term.this)
            if not output_name(part):
                raise UnresolvedError
            term.set("this", exp.Column(this=identifier(output_name(part))))
        for part in first.expressions:
            is_meant = isinstance(term.this, exp.Column) and part.name.casefold() == term.this.name.casefold()
            if is_meant and isinstance(part, exp.Column):
                part.replace(exp.alias_(part.copy(), identifier(part.name), copy=False))


def _at(parts: list[exp.Expr], position: exp.Literal) -> exp.Expr:
    if not 0 < int(position.name) <= len(parts):
        raise UnresolvedError
    return parts[int(position.name) - 1]


def _resolve_select(select: exp.Select, scope: Scope, schema: Schema) -> Outputs:
    for item, optional in from_items(select):
        _add_source(item, optional, scope, schema)
    for position, join in enumerate(select.args.get("joins") or []):
        if join.method:  # NATURAL, ASOF
            raise UnresolvedError
        _spell_out_using(join, list(scope.sources.values())[: position + 1], scope)
    _expand_stars(select, scope)
    _spell_out_ordinals(select)
    named = {part.alias.casefold() for part in select.expressions if part.alias}
    _resolve_part(select.args.get("where"), scope, frozenset(), schema)
    if scope.outer is not None and not is_about_itself(select, scope.sources):
        raise UnresolvedError
    # What else looks at a query around would do so by the accident of an equal alias.
    alone = Scope(None, scope.ctes, scope.sources, scope.shared)
    for clause in ("expressions", "joins"):
        _resolve_part(select.args.get(clause), alone, frozenset(), schema)
    for clause in ("group", "having", "qualify", "windows", "distinct", "order"):
        _resolve_part(select.args.get(clause), alone, frozenset(named), schema, prefer_names=clause == "order")
    if not settle_grouping(select, schema.dialect):
        raise UnresolvedError
    return _outputs(select, scope.sources)


def _add_source(item: exp.Expr, optional: bool, scope: Scope, schema: Schema, *, known: bool = False) -> None:
    alias = table_name(item)
    table: Table | None = None
    if isinstance(item, exp.Table) and isinstance(item.this, exp.Identifier) and not item.args.get("joins"):
        columns = scope.ctes.get(item.name.casefold()) if not item.db else None
        if columns is None:
            try:
                table = schema.table(item.name)
            except KeyError:
                raise UnresolvedError from None
            columns = {column.name.casefold(): column for column in table.columns}
        alias_node = item.args.get("alias")
        if alias_node is not None and alias_node.args.get("columns"):
            raise UnresolvedError
    elif isinstance(item, exp.Subquery) and item.alias:
        columns = outputs_of(item.this, schema) if known else _resolve_query(item.this, None, scope.ctes, schema)
        columns = _renamed(columns, [name.name for name in item.args["alias"].args.get("columns") or []])
    else:
        raise UnresolvedError
    if not alias or alias.casefold() in scope.sources:
        raise UnresolvedError
    scope.sources[alias.casefold()] = Source(alias, table, columns, optional)


def _spell_out_using(join: exp.Join, before: list[Source], scope: Scope) -> None:
    names = join.args.get("using") or []
    if not names:
        return
    right = table_name(join.this)
    conditions: list[exp.Expr] = []
    for name in names:
        folded = name.name.casefold()
        left = next((source for source in before if folded in source.columns), None)
        if left is None:
            raise UnresolvedError
        scope.shared.add(folded)
        conditions.append(exp.EQ(this=_column(left.alias, name.name), expression=_column(right, name.name)))
    join.set("using", None)
    join.set("on", exp.and_(*conditions, copy=False))


def _expand_stars(select: exp.Select, scope: Scope) -> None:
    expanded: list[exp.Expr] = []
    for part in select.expressions:
        if isinstance(part, exp.Star) and not part.args.get("except_") and not part.args.get("replace"):
            sources = list(scope.sources.values())
        elif isinstance(part, exp.Column) and isinstance(part.this, exp.Star):
            sources = [source for source in scope.sources.values() if source.alias.casefold() == part.table.casefold()]
        else:
            expanded.append(part)
            continue
        if isinstance(select.parent, exp.Exists):
            expanded.append(exp.Literal.number(1))
            continue
        expanded.extend(_column(source.alias, column.name) for source in sources for column in source.columns.values())
    if not expanded:
        raise UnresolvedError
    select.set("expressions", expanded)


def _spell_out_ordinals(select: exp.Select) -> None:
    parts = select.expressions
    group = select.args.get("group")
    for key in list(group.expressions) if group is not None else []:
        if isinstance(key, exp.Literal) and key.is_int:
            key.replace(_at(parts, key).unalias().copy())
    order = select.args.get("order")
    for term in list(order.expressions) if order is not None else []:
        if isinstance(term.this, exp.Literal) and term.this.is_int:
            part = _at(parts, term.this)
            term.set("this", exp.Column(this=identifier(part.alias)) if part.alias else part.copy())


def _resolve_part(
    part: object, scope: Scope, named: frozenset[str], schema: Schema, *, prefer_names: bool = False
) -> None:
    if isinstance(part, list):
        for item in part:
            if isinstance(item, exp.Join):
                if isinstance(item.this, (exp.Table, exp.Subquery)):
                    _resolve_part(item.args.get("on"), scope, named, schema)
            else:
                _resolve_part(item, scope, named, schema)
        return
    if not isinstance(part, exp.Expr):
        return
    for node in list(own_nodes(part)):
        if isinstance(node, (exp.Select, exp.SetOperation)):
            _resolve_query(node, scope, scope.ctes, schema)
        elif isinstance(node, exp.Column):
            _resolve_column(node, scope, named, schema, prefer_names=prefer_names)


def _resolve_column(
    node: exp.Column, scope: Scope, named: frozenset[str], schema: Schema, *, prefer_names: bool
) -> None:
    if isinstance(node.this, exp.Star):
        return
    folded = node.name.casefold()
    if node.table:
        current: Scope | None = scope
        while current is not None:
            source = current.sources.get(node.table.casefold())
            if source is not None:
                if folded not in source.columns:
                    raise UnresolvedError
                _spell(node, source)
                return
            current = current.outer
        raise UnresolvedError
    if prefer_names and folded in named:
        return
    current = scope
    while current is not None:
        holders = [source for source in current.sources.values() if folded in source.columns]
        if len(holders) == 1 or (holders and folded in current.shared):
            node.set("table", _column(holders[0].alias, "x").args["table"])
            _spell(node, holders[0])
            return
        if holders:
            raise UnresolvedError
        current = current.outer
    if folded in named:
        return
    if schema.dialect == "sqlite" and node.this.args.get("quoted"):
        # SQLite takes a double-quoted word that names nothing for text.
        node.replace(exp.Literal.string(node.name))
        return
    raise UnresolvedError


def _spell(node: exp.Column, source: Source) -> None:
    """Write a column and its source as they are declared, so that equal columns are equal nodes."""
    name = source.columns[node.name.casefold()].name
    if node.name != name or node.table != source.alias:
        node.replace(_column(source.alias, name))


# -- what a query shows -------------------------------------------------------


def _outputs(select: exp.Select, sources: Mapping[str, Source]) -> Outputs:
    outputs: Outputs = {}
    for position, part in enumerate(select.expressions):
        name = output_name(part) or f"(column {position})"
        inner = part.unalias()
        if name.casefold() in outputs:
            # Two of one name cannot be told apart from outside.
            outputs[f"(column {position})"] = _computed(f"(column {position})", inner)
            continue
        column = None
        if isinstance(inner, exp.Column) and inner.table.casefold() in sources:
            column = sources[inner.table.casefold()].columns.get(inner.name.casefold())
        outputs[name.casefold()] = _computed(name, inner) if column is None else replace(column, name=name)
    return outputs


def _computed(name: str, expression: exp.Expr) -> Column:
    """Return a column for an expression: a quantity where it surely is one, else nothing that is computed with."""
    inner = expression
    while isinstance(inner, (exp.Round, exp.Paren, exp.Cast, exp.Coalesce, exp.Filter)):
        inner = inner.this
    empty = ColumnProfile(0, 0.0, 0)
    if isinstance(inner, AGGREGATES_OF_NUMBERS):
        return Column(name, "", "real", "measure", True, empty)
    if isinstance(inner, (exp.Year, exp.Month, exp.Quarter, exp.Extract)):
        return Column(name, "", "integer", "code", True, empty)
    if isinstance(inner, exp.Case) or (isinstance(inner, exp.Literal) and inner.is_string):
        values = [branch.args["true"] for branch in inner.args["ifs"]] if isinstance(inner, exp.Case) else [inner]
        if all(isinstance(value, exp.Literal) and value.is_string for value in values):
            return Column(name, "", "text", "category", True, empty)
    return Column(name, "", "other", "opaque", True, empty)


def _renamed(outputs: Outputs, names: list[str]) -> Outputs:
    if not names:
        return outputs
    if len(names) != len(outputs):
        raise UnresolvedError
    return {name.casefold(): replace(column, name=name) for name, column in zip(names, outputs.values(), strict=True)}


def _visible_ctes(select: exp.Select, schema: Schema) -> dict[str, Outputs]:
    """Return what each CTE that is visible in a SELECT of a resolved query shows."""
    clauses: list[tuple[exp.With, exp.Expr | None]] = []
    node: exp.Expr | None = select
    inner: exp.Expr | None = None
    while node is not None:
        if isinstance(node, exp.With):
            clauses.append((node, inner))
        elif node.args.get("with_") is not None and node.args["with_"] is not inner:
            clauses.append((node.args["with_"], None))
        inner, node = node, node.parent
    visible: dict[str, Outputs] = {}
    for clause, member in reversed(clauses):
        for cte in clause.expressions:
            if cte is member:
                break
            listed = [name.name for name in cte.args["alias"].args.get("columns") or []]
            visible[cte.alias.casefold()] = _renamed(outputs_of(cte.this, schema), listed)
    return visible
