"""Typed expressions over a scope: what to group by, what to measure, how to aggregate."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

from rayfactory.databases.schema import Kind
from rayfactory.models.grammar.quantities import (
    code_weight,
    difference_name,
    is_additive,
    is_calendar,
    is_record_date,
    names_a_thing,
    product_name,
    share_name,
)
from rayfactory.models.grammar.scope import Field, Scope, with_role
from rayfactory.models.grammar.syntax import (
    HAS_QUANTILES,
    HAS_STDDEV,
    date_part,
    date_period,
    literal,
    number,
    quotient,
    snake,
)

MAX_GROUPS = 60
"""A grouping into more groups than this does not fit on a page."""

MIN_BANDED_ROWS = 12
"""Nobody sorts the rows of a smaller table into bands."""

_DECIMAL = re.compile(r"DECIMAL\((\d+)\s*,\s*(\d+)\)")


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression with the name that its output deserves.

    Attributes:
        num_distinct: estimated distinct values; 0 where it does not matter.
        uses: SQL of the fields in it, by which two expressions are told apart.
        weight: how often an analyst would choose it.
        kind: what its values are.
        additive: of a measure: whether its sum over rows of the scope means something.
    """

    sql: str
    name: str
    num_distinct: float = 0
    uses: tuple[str, ...] = ()
    weight: float = 1.0
    kind: Kind = "real"
    additive: bool = True


def dimensions(scope: Scope) -> list[Expression]:
    """Return what rows can be grouped by: categories, codes, periods of dates and bands of measures."""
    found: list[Expression] = []
    dialect = scope.dialect
    for field in with_role(scope, "category", "code"):
        column = field.column
        if column.kind == "other" or not 2 <= field.num_distinct <= MAX_GROUPS or field.table.num_rows < 2:
            continue
        if column.role == "code" and _is_unique(field):
            continue
        weight = 2.0 if column.role == "category" else code_weight(field.label)
        if weight and "current" in field.label.split("_") and is_calendar(_labels(scope, field.source)):
            weight = 0.02  # whether a day is in the current week says nothing of the data
        if not weight:
            continue
        found.append(Expression(field.sql, field.label, field.num_distinct, (field.sql,), weight, column.kind))
        if column.kind == "text" and column.profile.null_fraction > 0.01:
            filled = f"COALESCE({field.sql}, 'unknown')"
            found.append(Expression(filled, field.label, field.num_distinct, (field.sql,), 0.35 * weight, "text"))
    for field in with_role(scope, "date"):
        if is_record_date(field.label):
            continue
        # A date with few values is an attribute of something else, such as the start of a record's validity.
        rare = 0.25 if field.column.profile.num_distinct < 8 else 1.0
        found.extend(replace(period, weight=rare * period.weight) for period in _periods(field, dialect))
    for field in with_role(scope, "text"):
        # First letters of names: a register, as it were.
        if (
            field.column.kind == "text"
            and field.column.profile.num_distinct > 30
            and field.label.split("_")[-1] in ("name", "title")
            and names_a_thing(field.label)
        ):
            initial = f"SUBSTR({field.sql}, 1, 1)"
            found.append(Expression(initial, f"{field.label}_initial", 26, (field.sql,), 0.1, "text"))
    banded = [band for field in with_role(scope, "measure") for band in bands(field)]
    # Bands are second best: next to readable categories they are a rare choice.
    share = 0.05 if sum(key.weight for key in found) >= 1.5 else 0.4
    return found + [replace(band, weight=share * band.weight / len(banded)) for band in banded]


def _labels(scope: Scope, source: str) -> list[str]:
    return [field.label for field in scope.fields if field.source == source]


def _is_unique(field: Field) -> bool:
    return field.column.profile.unique and field.column.profile.num_sampled > 1


