"""Calculations in words: operators, percentages, rounding, types."""

from __future__ import annotations

import re
from dataclasses import replace

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import rows
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Rule, Teller, hear, only, unsupported

_OPERATORS: dict[type[exp.Expr], str] = {exp.Add: "plus", exp.Sub: "minus", exp.Mul: "times", exp.Div: "divided by"}
_TYPES = {
    "REAL": "a decimal number", "FLOAT": "a decimal number", "DOUBLE": "a decimal number",
    "DECIMAL": "a decimal number", "INT": "a whole number", "BIGINT": "a whole number", "TEXT": "text",
    "VARCHAR": "text", "DATE": "a date", "TIMESTAMP": "a point in time", "BOOLEAN": "true or false",
}  # fmt: skip


def _calculation(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expression", "typed", "safe")
    share = _percentage(tell, node, scope) if isinstance(node, (exp.Div, exp.Mul)) else None
    if share is not None:
        return share
    if isinstance(node, exp.Div) and (cast := _decimal(node.this)) is not None:
        # CAST(x AS REAL) / y only keeps the division from dropping the remainder.
        hear(tell, cast.args["to"])
        plain = node.copy()
        plain.set("typed", False)
        inner = _decimal(plain.this)
        assert inner is not None
        inner.replace(inner.this)
        told = tell.value(plain, scope)
        hear(tell, node)
        return replace(told, text=f"{told.text} (as a decimal number)")
    first, last = node.this, node.expression
    if isinstance(node, exp.Mul) and isinstance(last, exp.Literal) and not last.is_string:
        first, last = last, first
    left, right = tell.value(first, scope), _last(last, tell.value(last, scope))
    if isinstance(node, exp.Mul) and _is_number(left):
        text = f"{left.text} times {('the ' if right.article else '') + right.operand}"
        return Phrase(text, article=False, names_head=right.names_head, is_compound=True)
    # A chain of one kind needs no parentheses on its left.
    is_chain = isinstance(node.this, (exp.Add, exp.Sub)) and isinstance(node, (exp.Add, exp.Sub))
    # "the highest price minus the lowest price", but "quantity times unit price".
    is_spoken = right.article and not right.is_column and not right.is_compound
    second = f"the {right.operand}" if is_spoken else right.operand
    text = f"{left.text if is_chain else left.operand} {_OPERATORS[type(node)]} {second}"
    if node.args.get("typed") and _is_whole(node.this, scope) and _is_whole(node.expression, scope):
        text += " (without the remainder)"
    return Phrase(text, left.article, left.names_head or right.names_head, is_compound=True)


def _last(node: exp.Expr, phrase: Phrase) -> Phrase:
    """Return an operand as it stands last: the conditions of a number of rows need no parentheses there."""
    is_count = phrase.names_head and not isinstance(node.unnest(), exp.Binary)
    return replace(phrase, is_compound=False) if is_count else phrase


def _is_number(phrase: Phrase) -> bool:
    return not phrase.article and re.fullmatch(r"-?[\d.]+", phrase.text) is not None


def _decimal(node: exp.Expr) -> exp.Cast | None:
    """Return the cast to a decimal number that is the numerator, or a factor of it."""
    inner = node.unnest() if isinstance(node, exp.Paren) else node
    if isinstance(inner, exp.Mul):
        return _decimal(inner.this) or _decimal(inner.expression)
    return inner if _is_decimal(inner) and isinstance(inner, exp.Cast) else None


def _is_decimal(node: exp.Expr) -> bool:
    """Return whether it is a cast to decimal numbers, and to as many decimals as there are."""
    if not isinstance(node, exp.Cast):
        return False
    return _TYPES.get(node.args["to"].this.value) == "a decimal number" and not node.args["to"].expressions


def _is_whole(node: exp.Expr, scope: Scope) -> bool:
    """Return whether all values are whole numbers, as far as it is plain."""
    node = node.unnest()
    if isinstance(node, exp.Literal):
        return not node.is_string and node.name.isdigit()
    if isinstance(node, exp.Column):
        found = scope.find(node)
        return found is not None and found[2].kind == "integer"
    if isinstance(node, (exp.Case, exp.If)):
        branches = node.args["ifs"] if isinstance(node, exp.Case) else [node]
        results = [branch.args["true"] for branch in branches]
        results.append(node.args.get("default" if isinstance(node, exp.Case) else "false") or exp.Null())
        return all(isinstance(result, exp.Null) or _is_whole(result, scope) for result in results)
    if isinstance(node, exp.Cast):
        return _TYPES.get(node.args["to"].this.value) == "a whole number"
    if isinstance(node, exp.Neg):
        return _is_whole(node.this, scope)
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _is_whole(node.this, scope) and _is_whole(node.expression, scope)
    if isinstance(node, (exp.Sum, exp.Min, exp.Max)):
        return isinstance(node.this, exp.Predicate) or _is_whole(node.this, scope)
    return isinstance(node, (exp.Count, exp.CountIf, exp.Length))


def _percentage(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase | None:
    """Return 100 * (number where ..) / (number of all), in any order, as the percentage that it is."""
    parts = _hundredfold(node)
    if parts is None:
        return None
    top, bottom = (tell.value(part, scope).text for part in parts)
    every = f"number of {rows(scope)}"
    if bottom != every or not top.startswith((f"{every} whose ", f"{every} where ")):
        return None
    hear(tell, node)
    return Phrase(f"percentage{top.removeprefix('number')}", names_head=True)


def _hundredfold(node: exp.Expr) -> tuple[exp.Expr, exp.Expr] | None:
    """Return x and y of 100 * x / y, where that is no division of whole numbers."""
    hundred: exp.Expr | None = None
    if isinstance(node, exp.Div):
        top, bottom = node.this.unnest(), node.expression.unnest()
        if not isinstance(top, exp.Mul):
            return None
        factors = [top.this.unnest(), top.expression.unnest()]
        hundred = next((f for f in factors if isinstance(f, exp.Literal) and f.name in {"100", "100.0"}), None)
        counted = next((f for f in factors if f is not hundred), None)
    else:
        factors = [node.this.unnest(), node.expression.unnest()]
        hundred = next((f for f in factors if isinstance(f, exp.Literal) and f.name in {"100", "100.0"}), None)
        division = next((f for f in factors if isinstance(f, exp.Div)), None)
        if division is None:
            return None
        counted, bottom = division.this.unnest(), division.expression.unnest()
    if hundred is None or counted is None or not isinstance(bottom, exp.Count):
        return None
    is_exact = hundred.name == "100.0" and isinstance(node, exp.Div)
    if isinstance(counted, exp.Cast) and _is_decimal(counted):
        counted, is_exact = counted.this.unnest(), True
    is_count = isinstance(counted, (exp.Sum, exp.Count))
    return (counted, bottom) if is_count and is_exact else None


def _round(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "decimals")
    inner = tell.value(node.this, scope)
    digits = node.args.get("decimals")
    number = tell.value(digits, scope).text if digits is not None else "0"
    how = "to a whole number" if number == "0" else f"to {number} decimal{'' if number == '1' else 's'}"
    return Phrase(f"{inner.text} (rounded {how})", inner.article, inner.names_head, is_compound=inner.is_compound)


def _cast(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "to")
    kind = node.args["to"].this.value
    if kind not in _TYPES:
        raise unsupported(node)
    hear(tell, node.args["to"])
    # SQLite takes no notice of a type's size.
    sizes = [size.name for size in node.args["to"].expressions] if tell.schema.dialect != "sqlite" else []
    words = _TYPES[kind]
    if sizes and words == "a decimal number":
        number = sizes[1] if len(sizes) > 1 else "0"
        words = f"a number with {number} decimal{'' if number == '1' else 's'}"
    elif sizes:
        raise unsupported(node)
    if isinstance(node.this, exp.Literal) and node.this.is_string and kind in {"DATE", "TIMESTAMP"}:
        hear(tell, node.this)
        return Phrase(node.this.name, article=False)
    inner = tell.value(node.this, scope)
    if isinstance(node.this, exp.TimeToStr) and _TYPES[kind] == "a whole number":
        return inner
    return Phrase(f"{inner.operand} as {words}", inner.article, inner.names_head, is_compound=True)


def _negative(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    inner = tell.value(node.this, scope)
    if isinstance(node.this, exp.Literal):
        return Phrase(f"-{inner.text}", article=False)
    return Phrase(f"negative of {inner.the}")


def _modulo(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    left, right = tell.value(node.this, scope), tell.value(node.expression, scope)
    return Phrase(f"remainder of {left.the} divided by {right.operand}", is_compound=True)


CALCULATIONS: dict[type[exp.Expr], Rule] = {
    **dict.fromkeys(_OPERATORS, _calculation),
    exp.Mod: _modulo,
    exp.Neg: _negative,
    exp.Round: _round,
    exp.Cast: _cast,
}
