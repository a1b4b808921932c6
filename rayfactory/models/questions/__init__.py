"""The catalogue of analytical questions: each function draws one query and leaves to the grammar what can stay open."""

from __future__ import annotations

from collections.abc import Callable

from rayfactory.models.draft import Draft
from rayfactory.models.questions.grouping import above_typical_group, pivot, share_of_total, subtotals, summary, totals
from rayfactory.models.questions.listing import lookup, newest_record, without_partner
from rayfactory.models.questions.plain import plainest

__all__ = ["QUESTIONS", "plainest"]

QUESTIONS: tuple[tuple[float, Callable[[Draft], str]], ...] = (
    (8, lookup),
    (4, without_partner),
    (5, newest_record),
    (10, summary),
    (4, totals),
    (4, subtotals),
    (4, pivot),
    (5, share_of_total),
    (3, above_typical_group),
)
"""Every question with its weight."""
