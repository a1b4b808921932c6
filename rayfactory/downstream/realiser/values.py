"""Values in words: columns, constants, calculations, functions, CASE."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from sqlglot import exp

from rayfactory.downstream.realiser.aggregates import AGGREGATES, aggregate, rows
from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Teller, hear, only, unsupported
from rayfactory.downstream.realiser.windows import window
from rayfactory.downstream.realiser.words import listed, possessive, quoted, split, tidy, without_owner

_OPERATORS: dict[type[exp.Expr], str] = {exp.Add: "plus", exp.Sub: "minus", exp.Mul: "times", exp.Div: "divided by"}
_TYPES = {
    "REAL": "a decimal number", "FLOAT": "a decimal number", "DOUBLE": "a decimal number",
    "DECIMAL": "a decimal number", "INT": "a whole number", "BIGINT": "a whole number", "TEXT": "text",
    "VARCHAR": "text", "DATE": "a date", "TIMESTAMP": "a point in time", "BOOLEAN": "true or false",
}  # fmt: skip
_DATE_PARTS: dict[str, str] = {
    "%Y": "year", "%m": "month number", "%d": "day of the month", "%w": "day of the week",
    "%H": "hour", "%M": "minute", "%S": "second", "%j": "day of the year", "%Y-%m": "month", "%Y-%m-%d": "day",
    "%m-%d": "month and day", "%W": "week number", "%s": "seconds since 1970", "%-d": "day of the month",
    "%J": "Julian day",
}  # fmt: skip
_EXTRACTED = {
    "YEAR": "year", "MONTH": "month number", "DAY": "day of the month", "QUARTER": "quarter number",
    "WEEK": "week number", "DAYOFWEEK": "day of the week", "DOW": "day of the week", "HOUR": "hour",
    "MINUTE": "minute", "SECOND": "second", "DOY": "day of the year", "DAYOFYEAR": "day of the year",
}  # fmt: skip
_TRUNCATED = {"YEAR": "calendar year", "QUARTER": "calendar quarter", "MONTH": "calendar month",
              "WEEK": "calendar week", "DAY": "calendar day", "HOUR": "hour"}  # fmt: skip
_OF: dict[type[exp.Expr], str] = {
    exp.Length: "length", exp.Abs: "absolute value", exp.Ceil: "next whole number at or above",
    exp.Floor: "next whole number at or below", exp.Sqrt: "square root", exp.Year: "year",
    exp.Month: "month number", exp.Day: "day of the month", exp.Quarter: "quarter number",
    exp.DayOfWeek: "day of the week", exp.Ln: "natural logarithm", exp.Sign: "sign", exp.Exp: "exponential",
}  # fmt: skip
_WRITTEN: dict[type[exp.Expr], str] = {
    exp.Upper: "in upper case", exp.Lower: "in lower case", exp.Trim: "without surrounding blanks",
    exp.Initcap: "with capital initials",
}  # fmt: skip
_NAMED_OF = {"julianday": "Julian day", "datetime": "date and time", "typeof": "type", "weekday": "day of the week"}
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
    for kind, words in _RULES.items():
        if isinstance(node, kind):
            return words(tell, node, scope)
    if type(node) in _OPERATORS:
        return _calculation(tell, node, scope)
    if type(node) in _OF:
        only(node, "this")
        return Phrase(f"{_OF[type(node)]} of {tell.value(node.this, scope).the}")
    if type(node) in _WRITTEN:
        only(node, "this")
        return Phrase(f"{tell.value(node.this, scope).operand} {_WRITTEN[type(node)]}")
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


def _negative(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    inner = tell.value(node.this, scope)
    if isinstance(node.this, exp.Literal):
        return Phrase(f"-{inner.text}", article=False)
    return Phrase(f"negative of {inner.the}")


def _word(word: str) -> Callable[[Teller, exp.Expr, Scope], Phrase]:
    def words(_tell: Teller, node: exp.Expr, _scope: Scope) -> Phrase:
        return Phrase(str(node.this).lower() if isinstance(node, exp.Boolean) else word, article=False)

    return words


# -- calculations -------------------------------------------------------------


def _calculation(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expression", "typed", "safe")
    share = _percentage(tell, node, scope) if isinstance(node, (exp.Div, exp.Mul)) else None
    if share is not None:
        return share
    if isinstance(node, exp.Div) and (cast := _decimal(node.this)) is not None:
        # CAST(x AS REAL) / y only keeps the division from dropping the remainder.
        hear(tell, cast.args["to"])
        plain = node.copy()
        inner = _decimal(plain.this)
        assert inner is not None
        inner.replace(inner.this)
        told = tell.value(plain, scope)
        hear(tell, node)
        return replace(told, text=f"{told.text} (as a decimal number)")
    left, right = tell.value(node.this, scope), tell.value(node.expression, scope)
    if isinstance(node, exp.Mul) and _is_number(right) and not _is_number(left):
        left, right = right, left
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
    if isinstance(node, exp.Case):
        results = [branch.args["true"] for branch in node.args["ifs"]] + [node.args.get("default")]
        return all(isinstance(r, exp.Null) or _is_whole(r, scope) for r in results if r is not None)
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
    sizes = [size.name for size in node.args["to"].expressions]
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


# -- functions ----------------------------------------------------------------


def _coalesce(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expressions")
    first = tell.value(node.this, scope)
    others = [tell.value(other, scope).the for other in node.expressions]
    text = f"{first.operand} (or {', or else '.join(others)} where it is missing)"
    return Phrase(text, first.article, first.names_head)


def _nullif(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    first, second = tell.value(node.this, scope), tell.value(node.expression, scope)
    return Phrase(f"{first.operand} (unless it is {second.the})", first.article, first.names_head)


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


def _substring(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "start", "length")
    inner = tell.value(node.this, scope).the
    start, length = node.args["start"], node.args.get("length")
    if length is None:
        return Phrase(f"part of {inner} from character {tell.value(start, scope).the} on")
    first, number = tell.value(start, scope).text, tell.value(length, scope).text
    if first == "1":
        return Phrase(f"first letter of {inner}" if number == "1" else f"first {number} characters of {inner}")
    if first.isdigit() and number.isdigit():
        last = int(first) + int(number) - 1
        span = f"character {first}" if number == "1" else f"characters {first} to {last}"
        return Phrase(f"{span} of {inner}", article=number != "1")
    return Phrase(f"part of {inner} of {number} characters from character {first} on")


def _date_part(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    """STRFTIME, which sqlglot has as TimeToStr over a timestamp."""
    only(node, "this", "format")
    given = node.args["format"]
    if not isinstance(given, exp.Literal) or given.name not in _DATE_PARTS:
        raise unsupported(node)
    hear(tell, given)
    inner = node.this.this if isinstance(node.this, exp.TsOrDsToTimestamp) else node.this
    return Phrase(f"{_DATE_PARTS[given.name]} of {tell.value(inner, scope).the}")


def _extract(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    part = _EXTRACTED.get(node.name.upper())
    if part is None:
        raise unsupported(node)
    hear(tell, node.this)
    return Phrase(f"{part} of {tell.value(node.expression, scope).the}")


def _truncated(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "unit")
    part = _TRUNCATED.get(node.args["unit"].name.upper())
    if part is None:
        raise unsupported(node)
    hear(tell, node.args["unit"])
    return Phrase(f"{part} of {tell.value(node.this, scope).the}")


def _date(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expressions")
    if node.expressions or node.this is None:
        raise unsupported(node)
    if isinstance(node.this, exp.Literal) and node.this.name == "now":
        hear(tell, node)
        return Phrase("today", article=False)
    return Phrase(f"date of {tell.value(node.this, scope).the}")


def _joined(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    parts = [
        tell.value(part, scope).operand
        for part in (node.flatten() if isinstance(node, exp.DPipe) else node.expressions)
    ]
    return Phrase(" followed by ".join(parts), is_compound=True)


def _position(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "substr")
    return Phrase(f"position of {tell.value(node.args['substr'], scope).the} in {tell.value(node.this, scope).the}")


def _replace(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expression", "replacement")
    parts = [tell.value(node.args[name], scope).the for name in ("this", "expression", "replacement")]
    return Phrase("{} with {} replaced by {}".format(*parts).removeprefix("the "))


def _modulo(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    left, right = tell.value(node.this, scope), tell.value(node.expression, scope)
    return Phrase(f"remainder of {left.the} divided by {right.operand}", is_compound=True)


def _named_function(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    words = _NAMED_OF.get(node.name.casefold())
    if words is None or len(node.expressions) > 1:
        raise unsupported(node)
    if not node.expressions or node.expressions[0].name == "now":
        hear(tell, node)
        return Phrase("the current date and time" if words == "date and time" else f"{words} of today", article=False)
    return Phrase(f"{words} of {tell.value(node.expressions[0], scope).the}")


def _scalar(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    text = tell.query(node, scope, "one")
    return Phrase(text.removeprefix("the "), article=text.startswith("the "), is_headed=False)


def _tuple(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    parts = [tell.value(part, scope).text for part in node.expressions]
    return Phrase(f"combination of {listed(parts)}")


def _alias(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    return tell.value(node.this, scope)


def _through(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    return tell.value(node.this, scope)


_RULES: dict[type[exp.Expr], Callable[[Teller, exp.Expr, Scope], Phrase]] = {
    exp.Column: _column,
    exp.Star: _star,
    exp.Literal: _literal,
    exp.Neg: _negative,
    exp.Null: _word("nothing"),
    exp.Boolean: _word(""),
    exp.CurrentTimestamp: _word("the current time"),
    exp.CurrentDate: _word("today"),
    exp.Round: _round,
    exp.Cast: _cast,
    exp.Coalesce: _coalesce,
    exp.Nullif: _nullif,
    exp.Case: _case,
    exp.If: _iif,
    exp.Substring: _substring,
    exp.TimeToStr: _date_part,
    exp.TsOrDsToTimestamp: _through,
    exp.Extract: _extract,
    exp.TimestampTrunc: _truncated,
    exp.DateTrunc: _truncated,
    exp.Date: _date,
    exp.DPipe: _joined,
    exp.Concat: _joined,
    exp.StrPosition: _position,
    exp.Replace: _replace,
    exp.Mod: _modulo,
    exp.Subquery: _scalar,
    exp.Select: _scalar,
    exp.Tuple: _tuple,
    exp.Alias: _alias,
    exp.Anonymous: _named_function,
}
