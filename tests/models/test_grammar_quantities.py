"""What names tell of quantities: pairs of lines of data, and laws that hold for any names."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

LABELS = st.lists(
    st.sampled_from(
        ["net", "paid", "inc", "tax", "ext", "list", "sales", "price", "cost", "amount", "age", "quantity"]
    ),
    min_size=1,
    max_size=4,
    unique=True,
).map("_".join)


@pytest.mark.parametrize(
    ("minuend", "subtrahend", "name"),
    [
        ("net_paid_inc_tax", "net_paid", "added_tax"),
        ("net_paid_inc_ship_tax", "net_paid_inc_tax", "added_ship"),
        ("list_price", "wholesale_cost", "list_margin"),
        ("ext_list_price", "ext_sales_price", "ext_price_reduction"),
        ("list_price", "sales_price", "price_reduction"),
        ("amount_claimed", "amount_settled", "amount_claimed_less_settled"),
        ("return_amt_inc_tax", "return_tax", ""),
        ("ext_tax", "net_profit", ""),
        ("ext_sales_price", "wholesale_cost", ""),
        ("sales_price", "coupon_amt", ""),
        ("height", "weight", ""),
    ],
)
def test_differences_that_mean_something(minuend: str, subtrahend: str, name: str) -> None:
    """A difference has a name where its two measures belong together, and none elsewhere."""
    assert difference_name(minuend, subtrahend) == name


def test_shares_and_products() -> None:
    """Parts are divided by their wholes, quantities multiplied by the price of one piece."""
    assert share_name("net_profit", "net_paid") == "profit_margin"
    assert share_name("wholesale_cost", "coupon_amt") == ""
    assert product_name("quantity", "sales_price") == "sales_value"
    assert product_name("quantity", "ext_sales_price") == ""
    assert product_name("return_quantity", "fee") == ""


@settings(deadline=None)
@given(LABELS, LABELS)
def test_no_pair_is_taken_both_ways(a: str, b: str) -> None:
    """At most one order of two measures is a difference, at most one a share, and no measure is paired with itself."""
    assert not (difference_name(a, b) and difference_name(b, a))
    assert not (share_name(a, b) and share_name(b, a))
    assert not difference_name(a, a)
    assert not product_name(a, a)


def test_only_amounts_are_added_up() -> None:
    """Amounts, quantities and revenues are summed; ages, rates, ranks and prices of one piece are not."""
    assert all(map(is_additive, ["net_paid", "quantity", "ext_list_price", "total_price", "revenue", "return_amt"]))
    assert not any(map(is_additive, ["upper_bound", "credit_limit", "unit_cost", "wholesale_cost", "base_price"]))
    assert not any(map(is_additive, ["life_expectancy", "max_occupancy", "purchase_estimate"]))
    assert not any(map(is_additive, ["age", "list_price", "tax_percentage", "best_finish", "score", "market_share"]))


def test_what_rows_are_grouped_by() -> None:
    """Years and hours come first, seconds and days of birth never; a record's own dates are known."""
    assert code_weight("year") > code_weight("hour") > code_weight("second") == code_weight("birth_day") == 0
    assert is_record_date("rec_start_date")
    assert not is_record_date("order_date")
    assert is_calendar(["date", "year", "moy", "dow"])
    assert not is_calendar(["name", "year", "budget"])
    assert names_a_thing("store_name")
    assert not names_a_thing("street_number")
