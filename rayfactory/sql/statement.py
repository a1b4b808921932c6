"""Parsing, the normalised text, and the base tables of one statement."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from rayfactory.errors import StatementError


def parse(sql: str, dialect: str) -> exp.Expr:
    """Return the syntax tree of the one statement in `sql`.

    Raises:
        StatementError: reason ``parse``: no statement, several, or a text that is not of the dialect.
    """
    try:
        trees = [tree for tree in sqlglot.parse(sql, dialect=dialect) if tree is not None]
    except SqlglotError as error:
        raise StatementError("parse", _first_line(error)) from None
    except RecursionError:
        raise StatementError("parse", "the statement is nested too deeply") from None
    except Exception as error:  # noqa: BLE001 - the parser trips over some texts that it should refuse
        raise StatementError("parse", f"{type(error).__name__}: {error}") from None
    if len(trees) != 1:
        raise StatementError("parse", f"expected one statement, found {len(trees)}")
    _order_arguments(trees[0])
    _forget_places(trees[0])
    return trees[0]


def _order_arguments(tree: exp.Expr) -> None:
    """Bring the parts of set operations into the order that their class declares.

    sqlglot moves ORDER BY and LIMIT from the last branch to the set operation by way of a Python set, so their order,
    and with it every walk over the tree, would differ from process to process.
    """
    for node in tree.find_all(exp.SetOperation):
        ordered = {name: node.args[name] for name in type(node).arg_types if name in node.args} | node.args
        node.args.clear()
        node.args.update(ordered)


def _forget_places(tree: exp.Expr) -> None:
    """Drop where each name stood in the text: nobody asks for it, and it is most of what a copy of the tree copies."""
    for node in tree.walk():
        node._meta = None  # noqa: SLF001 - `meta.clear()` would leave a dictionary for each node


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def normalise(tree: exp.Expr, dialect: str, *, copy: bool = True) -> str:
    """Return the statement in one line, lower-cased, without comments, as sqlglot spells it.

    Args:
        tree: of the statement, or of a part.
        dialect: to spell it in.
        copy: False where the tree may be changed by it, which is quicker.
    """
    return tree.sql(dialect=dialect, comments=False, copy=copy).lower()


def num_tokens(sql: str, dialect: str) -> int:
    """Return how many tokens sqlglot's tokenizer finds in `sql`."""
    return len(sqlglot.tokenize(sql, dialect=dialect))


def base_tables(tree: exp.Expr) -> tuple[str, ...]:
    """Return the tables and views that the statement reads, as it spells them, in order of appearance, each once.

    Names that a WITH clause introduces are not tables where they are visible: in the later members of
    the same clause and in the query below it (in a member itself only if the clause is recursive).
    """
    names: dict[str, None] = {}
    for table in tree.find_all(exp.Table, bfs=False):
        if table.name and not (table.db == "" and _names_a_cte(table)):
            names.setdefault(table.name)
    return tuple(names)


def _names_a_cte(table: exp.Table) -> bool:
    name = table.name.casefold()
    inner: exp.Expr = table
    node = table.parent
    while node is not None:
        if isinstance(node, exp.With):
            visible = node.expressions if node.recursive else node.expressions[: _position(node, inner)]
            if any(cte.alias.casefold() == name for cte in visible):
                return True
        else:
            clause = node.args.get("with_")
            # Coming up from inside the clause itself, its own members were looked at one step before.
            if clause is not None and clause is not inner and _introduces(clause, name):
                return True
        inner, node = node, node.parent
    return False


def _introduces(clause: exp.With, name: str) -> bool:
    return any(cte.alias.casefold() == name for cte in clause.expressions)


def _position(clause: exp.With, member: exp.Expr) -> int:
    return next(i for i, cte in enumerate(clause.expressions) if cte is member)


def schemas_named(tree: exp.Expr) -> set[str]:
    """Return what stands before the names of tables as their schema."""
    return {table.db for table in tree.find_all(exp.Table) if table.db}