def _periods(field: Field, dialect: str) -> list[Expression]:
    values = [value for value in field.present or field.column.profile.quantiles if isinstance(value, str)]
    if len(set(values)) < 2 or field.column.kind not in ("date", "timestamp"):
        return []
    years = len({value[:4] for value in values})
    months = len({value[:7] for value in values})
    found: list[Expression] = []
    base = field.label.removesuffix("_date").removesuffix("_time").removesuffix("date") or "date"
    base = "" if base == "d" else f"{base}_"
    uses = (field.sql,)
    if years >= 2:
        found.append(Expression(date_part("year", field.sql, dialect), f"{base}year", years, uses, 1.5, "integer"))
        found.append(Expression(date_period("year", field.sql, dialect), f"{base}year", years, uses, 0.4, "date"))
    if years <= 12:
        quarter = date_period("quarter", field.sql, dialect)
        found.append(Expression(quarter, f"{base}quarter", 4 * years, uses, 0.8, "date"))
    if months >= 2 and years <= 8:
        found.append(
            Expression(date_period("month", field.sql, dialect), f"{base}month", 12 * years, uses, 1.3, "date")
        )
    if months >= 2:
        month = date_part("month", field.sql, dialect)
        found.append(Expression(month, f"{base}month_of_year", 12, uses, 0.6, "integer"))
        weekday = date_part("weekday", field.sql, dialect)
        found.append(Expression(weekday, f"{base}weekday", 7, uses, 0.5, "integer"))
    return found


