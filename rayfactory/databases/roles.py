"""What an analyst would do with a column, from its name, its declared type and its content."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from rayfactory.databases.schema import ColumnProfile, Kind, Role

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MEASURE_WORDS = _words("""
    age altitude amount amt area asian assets attendance average avg balance bonus bronze budget bytes capacity
    cash charge commission cost count credit credits cylinders days deaths discount displacement distance duration
    earnings elevation employees enrollment estimate expense expenses fee fees followers ft gdp goals gold gross
    height horsepower hours income injured killed kills length likes loss losses market mean minutes money months
    mpg num pages passengers payment pct percent percentage points population power pressure price profit qty
    quantity quota rate rating ratings ratio revenue rooms salary sales score scores seats seconds shares silver
    size space speed sqft staff stock students sum tax temperature tonnage total value vehicles viewers views
    volume votes wages weeks weight width wins worth years
""")
_CODE_WORDS = _words("""
    bound bounds built century channel chapter class code date datetime day decade division dom dow doy edition episode
    established floor founded gate gmt grade group hour hr index issue lane lat latitude level lng lon longitude
    minute mo model month moy mth offset opened order phase port pos position postal postcode priority qoy quarter
    rank ranking round season second section seq sequence series since stage step time track type utc version week
    year yr zip zipcode
""")
_IDENTIFIER_WORDS = _words("""
    accession barcode cas cell doi ean email fax guid hash homepage iban imei ip isbn issn license login mac md mobile
    ncbi omim orcid passport password pcode phone plate pmid pubmed serial sku ssn telephone token upc uri url username
    uuid vin webpage website
""")
_CATEGORY_WORDS = _words("""
    brand category city class color colour continent country county currency department district flag format gender
    genre grade group industry kind language level major method mode month nationality outcome party platform position
    province rating region religion result role season sector segment sex shift size state status tier type types
    unit units weekday
""")
_REFERENCE_WORDS = _words("""
    advisor category city class color colour country department district flag genre group instructor language major
    manager method mode nationality party region status supervisor type types
""")
"""A number called so stands for something else: nobody adds up cities."""

_SECRET_WORDS = _words("""
    credential credentials cvv hash md5 passphrase passwd password passwords pwd salt secret secrets sha1 sha256 token
    tokens
""")
"""A text called so is for a program to check; nobody reads, compares or groups it."""

_TEXT_WORDS = _words("""
    abstract address author body comment comments content desc description detail details hours line manager
    message name names note notes remark remarks street suite summary text title
""")
_NUMBER_WORDS = _words("no num nr number nbr")
_ID_WORDS = _words("id ids pk key uid")
_NUMERIC_TEXT = re.compile(r"[+-]?\d+([.,]\d+)?")
_ID_RHYMES = _words("""
    acid aid amid android arid asteroid avid avoid bid braid candid covid did fluid forbid grid hid hybrid kid lid
    liquid maid mermaid mid orchid overpaid paid plaid prepaid raid rapid rid said skid solid squid steroid stupid
    unpaid valid vivid void
