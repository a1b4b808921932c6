"""The catalogue of analytical questions: each function draws one query and leaves to the grammar what can stay open."""

from __future__ import annotations

from collections.abc import Callable

from rayfactory.models.grammar.draft import Draft
from rayfactory.models.grammar.questions.branching import common_values, overlap, side_by_side, stacked
from rayfactory.models.grammar.questions.grouping import (
    above_typical_group,
    brief,
    pivot,
    share_of_total,
    subtotals,
    summary,
    totals,
)
from rayfactory.models.grammar.questions.listing import lookup, newest_record, without_partner
from rayfactory.models.grammar.questions.nested import (
    beside_group_average,
    chained,
    counted_members,
    counts_beside,
    related_rows,
    scalar_figures,
    spread_of_groups,
)
from rayfactory.models.grammar.questions.plain import plainest
from rayfactory.models.grammar.questions.ranking import (
    grouped_rank,
    quantile_groups,
    ranked_rows,
    row_beside_its_group,
    top_of_each_group,
    trend,
)

__all__ = ["QUESTIONS", "plainest"]

QUESTIONS: tuple[tuple[float, Callable[[Draft], str]], ...] = (
    (12, brief),
    (8, lookup),
    (6, without_partner),
    (6, newest_record),
    (14, summary),
    (4, totals),
    (4, subtotals),
    (4, pivot),
    (6, share_of_total),
    (4, above_typical_group),
    (9, top_of_each_group),
    (11, trend),
    (6, quantile_groups),
    (7, row_beside_its_group),
    (8, ranked_rows),
    (6, grouped_rank),
    (10, overlap),
    (10, stacked),
    (12, side_by_side),
    (5, counts_beside),
    (7, counted_members),
    (4, spread_of_groups),
    (7, chained),
    (3, beside_group_average),
    (2, related_rows),
    (1, scalar_figures),
    (1, common_values),
)
"""Every question with its weight."""
