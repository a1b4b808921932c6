"""Whether a verifier can be trusted: it is asked about pairs that are known to be right or wrong, among all others.

The rules' own question for a query makes a right pair; their question for a query that was damaged, a wrong one, near
enough that guessing does not tell it.
"""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from sqlglot import exp

from rayfactory import sql as statements
from rayfactory.databases.schema import Schema
from rayfactory.downstream.dialogue import Verdict
from rayfactory.downstream.realiser import Wording, realise
from rayfactory.errors import StatementError

logger = logging.getLogger("rayfactory.downstream")

MIN_SKILL = 0.3
"""The share of right pairs that a verifier lets through, less that of wrong ones: one that guesses has 0, one that errs
in every seventh pair 0.7."""

MIN_PAIRS = 20
"""Of each kind, before anything is said of a verifier."""

Z_95 = 1.959964
_SURE = 3.0
"""It is looked at after each block, so that one chance in forty each time would be one in five in the end."""


def pairs_over(sql: str, schema: Schema, seed: int) -> tuple[Wording, Wording] | None:
    """Return a question that a query answers, and one that it does not; None where the rules cannot make both.

    Args:
        sql: of a query that ran.
        schema: of its database.
        seed: decides what is damaged.
    """
    try:
        right = realise(sql, schema, seed)
        for damaged in damages(sql, schema.dialect, seed):
            try:
                wrong = realise(damaged, schema, seed)
            except StatementError:
                continue
            if wrong.text != right.text:
                return right, wrong
    except StatementError:
        return None
    except Exception as error:  # noqa: BLE001 - whatever sqlglot trips over is no reason to end a translation
        logger.warning("a verifier is not controlled with %r: %r", sql, error)
    return None


def damages(sql: str, dialect: str, seed: int) -> Iterator[str]:
    """Yield queries that ask for something else by one part each, in an order that the seed decides."""
    kinds = list(_DAMAGES)
    random.Random(seed).shuffle(kinds)
    for kind in kinds:
        tree = statements.parse(sql, dialect)
        if kind(tree, dialect):
            yield tree.sql(dialect, comments=False)


def _constant(tree: exp.Expr, _dialect: str) -> bool:
    for node in tree.find_all(exp.Literal):
        if isinstance(node.parent, (exp.Predicate, exp.In, exp.Between)):
            if node.is_string:
                node.set("this", f"{node.this} 2".strip())
                return True
            other = 2 * Decimal(node.this) + 1
            if other.is_finite():
                node.replace(exp.Literal.number(format(other, "f") if abs(other.adjusted()) < 20 else str(other)))
                return True
    return False


def _comparison(tree: exp.Expr, _dialect: str) -> bool:
    for node in tree.find_all(exp.GT, exp.LT, exp.GTE, exp.LTE):
        other = {exp.GT: exp.LT, exp.LT: exp.GT, exp.GTE: exp.LTE, exp.LTE: exp.GTE}[type(node)]
        node.replace(other(this=node.this, expression=node.expression))
        return True
    return False


def _aggregate(tree: exp.Expr, _dialect: str) -> bool:
    for node in tree.find_all(exp.Min, exp.Max, exp.Sum, exp.Avg):
        other = {exp.Min: exp.Max, exp.Max: exp.Min, exp.Sum: exp.Avg, exp.Avg: exp.Sum}[type(node)]
        node.replace(other(this=node.this))
        return True
    return False


def _direction(tree: exp.Expr, dialect: str) -> bool:
    for node in tree.find_all(exp.Ordered):
        select = node.parent.parent if isinstance(node.parent, exp.Order) else None
        if isinstance(select, exp.Select) and select.args.get("limit"):
            plain = f"SELECT 1 AS a ORDER BY a{'' if node.args.get('desc') else ' DESC'}"
            other = statements.parse(plain, dialect).find(exp.Ordered)
            assert other is not None
            # Where missing values go is as it would be if nobody had said it.
            for name in ("desc", "nulls_first"):
                node.set(name, other.args.get(name))
            return True
    return False


