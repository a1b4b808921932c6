"""Conditions in words: comparisons, lists, patterns, AND and OR; `nested` has those that hold a query."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.downstream.realiser.clauses import about, joined
from rayfactory.downstream.realiser.kinds import kind_of
from rayfactory.downstream.realiser.nested import among, exists
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Clause, Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.words import listed, plural, quoted, singular

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
        return exists(tell, node, scope, negated=negated)
    if isinstance(node, (exp.NullSafeEQ, exp.NullSafeNEQ)):
        is_not = isinstance(node, exp.NullSafeNEQ) != negated
        left, right = tell.value(node.this, scope), tell.value(node.expression, scope)
        return about(left, f"{'differs from' if is_not else 'is the same as'} {right.the} (missing values included)")
    if isinstance(node, exp.Boolean):
        hear(tell, node)
        return Clause(f"{str(bool(node.this) != negated).lower()} holds")
    if isinstance(node, (exp.Column, exp.Case, exp.Literal, exp.Anonymous)):
        return about(tell.value(node, scope), "is false" if negated else "is true")
    raise unsupported(node)


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
        return about(subject, f"{_relation(tell, kind, is_time=is_time)} {quantified}", is_long=True)
    number = right.name if isinstance(right, exp.Literal) and not right.is_string else ""
    own = scope.own(left)
    if isinstance(left, exp.Count) and subject.text.startswith("number of ") and number:
        return _quantity(tell, subject, kind, tell.value(right, scope).the)
    if own is not None and kind is exp.EQ and isinstance(right, exp.Boolean):
        return about(subject, f"is {tell.value(right, scope).text}")
    other = tell.value(right, scope)
    if kind is exp.EQ and subject.is_column and other.is_column:
        return about(subject, f"is the same as {other.the}")
    is_long = isinstance(right, (exp.Subquery, exp.Mul)) and right.find(exp.Select) is not None
    return about(subject, f"{_relation(tell, kind, is_time=is_time)} {other.the}", is_long=is_long)


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
    return about(subject, f"is{not_} from {low} to {high}" if is_time else f"is{not_} between {low} and {high}")


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
            return about(subject, f"{not_}match{'' if negated else 'es'} the pattern {other}")
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
            return about(subject, f"{not_}{verb} {quoted(core)}{case}")
    return about(subject, f"{not_}match{'' if negated else 'es'} the pattern {quoted(text)}{case}")


def _is(tell: Teller, node: exp.Expr, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expression")
    hear(tell, node.expression)
    subject = tell.value(node.this, scope)
    if isinstance(node.expression, exp.Null):
        return about(subject, "is known" if negated else "is missing")
    if isinstance(node.expression, exp.Boolean):
        return about(subject, f"is {'not ' if negated else ''}{str(node.expression.this).lower()}")
    raise unsupported(node)


def _in(tell: Teller, node: exp.In, scope: Scope, *, negated: bool) -> Clause:
    only(node, "this", "expressions", "query")
    if node.args.get("query") is not None:
        return among(tell, node, scope, negated=negated)
    subject = tell.value(node.this, scope)
    values = [tell.value(value, scope).the for value in node.expressions]
    if len(values) == 1:
        return about(subject, f"is {'not ' if negated else ''}{values[0]}")
    if not negated:
        return about(subject, f"is {'one of ' if len(values) > 2 else ''}{listed(values, 'or')}")
    if len(values) == 2:
        return about(subject, f"is neither {values[0]} nor {values[1]}")
    return about(subject, f"is none of {listed(values)}")
