"""The canonical form of a query, equal for queries that differ only in spelling, and its skeleton.

The form is a key for comparison. It is not meant to be run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation

from sqlglot import exp

from rayfactory.sql.statement import normalise


def canonical(tree: exp.Expr, dialect: str) -> str:
    """Return the canonical form of a query.

    The normalised text with table and output aliases renumbered by first use; operands of AND and OR, sides of
    symmetric comparisons and IN lists sorted; comparisons pointing one way, numbers and quoting made uniform.
    The order of joins is kept.
    """
    return normalise(_canonical_tree(tree, dialect), dialect, copy=False)


def skeleton(tree: exp.Expr, dialect: str) -> str:
    """Return the canonical form with every identifier as ``_`` and every literal as ``?``."""
    shape = _canonical_tree(tree, dialect)
    for node in list(shape.find_all(exp.Identifier, exp.Literal)):
        if isinstance(node, exp.Identifier):
            node.set("this", "_")
            node.set("quoted", False)
        else:
            node.replace(exp.Placeholder())
    return normalise(shape, dialect, copy=False)


def _canonical_tree(tree: exp.Expr, dialect: str) -> exp.Expr:
    root = exp.Subquery(this=tree.copy())  # a parent for every node, so that replacing the root works
    _sort_operands(root, dialect)
    _rename(root.this)
    for identifier in root.find_all(exp.Identifier):
        identifier.set("quoted", True)
    _sort_operands(root, dialect)
    result: exp.Expr = root.this
    return result


# -- operands -----------------------------------------------------------------


def _sort_operands(root: exp.Expr, dialect: str) -> None:
    """Bring operands whose order means nothing into the order of their texts, innermost first."""
    for node in reversed(list(root.walk(bfs=True))):
        if isinstance(node, exp.Literal):
            if not node.is_string:
                node.set("this", _plain_number(node.name))
        elif isinstance(node, exp.In):
            node.set("expressions", sorted(node.expressions, key=lambda item: _text(item, dialect)))
        elif isinstance(node, exp.Paren) and _is_redundant(node):
            node.replace(node.this)
        elif isinstance(node, (exp.EQ, exp.NEQ, exp.NullSafeEQ, exp.NullSafeNEQ)):
            left, right = node.this, node.expression
            if _text(right, dialect) < _text(left, dialect):
                node.set("this", right)
                node.set("expression", left)
        elif isinstance(node, (exp.GT, exp.GTE)):
            flipped = exp.LT if isinstance(node, exp.GT) else exp.LTE
            node.replace(flipped(this=node.expression, expression=node.this))
        elif isinstance(node, (exp.And, exp.Or)) and not _is_inside_same(node):
            operands = sorted(_operands(node, type(node)), key=lambda part: _text(part, dialect))
            combined = operands[0]
            for operand in operands[1:]:
                combined = type(node)(this=combined, expression=operand)
            node.replace(combined)
        elif isinstance(node, exp.Join) and node.kind in {"INNER", "OUTER"}:
            node.set("kind", None)
        elif isinstance(node, exp.Ordered) and not node.args.get("desc"):
            node.set("desc", None)
        elif isinstance(node, exp.Table) and node.db.casefold() == "main":
            node.set("db", None)


def _text(part: exp.Expr, dialect: str) -> str:
    """Return what an operand is put in order by; but for names and values, the generator may take its parts apart."""
    return normalise(part, dialect, copy=not isinstance(part, (exp.Column, exp.Literal)))


def _is_redundant(paren: exp.Paren) -> bool:
    """Return whether a condition means the same without its parentheses, also in writing."""
    if isinstance(paren.parent, (exp.Where, exp.Having, exp.Qualify, exp.Join, exp.Paren)):
        return True
    is_compound = isinstance(paren.this, (exp.And, exp.Or, exp.Xor, exp.Not, exp.Query))
    return isinstance(paren.parent, (exp.And, exp.Or)) and not is_compound


def _is_inside_same(node: exp.Expr) -> bool:
    parent = node.parent
    while isinstance(parent, exp.Paren):
        parent = parent.parent
    return type(parent) is type(node)


def _operands(node: exp.Expr, connector: type[exp.Expr]) -> Iterator[exp.Expr]:
    inner = node.unnest()
    if type(inner) is connector:
        yield from _operands(inner.this, connector)
        yield from _operands(inner.expression, connector)
    else:
        yield node.copy()


def _plain_number(text: str) -> str:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    if not number.is_finite() or len(number.as_tuple().digits) > 28:
        return text
    if number == 0:
        return "0"
    exponent = number.adjusted()
    return f"{number.normalize():f}" if -40 < exponent < 40 else str(number.normalize())


# -- aliases ------------------------------------------------------------------


@dataclass
class _Source:
    """Something that FROM or WITH names: its new name, and the new names of the columns that it introduces."""

    name: str
    columns: dict[str, str]


@dataclass
class _Names:
    """The numbering, shared by the whole statement."""

    num_tables: int = 0
    num_columns: int = 0

    def table(self) -> str:
        self.num_tables += 1
        return f"~t{self.num_tables}"

    def column(self) -> str:
        self.num_columns += 1
        return f"~c{self.num_columns}"


@dataclass
class _Scope:
    """The names that are visible in one SELECT; `parent` is the SELECT around it."""

    parent: _Scope | None = None
    ctes: dict[str, _Source] = field(default_factory=dict)
    sources: dict[str, _Source] = field(default_factory=dict)

    def cte(self, name: str) -> _Source | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def source(self, name: str) -> _Source | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.sources:
                return scope.sources[name]
            scope = scope.parent
        return None

    def column(self, name: str) -> str | None:
        scope: _Scope | None = self
        while scope is not None:
            for source in scope.sources.values():
                if name in source.columns:
                    return source.columns[name]
            scope = scope.parent
        return None


def _rename(query: exp.Expr) -> None:
    try:
        _rename_query(query, _Scope(), _Names())
    except RecursionError:
        # A statement this deep compares by its own spelling of aliases.
        return


def _rename_query(query: exp.Expr, outer: _Scope, names: _Names) -> dict[str, str]:
    """Rename within one query; return old to new name of the output columns that it names."""
    scope = _Scope(parent=outer)
    _rename_ctes(query, scope, names)
    if isinstance(query, exp.Subquery):
        inner = _rename_query(query.this, scope, names)
        _rename_order(query, scope, inner, names)
        return inner
    if isinstance(query, exp.SetOperation):
        left = _rename_query(query.this, scope, names)
        right = _rename_query(query.expression, scope, names)
        _rename_order(query, scope, left, names)
        return right | left
    if not isinstance(query, exp.Select):
        return {}
    from_clause = query.args.get("from_")
    for item in [from_clause, *(query.args.get("joins") or []), *(query.args.get("laterals") or [])]:
        if item is not None:
            _rename_source(item.this if not isinstance(item, exp.Lateral) else item, scope, names)
    outputs: dict[str, str] = {}
    bare: set[str] = set()
    for projection in query.expressions:
        if isinstance(projection, exp.Alias):
            old = projection.alias.casefold()
            if isinstance(projection.this, exp.Column) and projection.this.name.casefold() == old:
                bare.add(old)
            outputs.setdefault(old, names.column())
            projection.args["alias"].set("this", outputs[old])
    for clause in ("expressions", "joins", "laterals", "where", "prewhere", "windows", "sample"):
        _rename_columns(query.args.get(clause), scope, {}, names)
    # GROUP BY and HAVING prefer a column of the tables to an output alias of the same name; ORDER BY the alias.
    in_groups = {old: new for old, new in outputs.items() if old not in bare}
    for clause in ("group", "having", "qualify", "distinct"):
        _rename_columns(query.args.get(clause), scope, in_groups, names)
    _rename_order(query, scope, outputs, names)
    return outputs


def _rename_ctes(query: exp.Expr, scope: _Scope, names: _Names) -> None:
    clause = query.args.get("with_")
    if clause is None:
        return
    for cte in clause.expressions:
        old = cte.alias.casefold()
        new = names.table()
        listed = cte.args["alias"].args.get("columns") or []
        columns = {identifier.name.casefold(): names.column() for identifier in listed}
        if clause.recursive:
            scope.ctes[old] = _Source(new, columns)
        outputs = _rename_query(cte.this, scope, names)
        for identifier in listed:
            identifier.set("this", columns[identifier.name.casefold()])
        cte.args["alias"].this.set("this", new)
        scope.ctes[old] = _Source(new, columns or outputs)


def _rename_source(item: exp.Expr, scope: _Scope, names: _Names) -> None:
    alias = item.args.get("alias")
    if isinstance(item, exp.Table):
        cte = scope.cte(item.name.casefold()) if not item.db else None
        columns = cte.columns if cte is not None else {}
        visible = (item.alias or item.name).casefold()
        new = names.table() if item.alias or cte is not None else item.name
        if cte is not None:
            item.this.set("this", cte.name)
        # A table without an alias gets one, so that "t" and "t AS x" compare equal.
        if cte is None and not item.alias and item.name:
            new = names.table()
        if isinstance(item.this, exp.Identifier):
            item.set("alias", exp.TableAlias(this=exp.to_identifier(new), columns=alias and alias.args.get("columns")))
        scope.sources[visible] = _Source(new, columns)
        for join in item.args.get("joins") or []:
            _rename_source(join.this, scope, names)
    elif isinstance(item, exp.Subquery):
        outputs = _rename_query(item.this, scope, names)
        if alias is not None and alias.this is not None:
            new = names.table()
            listed = alias.args.get("columns") or []
            columns = {identifier.name.casefold(): names.column() for identifier in listed}
            for identifier in listed:
                identifier.set("this", columns[identifier.name.casefold()])
            scope.sources[alias.name.casefold()] = _Source(new, columns or outputs)
            alias.this.set("this", new)
        else:
            scope.sources[f"(unnamed {len(scope.sources)})"] = _Source("", outputs)
    elif isinstance(item, exp.Paren):
        _rename_source(item.this, scope, names)


def _rename_order(query: exp.Expr, scope: _Scope, outputs: dict[str, str], names: _Names) -> None:
    for clause in ("order", "limit", "offset"):
        _rename_columns(query.args.get(clause), scope, outputs, names)


def _rename_columns(part: object, scope: _Scope, outputs: dict[str, str], names: _Names) -> None:
    """Rename the columns below `part`, and the queries nested in it."""
    if isinstance(part, list):
        for item in part:
            _rename_columns(item, scope, outputs, names)
        return
    if not isinstance(part, exp.Expr):
        return
    if isinstance(part, exp.Table) or (
        isinstance(part, exp.Subquery) and isinstance(part.parent, (exp.From, exp.Join))
    ):
        return  # renamed as a source
    if isinstance(part, (exp.Select, exp.SetOperation)):
        _rename_query(part, scope, names)
        return
    if isinstance(part, exp.Column):
        _rename_column(part, scope, outputs)
        return
    for child in list(part.iter_expressions()):
        _rename_columns(child, scope, outputs, names)


def _rename_column(column: exp.Column, scope: _Scope, outputs: dict[str, str]) -> None:
    name = column.name.casefold()
    if column.table:
        source = scope.source(column.table.casefold())
        if source is None:
            return
        column.args["table"].set("this", source.name)
        if name in source.columns:
            column.this.set("this", source.columns[name])
        return
    new = outputs.get(name) or scope.column(name)
    if new is not None and isinstance(column.this, exp.Identifier):
        column.this.set("this", new)