def thresholds(field: Field, num_parts: int = 4) -> list[float]:
    """Return up to `num_parts` - 1 distinct round numbers that part the values of a measure evenly, ascending."""
    values = sorted(value for value in field.present if isinstance(value, (int, float)))
    if len(values) < 12:
        values = [value for value in field.column.profile.quantiles if isinstance(value, (int, float))]
    if not values or values[0] == values[-1]:
        return []
    cuts: list[float] = []
    for part in range(1, num_parts):
        at = values[part * len(values) // num_parts]
        # Two digits, the second of them 0 or 5.
        step = 10.0 ** (math.floor(math.log10(abs(at))) - 1) * 5 if at else 1.0
        cut = float(f"{round(at / step) * step:.2g}") if abs(at) >= 10 else float(f"{at:.2g}")
        cut = int(cut) if float(cut).is_integer() else cut
        if values[0] < cut <= values[-1] and cut not in cuts:
            cuts.append(cut)
    return sorted(cuts)


_BAND = "band"
"""Stands among what each band uses, so that no two bands come together in one grouping."""

_BANDS = (("low", "high"), ("low", "medium", "high"), ("low", "medium", "high", "very high"))
_SIZES = (("small", "large"), ("small", "medium", "large"), ("tiny", "small", "medium", "large"))


def bands(field: Field) -> list[Expression]:
    """Return CASE expressions that sort a measure into two to four bands; none where its values do not part."""
    if not field.is_number or field.table.num_rows < MIN_BANDED_ROWS:
        return []
    found: list[Expression] = []
    for some in dict.fromkeys(tuple(thresholds(field, num_parts)) for num_parts in (2, 3, 4)):
        if not some:
            continue
        ranged = [
            f"under {number(some[0])}",
            *(f"{number(a)} to {number(b)}" for a, b in pairwise(some)),
        ]
        for names in (_BANDS[len(some) - 1], _SIZES[len(some) - 1], (*ranged, f"{number(some[-1])} and over")):
            arms = " ".join(
                f"WHEN {field.sql} < {number(cut)} THEN '{name}'" for cut, name in zip(some, names, strict=False)
            )
            sql = f"CASE {arms} ELSE '{names[len(some)]}' END"
            word = _band_noun(names)
            found.append(Expression(sql, f"{field.label}_{word}", len(some) + 1, (field.sql, _BAND), 1.0, "text"))
    return found


def _band_noun(names: Sequence[str]) -> str:
    """Return what bands of these names are called."""
    return {"l": "level", "s": "size", "t": "size", "u": "range"}[names[0][0]]


def measures(scope: Scope) -> list[Expression]:
    """Return what can be summed and averaged: measures, and differences, products and ratios of two of one source."""
    fields = [field for field in with_role(scope, "measure") if field.is_number and _is_quantity(field)]
    varied = [field for field in fields if field.num_distinct >= 2] or fields
    # A measure of a dimension counts once for each row of the grain: it is averaged, and summed only at its own grain.
    found = [
        Expression(
            field.sql,
            field.label,
            field.num_distinct,
            (field.sql,),
            _grain_weight(scope, field),
            _kind(field),
            is_additive(field.label) and field.table.name == scope.grain.name and not scope.is_profile,
        )
        for field in varied
    ]
    for left, right in permutations(varied, 2):
        if left.source == right.source and _can_calculate(left) and _can_calculate(right):
            found.extend(_arithmetic(left, right, scope, _grain_weight(scope, left)))
    return found


MAX_QUANTITY = 1e14
"""Numbers beyond this are no quantities, and sums of them leave the range of a 64-bit integer."""


def _is_quantity(field: Field) -> bool:
    bounds = (field.column.profile.minimum, field.column.profile.maximum)
    return all(not isinstance(bound, (int, float)) or abs(bound) < MAX_QUANTITY for bound in bounds)


def _kind(field: Field) -> Kind:
    """Return ``integer`` for what is stored exactly, decimals included."""
    return "integer" if field.column.declared_type.upper().startswith("DECIMAL") else field.column.kind


def _grain_weight(scope: Scope, field: Field) -> float:
    if field.table.name == scope.grain.name:
        return 1.0
    return 0.2 if any(column.role in ("text", "identifier") for column in field.table.columns) else 0.03


def _can_calculate(field: Field) -> bool:
    """Whether products and differences of the column stay well within its type."""
    minimum, maximum = field.column.profile.minimum, field.column.profile.maximum
    if not isinstance(minimum, (int, float)) or not isinstance(maximum, (int, float)):
        return False
    declared = field.column.declared_type.upper()
    if declared.startswith(("U", "TINYINT", "SMALLINT", "HUGEINT", "FLOAT")):
        return False
    sized = _DECIMAL.match(declared)
    if sized and int(sized.group(1)) > 15:
        return False
    return max(abs(minimum), abs(maximum)) < 20_000


def _arithmetic(left: Field, right: Field, scope: Scope, weight: float) -> list[Expression]:
    """Return the product, difference and quotient of two measures, in this order, that mean something."""
    uses = (left.sql, right.sql)
    additive = left.table.name == scope.grain.name
    found: list[Expression] = []
    if name := product_name(left.label, right.label):
        found.append(Expression(f"{left.sql} * {right.sql}", name, 1000, uses, weight, additive=additive))
    if name := difference_name(left.label, right.label):
        summed = additive and is_additive(left.label) and is_additive(right.label)
        found.append(Expression(f"{left.sql} - {right.sql}", name, 1000, uses, 0.6 * weight, additive=summed))
    if (name := share_name(left.label, right.label)) and abs(left.mean) < abs(right.mean):
        share = quotient(left.sql, right.sql, scope.dialect)
        found.append(Expression(share, name, 1000, uses, 0.3 * weight, additive=False))
    return found


def can_subtract(field: Field) -> bool:
    """Whether the difference of two values of the column lies within its type."""
    if field.column.kind == "real":
        return True
    bounds = (field.column.profile.minimum, field.column.profile.maximum)
    small = field.column.declared_type.upper().startswith(("U", "TINYINT", "SMALLINT"))
    return not small and all(isinstance(bound, (int, float)) and abs(bound) < 1e9 for bound in bounds)


_OTHER_WORDS = {"total": "overall", "max": "highest", "min": "lowest", "avg": "mean"}


def prefixed(word: str, name: str) -> str:
    """Return a name with a word before it; one that begins with that word already gets another one for it."""
    first, _, rest = name.partition("_")
    return f"{_OTHER_WORDS.get(word, word)}_{rest}" if first == word and rest else f"{word}_{name}"


def counted_things(scope: Scope) -> list[Expression]:
    """Return what can be counted distinctly: keys of other tables and identifiers, named after what they stand for."""
    found: list[Expression] = []
    for field in with_role(scope, "key", "identifier", "text"):
        profile = field.column.profile
        if profile.num_distinct < 3 or field.column.kind == "other" or is_calendar(_labels(scope, field.source)):
            continue
        at_grain = field.table.name == scope.grain.name
        if at_grain and _is_unique(field):
            continue
        if field.column.role == "key" and not (at_grain and field.column.name in scope.countable):
            continue
        if field.column.role == "identifier" and not names_a_thing(field.label):
            continue
        if field.column.role == "text" and not _names_it_alone(field):
            continue
        things = re.sub(r"_?(sk|id|key|code|name|title)$", "", field.label) or snake(field.table.name)
        weight = 1.0 if field.column.role == "key" else 0.3
        found.append(Expression(field.sql, f"num_{plural(things)}", profile.num_distinct, (field.sql,), weight))
    return found


_PART_OF_NAME = frozenset("first last family middle personal nick sur fore given maiden short long full".split())


def _names_it_alone(field: Field) -> bool:
    """Whether a text is the name of a thing, and not a part of one or a description."""
    words = field.label.split("_")
    return words[-1] in ("name", "title") and _PART_OF_NAME.isdisjoint(words) and reads_as_name(field)


_JOINTS = re.compile(r"(_(?:of|in|on|at|for|by|to)(?:_|$))")


def plural(word: str) -> str:
    """Return the plural of a noun in snake case, by the common rules of English: ``member_of`` gives members."""
    noun, joint, rest = [*_JOINTS.split(word, maxsplit=1), "", ""][:3]
    if joint and noun:
        return f"{plural(noun)}{joint}{rest}" if rest else plural(noun)
    if word.endswith(("ss", "x", "ch", "sh")):
        return f"{word}es"
    if word.endswith("s"):
        return word
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return f"{word[:-1]}ies"
    return f"{word}s"


def aggregates(scope: Scope) -> list[Expression]:
    """Return aggregates over the rows of a group, conditional ones included."""
    dialect = scope.dialect
    rows = "num_" + plural(snake(scope.grain.name).removesuffix("_dim") or "row")
    found = [Expression("COUNT(*)", rows if len(rows) < 28 else "num_rows", uses=("*",), weight=1.6, kind="integer")]
    found += [
        Expression(f"COUNT(DISTINCT {thing.sql})", thing.name, uses=thing.uses, weight=0.5, kind="integer")
        for thing in counted_things(scope)
    ]
    for measure in measures(scope):
        found.extend(_of_measure(measure, dialect))
    for field in with_role(scope, "date"):
        if field.column.kind in ("date", "timestamp"):
            if is_record_date(field.label):
                continue
            base = field.label.removesuffix("_date")
            found.append(Expression(f"MIN({field.sql})", f"first_{base}", 9, (field.sql,), 0.15, field.column.kind))
            found.append(Expression(f"MAX({field.sql})", f"last_{base}", 9, (field.sql,), 0.15, field.column.kind))
    found.extend(conditional_aggregates(scope))
    return found


def _of_measure(measure: Expression, dialect: str) -> list[Expression]:
    name, uses, w = measure.name, measure.uses, measure.weight
    found = [
        Expression(f"AVG({measure.sql})", prefixed("avg", name), 9, uses, w),
        Expression(f"ROUND(AVG({measure.sql}), 2)", prefixed("avg", name), 9, uses, 0.7 * w),
        Expression(f"MAX({measure.sql})", prefixed("max", name), 9, uses, 0.4 * w),
        Expression(f"MIN({measure.sql})", prefixed("min", name), 9, uses, 0.3 * w),
    ]
    if measure.additive:
        found.append(Expression(f"SUM({measure.sql})", prefixed("total", name), 9, uses, 2.2 * w))
    if dialect in HAS_QUANTILES:
        found.append(Expression(f"MEDIAN({measure.sql})", f"median_{name}", 9, uses, 0.25 * w))
        found.append(Expression(f"QUANTILE_CONT({measure.sql}, 0.9)", f"p90_{name}", 9, uses, 0.1 * w))
    if dialect in HAS_STDDEV and measure.kind == "integer":  # of floats that are infinite it is an error
        found.append(Expression(f"STDDEV_SAMP({measure.sql})", f"stddev_{name}", 9, uses, 0.08 * w))
    return found


def conditional_aggregates(scope: Scope) -> list[Expression]:
    """Return counts and sums of the rows of one category, or beyond a threshold: CASE and FILTER."""
    found: list[Expression] = []
    sums = [measure for measure in measures(scope) if measure.weight >= 1.0 and measure.additive][:3]
    for field in with_role(scope, "category"):
        if not 2 <= field.num_distinct <= 8 or field.column.kind not in ("text", "boolean", "integer"):
            continue
        if "current" in field.label.split("_"):
            continue
        values = list(dict.fromkeys(sorted(field.present, key=str))) or [
            v for v, _ in field.column.profile.common_values
        ]
        for value in values[:3]:
            condition = f"{field.sql} = {literal(value, field.column.kind, scope.dialect)}"
            word = snake(str(value)) if isinstance(value, str) and len(str(value)) > 1 else ""
            word = "" if word[:1].isdigit() else word
            word = word or f"{field.label}_{snake(str(value))}"
            found.extend(_filtered(condition, word, (field.sql,), sums))
    for field in with_role(scope, "measure"):
        if field.is_number and (cuts := thresholds(field)):
            found.extend(_filtered(f"{field.sql} > {number(cuts[-1])}", f"high_{field.label}", (field.sql,), []))
    return found


def _filtered(condition: str, word: str, uses: tuple[str, ...], sums: Sequence[Expression]) -> list[Expression]:
    found = [
        Expression(f"COUNT(*) FILTER (WHERE {condition})", f"num_{word}", 9, uses, 0.12, "integer"),
        Expression(f"SUM(CASE WHEN {condition} THEN 1 ELSE 0 END)", f"num_{word}", 9, uses, 0.15, "integer"),
        Expression(
            f"ROUND(100.0 * SUM(CASE WHEN {condition} THEN 1 ELSE 0 END) / COUNT(*), 1)", f"pct_{word}", 9, uses, 0.12
        ),
    ]
    for measure in sums:
        if uses[0] in measure.uses:
            continue
        both = (*uses, *measure.uses)
        case = f"SUM(CASE WHEN {condition} THEN {measure.sql} ELSE 0 END)"
        found.append(Expression(case, f"{word}_{measure.name}", 9, both, 0.08))
        found.append(
            Expression(f"SUM({measure.sql}) FILTER (WHERE {condition})", f"{word}_{measure.name}", 9, both, 0.05)
        )
    return found


def entities(scope: Scope) -> list[tuple[Field, ...]]:
    """Return, for each source other than the grain, the one or two columns that tell its rows apart for a reader."""
    found: list[tuple[Field, ...]] = []
    for source in dict.fromkeys(field.source for field in scope.fields):
        own = [field for field in scope.fields if field.source == source]
        if own[0].table.name == scope.grain.name and len({field.source for field in scope.fields}) > 1:
            continue
        if is_calendar([field.label for field in own]):
            continue
        names = [field for field in own if field.column.role == "text" and field.column.kind == "text"]
        ids = [field for field in own if field.column.role == "identifier" and names_a_thing(field.label)]
        keys = [
            field for field in own if field.column.name in field.table.primary_key and len(field.table.primary_key) == 1
        ]
        names = [field for field in names if reads_as_name(field)]
        keys = [field for field in keys if not field.label.endswith("sk")]
        chosen = (*ids[:1], *names[: 2 if not ids else 1]) or tuple(keys[:1])
        if chosen and all(field.num_distinct >= 2 for field in chosen):
            found.append(chosen)
    return found


def reads_as_name(field: Field) -> bool:
    """Whether the values of a column are short and tell a reader which thing a row is about."""
    if not names_a_thing(field.label):
        return False
    values = [value for value in field.present or field.column.profile.examples if isinstance(value, str)]
    return bool(values) and sum(map(len, values)) / len(values) <= 40
