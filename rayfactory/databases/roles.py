"""What an analyst would do with a column, from its name, its declared type and its content."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from rayfactory.databases.schema import ColumnProfile, Kind, Role

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")

_MEASURE_WORDS = frozenset(
    "amount amt price cost quantity qty count total sum avg average mean balance salary income revenue sales profit loss tax "
    "fee fees charge discount budget capacity population height weight length width depth area size space ft sqft percent "
    "percentage pct rate ratio score scores points goals wins losses age votes attendance employees students staff "
    "enrollment distance speed duration minutes hours days years months weeks seconds value worth volume share shares stock "
    "assets killed injured deaths temperature pressure power horsepower mpg gdp elevation altitude rating ratings gross "
    "credit credits estimate dep_count vehicles passengers seats rooms pages bytes followers likes views cash num payment "
    "bonus commission market horsepower displacement cylinders".split()
)
_CODE_WORDS = frozenset(
    "year yr month mo moy dom dow doy qoy day quarter week hour hr minute second zip zipcode postal postcode seq sequence "
    "latitude lat longitude lng lon offset gmt utc rank ranking position pos order round season version edition level "
    "floor grade class code channel track lane area_code time built founded established opened since index priority port "
    "model section chapter episode series issue gate division decade century phase step stage".split()
)
_IDENTIFIER_WORDS = frozenset(
    "phone telephone mobile cell fax email mail url uri website webpage homepage link login username user password token "
    "hash uuid guid ssn isbn issn ean upc sku vin iban imei serial barcode ip mac license plate passport md5sum".split()
)
_CATEGORY_WORDS = frozenset(
    "type types status state country nationality gender sex category class kind color colour region continent city county "
    "province district language currency genre brand industry sector department major role party religion flag level "
    "method mode group grade rating title_type size unit units position "
    "result outcome shift season weekday format platform tier segment".split()
)
_TEXT_WORDS = frozenset(
    "name names title description desc details detail comment comments note notes text address street line summary content "
    "remark remarks abstract body message author manager hours".split()
)
_ID_WORDS = frozenset({"id", "ids", "sk", "pk", "key", "uid", "no", "num", "nr", "number"})

MAX_CATEGORIES = 50
"""More distinct values than this make no grouping that fits on a page, unless the name says otherwise."""

MAX_NAMED_CATEGORIES = 250
"""The same for a column whose name says that it holds categories: countries, colours, brands."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a column when its role is decided.

    Attributes:
        in_key: part of a primary or a foreign key of its table.
        siblings: names of all columns of its table.
    """

    name: str
    declared_type: str
    kind: Kind
    profile: ColumnProfile
    in_key: bool = False
    siblings: Collection[str] = ()


def role_of(facts: Facts) -> Role:
    """Return what an analyst would do with a column."""
    profile = facts.profile
    if facts.kind == "other" or (profile.num_sampled and profile.null_fraction == 1):
        return "opaque"
    if facts.kind in ("date", "timestamp"):
        return "key" if facts.in_key and profile.unique else "date"
    if facts.in_key:
        return "key"
    if facts.kind == "boolean":
        return "category"
    if facts.kind == "time":
        return "code"
    words = words_of(facts.name)
    return _text_role(facts, words) if facts.kind == "text" else _number_role(facts, words)


def words_of(name: str) -> tuple[str, ...]:
    """Return the words of a name, lower-cased: ``ss_soldDate_SK`` gives ss, sold, date, sk."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _text_role(facts: Facts, words: tuple[str, ...]) -> Role:
    profile = facts.profile
    last = words[-1] if words else ""
    num_values = round(profile.num_sampled * (1 - profile.null_fraction))
    rows_per_value = num_values / profile.num_distinct if profile.num_distinct else 0.0
    if {"zip", "zipcode", "postcode", "postal"} & set(words):
        return "code"
    if set(words) & _IDENTIFIER_WORDS:
        # A flag about mail or phones is no address.
        return "category" if profile.num_distinct <= 3 and rows_per_value >= 2 else "identifier"
    is_free_text = bool(set(words) & _TEXT_WORDS)
    if (
        last in ("id", "ids", "uid", "key", "no", "num", "nr", "number")
        and "street" not in words
        and "suite" not in words
    ):
        return "category" if profile.num_distinct <= 12 and rows_per_value >= 10 else "identifier"
    if is_free_text or {"street", "suite"} & set(words):
        return "category" if profile.num_distinct <= 30 and rows_per_value >= 20 and "street" not in words else "text"
    if set(words) & _CATEGORY_WORDS and profile.num_distinct <= MAX_NAMED_CATEGORIES:
        return "category" if profile.num_distinct <= 12 or rows_per_value >= 1.5 else "text"
    if profile.num_distinct <= MAX_CATEGORIES and rows_per_value >= 2:
        return "category"
    return "text"


def _number_role(facts: Facts, words: tuple[str, ...]) -> Role:
    profile = facts.profile
    last = words[-1] if words else ""
    if last == "sk":
        return "key"
    if set(words) & _IDENTIFIER_WORDS and last not in ("count", "num"):
        return "identifier"
    if last in _ID_WORDS and "of" not in words:
        if last in ("id", "ids", "uid", "pk", "key"):
            names_something = profile.unique and profile.num_sampled > 1
            return "key" if names_something and facts.kind == "integer" else "code"
        rows_per_value = profile.num_sampled / max(1, profile.num_distinct)
        return "identifier" if rows_per_value < 2 and profile.num_sampled > 1 else "code"
    if _names_a_sibling(facts):
        return "code"
    if last in _MEASURE_WORDS:
        return "measure"
    if set(words) & _CODE_WORDS:
        return "measure" if facts.kind == "real" and last == "time" else "code"
    if facts.kind == "integer" and any(
        word in facts.declared_type.upper() for word in ("DATE", "TIME", "YEAR", "BOOL")
    ):
        return "code"
    if set(words) & _MEASURE_WORDS:
        return "measure"
    if _looks_like_year(facts):
        return "code"
    if facts.kind == "integer" and profile.num_distinct == 2 and profile.minimum == 0 and profile.maximum == 1:
        return "category"
    return "measure"


def _names_a_sibling(facts: Facts) -> bool:
    """Whether another column spells out what this number stands for: ``division`` beside ``division_name``."""
    folded = facts.name.casefold()
    siblings = {sibling.casefold() for sibling in facts.siblings}
    return any(f"{folded}{ending}" in siblings for ending in ("_name", "_desc", "_description", "name"))


def _looks_like_year(facts: Facts) -> bool:
    low, high = facts.profile.minimum, facts.profile.maximum
    return isinstance(low, int) and isinstance(high, int) and low >= 1500 and high <= 2100 and low != high
