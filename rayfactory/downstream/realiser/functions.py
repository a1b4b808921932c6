"""Functions in words: of texts, of dates and times, and of what may be missing."""

from __future__ import annotations

from sqlglot import exp

from rayfactory.downstream.realiser.sources import Scope
from rayfactory.downstream.realiser.telling import Phrase, Rule, Teller, hear, only, unsupported

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


def _of(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this")
    return Phrase(f"{_OF[type(node)]} of {tell.value(node.this, scope).the}")


def _written(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this")
    return Phrase(f"{tell.value(node.this, scope).operand} {_WRITTEN[type(node)]}")


def _coalesce(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    only(node, "this", "expressions")
    first = tell.value(node.this, scope)
    others = [tell.value(other, scope).the for other in node.expressions]
    text = f"{first.operand} (or {', or else '.join(others)} where it is missing)"
    return Phrase(text, first.article, first.names_head)


def _nullif(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    first, second = tell.value(node.this, scope), tell.value(node.expression, scope)
    return Phrase(f"{first.operand} (unless it is {second.the})", first.article, first.names_head)


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


def _named_function(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    words = _NAMED_OF.get(node.name.casefold())
    if words is None or len(node.expressions) > 1:
        raise unsupported(node)
    if not node.expressions or node.expressions[0].name == "now":
        hear(tell, node)
        return Phrase("the current date and time" if words == "date and time" else f"{words} of today", article=False)
    return Phrase(f"{words} of {tell.value(node.expressions[0], scope).the}")


def through(tell: Teller, node: exp.Expr, scope: Scope) -> Phrase:
    """Return what stands in a node of which nothing is said."""
    return tell.value(node.this, scope)


FUNCTIONS: dict[type[exp.Expr], Rule] = {
    **dict.fromkeys(_OF, _of),
    **dict.fromkeys(_WRITTEN, _written),
    exp.Coalesce: _coalesce,
    exp.Nullif: _nullif,
    exp.Substring: _substring,
    exp.DPipe: _joined,
    exp.Concat: _joined,
    exp.StrPosition: _position,
    exp.Replace: _replace,
    exp.TimeToStr: _date_part,
    exp.TsOrDsToTimestamp: through,
    exp.Extract: _extract,
    exp.TimestampTrunc: _truncated,
    exp.DateTrunc: _truncated,
    exp.Date: _date,
    exp.Anonymous: _named_function,
}
