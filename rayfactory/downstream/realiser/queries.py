"""A whole query in words, part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import entity
from rayfactory.downstream.realiser.clauses import numbered
from rayfactory.downstream.realiser.grouping import (
    Subtotals,
    having_told,
    independent,
    keys_of,
    num_shown,
    resolved,
    subtotals_told,
)
from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.ordering import order_words, superlative, ways
from rayfactory.downstream.realiser.sources import Output, Scope, is_primary, referenced, together
from rayfactory.downstream.realiser.telling import Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.values import MAX_REPEATED_CHARACTERS, given_name
from rayfactory.downstream.realiser.windows import short_name
from rayfactory.downstream.realiser.words import plural

_CLAUSES = ("with_", "expressions", "from_", "joins", "where", "group", "having", "qualify", "order", "limit", "offset",
            "distinct", "windows")  # fmt: skip


@dataclass(slots=True)
class Told:
    """The parts of a SELECT in words.

    Attributes:
        items: what is shown, less the keys in `shown_keys`.
        shown_keys: what the groups are of, where that is also what is shown first.
        keys: what the groups are of otherwise.
        having: which groups, behind their noun.
        many, each: the rows, with all that is said of them: "singers whose ..", "each singer whose ..".
        mods: what is said of them alone.
        order: what the result is sorted by; empty where it is not.
        limit, offset: numbers in words; empty where there is none.
        outputs: the columns of the result, by name.
        noun: what a row of the result is called.
    """

    items: list[Phrase] = field(default_factory=list)
    shown_keys: list[Phrase] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    having: str = ""
    qualify: str = ""
    head: str = ""
    many: str = ""
    each: str = ""
    one: str = ""
    mods: str = ""
    order: str = ""
    best: str = ""
    best_of_group: str = ""
    limit: str = ""
    offset: str = ""
    subtotals: list[Subtotals] = field(default_factory=list)
    subtotals_told: str = ""
    is_different: bool = False
    is_aggregate: bool = False
    is_star: bool = False
    has_rows: bool = True
    outputs: dict[str, Output] = field(default_factory=dict)
    noun: str = ""

    @property
    def is_having_of_some(self) -> bool:
        """Whether the groups are chosen by some of the rows, so that these have to be said before."""
        return bool(self.having and self.mods and self.shown_keys and self.items)

    @property
    def is_number_of_all(self) -> bool:
        """Whether it is a number of rows of which nothing is said, which stands beside others' conditions."""
        return not self.mods and [item.text for item in self.items] == [f"number of {self.head}"]


# -- the parts ----------------------------------------------------------------


def told(tell: Teller, select: exp.Select, outer: Scope | None, *, is_step: bool) -> Told:
    """Return a SELECT in words, part by part.

    Args:
        is_step: whether another query uses its columns, so that the long ones need a name.

    Raises:
        StatementError: reason ``unsupported``.
    """
    only(select, *_CLAUSES)
    scope = tell.opened(select, outer)
    found = Told(has_rows=bool(scope.sources))
    found.is_different = select.args.get("distinct") is not None
    if found.is_different:
        only(select.args["distinct"])
    projections = list(select.expressions)
    scope.names = {item.alias.casefold(): item.this for item in projections if isinstance(item, exp.Alias)}
    keys = independent(tell, keys_of(select, projections, scope, found.subtotals), projections, scope)
    having, order = select.args.get("having"), select.args.get("order")
    found.is_aggregate = bool(keys) or any(_is_aggregate(item) for item in projections) or having is not None
    again = _again(select, projections)
    texts = [item.unalias().sql() for item in projections]
    shown = num_shown(keys, texts)
    if len(keys) == 1 and any(isinstance(item.unalias(), exp.Column) for item in projections[shown:]):
        # A key with what hangs on it: told of the thing that the key stands for.
        own = scope.own(keys[0])
        if own is not None and (is_primary(tell.schema, own[1].base) or referenced(tell.schema, own[1].base)):
            shown = 0
    if shown:
        found.shown_keys = [_item(tell, item, scope, again, is_step=is_step) for item in projections[:shown]]
        found.items = [_item(tell, item, scope, again, is_step=is_step) for item in projections[shown:]]
    else:
        found.items = [_item(tell, item, scope, again, is_step=is_step) for item in projections]
        found.keys = [entity(tell, key, scope) for key in keys]
    if (group := select.args.get("group")) is not None:
        hear(tell, group)
    found.is_star = any(isinstance(item.unalias(), exp.Star) or item.is_star for item in projections)
    found.subtotals_told = subtotals_told(tell, found.subtotals, scope)
    if having is not None:
        found.having = having_told(tell, having.this, scope, keys)
        if found.shown_keys:
            _define_first(found)
    if (qualify := select.args.get("qualify")) is not None:
        found.qualify = tell.clause(qualify.this, scope).full
    _order(tell, order, projections, scope, found)
    found.limit, found.offset = (number(tell, select.args.get(name), scope) for name in ("limit", "offset"))
    found.outputs = _outputs(projections, scope, found)
    _rows(tell, scope, found, keys)
    return found


