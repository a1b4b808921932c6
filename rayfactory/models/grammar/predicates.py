"""Conditions on one column or two that hold in the witness row and not in every row.

Each carries the share of rows that it keeps, so that a conjunction can be chosen that leaves enough of them.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

from rayfactory.databases.schema import Value
from rayfactory.models.grammar.quantities import code_weight, difference_name, is_record_date, names_a_thing
from rayfactory.models.grammar.scope import MIN_SAMPLE, Field, Missing
from rayfactory.models.grammar.syntax import HAS_DATES, date_part, literal, number

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")

MAX_COMPARED = 30
"""Letters of a text that somebody writes after an equals sign; a longer one is searched for a word."""

MAX_COMPARED_WORDS = 4

MAX_SHARE = 0.93
"""A condition that keeps more than this share of the rows says nothing."""


@dataclass(frozen=True, slots=True)
class Predicate:
    """One atomic condition.

    Attributes:
        share: estimated share of the rows that it keeps, in [0, 1].
        weight: how often an analyst would write it, against others on the same column.
    """

    sql: str
    share: float
    weight: float = 1.0


def predicates(field: Field, dialect: str) -> list[Predicate]:
    """Return the conditions on one column that hold in the witness row; none where nothing sensible can be said."""
    column, witness = field.column, field.witness
    if column.role == "opaque" or column.kind == "other":
        return []
    nulls = _null_conditions(field)
    if witness is None:
        return nulls[1:]
    value = _typical(field) if isinstance(witness, Missing) else witness
    if value is None or field.num_distinct < 2 or field.table.num_rows == 1:
        return nulls[:1]
    if column.role == "key":
        return nulls[:1]
    found: list[Predicate]
    if column.role == "measure":
        found = _ranges(field, value, dialect, rounded=True)
    elif column.role == "date":
        found = _dates(field, value, dialect)
    elif column.role == "code":
        found = _ranges(field, value, dialect, rounded=False) if _sorts_as_number(field) else []
        if column.kind == "text" or column.profile.num_distinct <= 150:
            found += _equalities(field, value, dialect)
    elif column.role == "category":
        found = _equalities(field, value, dialect) + _patterns(field, value)
    elif column.role == "identifier":
        found = [Predicate(f"{field.sql} = {literal(value, column.kind, dialect)}", _share_of(field, value), 0.3)]
    else:
        found = _patterns(field, value)
        if _can_compare(value):
            found.append(
                Predicate(f"{field.sql} = {literal(value, column.kind, dialect)}", _share_of(field, value), 0.3)
            )
        found += _lengths(field)
    return [predicate for predicate in (*found, *nulls[:1]) if 0 < predicate.share <= MAX_SHARE]


def _sorts_as_number(field: Field) -> bool:
    """Whether the order of a code is that of its numbers: as text, 10 comes before 9."""
    if field.column.kind == "text" and not code_weight(field.label):
        return False
    values = [*field.present, *(value for value, _ in field.column.profile.common_values)]
    return len({len(value) for value in values if isinstance(value, str)}) <= 1


def comparisons(fields: Sequence[Field]) -> list[Predicate]:
    """Return the comparisons of two measures of one source that hold in the witness row and not in all."""
    measures = [field for field in fields if field.column.role == "measure" and field.is_number]
    found: list[Predicate] = []
    for left, right in combinations(measures, 2):
        if left.source != right.source:
            continue
        if not (difference_name(left.label, right.label) or difference_name(right.label, left.label)):
            continue
        pairs = [
            (a, b)
            for a, b in zip(left.sample, right.sample, strict=False)
            if isinstance(a, (int, float)) and isinstance(b, (int, float))
        ]
        if len(pairs) < MIN_SAMPLE or not isinstance(left.witness, (int, float)):
            continue
        if not isinstance(right.witness, (int, float)) or left.witness == right.witness:
            continue
        operator = ">" if left.witness > right.witness else "<"
        share = sum((a > b) if operator == ">" else (a < b) for a, b in pairs) / len(pairs)
        if share < MAX_SHARE:
            found.append(Predicate(f"{left.sql} {operator} {right.sql}", share))
    return found


_PLACES = frozenset(("street", "suite", "apartment"))
_CONTACTS = frozenset(("phone", "fax", "email", "url"))


def column_weight(field: Field) -> float:
    """Return how often an analyst would put a condition on the column, against other columns."""
    column = field.column
    if column.role in ("text", "identifier", "code", "category") and _reaches_somebody(field.label):
        return 0.02
    if column.role in ("key", "identifier"):
        return 0.12
    if column.role == "code" and column.kind != "text" and field.column.profile.num_distinct > 150:
        return 0.01  # sequence numbers and the like
    if column.role == "code" and column.kind == "integer" and not code_weight(field.label):
        return 0.02
    if column.role == "code" and _numbers_a_sibling(field):
        return 0.03
    if column.role == "date" and is_record_date(field.label):
        return 0.1
    if column.role == "category" and "current" in field.label.split("_"):
        return 0.2
    return {"category": 1.8, "date": 1.3, "measure": 0.8, "code": 0.8, "text": 1.1}.get(column.role, 0.0)


@lru_cache(maxsize=8192)
def _reaches_somebody(label: str) -> bool:
    """Whether a column is a line of an address, a phone number or the like: one has it and no other."""
    words = label.split("_")
    is_contact = words[-1] in _CONTACTS or (words[-1] in ("number", "address") and bool(_CONTACTS.intersection(words)))
    return is_contact or bool(_PLACES.intersection(words))


def _numbers_a_sibling(field: Field) -> bool:
    """Whether a readable column stands beside the code: ``brand`` beside ``brand_id``."""
    name = field.column.name.lower()
    stem = name.removesuffix("_id").removesuffix("_code")
    return stem != name and any(column.name.lower() in (stem, f"{stem}_name") for column in field.table.columns)


def _null_conditions(field: Field) -> list[Predicate]:
    """Return IS NOT NULL and IS NULL, both or none of them."""
    nulls = field.column.profile.null_fraction
    if len(field.sample) >= MIN_SAMPLE:
        nulls = sum(value is None for value in field.sample) / len(field.sample)
    if not 0.01 <= nulls <= 0.99:
        return []
    if field.column.role == "key" and nulls < 0.04:
        return []
    if not names_a_thing(field.label):
        return []  # whether a suite or a remark was filled in
    return [
        Predicate(f"{field.sql} IS NOT NULL", min(1 - nulls, MAX_SHARE), 0.12),
        Predicate(f"{field.sql} IS NULL", nulls, 0.12),
    ]


def _typical(field: Field) -> Value | None:
    profile = field.column.profile
    if profile.quantiles:
        return profile.quantiles[len(profile.quantiles) // 2]
    if profile.common_values:
        return profile.common_values[0][0]
    return None


def _values(field: Field, like: Value) -> list[Value]:
    """Return the values that the column takes, sorted: nine deciles, or more where rows of the scope are known."""
    values: Sequence[Value] = field.present
    if len(values) < MIN_SAMPLE:
        values = field.column.profile.quantiles
    if isinstance(like, str):
        return sorted(value for value in values if isinstance(value, str))
    return sorted(value for value in values if isinstance(value, (int, float)))


def _share_of(field: Field, value: Value) -> float:
    present = field.present
    if len(present) >= MIN_SAMPLE:
        return present.count(value) / len(field.sample)
    for common, share in field.column.profile.common_values:
        if common == value:
            return share
    return 1 / max(1, field.column.profile.num_distinct)


def _others(field: Field, value: Value) -> list[Value]:
    """Return other values that occur, most frequent first."""
    counted: dict[Value, float] = {}
    if len(field.present) >= MIN_SAMPLE:
        for other in field.present:
            counted[other] = counted.get(other, 0.0) + 1 / len(field.sample)
    else:
        counted = dict(field.column.profile.common_values)
    counted.pop(value, None)
    ranked = sorted(counted.items(), key=lambda pair: (-pair[1], str(pair[0])))
    return [other for other, _ in ranked if _can_compare(other)]


def _can_compare(value: Value) -> bool:
    """Whether somebody would write the value after an equals sign: a name, not a sentence."""
    if not isinstance(value, str):
        return True
    return bool(value.strip()) and len(value) <= MAX_COMPARED and len(value.split()) <= MAX_COMPARED_WORDS


def _equalities(field: Field, value: Value, dialect: str) -> list[Predicate]:
    kind = field.column.kind
    if kind == "real" or not _can_compare(value):
        return []
    written = literal(value, kind, dialect)
    share = _share_of(field, value)
    found = [Predicate(f"{field.sql} = {written}", share, 2.5)]
    others = _others(field, value)
    for size in (1, 2, 3):
        chosen = others[size - 1 : 2 * size - 1] if len(others) >= 2 * size else []
        if len(chosen) == size and field.num_distinct > size + 1:
            listed = sorted([value, *chosen], key=str)
            total = share + sum(_share_of(field, other) for other in chosen)
            values = ", ".join(literal(other, kind, dialect) for other in listed)
            found.append(Predicate(f"{field.sql} IN ({values})", total, 1.2))
    if others and field.num_distinct > 2:
        other = others[0]
        kept = 1 - _share_of(field, other)
        found.append(Predicate(f"{field.sql} <> {literal(other, kind, dialect)}", kept, 0.7))
        if len(others) > 3:
            values = ", ".join(literal(other, kind, dialect) for other in others[:2])
            kept -= _share_of(field, others[1])
            found.append(Predicate(f"{field.sql} NOT IN ({values})", kept, 0.5))
    return found


def _round(value: float, *, up: bool) -> float:
    """Return a number of two significant digits on the given side of the value."""
    if value == 0:
        return 0
    step = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    if step < 1 and isinstance(value, int):
        return value
    steps = value / step
    whole = math.ceil(steps - 1e-9) if up else math.floor(steps + 1e-9)
    rounded = whole * step
    return int(rounded) if step >= 1 else round(rounded, 8)


def _whole_day(moment: str, *, up: bool) -> str:
    """Return the day that a moment lies in, or the one after it."""
    try:
        day = dt.date.fromisoformat(moment[:10])
        return (day + dt.timedelta(days=1) if up and len(moment) > 10 else day).isoformat()
    except (ValueError, OverflowError):
        return moment


def _ranges(field: Field, value: Value, dialect: str, *, rounded: bool) -> list[Predicate]:
    """Return lower and upper bounds and intervals around the value."""
    values = _values(field, value)
    if not values or isinstance(value, bool) or values[0] == values[-1]:
        return []
    kind, total = field.column.kind, len(values)

    def written(bound: Value, *, up: bool) -> tuple[Value, str]:
        if rounded and isinstance(bound, (int, float)):
            bound = _round(bound, up=up)
        if kind == "timestamp" and isinstance(bound, str):
            bound = _whole_day(bound, up=up)
        return bound, literal(bound, kind, dialect)

    def share(low: Value | None, high: Value | None) -> float:
        # The values are sorted.
        below = 0 if low is None else bisect_left(values, low)
        return max(0, (total if high is None else bisect_right(values, high)) - below) / total

    lows: list[tuple[Value, str]] = []
    highs: list[tuple[Value, str]] = []
    for tenth in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        at = values[min(total - 1, tenth * total // 10)]
        if _le(at, value):
            lows.append(written(at, up=False))
        if _le(value, at):
            highs.append(written(at, up=True))
    lows = list(dict.fromkeys(lows))
    highs = list(dict.fromkeys(highs))
    found: list[Predicate] = []
    # What is at or beyond an end of the values is said with an equals sign, if at all.
    lows = [(bound, text) for bound, text in lows if bound != values[-1]]
    highs = [(bound, text) for bound, text in highs if bound != values[0]]
    for bound, text in lows[-3:]:
        found.append(Predicate(f"{field.sql} >= {text}", share(bound, None), 1.0))
        if isinstance(bound, (int, float)) and bound < float(value):
            found.append(Predicate(f"{field.sql} > {text}", share(bound, None), 1.0))
    for bound, text in highs[:3]:
        found.append(Predicate(f"{field.sql} <= {text}", share(None, bound), 1.0))
        if isinstance(bound, (int, float)) and bound > float(value):
            found.append(Predicate(f"{field.sql} < {text}", share(None, bound), 1.0))
    for (low, low_text), (high, high_text) in zip(lows[-3:], reversed(highs[:3]), strict=False):
        if low != high:
            found.append(Predicate(f"{field.sql} BETWEEN {low_text} AND {high_text}", share(low, high), 1.0))
    return found


def _le(left: Value, right: Value) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return str(left) <= str(right)
    return left <= right


def _dates(field: Field, value: Value, dialect: str) -> list[Predicate]:
    if not isinstance(value, str):
        return []
    found = _ranges(field, value, dialect, rounded=False)
    values = [str(v) for v in _values(field, value)]
    years = sorted({v[:4] for v in values})
    if len(years) > 1 and value[:4].isdigit():
        share = sum(v[:4] == value[:4] for v in values) / len(values)
        year = int(value[:4])
        found.append(Predicate(f"{date_part('year', field.sql, dialect)} = {year}", share, 1.5))
        kind = field.column.kind
        start, end = literal(f"{value[:4]}-01-01", "date", dialect), literal(f"{value[:4]}-12-31", "date", dialect)
        if kind == "date":
            found.append(Predicate(f"{field.sql} BETWEEN {start} AND {end}", share, 1.0))
        if dialect in HAS_DATES and value[5:7].isdigit():
            months = sum(v[5:7] == value[5:7] for v in values) / len(values)
            found.append(Predicate(f"{date_part('month', field.sql, dialect)} = {int(value[5:7])}", months, 0.5))
    return found


def _patterns(field: Field, value: Value) -> list[Predicate]:
    """Return LIKE conditions on whole words of the value that others hold as well, and on the letter of a name."""
    if not isinstance(value, str) or field.column.kind != "text":
        return []
    present = [text for text in field.present if isinstance(text, str)]
    common = [text for text, _ in field.column.profile.common_values if isinstance(text, str)]
    texts = present if len(present) >= MIN_SAMPLE else common
    different = {*present, *common, value}
    found: list[Predicate] = []
    words = [word for word in dict.fromkeys(_WORD.findall(value)) if 3 <= len(word) <= 14 and word.isalpha()]
    for word in words[:3]:
        if word == value.strip() or sum(word in _WORD.findall(text) for text in different) < 2:
            continue
        share = max(sum(word in text for text in texts), 1) / max(len(texts), 10)
        found.append(Predicate(f"{field.sql} LIKE '%{word}%'", share, 1.0))
        if value.startswith(word):
            share = max(sum(text.startswith(word) for text in texts), 1) / max(len(texts), 10)
            found.append(Predicate(f"{field.sql} LIKE '{word}%'", share, 1.0))
    initial = value[:1]
    is_name = field.column.role == "text" and field.label.split("_")[-1] in ("name", "title")
    if is_name and words and initial.isascii() and initial.isupper():
        share = max(sum(text.startswith(initial) for text in texts), 1) / max(len(texts), 10)
        found.append(Predicate(f"SUBSTR({field.sql}, 1, 1) = '{initial}'", share, 0.3))
        found.append(Predicate(f"{field.sql} LIKE '{initial}%'", share, 0.9))
        stem = words[0][:3]
        if value.startswith(stem) and len(words[0]) > 3 and sum(text.startswith(stem) for text in different) > 1:
            share = max(sum(text.startswith(stem) for text in texts), 1) / max(len(texts), 10)
            found.append(Predicate(f"{field.sql} LIKE '{stem}%'", share, 0.9))
    return found


_LONG_TEXTS = frozenset("abstract body comment comments content message review text".split())


def _lengths(field: Field) -> list[Predicate]:
    """Return a condition on the length of a text that is written rather than a name."""
    if _LONG_TEXTS.isdisjoint(field.label.split("_")):
        return []
    lengths = sorted(len(value) for value in field.present if isinstance(value, str))
    if len(lengths) < MIN_SAMPLE or lengths[0] == lengths[-1] or not isinstance(field.witness, str):
        return []
    bound = max(lengths[len(lengths) // 2] - 1, 1)
    if len(field.witness) <= bound:
        return []
    share = sum(length > bound for length in lengths) / len(lengths)
    return [Predicate(f"LENGTH({field.sql}) > {number(bound)}", share, 0.2)]
