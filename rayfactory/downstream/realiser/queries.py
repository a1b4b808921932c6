"""A whole query in words, part by part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import entity, rows
from rayfactory.downstream.realiser.clauses import numbered
from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.ordering import order_words, superlative, ways
from rayfactory.downstream.realiser.sources import Output, Scope, is_primary, referenced, together
from rayfactory.downstream.realiser.telling import Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.values import MAX_REPEATED_CHARACTERS, given_name
from rayfactory.downstream.realiser.windows import short_name
from rayfactory.downstream.realiser.words import listed, plural

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
    subtotals: list[tuple[type[exp.Expr], list[list[exp.Expr]]]] = field(default_factory=list)
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
    keys = _independent(tell, _keys(select, projections, scope, found), projections, scope)
    having, order = select.args.get("having"), select.args.get("order")
    found.is_aggregate = bool(keys) or any(_is_aggregate(item) for item in projections) or having is not None
    again = _again(select, projections)
    texts = [item.unalias().sql() for item in projections]
    num_shown = _num_shown(keys, texts)
    if len(keys) == 1 and any(isinstance(item.unalias(), exp.Column) for item in projections[num_shown:]):
        # A key with what hangs on it: told of the thing that the key stands for.
        own = scope.own(keys[0])
        if own is not None and (is_primary(tell.schema, own[1].base) or referenced(tell.schema, own[1].base)):
            num_shown = 0
    if num_shown:
        found.shown_keys = [_item(tell, item, scope, again, is_step=is_step) for item in projections[:num_shown]]
        found.items = [_item(tell, item, scope, again, is_step=is_step) for item in projections[num_shown:]]
    else:
        found.items = [_item(tell, item, scope, again, is_step=is_step) for item in projections]
        found.keys = [entity(tell, key, scope) for key in keys]
    if (group := select.args.get("group")) is not None:
        hear(tell, group)
    found.is_star = any(isinstance(item.unalias(), exp.Star) or item.is_star for item in projections)
    found.subtotals_told = _subtotals(tell, found, scope)
    if having is not None:
        found.having = _having(tell, having.this, scope, keys)
        if found.shown_keys:
            _define_first(found)
    if (qualify := select.args.get("qualify")) is not None:
        found.qualify = tell.clause(qualify.this, scope).full
    _order(tell, order, projections, scope, found)
    found.limit, found.offset = (_number(tell, select.args.get(name), scope) for name in ("limit", "offset"))
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


# -- groups -------------------------------------------------------------------


def _keys(select: exp.Select, projections: Sequence[exp.Expr], scope: Scope, found: Told) -> list[exp.Expr]:
    group = select.args.get("group")
    if group is None:
        return []
    only(group, "expressions", "rollup", "cube", "grouping_sets")
    keys: list[exp.Expr] = []
    parts = [*group.expressions]
    for name in ("rollup", "cube", "grouping_sets"):
        parts += group.args.get(name) or ()
    for part in parts:
        if isinstance(part, (exp.Rollup, exp.Cube)):
            inner = [_resolved(key, projections, scope) for key in part.expressions]
            found.subtotals.append((type(part), [inner]))
            keys += inner
        elif isinstance(part, exp.GroupingSets):
            sets = [_set(one, projections, scope) for one in part.expressions]
            found.subtotals.append((exp.GroupingSets, sets))
            keys += {key.sql(): key for one in sets for key in one}.values()
        else:
            keys.append(_resolved(part, projections, scope))
    return keys


def _set(node: exp.Expr, projections: Sequence[exp.Expr], scope: Scope) -> list[exp.Expr]:
    inner = node.expressions if isinstance(node, exp.Tuple) else [node.unnest()]
    return [_resolved(key, projections, scope) for key in inner]


def _subtotals(tell: Teller, found: Told, scope: Scope) -> str:
    """Return over which of the groups there are subtotals."""
    text = ""
    for kind, sets in found.subtotals:
        names = [listed([tell.value(key, scope).text for key in keys]) for keys in sets]
        if kind is not exp.GroupingSets and len(sets[0]) == 1:
            text += f", with subtotals over all values of {names[0]}"
        elif kind is exp.Rollup:
            last, *others = (tell.value(key, scope).text for key in reversed(sets[0]))
            steps = [f"first over all values of {last}", *(f"then over those of {other} too" for other in others)]
            text += f", with subtotals step by step ({', '.join(steps)})"
        elif kind is exp.Cube:
            text += f", with subtotals over every combination of {names[0]}"
        else:
            ways = [f"once for each {name}" if name else "once for all together" for name in names]
            text += f", grouped {listed(ways)}"
    return text


def _independent(tell: Teller, keys: list[exp.Expr], projections: Sequence[exp.Expr], scope: Scope) -> list[exp.Expr]:
    """Return the keys without those that a primary key among them settles, where that is not shown itself."""
    shown = {_bare(item.unalias().sql()) for item in projections}
    settled = set()
    for key in keys:
        own = scope.own(key)
        if own is not None and is_primary(tell.schema, own[1].base) and _bare(key.sql()) not in shown:
            settled.add(id(own[0]))
    rest = []
    for key in keys:
        own = scope.own(key)
        is_settled = own is not None and id(own[0]) in settled and not is_primary(tell.schema, own[1].base)
        if not is_settled:
            rest.append(key)
    return rest


def _resolved(key: exp.Expr, projections: Sequence[exp.Expr], scope: Scope, *, is_order: bool = False) -> exp.Expr:
    """Return what a number or a name in GROUP BY or ORDER BY stands for.

    A name is first of all a column of the tables in GROUP BY, and one of the result in ORDER BY.
    """
    if isinstance(key, exp.Literal) and key.name.isdigit() and 0 < int(key.name) <= len(projections):
        return projections[int(key.name) - 1].unalias()
    if isinstance(key, exp.Column) and not key.table and (is_order or scope.own(key) is None):
        return scope.names.get(key.name.casefold(), key)
    return key


def _num_shown(keys: Sequence[exp.Expr], texts: Sequence[str]) -> int:
    wanted = {_bare(key.sql()) for key in keys}
    number = len(wanted)
    return number if number and {_bare(text) for text in texts[:number]} == wanted else 0


def _bare(text: str) -> str:
    return text.casefold().replace('"', "")


def _having(tell: Teller, condition: exp.Expr, scope: Scope, keys: Sequence[exp.Expr]) -> str:
    found = tell.clause(condition, scope)
    if not found.has:
        return f" where {found.full}"
    # A customer without any sale is no group of the sales.
    is_of_things = any(
        own is not None and (is_primary(tell.schema, own[1].base) or referenced(tell.schema, own[1].base))
        for own in map(scope.own, keys)
    )
    is_of_rows = found.subject == f"number of {rows(scope)}"
    if is_of_things and is_of_rows and found.has.startswith(("at most ", "fewer than ", "other than ")):
        return f" with at least one but {found.has}"
    return f" with {found.has}"


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
        copy.set("this", _resolved(item.this, projections, scope, is_order=True).copy())
        items.append((item, copy))
    phrases = []
    for item, _ in items:
        named = _resolved(item.this, projections, scope, is_order=True)
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


def _number(tell: Teller, node: exp.Expr | None, scope: Scope) -> str:
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


# -- set operations -----------------------------------------------------------

_SETS: dict[tuple[type[exp.Expr], bool], str] = {
    (exp.Union, True): ", together with {}, without duplicates",
    (exp.Union, False): ", followed by {}",
    (exp.Intersect, True): ", keeping only those that are also among {}",
    (exp.Except, True): ", leaving out those that are among {}",
}


def united(node: exp.SetOperation, left: str, right: str) -> str:
    """Return two results that a set operation makes one of."""
    only(node, "this", "expression", "distinct", "order", "limit", "offset", "with_")
    how = _SETS.get((type(node), bool(node.args.get("distinct"))))
    if how is None:
        raise unsupported(node)
    is_nested = isinstance(node.expression.unnest(), exp.SetOperation)
    return left + how.format(f"({right})" if is_nested else right)


def order_of_set(tell: Teller, node: exp.SetOperation, outputs: dict[str, Output]) -> str:
    """Return what the result of a set operation is sorted by."""
    order = node.args.get("order")
    if order is None:
        return ""
    parts = []
    columns = list(outputs.values())
    for item in order.expressions:
        only(item, "this", "desc", "nulls_first")
        hear(tell, item)
        key = item.this
        if isinstance(key, exp.Literal) and key.name.isdigit() and 0 < int(key.name) <= len(columns):
            output = columns[int(key.name) - 1]
        elif isinstance(key, exp.Column) and key.name.casefold() in outputs:
            output = outputs[key.name.casefold()]
        else:
            raise unsupported(item)
        parts.append(" ".join(filter(None, (output.words, *ways(tell, item, output.kind)))))
    return ", then by ".join(parts)


def number_of_set(tell: Teller, node: exp.SetOperation, name: str) -> str:
    """Return LIMIT or OFFSET of a set operation."""
    return _number(tell, node.args.get(name), Scope([], None))


def named_outputs(outputs: dict[str, Output], names: Sequence[str]) -> dict[str, Output]:
    """Return the columns of a result under the names that an alias gives them."""
    if not names:
        return outputs
    if len(names) != len(outputs):
        raise unsupported("an alias with other columns than the query has")
    return {name.casefold(): replace(output) for name, output in zip(names, outputs.values(), strict=True)}