def _condition(tree: exp.Expr, _dialect: str) -> bool:
    for node in tree.find_all(exp.Where):
        if isinstance(node.this, exp.And):
            node.set("this", node.this.left)
        else:
            node.pop()
        return True
    return False


def _column(tree: exp.Expr, _dialect: str) -> bool:
    if isinstance(tree, exp.Select) and len(tree.expressions) > 1 and not tree.args.get("group"):
        tree.set("expressions", tree.expressions[:-1])
        return True
    return False


_DAMAGES: tuple[Callable[[exp.Expr, str], bool], ...] = (
    _constant,
    _comparison,
    _aggregate,
    _direction,
    _condition,
    _column,
)


@dataclass(slots=True)
class Control:
    """What a verifier said of the pairs that are known.

    Attributes:
        right: how often it said what of right pairs.
        wrong: the same of wrong ones.
    """

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    def add(self, right: Verdict | None, wrong: Verdict | None) -> None:
        """Count what it said of the two pairs over a query; None where it was not asked."""
        if right is not None:
            self.right[right] += 1
        if wrong is not None:
            self.wrong[wrong] += 1

    def fault(self) -> str:
        """Return what is wrong with the verifier, in words; empty as long as it may be well.

        It is said where its skill is below `MIN_SKILL`, but for one time in a thousand that it is looked at.
        """
        num_right, num_wrong = self.right.total(), self.wrong.total()
        if min(num_right, num_wrong) < MIN_PAIRS:
            return ""
        said = (
            f"of {num_right} pairs that are right it says yes to {self.right['yes']}, "
            f"of {num_wrong} that are wrong to {self.wrong['yes']}"
        )
        if (unclear := self.right["unclear"] + self.wrong["unclear"]) > (num_right + num_wrong) / 2:
            return f"it says neither yes nor no in {unclear} of {num_right + num_wrong} replies"
        if self.skill_interval(_SURE)[1] >= MIN_SKILL:
            return ""
        if self.wrong["yes"] >= 0.9 * num_wrong:
            return f"it says yes whatever it is asked: {said}"
        if self.right["yes"] <= 0.1 * num_right:
            return f"it says no whatever it is asked: {said}"
        return f"it cannot tell right pairs from wrong ones: {said}"

    def skill_interval(self, z: float) -> tuple[float, float]:
        """Return the interval that the verifier's skill is in.

        Args:
            z: how sure that is to be, as a quantile of the normal distribution.

        Source: Newcombe, Interval estimation for the difference between independent proportions, 1998, method 10.
        """
        right, right_low, right_high = _proportion(self.right["yes"], self.right.total(), z)
        wrong, wrong_low, wrong_high = _proportion(self.wrong["yes"], self.wrong.total(), z)
        skill = right - wrong
        low = skill - math.hypot(right - right_low, wrong_high - wrong)
        return low, skill + math.hypot(right_high - right, wrong - wrong_low)

    def to_json(self) -> Mapping[str, object]:
        """Return the counts, the shares with their intervals and what is wrong, as JSON-compatible values."""
        is_controlled = min(self.right.total(), self.wrong.total()) >= MIN_PAIRS
        found: dict[str, object] = {"fault": self.fault(), "is_controlled": is_controlled}
        for name, counts in (("right", self.right), ("wrong", self.wrong)):
            share, low, high = _proportion(counts["yes"], counts.total(), Z_95)
            found[name] = {
                **{verdict: counts[verdict] for verdict in ("yes", "no", "unclear")},
                "said_yes": round(share, 4),
                "said_yes_95": [round(low, 4), round(high, 4)],
            }
        return found


def _proportion(count: int, total: int, z: float) -> tuple[float, float, float]:
    """Return a share, and Wilson's interval for it."""
    if not total:
        return 0.0, 0.0, 1.0
    share, z2 = count / total, z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    reach = math.sqrt(share * (1 - share) * z2 + z2 * z2 / 4) / (1 + z2)
    return share, middle - reach, middle + reach
