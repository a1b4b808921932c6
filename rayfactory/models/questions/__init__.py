"""The catalogue of analytical questions: each function draws one query and leaves to the grammar what can stay open."""

from __future__ import annotations

from collections.abc import Callable

from rayfactory.models.draft import Draft
from rayfactory.models.questions.combining import (
    beside_group_average,
    chained,
    common_values,
    counts_beside,
    overlap,
    related_rows,
    scalar_figures,
    side_by_side,
    spread_of_groups,
    stacked,
)
from rayfactory.models.questions.grouping import (
    above_typical_group,
    brief,
    pivot,
    share_of_total,
    subtotals,
    summary,
    totals,
)
from rayfactory.models.questions.listing import lookup, newest_record, without_partner
from rayfactory.models.questions.plain import plainest
from rayfactory.models.questions.ranking import (
    grouped_rank,
    quantile_groups,
    ranked_rows,
    row_beside_its_group,
    top_of_each_group,
    trend,
)

__all__ = ["QUESTIONS", "plainest"]

QUESTIONS: tuple[tuple[float, Callable[[Draft], str]], ...] = (
    (9, brief),
    (8, lookup),
    (6, without_partner),
    (5, newest_record),
    (14, summary),
    (4, totals),
    (4, subtotals),
    (4, pivot),
    (5, share_of_total),
    (4, above_typical_group),
    (5, top_of_each_group),
    (5, trend),
    (3, quantile_groups),
    (3, row_beside_its_group),
    (4, ranked_rows),
    (3, grouped_rank),
    (9, overlap),
    (8, stacked),
    (8, side_by_side),
    (7, counts_beside),
    (4, spread_of_groups),
    (4, chained),
    (3, beside_group_average),
    (2, related_rows),
    (1, scalar_figures),
    (1, common_values),
)
"""Every question with its weight."""