""")

_RUN = re.compile(r"[A-Z]+|[a-z]+|\d+")
_CAPITALISED = re.compile(r"(?<![A-Za-z])[A-Z](?=[a-z])")

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
    if facts.kind == "other" or (profile.num_sampled and profile.num_distinct == 0):
        return "key" if facts.in_key else "opaque"
    if facts.kind in ("date", "timestamp"):
        return "date"
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
    if profile.num_sampled and profile.num_distinct <= 1 and not profile.common_values:
        return "opaque"  # blank throughout, or one and the same long text
    named = set(words)
    if named & _SECRET_WORDS or {"api", "key"} <= named or {"private", "key"} <= named:
        return "opaque"
    rows_per_value = _rows_per_value(profile)
    few = profile.num_distinct <= 12 and rows_per_value >= 2
    if few and words[-1:] and words[-1] not in _TEXT_WORDS and named & {"type", "status", "category", "flag"}:
        return "category"
    if named & {"zip", "zipcode", "postcode", "postal"}:
        return "code"
    if named & _IDENTIFIER_WORDS:
        # A flag about mail or phones is no address.
        return "category" if profile.num_distinct <= 3 and rows_per_value >= 2 else "identifier"
    if _ends_in(words, _ID_WORDS | _NUMBER_WORDS) and not named & {"street", "suite"}:
        return "category" if profile.num_distinct <= 12 and rows_per_value >= 10 else "identifier"
    if named & {"street", "suite", "address"}:
        return "text"
    if words[-1:] == ("name",) and named & {"quarter", "month", "weekday"} and rows_per_value >= 20:
        return "category"
    if named & _TEXT_WORDS:
        return "category" if profile.num_distinct <= 30 and rows_per_value >= 20 else _text_without_words(profile)
    is_named_category = bool(named & _CATEGORY_WORDS) and profile.num_distinct <= MAX_NAMED_CATEGORIES
    if is_named_category and (profile.num_distinct <= 12 or rows_per_value >= 1.5):
        return "category"
    if _is_numeric_text(profile):
        return "code"
    if _ends_in(words, frozenset({"code"})):
        return "category" if few else "identifier"
    if profile.num_distinct <= MAX_CATEGORIES and (few or rows_per_value >= 3):
        return "category"
    return _text_without_words(profile)


def _text_without_words(profile: ColumnProfile) -> Role:
    """Return ``opaque`` for what a machine drew letter by letter, and ``text`` for anything else."""
    values = [value for value, _ in profile.common_values if isinstance(value, str)]
    num_drawn = sum(map(_is_random_token, values))
    return "opaque" if len(values) >= 3 and num_drawn > len(values) / 2 else "text"


def _is_random_token(text: str) -> bool:
    """Whether a text is one token in which capitals, small letters and digits take turns as in no word or code."""
    if not text.isascii() or not text.isalnum() or len(text) < 5:
        return False
    runs = _RUN.findall(_CAPITALISED.sub("a", text))
    return len(runs) >= 5 or (len(runs) >= 3 and len(text) >= 12 and any(map(str.isdigit, runs)))


def _number_role(facts: Facts, words: tuple[str, ...]) -> Role:
    profile = facts.profile
    named = set(words)
    last = words[-1] if words else ""
    is_integer = facts.kind == "integer"
    if last == "sk" or _stands_for_a_day(named, profile):
        return "key"
    if named & _IDENTIFIER_WORDS and last not in ("count", "num"):
        return "identifier"
    if _ends_in(words, _ID_WORDS):
        return "key" if is_integer and profile.unique and profile.num_sampled > 1 else "code"
    if _ends_in(words, _NUMBER_WORDS) and named & {"season", "episode", "chapter", "version", "round"}:
        return "code"
    if _ends_in(words, _NUMBER_WORDS) and "of" not in named:
        return "identifier" if _rows_per_value(profile) < 2 and profile.num_sampled > 1 else "code"
    if _names_a_sibling(facts):
        return "code"
    if last in _MEASURE_WORDS:
        return "measure"
    if named & _CODE_WORDS:
        return "measure" if not is_integer and last == "time" else "code"
    declared = facts.declared_type.upper()
    if is_integer and any(word in declared for word in ("DATE", "TIME", "YEAR")):
        return "code"
    if named & _MEASURE_WORDS:
        return "measure"
    if is_integer and (named & _REFERENCE_WORDS or _looks_like_year(profile)):
        return "code"
    if is_integer and profile.num_distinct <= 2 and {profile.minimum, profile.maximum} <= {0, 1}:
        return "category"
    return "measure"


def _stands_for_a_day(named: frozenset[str] | set[str], profile: ColumnProfile) -> bool:
    """Whether a number called after a day is too large for one and too small for a date: it points to a calendar."""
    low, high = profile.minimum, profile.maximum
    if not named & {"day", "dom"} or named & {"seq", "sequence"}:
        return False
    return isinstance(low, int) and isinstance(high, int) and low > 366 and high < 10_000_000


def _rows_per_value(profile: ColumnProfile) -> float:
    num_values = round(profile.num_sampled * (1 - profile.null_fraction))
    return num_values / profile.num_distinct if profile.num_distinct else 0.0


def _ends_in(words: tuple[str, ...], endings: frozenset[str]) -> bool:
    """Whether a name ends in one of the words, also where it is written in one: ``userid``."""
    if not words:
        return False
    return words[-1] in endings or ("id" in endings and words[-1].endswith("id") and words[-1] not in _ID_RHYMES)


def _is_numeric_text(profile: ColumnProfile) -> bool:
    return bool(profile.common_values) and all(
        isinstance(value, str) and _NUMERIC_TEXT.fullmatch(value) for value, _ in profile.common_values
    )


def _names_a_sibling(facts: Facts) -> bool:
    """Whether another column spells out what this number stands for: ``division`` beside ``division_name``."""
    folded = facts.name.casefold()
    siblings = {sibling.casefold() for sibling in facts.siblings}
    return any(f"{folded}{ending}" in siblings for ending in ("_name", "_desc", "_description", "name"))


def _looks_like_year(profile: ColumnProfile) -> bool:
    low, high = profile.minimum, profile.maximum
    return isinstance(low, int) and isinstance(high, int) and low >= 1500 and high <= 2100 and low != high
