"""What the names of columns tell of quantities and dates: which are added up, which belong together, which say when.

Names are labels in snake case. Nothing here looks at values; who asks checks sizes and types.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SIZE = _words("ext extended total sum")
_INCLUDING = _words("inc incl including")
_REVENUE = _words("price sales revenue revenues income fare gross earnings budgeted")
_COST = _words("cost costs expense expenses spending")
_COST_KINDS = _words("wholesale unit production product standard purchase manufacturing derived base operating") | _SIZE
_LIST = _words("list retail market original regular asking msrp full")
_ASKED = _words("sales sale actual paid current discounted selling final special")
_TOTAL = _words("price paid sales revenue amount amt gross income total")
_DEDUCTED = _words("refund refunded discount coupon deposit")
_QUANTITY = _words("quantity qty units hours days nights")
_UNIT_PRICE = _words("price cost fare wage")

_OPPOSITES = frozenset(
    tuple(pair.split("/"))
    for pair in """
        claimed/settled budgeted/invested budgeted/actual budget/actual planned/actual estimated/actual high/low
        max/min maximum/minimum highest/lowest upper/lower end/start end/begin home/away male/female men/women
        wins/losses won/lost wins/draws scored/conceded for/against casual/registered in/out imports/exports
        opened/closed credit/debit registered/attended assets/liabilities capacity/attendance capacity/enrollment
        applied/admitted buy/sell after/before new/old current/previous gross/budget revenue/budget sales/profits
        received/paid likes/dislikes outstanding/paid
    """.split()
)

_SHARES: dict[str, tuple[str, frozenset[str]]] = {
    "profit": ("profit_margin", _words("sales paid revenue gross income")),
    "profits": ("profit_margin", _words("sales paid revenue gross income")),
    "discount": ("discount_rate", _TOTAL),
    "coupon": ("coupon_rate", _TOTAL),
    "tax": ("tax_rate", _TOTAL),
    "refund": ("refund_rate", _TOTAL),
    "refunded": ("refund_rate", _TOTAL),
}
"""What a part of a whole is called, and by which words the whole is known."""


@lru_cache(maxsize=8192)
def difference_name(minuend: str, subtrahend: str) -> str:
    """Return what the difference of two measures is called; empty where it means nothing."""
    first, second = minuend.split("_"), subtrahend.split("_")
    a, b = frozenset(first), frozenset(second)
    before = first[: next((at for at, word in enumerate(first) if word in _INCLUDING), 0)]
    if before and b < a and b.issuperset(before):
        return "added_" + "_".join(word for word in first if word not in b | _INCLUDING)
    only_a, only_b = a - b, b - a
    if len(only_a) == len(only_b) == 1 and (*only_a, *only_b) in _OPPOSITES:
        return f"{minuend}_less_{next(iter(only_b))}"
    if "price" in a & b and only_a and only_b and only_a <= _LIST and only_b <= _ASKED:
        return "ext_price_reduction" if a & _SIZE else "price_reduction"
    if a & _SIZE == b & _SIZE and first[-1] in _REVENUE and second[-1] in _COST and b - _COST <= _COST_KINDS:
        kind = "_".join(word for word in first if word not in ("price", "revenue", "income"))
        return f"{kind}_margin" if kind else "margin"
    if a & _TOTAL and not a & (_DEDUCTED | _INCLUDING) and b & _DEDUCTED and _is_unit_price(a) == _is_unit_price(b):
        (word, *_) = sorted(b & _DEDUCTED)
        return f"{minuend}_after_{word}"
    return ""


@lru_cache(maxsize=8192)
def share_name(part: str, whole: str) -> str:
    """Return what one measure's share of another is called; empty where it means nothing."""
    a, b = frozenset(part.split("_")), frozenset(whole.split("_"))
    if a & _INCLUDING or b & _INCLUDING or b & _SHARES.keys() or _is_unit_price(a) != _is_unit_price(b):
        return ""
    for word, (name, wholes) in _SHARES.items():
        if word in a and b & wholes:
            return name
    return ""


