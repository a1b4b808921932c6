"""Values in words: columns, constants, CASE, and by way of their own modules what is computed of them."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import AGGREGATES, aggregate
from rayfactory.downstream.realiser.calculations import CALCULATIONS
from rayfactory.downstream.realiser.functions import FUNCTIONS, through
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Rule, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.windows import window
from rayfactory.downstream.realiser.words import listed, possessive, quoted, split, tidy, without_owner

_ORDINALS = frozenset({"first", "second", "third", "other"})
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
MAX_REPEATED_CHARACTERS = 40
"""A value in more characters than that is called by the name that the query gives it, where it gives one."""


def value(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    """Return a value in words.

    Raises:
        StatementError: reason ``unsupported``.
    """
    known = scope.known.get(node.sql())
    if known is not None:
        hear(tell, node)
        return Phrase(known)
    if isinstance(node, exp.Paren):
        return value(tell, node.this, scope)
    if isinstance(node, exp.Window):
        return window(tell, node, scope)
    if isinstance(node, (exp.Filter, exp.WithinGroup, *AGGREGATES)):
        return aggregate(tell, node, scope)
    rule = _RULES.get(type(node))
    if rule is not None:
        return rule(tell, node, scope)
    if isinstance(node, exp.Condition) and isinstance(node, (exp.Predicate, exp.Connector, exp.Not)):
        return Phrase(f"whether {tell.clause(node, scope).full}", article=False, is_compound=True)
    raise unsupported(node)


# -- columns and constants ----------------------------------------------------


def _column(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    assert isinstance(node, exp.Column)
    if isinstance(node.this, exp.Star):
        return _star(tell, node, scope)
    only(node, "this", "table")
    found = scope.find(node)
    if found is None:
        return _by_name(tell, node, scope)
    hear(tell, node)
    where, source, output = found
    source.is_mentioned = True
    _note(tell, output.words, node.name, is_base=source.table is not None)
    if where is not scope:
        return Phrase(f"that {source.one}'s {output.words}", article=False)
    is_headed = scope.head is not None
    if source is scope.head or (source.table is None and not _is_shared(scope, output.words)):
        short = without_owner(output.words, source.noun) if source is scope.head else ""
        if any(other.words == short for other in source.outputs.values()):
            short = ""
        return Phrase(output.words, is_plain=source is scope.head, is_column=True, short=short, is_headed=is_headed)
    if source.table is None and source.label:
        owner = source.label if source.said == source.noun else source.said
        return Phrase(f"{output.words} of the {owner}", is_column=True, is_headed=is_headed)
    owned = _owned(source.said, output.words)
    if source.said.partition(" ")[0] in _ORDINALS and owned == f"{source.said} {output.words}":
        owned = f"{possessive(source.said)} {output.words}"
    return Phrase(owned, is_column=True, is_headed=is_headed)


def _is_shared(scope: Scope, words: str) -> bool:
    return sum(output.words == words for source in scope.sources for output in source.outputs.values()) > 1


def _owned(owner: str, words: str) -> str:
    parts = owner.split()
    for i in range(len(parts)):
        end = " ".join(parts[i:])
        if words == end or words.startswith(f"{end} "):
            return f"{owner}{words[len(end) :]}"
    return f"{owner} {words}"


def _note(tell: Teller, words: str, name: str, *, is_base: bool) -> None:
    if is_base and re.sub(r"\W|_", "", words).casefold() != re.sub(r"\W|_", "", name).casefold():
        tell.notes.setdefault(f"`{name}`", words)


def _by_name(tell: Teller, node: exp.Column, scope: Scope) -> Phrase:
    name = node.name.casefold()
    named = scope.names.get(name) if not node.table else None
    if named is not None and not any(part is node for part in named.walk()):
        hear(tell, node)
        return _named(tell, named, name, scope)
    if tell.schema.dialect == "sqlite" and node.this.args.get("quoted") and not node.table:
        # SQLite takes a name in double quotes for a text where there is no such column.
        hear(tell, node)
        return Phrase(quoted(node.name), article=False)
    raise unsupported(f"the unknown column {node.sql()}")


def _named(tell: Teller, named: exp.Expr, name: str, scope: Scope) -> Phrase:
    found = tell.value(named, scope)
    short = given_name(name)
    if short and found.definition == "" and len(found.text) > MAX_REPEATED_CHARACTERS:
        return Phrase(short)
    return replace(found, definition="", rest="")


def given_name(name: str) -> str:
    """Return the words of a name that the query gives, or "" where it is none to be spoken."""
    parts = split(name)
    return tidy(parts) if len("".join(parts)) > 2 and any(len(part) > 2 for part in parts) else ""


def _star(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    hear(tell, node)
    table = node.args.get("table")
    if table is None:
        for source in scope.sources:
            source.is_mentioned = True
        return Phrase("every column", article=False)
    owner = next((source for source in scope.sources if source.alias == table.name.casefold()), None)
    if owner is None:
        raise unsupported(node)
    owner.is_mentioned = True
    return Phrase(f"every column of the {owner.said}", article=False)


def _literal(tell: Teller, node: exp.Expr, _scope: Scope) -> Phrase:
    hear(tell, node)
    is_quoted = node.args.get("is_string") and not _DATE.fullmatch(node.name)
    return Phrase(quoted(node.name) if is_quoted else node.name, article=False)


def _word(word: str) -> Rule:
    def words(_tell: Teller, node: exp.Expr, _scope: Scope) -> Phrase:
        return Phrase(str(node.this).lower() if isinstance(node, exp.Boolean) else word, article=False)

    return words


# -- CASE, and values that a query yields -------------------------------------


def _iif(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "true", "false")
    parts = [f"{tell.value(node.args['true'], scope).the} if {tell.clause(node.this, scope).full}"]
    if node.args.get("false") is not None:
        parts.append(f"otherwise {tell.value(node.args['false'], scope).the}")
    return Phrase(", ".join(parts), article=False, is_compound=True)


def _case(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "ifs", "default")
    parts = []
    for branch in node.args["ifs"]:
        result = tell.value(branch.args["true"], scope).the
        if node.this is None:
            condition = tell.clause(branch.this, scope).full
        else:
            condition = tell.clause(exp.EQ(this=node.this.copy(), expression=branch.this.copy()), scope).full
            hear(tell, branch.this)
        parts.append(f"{result} if {condition}")
    if node.this is not None:
        hear(tell, node.this)
    default = node.args.get("default")
    if default is None or isinstance(default, exp.Null):
        parts.append("otherwise nothing")
    else:
        parts.append(f"otherwise {tell.value(default, scope).the}")
    return Phrase(", ".join(parts), article=False, is_compound=True)


def _scalar(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    text = tell.query(node, scope, "one")
    return Phrase(text.removeprefix("the "), article=text.startswith("the "), is_headed=False)


def _tuple(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    parts = [tell.value(part, scope).text for part in node.expressions]
    return Phrase(f"combination of {listed(parts)}")


_RULES: dict[type[exp.Expr], Rule] = {
    exp.Column: _column,
    exp.Star: _star,
    exp.Literal: _literal,
    exp.Null: _word("nothing"),
    exp.Boolean: _word(""),
    exp.CurrentTimestamp: _word("the current time"),
    exp.CurrentDate: _word("today"),
    exp.Case: _case,
    exp.If: _iif,
    exp.Subquery: _scalar,
    exp.Select: _scalar,
    exp.Tuple: _tuple,
    exp.Alias: through,
    **CALCULATIONS,
    **FUNCTIONS,
}
