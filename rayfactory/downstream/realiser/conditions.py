"""Conditions in words: comparisons, patterns, AND and OR, and those that hold a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlglot import exp

from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.sources import (
    Scope,
    Source,
    as_role,
    conjuncts,
    is_primary,
    referenced,
    together,
)
from rayfactory.downstream.realiser.telling import Clause, Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.words import a, is_plural, listed, plural, quoted, singular

HAVE = "\x02have"
"""Stands for "have" or "has" until it is known how many are meant."""

_TIMES = frozenset({"date", "timestamp", "time"})
_OPPOSITE: dict[type[exp.Expr], type[exp.Expr]] = {
    exp.EQ: exp.NEQ, exp.NEQ: exp.EQ, exp.GT: exp.LTE, exp.LTE: exp.GT, exp.LT: exp.GTE, exp.GTE: exp.LT,
}  # fmt: skip
_MIRRORED: dict[type[exp.Expr], type[exp.Expr]] = {exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE}


def clause(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool = False) -> Clause:
    """Return a condition, or its negation, in words.

    Raises:
        StatementError: reason ``unsupported``.
    """
    if isinstance(node, exp.Paren):
        return clause(tell, node.this, scope, negated=negated)
    if isinstance(node, exp.Not):
        return clause(tell, node.this, scope, negated=not negated)
    if isinstance(node, (exp.And, exp.Or)):
        return _connected(tell, node, scope, negated=negated)
    if type(node) in _OPPOSITE:
        return _comparison(tell, node, scope, negated=negated)
    if isinstance(node, exp.Between):
        return _between(tell, node, scope, negated=negated)
    if isinstance(node, exp.In):
        return _in(tell, node, scope, negated=negated)
    if isinstance(node, (exp.Like, exp.ILike)):
        return _like(tell, node, scope, negated=negated)
    if isinstance(node, exp.Is):
        return _is(tell, node, scope, negated=negated)
    if isinstance(node, exp.Exists):
        return _exists(tell, node, scope, negated=negated)
    if isinstance(node, (exp.NullSafeEQ, exp.NullSafeNEQ)):
        is_not = isinstance(node, exp.NullSafeNEQ) != negated
        left, right = tell.value(node.this, scope), tell.value(node.expression, scope)
        return _about(left, f"{'differs from' if is_not else 'is the same as'} {right.the} (missing values included)")
    if isinstance(node, exp.Boolean):
        hear(tell, node)
        return Clause(f"{str(bool(node.this) != negated).lower()} holds")
    if isinstance(node, (exp.Column, exp.Case, exp.Literal, exp.Anonymous)):
        return _about(tell.value(node, scope), "is false" if negated else "is true")
    raise unsupported(node)


def _about(subject: Phrase, predicate: str, *, is_long: bool = False) -> Clause:
    text = subject.full
    if predicate.startswith("is ") and is_plural(subject.text) and not subject.is_compound:
        predicate = f"are {predicate.removeprefix('is ')}"
    return Clause(
        f"{subject.the} {predicate}",
        (subject.short or text)
        if subject.article and subject.is_headed and not subject.names_head and not subject.definition
        else "",
        predicate,
        is_long=is_long or len(text) + len(predicate) > 70,
    )


# -- AND, OR ------------------------------------------------------------------


def _connected(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    kind = type(node)
    parts = [clause(tell, part, scope) for part in _parts(node, kind)]
    if negated:
        return Clause(f"it is not the case that {joined(parts, kind)}", is_compound=True, is_long=True)
    subjects = {part.subject for part in parts}
    if kind is exp.Or and len(subjects) == 1 and "" not in subjects and not any(part.is_compound for part in parts):
        subject = parts[0].subject
        predicates = [part.predicate for part in parts]
        verb = predicates[0].partition(" ")[0]
        if verb in {"is", "are"} and all(predicate.startswith(f"{verb} ") for predicate in predicates):
            predicate = (
                f"{verb} either {listed([predicate.removeprefix(f'{verb} ') for predicate in predicates], 'or')}"
            )
        else:
            predicate = f"either {listed(predicates, 'or')}"
        return Clause(f"the {subject} {predicate}", subject, predicate, is_long=True)
    return Clause(joined(parts, kind), is_compound=True, is_long=True)


def _parts(node: exp.Expr, kind: type[exp.Expr]) -> list[exp.Expr]:
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(inner, kind):
        return [*_parts(inner.this, kind), *_parts(inner.expression, kind)]
    return [inner]


def joined(parts: Sequence[Clause], kind: type[exp.Expr]) -> str:
    """Return conditions with "either .. or .." or "both .. and .." around them, which leaves no doubt what belongs."""
    word, link = ("either", "or") if kind is exp.Or else ("both", "and")
    return f"{word} {listed([part.full for part in parts], link)}"


# -- comparisons --------------------------------------------------------------


def _comparison(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expression")
    left, right, kind = node.this, node.expression, type(node)
    if _is_constant(left) and not _is_constant(right):
        left, right, kind = right, left, _MIRRORED.get(kind, kind)
    if negated:
        kind = _OPPOSITE[kind]
    quantified = _quantified(tell, right, scope)
    subject = tell.value(left, scope)
    is_time = kind_of(left, scope) in _TIMES
    if quantified is not None:
        if negated:
            raise unsupported(node)
        return _about(subject, f"{_relation(tell, kind, is_time=is_time)} {quantified}", is_long=True)
    number = right.name if isinstance(right, exp.Literal) and not right.is_string else ""
    own = scope.own(left)
    if isinstance(left, exp.Count) and subject.text.startswith("number of ") and number:
        return _quantity(tell, subject, kind, tell.value(right, scope).the)
    if own is not None and kind is exp.EQ and isinstance(right, exp.Boolean):
        return _about(subject, f"is {tell.value(right, scope).text}")
    other = tell.value(right, scope)
    if kind is exp.EQ and subject.is_column and other.is_column:
        return _about(subject, f"is the same as {other.the}")
    is_long = isinstance(right, (exp.Subquery, exp.Mul)) and right.find(exp.Select) is not None
    return _about(subject, f"{_relation(tell, kind, is_time=is_time)} {other.the}", is_long=is_long)


def _quantity(tell: Teller, subject: Phrase, kind: type[exp.Expr], number: str) -> Clause:
    """A condition on a number of rows: "has at least 3 sales"."""
    amounts: dict[type[exp.Expr], str] = {
        exp.EQ: "exactly", exp.GT: "more than", exp.GTE: "at least", exp.LT: "fewer than", exp.LTE: "at most",
        exp.NEQ: "other than",
    }  # fmt: skip
    predicate = _relation(tell, kind, is_time=False)
    what = subject.text.removeprefix("number of ")
    if number == "1":
        what = singular(what) if what == plural(singular(what)) else what
    has = f"{amounts[kind]} {number} {what}" if not what.startswith("different values") else ""
    return Clause(f"the {subject.text} {predicate} {number}", subject.text, f"{predicate} {number}", has=has)


def _relation(tell: Teller, kind: type[exp.Expr], *, is_time: bool) -> str:
    if is_time and kind not in {exp.EQ, exp.NEQ}:
        times: dict[type[exp.Expr], str] = {
            exp.GT: "after",
            exp.LT: "before",
            exp.GTE: "on or after",
            exp.LTE: "on or before",
        }
        return f"is {times[kind]}"
    words: dict[type[exp.Expr], str] = {
        exp.EQ: "", exp.NEQ: "not", exp.GT: tell.style.greater, exp.LT: tell.style.less, exp.GTE: "at least",
        exp.LTE: "at most",
    }  # fmt: skip
    return f"is {words[kind]}".rstrip()


def _is_constant(node: exp.Expr) -> bool:
    return node.find(exp.Column, exp.Subquery, exp.AggFunc) is None


def _quantified(tell: Teller, node: exp.Expr, scope: Scope) -> str | None:
    if not isinstance(node, (exp.All, exp.Any)):
        return None
    inner = node.this.unnest() if isinstance(node.this, (exp.Subquery, exp.Paren)) else node.this
    return f"{'all' if isinstance(node, exp.All) else 'any'} of {tell.query(inner, scope)}"


def _between(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "low", "high")
    subject = tell.value(node.this, scope)
    low, high = (tell.value(node.args[name], scope).the for name in ("low", "high"))
    is_time = kind_of(node.this, scope) in _TIMES
    not_ = " not" if negated else ""
    return _about(subject, f"is{not_} from {low} to {high}" if is_time else f"is{not_} between {low} and {high}")


def _like(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expression")
    subject = tell.value(node.this, scope)
    pattern = node.expression
    not_ = "does not " if negated else ""
    s = "" if negated else "s"
    if not (isinstance(pattern, exp.Literal) and pattern.is_string):
        # SQLite takes a name in double quotes for a text where there is no such column.
        is_text = isinstance(pattern, exp.Column) and pattern.this.args.get("quoted") and scope.find(pattern) is None
        if isinstance(pattern, exp.Column) and not is_text:
            other = tell.value(pattern, scope).the
            return _about(subject, f"{not_}match{'' if negated else 'es'} the pattern {other}")
        if not is_text:
            raise unsupported(node)
    hear(tell, pattern)
    text = pattern.name
    core = text.strip("%")
    case = " (in upper or lower case)" if isinstance(node, exp.ILike) else ""
    if core and not set(core) & {"%", "_"}:
        begins, ends = not text.startswith("%"), not text.endswith("%")
        if text in {f"%{core}%", f"{core}%", f"%{core}"}:
            verb = f"contain{s}"
            if begins:
                verb = f"start{s} with"
            elif ends:
                verb = f"end{s} with"
            return _about(subject, f"{not_}{verb} {quoted(core)}{case}")
    return _about(subject, f"{not_}match{'' if negated else 'es'} the pattern {quoted(text)}{case}")


def _is(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expression")
    hear(tell, node.expression)
    subject = tell.value(node.this, scope)
    if isinstance(node.expression, exp.Null):
        return _about(subject, "is known" if negated else "is missing")
    if isinstance(node.expression, exp.Boolean):
        return _about(subject, f"is {'not ' if negated else ''}{str(node.expression.this).lower()}")
    raise unsupported(node)


# -- conditions with a query --------------------------------------------------


def _in(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expressions", "query")
    query = node.args.get("query")
    if query is None:
        subject = tell.value(node.this, scope)
        values = [tell.value(value, scope).the for value in node.expressions]
        if len(values) == 1:
            return _about(subject, f"is {'not ' if negated else ''}{values[0]}")
        if negated:
            return _about(
                subject,
                f"is neither {values[0]} nor {values[1]}" if len(values) == 2 else f"is none of {listed(values)}",
            )
        return _about(subject, f"is {'one of ' if len(values) > 2 else ''}{listed(values, 'or')}")
    inner = query.unnest() if isinstance(query, exp.Subquery) else query
    found = _member(tell, node.this, inner, scope, negated=negated)
    if found is not None:
        return found
    subject = tell.value(node.this, scope)
    return _about(subject, f"is {'not ' if negated else ''}among {tell.query(inner, scope)}", is_long=True)


def _simple(inner: exp.Expr) -> exp.Select | None:
    """Return a SELECT that has nothing but tables and conditions."""
    if not isinstance(inner, exp.Select):
        return None
    items = [inner.args.get("from_"), *(inner.args.get("joins") or ())]
    if not all(item is not None and isinstance(item.this, exp.Table) for item in items):
        return None
    left = [
        name
        for name, part in inner.args.items()
        if part and name not in {"expressions", "from_", "where", "joins", "distinct"}
    ]
    return None if left else inner


def _member(tell: Teller, left: exp.Expr, inner: exp.Expr, scope: Scope, *, negated: bool) -> Clause | None:
    """`key IN (SELECT foreign key ..)` and `foreign key IN (SELECT key ..)`."""
    select = _simple(inner)
    own = scope.own(left)
    if select is None or own is None or len(select.expressions) != 1 or own[1].base is None:
        return None
    inside = tell.opened(select, scope)
    item = select.expressions[0].unalias()
    yielded = inside.own(item)
    if yielded is None or yielded[1].base is None or yielded[0] is not inside.head or yielded[0].table is None:
        return None
    source, base = own[0], yielded[1].base
    for condition in inside.conditions:
        # That the key is known goes without saying.
        test = condition.this if isinstance(condition, exp.Not) else None
        if isinstance(test, exp.Is) and isinstance(test.expression, exp.Null) and inside.own(test.this) == yielded:
            hear(tell, condition)
            inside.done.add(id(condition))
    for key in tell.schema.foreign_keys:
        if len(key.columns) != 1:
            continue
        ends = (
            (key.table.casefold(), key.columns[0].casefold()),
            (key.referenced_table.casefold(), key.referenced_columns[0].casefold()),
        )
        if ends == (base, own[1].base):
            return _having(tell, inside, source, scope, [left, item], as_role(tell.schema, key), negated=negated)
        if ends == (own[1].base, base):
            found = referenced(tell.schema, own[1].base)
            assert found is not None
            source.is_mentioned = True
            hear(tell, left)
            hear(tell, item)
            called = found[1] if source is scope.head else f"{source.said} {found[1]}"
            return _one(tell, inside, called, negated=negated)
    return None


def _having(
    tell: Teller,
    inside: Scope,
    source: Source,
    scope: Scope,
    keys: Sequence[exp.Expr],
    role: str,
    *,
    negated: bool,
) -> Clause:
    assert inside.head is not None
    mods = numbered(tell.narrowed(inside), is_plural=False)
    for key in keys:
        hear(tell, key)
    source.is_mentioned = True
    what = f"{f'no {inside.head.one}' if negated else a(inside.head.one)}{role}{mods}"
    if source is scope.head:
        return Clause(f"the {source.one} has {what}", has=what, is_long=bool(mods))
    return Clause(f"the {source.said} has {what}", source.said, f"has {what}", is_long=True)


def _one(tell: Teller, inside: Scope, called: str, *, negated: bool) -> Clause:
    assert inside.head is not None
    mods = numbered(tell.narrowed(inside), is_plural=False)
    if not mods:
        predicate = f"is not among the {inside.head.many}" if negated else f"is among the {inside.head.many}"
    else:
        predicate = f"is {'not ' if negated else ''}one{mods}"
    return Clause(f"the {called} {predicate}", called, predicate, is_long=True)


def _exists(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    inner = node.this.unnest() if isinstance(node.this, (exp.Subquery, exp.Paren)) else node.this
    select = _simple(inner)
    if select is None:
        there = "there is no row in" if negated else "there is a row in"
        return Clause(f"{there} {tell.query(inner, scope)}", is_long=True)
    for item in select.expressions:
        hear(tell, item)
    inside = tell.opened(select, scope)
    if inside.head is None:
        mods = numbered(tell.narrowed(inside), is_plural=False)
        return Clause(f"there is {'no' if negated else 'a'} {together(inside)}{mods}", is_long=True)
    follows = _follows(tell, select, inside, scope)
    if follows is not None:
        outer_source, role, conditions, is_child = follows
        for condition in conditions:
            hear(tell, condition)
            inside.done.add(id(condition))
        if is_child:
            return _having(tell, inside, outer_source, scope, [], role, negated=negated)
        outer_source.is_mentioned = True
        called = role if outer_source is scope.head else f"{outer_source.said} {role}"
        return _one(tell, inside, called, negated=negated)
    mods = numbered(tell.narrowed(inside), is_plural=False)
    what = f"no {inside.head.one}{mods}" if negated else f"{a(inside.head.one)}{mods}"
    return Clause(f"there is {what}", is_long=True)


def _follows(
    tell: Teller, select: exp.Select, inside: Scope, scope: Scope
) -> tuple[Source, str, list[exp.Expr], bool] | None:
    """Return the surrounding source that a key links the head of a nested SELECT with.

    Returns:
        The source, its role (or, where it is the parent, what `as_role` says), the conditions, and whether it is the
        parent.
    """
    clause_of_where = select.args.get("where")
    pairs: list[tuple[Source, tuple[str, str], tuple[str, str], exp.Expr]] = []
    for condition in conjuncts(clause_of_where.this if clause_of_where is not None else None):
        if not isinstance(condition, exp.EQ):
            continue
        for mine, theirs in ((condition.this, condition.expression), (condition.expression, condition.this)):
            own, alien = inside.own(mine), inside.alien(theirs)
            if (
                own is None
                or alien is None
                or own[0] is not inside.head
                or own[1].base is None
                or alien[1].base is None
            ):
                continue
            if alien[0] in scope.sources:
                pairs.append((alien[0], own[1].base, alien[1].base, condition))
    for source in dict.fromkeys(pair[0] for pair in pairs):
        bases = {(a_, b_): condition for found, a_, b_, condition in pairs if found is source}
        for key in tell.schema.foreign_keys:
            ends = [
                ((key.table.casefold(), x.casefold()), (key.referenced_table.casefold(), y.casefold()))
                for x, y in zip(key.columns, key.referenced_columns, strict=True)
            ]
            if all(end in bases for end in ends):
                return source, as_role(tell.schema, key), [bases[end] for end in ends], True
            if all((y, x) in bases for x, y in ends):
                found = referenced(tell.schema, ends[0][0])
                role = found[1] if found is not None else inside.head.one if inside.head else ""
                return source, role, [bases[y, x] for x, y in ends], False
    return None


def shared(tell: Teller, condition: exp.Expr, scope: Scope) -> Clause | None:
    """Return an equality of two foreign keys to the same table as what it means: "the two have the same customer"."""
    if not isinstance(condition, exp.EQ):
        return None
    left, right = scope.own(condition.this), scope.own(condition.expression)
    if left is None or right is None or left[0] is right[0]:
        return None
    one, other = referenced(tell.schema, left[1].base), referenced(tell.schema, right[1].base)
    is_same_key = (
        one is not None
        and other is not None
        and one[0].referenced_table == other[0].referenced_table
        and one[1] == other[1]
    )
    is_same_output = left[0].table is None and right[0].table is None and left[1].words == right[1].words
    if not is_same_key and not is_same_output:
        return None
    what = one[1] if is_same_key and one is not None else left[1].words
    hear(tell, condition)
    left[0].is_mentioned = right[0].is_mentioned = True
    is_optional = left[0].is_optional or right[0].is_optional
    full = f"the {left[0].one} and the {right[0].one} have the same {what}"
    return Clause(full, adjunct=f"with the same {what}" if is_optional else "")


def correlated(tell: Teller, condition: exp.Expr, inside: Scope) -> Clause | None:
    """Return an equality with a column of a surrounding SELECT as what it means: "of that customer"."""
    if not isinstance(condition, exp.EQ):
        return None
    for mine, theirs in ((condition.this, condition.expression), (condition.expression, condition.this)):
        own, alien = inside.own(mine), inside.alien(theirs)
        if own is None or alien is None or own[1].base is None or alien[1].base is None:
            continue
        own[0].is_mentioned = alien[0].is_mentioned = True
        one, other = referenced(tell.schema, own[1].base), referenced(tell.schema, alien[1].base)
        if own[1].base == alien[1].base and not is_primary(tell.schema, own[1].base):
            hear(tell, condition)
            what = one[1] if one is not None else own[1].words
            owner = "" if own[0] is inside.head else f"{own[0].said} "
            return Clause(
                f"the {owner}{what} is the same as that {alien[0].one}'s", adjunct=f"with the same {owner}{what}"
            )
        if one is not None and alien[1].base == _end(one[0]) and own[0] is inside.head:
            hear(tell, condition)
            is_plain = one[1] == alien[0].noun
            adjunct = f"of that {alien[0].one}" if is_plain else f"with that {alien[0].one} as {one[1]}"
            return Clause(f"the {one[1]} is that {alien[0].one}", adjunct=adjunct)
        if (
            one is not None
            and other is not None
            and one[0].referenced_table == other[0].referenced_table
            and one[1] == other[1]
        ):
            hear(tell, condition)
            return Clause(f"the {one[1]} is the same as that {alien[0].one}'s", adjunct=f"with the same {one[1]}")
    return None


def _end(key: object) -> tuple[str, str]:
    from rayfactory.databases.schema import ForeignKey

    assert isinstance(key, ForeignKey)
    return key.referenced_table.casefold(), key.referenced_columns[0].casefold()


def modifiers(clauses: Sequence[Clause]) -> str:
    """Return conditions as they stand together behind the noun of what they are about, with a blank before them.

    `numbered` makes it singular or plural.
    """
    if not clauses:
        return ""
    ordered = sorted(clauses, key=lambda part: part.is_long)
    adjuncts = [part for part in ordered if part.adjunct]
    rest = [part for part in ordered if not part.adjunct]
    text = "".join(f" {part.adjunct}" for part in adjuncts)
    if any(not part.subject and not part.has for part in rest):
        fulls = [part.full for part in rest]
        return f"{text} where {_chain(fulls, [part.is_long for part in rest])}"
    whose = [part for part in rest if part.subject]
    having = [part for part in rest if not part.subject]
    verb = HAVE
    if not rest:
        return text
    pieces = []
    if whose:
        pieces.append(
            "whose " + _chain([f"{p.subject} {p.predicate}" for p in whose], [p.is_long for p in whose], "whose ")
        )
    if having:
        is_nested = any(part.is_long for part in having)
        pieces.append(
            f"that {verb} " + _chain([part.has for part in having], [is_nested for _ in having], f"that {verb} ")
        )
    return f"{text} {' and '.join(pieces)}" if len(pieces) < 2 else f"{text} {', and '.join(pieces)}"


def numbered(text: str, *, is_plural: bool) -> str:
    """Return what stands behind a noun with its verbs in the noun's number."""
    return text.replace(HAVE, "have" if is_plural else "has")


def _chain(items: Sequence[str], are_long: Sequence[bool], again: str = "") -> str:
    """Return "a, b and c"; where items are long or have commas themselves, each begins anew."""
    if len(items) < 2:
        return "".join(items)
    begun = [items[0], *(f"{again}{item}" for item in items[1:])]
    if len(items) == 2 and not any(are_long) and ", " not in items[0]:
        return " and ".join(begun)
    return ", ".join(begun[:-1]) + f", and {begun[-1]}"


def without_subject(part: Clause) -> Clause:
    """Return a clause in its full form only."""
    return replace(part, subject="", has="", adjunct="")
