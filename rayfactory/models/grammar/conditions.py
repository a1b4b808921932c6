"""The conditions of one WHERE: on which columns, and how much each may leave out."""

from __future__ import annotations

from collections.abc import Sequence

from rayfactory.models.grammar.draft import Draft
from rayfactory.models.grammar.predicates import column_weight, comparisons, predicates
from rayfactory.models.grammar.scope import Field, Scope, determines, say_the_same

MIN_COLUMN_WEIGHT = 0.05
"""Columns of less weight get a condition only where there are no others: sequence numbers and the like."""

MIN_KEPT_ROWS = 25
"""Rows that the conditions of one WHERE should leave, as far as shares can be multiplied."""

NUM_MORE_COLUMNS = 4
"""Columns that one condition of a wide grammar may be on, besides the first."""


def draw_conditions(
    draft: Draft, scope: Scope, count: int, exclude: Sequence[str] = (), *, nulls: bool = True
) -> list[str]:
    """Return up to `count` conditions on different columns that all hold in the witness row.

    Each leaves a few columns and constants to the grammar.

    Args:
        nulls: whether one of them may be that a value is there, or is not.
    """
    target = min(float(MIN_KEPT_ROWS), scope.num_rows / 4) / max(scope.num_rows, 1)
    floor = max(0.02, min(0.6, target ** (1 / max(count, 1))))
    kept_free = scope.fields_named(exclude)
    left = [
        field
        for field in scope.fields
        if column_weight(field) > 0
        and field.sql not in exclude
        and not any(say_the_same(field, key) or determines(field, key) for key in kept_free)
    ]
    left = [f for f in left if f.column.role != "identifier" or not draft.graph.is_calendar(f.table.name)]
    left = [f for f in left if column_weight(f) >= MIN_COLUMN_WEIGHT] or left
    slots: list[str] = []
    if count > 1 and draft.chance(0.12) and (found := comparisons(left)):
        slots.append(draft.builder.choice("comparison", [(1.0, predicate.sql) for predicate in found[:12]]))
    while len(slots) < count:
        # The columns of one condition are of one source, so that it is known which sources have a part.
        source, group = _conditions_on_one(draft, scope, left, floor, "", nulls=nulls)
        if not group:
            break
        more = NUM_MORE_COLUMNS if draft.shared else draft.pick([(3, 0), (3, 1), (2, 2)])
        for _ in range(more):
            group += _conditions_on_one(draft, scope, left, floor, source, nulls=nulls)[1]
        condition = draft.builder.choice("predicate", group)
        if draft.chance(0.08) and (others := _conditions_on_one(draft, scope, left, 0.0, source, nulls=False)[1]):
            telling = [alternative for alternative in group if "NULL" not in alternative[1]] or group
            condition = draft.builder.choice("predicate", telling)
            condition = f"({condition} OR {draft.builder.choice('predicate', others)})"
        draft.engaged.add(source)
        slots.append(condition)
    return slots


def _conditions_on_one(
    draft: Draft, scope: Scope, left: list[Field], floor: float, source: str, *, nulls: bool
) -> tuple[str, list[tuple[float, str]]]:
    """Return the weighted conditions on one column that keep enough rows, and its source.

    What is tried is taken from `left`; only columns of `source` are, where one is given.
    """
    # One row by its number is asked for alone, not among rows that are chosen otherwise.
    closed = {source} if source else draft.engaged
    options = [
        field
        for field in left
        if source in ("", field.source) and not (field.column.role == "identifier" and field.source in closed)
    ]
    while options:
        weights = [column_weight(field) * (1 if field.source in draft.engaged else 2.5) for field in options]
        (position,) = draft.rng.choices(range(len(options)), weights)
        field = options.pop(position)
        left.remove(field)
        kept = [predicate for predicate in predicates(field, draft.dialect) if predicate.share >= floor]
        if not nulls:
            kept = [predicate for predicate in kept if "NULL" not in predicate.sql]
        # That a value is there at all is worth a condition now and then.
        if all("NULL" in predicate.sql for predicate in kept) and not draft.chance(0.15):
            continue
        if kept:
            draft.constrained.add(field.sql)
            # What the condition settles as well is neither asked again nor grouped by.
            draft.constrained.update(other.sql for other in scope.fields if determines(field, other))
            left[:] = [
                other
                for other in left
                if not (say_the_same(field, other) or determines(field, other) or determines(other, field))
                and not (field.column.role == "identifier" and field.source == other.source)
            ]
            total = sum(predicate.weight for predicate in kept)
            share = column_weight(field) / total
            return field.source, [(share * predicate.weight, predicate.sql) for predicate in kept]
    return source, []