def _rows(tell: Teller, scope: Scope, found: Told, keys: Sequence[exp.Expr]) -> None:
    raw = tell.narrowed(scope)
    mods, mods_of_one = numbered(raw, is_plural=True), numbered(raw, is_plural=False)
    if scope.head is not None:
        found.head, found.one = scope.head.many, scope.head.one
        # "those groups": one of them is "each of those groups".
        found.each = f"each of {scope.head.many}{mods}" if scope.head.is_those else ""
        if not found.each:
            found.each = f"each {scope.head.said}{mods_of_one}"
        found.noun = scope.head.noun.partition(" of the ")[0] if scope.head.label else scope.head.noun
    elif scope.sources:
        found.head = plural(together(scope))
        found.each = f"each {together(scope)}{mods_of_one}"
        found.noun = "result"
    found.many, found.mods = f"{found.head}{mods}", mods
    if found.is_aggregate:
        found.noun = _group_noun(tell, keys, scope) if keys else "result"
    elif found.is_different:
        found.noun = "result"


def _group_noun(tell: Teller, keys: Sequence[exp.Expr], scope: Scope) -> str:
    """Return what a group is called: after its only key, where that has a short name."""
    if len(keys) > 1:
        return "group"
    noun = entity(tell, keys[0], scope)
    return noun if re.fullmatch(r"[A-Za-z -]{3,40}", noun) and " of " not in noun else "group"


def _item(tell: Teller, item: exp.Expr, scope: Scope, again: set[str], *, is_step: bool) -> Phrase:
    inner = item.unalias()
    phrase = tell.value(inner, scope)
    if not isinstance(item, exp.Alias):
        return phrase
    short = given_name(item.alias) or short_name(inner) or ("label" if isinstance(inner, exp.Literal) else "")
    if short and isinstance(inner, exp.Literal):
        return Phrase(short, rest=f" {phrase.text}")
    is_reused = item.alias.casefold() in again or inner.sql() in again
    is_long = len(phrase.text) > MAX_REPEATED_CHARACTERS
    if not short or not is_long or phrase.definition or isinstance(inner, exp.Column):
        return phrase
    if is_step or is_reused or isinstance(inner, exp.Case):
        scope.known[inner.sql()] = short
        if phrase.text.startswith(short):
            return replace(phrase, text=short, definition="", rest=phrase.text.removeprefix(short))
        return Phrase(short, definition=phrase.the if isinstance(inner, exp.Case) else f"that is, {phrase.the}")
    return phrase


def _again(select: exp.Select, projections: Sequence[exp.Expr]) -> set[str]:
    """Return the names and texts of columns that stand in other clauses again."""
    found: set[str] = set()
    for name in ("order", "having", "qualify", "group"):
        clause = select.args.get(name)
        if clause is None:
            continue
        found |= {column.name.casefold() for column in clause.find_all(exp.Column) if not column.table}
        found |= {
            part.sql() for part in clause.walk() if isinstance(part, (exp.Func, exp.Binary, exp.Case, exp.Window))
        }
        for part in clause.expressions:
            inner = part.this if isinstance(part, exp.Ordered) else part
            if isinstance(inner, exp.Literal) and inner.name.isdigit() and 0 < int(inner.name) <= len(projections):
                found.add(projections[int(inner.name) - 1].alias.casefold())
    return found


