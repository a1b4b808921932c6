"""Figures as a person reads them, and what a run will have cost."""

from __future__ import annotations


def projected_cost_usd(spent_usd: float, admitted: int, target: int | None) -> float | None:
    """Return what a run will have cost at its target: what is spent, and as much again for each row that is missing.

    A row that is missing is taken to cost what one has cost on average so far. At the target it is what was spent.

    Args:
        spent_usd: by the whole run so far; what is unconfirmed belongs to it, since it may be billed.
        admitted: rows of the whole run so far.
        target: rows that are wanted.

    Returns:
        None without a target or without rows: nothing can be told then.
    """
    if target is None or not admitted:
        return None
    return spent_usd + spent_usd / admitted * max(0, target - admitted)


def short(number: int) -> str:
    """Return a count in at most four characters, as long as it is below 1000 G: 950, 1.2k, 34k, 5.6M."""
    value, unit = float(number), ""
    for larger in ("k", "M", "G"):
        if round(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.1f}{unit}" if unit and value < 9.95 else f"{value:.0f}{unit}"


def dollars(usd: float) -> str:
    """Return an amount in dollars and cents; something that is less than half a cent is not shown as nothing."""
    return "<$0.01" if 0 < usd < 0.005 else f"${usd:,.2f}"
