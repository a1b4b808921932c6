"""Figures are short and true, and a projection adds what the missing rows will cost to what is spent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayfactory.reports.figures import dollars, projected_cost_usd, short


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (999, "999"), (1_000, "1.0k"), (9_949, "9.9k"), (9_950, "10k"), (34_567, "35k"),
     (999_499, "999k"), (999_600, "1.0M"), (5_600_000, "5.6M"), (2_000_000_000, "2.0G")],
)  # fmt: skip
def test_counts_are_short(number, text):
    assert short(number) == text


@given(st.integers(0, 10**12 - 10**9))
def test_short_counts_are_within_five_percent_and_four_characters(number):
    text = short(number)
    value = float(text.rstrip("kMG")) * {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1)
    assert len(text) <= 4
    assert value == pytest.approx(number, rel=0.05)


@pytest.mark.parametrize(
    ("usd", "text"), [(0, "$0.00"), (0.0001, "<$0.01"), (0.006, "$0.01"), (4.2, "$4.20"), (1234.5, "$1,234.50")]
)
def test_dollars_that_are_spent_are_never_shown_as_none(usd, text):
    assert dollars(usd) == text


def test_projection_is_what_is_spent_and_the_price_of_the_rows_that_are_missing():
    assert projected_cost_usd(4.0, 100, 500) == pytest.approx(20.0)
    assert projected_cost_usd(4.0, 500, 500) == 4.0
    assert projected_cost_usd(4.0, 600, 500) == 4.0
    assert projected_cost_usd(4.0, 0, 500) is None
    assert projected_cost_usd(4.0, 100, None) is None