def _is_aggregate(item: exp.Expr) -> bool:
    for node in item.find_all(exp.AggFunc):
        parent = node.parent
        while isinstance(parent, (exp.Filter, exp.WithinGroup)):
            parent = parent.parent
        if isinstance(parent, exp.Window) and parent.this in {node, node.parent}:
            continue
        if isinstance(
            node, (exp.Rank, exp.DenseRank, exp.RowNumber, exp.Ntile, exp.CumeDist, exp.PercentRank, exp.Lag, exp.Lead)
        ):
            continue
        if node.find_ancestor(exp.Select) is item.find_ancestor(exp.Select):
            return True
    return False


def _define_first(found: Told) -> None:
    """Say what a name stands for where it comes first: behind the groups, and not where it is shown."""
    for i, item in enumerate(found.items):
        place = re.search(rf"\b{re.escape(item.text)}\b", found.having)
        if item.definition and place is not None:
            found.having = f"{found.having[: place.start()]}{item.full}{found.having[place.end() :]}"
            found.items[i] = replace(item, definition="")


# -- order and limit ----------------------------------------------------------


def _order(tell: Teller, order: exp.Expr | None, projections: Sequence[exp.Expr], scope: Scope, found: Told) -> None:
    if order is None:
        return
    items = []
    for item in order.expressions:
        hear(tell, item)
        copy = item.copy()
        copy.set("this", resolved(item.this, projections, scope, is_order=True).copy())
        items.append((item, copy))
    phrases = []
    for item, _ in items:
        named = resolved(item.this, projections, scope, is_order=True)
        name = item.this.name if isinstance(item.this, exp.Column) and named is not item.this else ""
        if not name:
            name = next((p.alias for p in projections if isinstance(p, exp.Alias) and p.this == named), "")
        phrase = tell.value(named, scope)
        short = given_name(name) if name else ""
        if short and len(phrase.text) > MAX_REPEATED_CHARACTERS:
            phrase = Phrase(short)
        phrases.append(phrase)
    copies = [copy for _, copy in items]
    found.order = order_words(tell, copies, scope, phrases)
    if len(items) == 1 and not ways(tell, items[0][0], "other")[1]:
        is_descending = bool(items[0][0].args.get("desc"))
        kind = kind_of(copies[0].this, scope)
        word = superlative(kind, is_descending=is_descending)
        if phrases[0].is_column and scope.head is not None and not found.is_aggregate:
            found.best = f"{word} {phrases[0].short or phrases[0].text}"
        elif found.is_aggregate and phrases[0].article and _is_aggregate(copies[0].this):
            found.best_of_group = f"{word} {phrases[0].operand}"


def number(tell: Teller, node: exp.Expr | None, scope: Scope) -> str:
    """Return LIMIT or OFFSET in words; nothing where there is none."""
    if node is None:
        return ""
    only(node, "this", "expression", "expressions")
    given = node.args.get("expression") or node.args.get("this")
    if given is None or node.args.get("expressions"):
        raise unsupported(node)
    return tell.value(given, scope).text


# -- columns of the result ----------------------------------------------------


_LABEL = re.compile(r"\bthose | of the \w+ result\b")
"""What tells which rows are counted; it goes without saying once the number has become a column."""


def _outputs(projections: Sequence[exp.Expr], scope: Scope, found: Told) -> dict[str, Output]:
    outputs: dict[str, Output] = {}
    phrases = [*found.shown_keys, *found.items]
    for item, phrase in zip(projections, phrases, strict=True):
        inner = item.unalias()
        if isinstance(inner, exp.Star) or (isinstance(inner, exp.Column) and isinstance(inner.this, exp.Star)):
            for source in scope.sources:
                if isinstance(inner, exp.Star) or source.alias == inner.table.casefold():
                    outputs |= {name: out for name, out in source.outputs.items() if name not in outputs}
            continue
        own = scope.own(inner)
        name = item.alias_or_name.casefold() or inner.sql().casefold()
        outputs[name] = Output(
            _LABEL.sub("", phrase.text),
            kind_of(inner, scope),
            own[1].base if own else None,
            own[1].column if own else None,
        )
    return outputs


def named_outputs(outputs: dict[str, Output], names: Sequence[str]) -> dict[str, Output]:
    """Return the columns of a result under the names that an alias gives them."""
    if not names:
        return outputs
    if len(names) != len(outputs):
        raise unsupported("an alias with other columns than the query has")
    return {name.casefold(): replace(output) for name, output in zip(names, outputs.values(), strict=True)}