@lru_cache(maxsize=8192)
def product_name(quantity: str, price: str) -> str:
    """Return what a number of units times a price of one is called; empty where it means nothing."""
    words = price.split("_")
    named = frozenset(words)
    if quantity.rsplit("_", maxsplit=1)[-1] not in _QUANTITY or words[-1] not in _UNIT_PRICE:
        return ""
    if named & _SIZE or named & _words("ship shipping return tax net"):
        return ""
    kind = "_".join(words[:-1])
    return f"{kind}_value" if kind else f"{words[-1]}_value"


def _is_unit_price(words: Collection[str]) -> bool:
    """Whether a price is of one piece rather than of a whole order."""
    named = frozenset(words)
    return bool(named & _words("price cost")) and not named & (_SIZE | _words("amt amount"))


_NOT_ADDED = _words("""
    acceleration age ages altitude angle average avg best bound bounds capacity ceiling confidence cutoff cylinders
    density depth diameter elevation estimate expectancy finish floors gpa grade height highest horsepower humidity
    index latitude length level limit limits longitude lowest margin max maximum mean median min minimum mpg occupancy
    odds offset pct per percent percentage place position power pressure price probability radius rank ranking rate
    rates rating ratings ratio score scores share slope speed standing star stars stories temp temperature temperatures
    threshold visibility weight width worst year years
""")
_ADDED_ANYWAY = _words("ext total value amount amt")


def is_additive(label: str) -> bool:
    """Whether a sum of the measure over rows means something: not of rates, ages, scores and prices of one piece."""
    words = label.split("_")
    named = frozenset(words)
    if named & (_NOT_ADDED - {"price"}):
        return False
    if named & _ADDED_ANYWAY:
        return True
    return "price" not in named and words[-2:] not in (["wholesale", "cost"], ["unit", "cost"])


_RECORD_WORDS = _words("rec record valid updated update modified modification inserted loaded created")


def is_record_date(label: str) -> bool:
    """Whether a date is about the record, such as when it was valid or changed, rather than about an event."""
    return not _RECORD_WORDS.isdisjoint(label.split("_"))


_CALENDAR_LABELS = _words("""
    year month moy month_name quarter qoy quarter_name week week_seq month_seq dow dom day day_name weekday hour minute
    second
""")


def is_calendar(labels: Collection[str]) -> bool:
    """Whether a table with columns of these labels is a calendar or a clock: its rows are days or moments."""
    return len(_CALENDAR_LABELS.intersection(labels)) >= 3


_PERIOD_WORDS = _words("year yr years quarter qoy month moy decade century season semester")
_GROUPING_WORDS = _words("hour hr dow weekday grade level class stage round division group floor tier phase priority")
_UNGROUPED_WORDS = _words("""
    second minute day dom dt seq sequence time offset gmt lat latitude lng lon longitude zip zipcode postcode postal id
    no num nr number index position pos order version issue page street suite
""")


def code_weight(label: str) -> float:
    """Return how often an analyst would group by a code, in [0, 1.5]: months and hours, not seconds and offsets."""
    words = label.split("_")
    if "birth" in words and words[-1] != "year":
        return 0.05 if words[-1] == "month" else 0.0
    if any(word in _UNGROUPED_WORDS for word in words):
        return 0.0
    if any(word in _PERIOD_WORDS for word in words):
        return 0.15 if "fy" in words else 1.5
    return 1.0 if any(word in _GROUPING_WORDS for word in words) else 0.4


def orders_time(label: str) -> bool:
    """Whether a code of this name puts rows in an order of time; weeks, rounds and episodes come round again."""
    words = label.split("_")
    return not {"birth", "built", "opened", "established", "founded"} & set(words) and "year" in words


_NO_NAME_WORDS = _words("""
    address comment comments details detail email fax hours login note notes other password phone remark remarks street
    suite text url website zip date time number salutation middle
""")


def names_a_thing(label: str) -> bool:
    """Whether a text of this name tells a reader which thing a row is about."""
    return _NO_NAME_WORDS.isdisjoint(label.split("_"))
