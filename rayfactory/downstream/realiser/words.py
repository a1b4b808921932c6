"""English words: of names in a database, in singular and plural, in lists, and values as they stand in a question."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rayfactory.databases.schema import Column, Table

_PARTS = re.compile(
    r"(?<![A-Za-z])[A-Za-z]\d+(?![A-Za-z\d])|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+(?:st|nd|rd|th)?|[^\W\d_a-zA-Z]+"
)
_SPOKEN = {
    "acc": "account",
    "addr": "address",
    "amt": "amount",
    "avg": "average",
    "cnt": "count",
    "cust": "customer",
    "dept": "department",
    "desc": "description",
    "dob": "date of birth",
    "dom": "day of the month",
    "dow": "day of the week",
    "ext": "extended",
    "fname": "first name",
    "inc": "including",
    "lname": "last name",
    "manufact": "manufacturer",
    "mfr": "manufacturer",
    "mkt": "market",
    "moy": "month of the year",
    "no": "number",
    "num": "number",
    "pct": "percentage",
    "promo": "promotion",
    "qoy": "quarter of the year",
    "qty": "quantity",
    "sk": "key",
    "yr": "year",
    "sq": "square",
    "stu": "student",
    "ft": "feet",
    "est": "estimate",
}
"""Short forms that names of columns have, and what a person says."""
_CAPITALS = frozenset("am pm gmt id sku url uid gdp tv dvd cd isbn ip sql api ssn vat usa uk us fifa uefa".split())
_KEY_WORDS = frozenset("id ids sk key code uid uuid fk no number num api ref".split())
_TABLE_WORDS = frozenset("dim tbl tab table fact ref".split())
_VERBS = frozenset("is has was can".split())

_PLURALS = {
    "person": "people",
    "child": "children",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "datum": "data",
    "medium": "media",
    "criterion": "criteria",
    "staff": "staff",
    "series": "series",
    "species": "species",
    "demographics": "demographics",
    "aircraft": "aircraft",
    "data": "data",
    "information": "information",
    "news": "news",
    "equipment": "equipment",
    "info": "info",
    "hero": "heroes",
    "superhero": "superheroes",
    "movie": "movies",
    "analysis": "analyses",
    "quiz": "quizzes",
    "match": "matches",
    "roller coaster": "roller coasters",
    "statistics": "statistics",
    "attendance": "attendances",
    "music": "music",
}
_SINGULARS = {plural: singular for singular, plural in _PLURALS.items()}
_NO_PLURAL_S = ("ss", "us", "is", "ics", "gas", "lens")
_LINKS = frozenset("of in with by to for on from at as including per after before".split())


def split(name: str) -> list[str]:
    """Return the words of a name: ``songReleaseYear`` -> song, release, year; abbreviations spelled out.

    Of a name that has blanks what is in it besides letters stays: ``Free Meal Count (K-12)``.
    """
    if " " in name.strip():
        parts = name.replace("_", " ").split()
        return [_cased(part, name) for part in parts]
    found: list[str] = []
    parts = _PARTS.findall(name) or [name]
    for i, part in enumerate(parts):
        folded = part.casefold()
        if folded in _CAPITALS or re.fullmatch(r"[a-z]\d+", folded) or _is_acronym(part, name):
            found.append(part.upper())
        else:
            found += _SPOKEN.get(folded, folded).split()
        is_of = folded == "num" or (folded == "number" and len(found) == 1)
        if is_of and i + 1 < len(parts) and parts[i + 1].casefold() != "of":
            found.append("of")
    return found


def _cased(part: str, name: str) -> str:
    if part.casefold() in _CAPITALS:
        return part.upper()
    return part if _is_acronym(part, name) or any(letter.isdigit() for letter in part) else part.lower()


def _is_acronym(part: str, name: str) -> bool:
    letters = part.strip("()%/-")
    if not letters.isupper() or not letters.isalpha():
        return False
    is_shouted = name.isupper() and not set("AEIOU").isdisjoint(letters)
    return len(letters) <= 4 and not is_shouted


def column_words(table: Table, column: Column) -> str:
    """Return what a column is called in a sentence, without the prefix that all columns of the table share."""
    described = column.description.strip().rstrip(".")
    is_short = 0 < len(described) <= 40 and described.count(" ") <= 4
    if is_short and not re.search(r"[.;:,?!\"'`=_<>]", described) and described.casefold() != column.name.casefold():
        return _as_noun(split(described), column)
    prefix = _prefix(table)
    name = column.name[len(prefix) :] if prefix and len(column.name) > len(prefix) else column.name
    return _as_noun(split(name), column)


def _as_noun(parts: Sequence[str], column: Column) -> str:
    """Return a column's words, with a noun where they have none: sold-on date, is-official flag, directed-by name."""
    hyphened = "-".join(parts)
    if len(parts) > 1 and column.kind in {"date", "timestamp"} and parts[-1] in {"on", "at"}:
        return f"{hyphened} {'date' if column.kind == 'date' else 'time'}"
    if len(parts) > 1 and parts[0] in _VERBS:
        return f"{hyphened} flag"
    if len(parts) > 1 and parts[-1] == "by" and column.kind == "text":
        return f"{hyphened} name"
    return tidy(parts)


def tidy(parts: Sequence[str]) -> str:
    """Return words put together as they are said: am pm -> AM/PM."""
    text = " ".join(parts).replace("AM PM", "AM/PM").replace("including ship tax", "including shipping and tax")
    text = re.sub(r"\bdep\b(?=.* count\b)", "dependent", text).replace("cume dist", "cumulative share")
    return re.sub(r"including ship\b", "including shipping", text)


def _prefix(table: Table) -> str:
    """Return the short beginning, up to an underscore, that all columns of a table share (or nearly all)."""
    if len(table.columns) < 2:
        return ""
    first = table.columns[0].name.partition("_")
    prefix = first[0] + first[1]
    if not first[1] or len(first[0]) > 3:
        return ""
    return prefix if all(column.name.startswith(prefix) for column in table.columns) else ""


def table_noun(name: str) -> str:
    """Return what one row of a table is called."""
    parts = split(name)
    while len(parts) > 1 and parts[-1].lower() in _TABLE_WORDS:
        parts = parts[:-1]
    while len(parts) > 1 and parts[0].lower() in {*_TABLE_WORDS, "has"}:
        parts = parts[1:]
    return singular(" ".join(parts))


def role(column: str, prefix_of: Table, noun: str, *, is_same_name: bool) -> str:
    """Return what the row is called that a foreign key points to: ``ws_bill_addr_sk`` -> bill customer address."""
    prefix = _prefix(prefix_of)
    parts = split(column[len(prefix) :] if prefix else column)
    while parts and parts[-1].lower() in _KEY_WORDS:
        parts = parts[:-1]
    for i, part in enumerate(parts):
        # What follows the table's own words belongs to the key: home team api id.
        if _is_short_for(part, noun):
            before = parts[:i]
            return noun if any(word in _LINKS for word in before) else " ".join([*before, noun])
    is_word = len(parts) > 1 or (parts and len(parts[0]) > 3)
    if not is_word or is_same_name or any(word in _LINKS for word in parts):
        return noun
    return " ".join(parts)


def names(column: str, noun: str) -> bool:
    """Return whether a column is called after what it would lead to: league_id after a league."""
    parts = split(column)
    while parts and parts[-1].lower() in _KEY_WORDS:
        parts = parts[:-1]
    return bool(parts) and _is_short_for(parts[-1], noun)


def _is_short_for(part: str, noun: str) -> bool:
    letters = part.lower()
    words = noun.lower().split()
    if len(letters) < 2:
        return False
    if any(singular(letters) == singular(word) or (len(letters) > 3 and word.endswith(letters)) for word in words):
        return True
    return any(_is_subsequence(letters, "".join(words[i:])) for i in range(len(words)) if words[i][0] == letters[0])


def _is_subsequence(letters: str, text: str) -> bool:
    left = iter(text)
    return len(letters) > 2 and all(letter in left for letter in letters)


def singular(noun: str) -> str:
    """Return a noun phrase with its last word (or the last before "of", "in" ..) in the singular."""
    return _at_noun(noun, _singular_word)


def plural(noun: str) -> str:
    """Return a noun phrase with its last word (or the last before "of", "in" ..) in the plural."""
    return _at_noun(noun, lambda word: _plural_word(_singular_word(word)))


def _at_noun(phrase: str, change: Callable[[str], str]) -> str:
    words = phrase.split(" ")
    i = next((i for i, word in enumerate(words) if word in _LINKS and i > 0), len(words)) - 1
    words[i] = change(words[i])
    return " ".join(words)


def _singular_word(word: str) -> str:
    lower = word.lower()
    if lower in _PLURALS:
        return word
    if lower in _SINGULARS:
        return _SINGULARS[lower]
    if not lower.endswith("s") or lower.endswith(_NO_PLURAL_S) or len(lower) < 4:
        return word
    if lower.endswith("ies") and len(lower) > 4:
        return word[:-3] + "y"
    if lower.endswith(("sses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    if lower.endswith("uses") and not lower.endswith(("ouses", "auses")) and len(lower) > 5:
        return word[:-2]
    return word[:-1]


def _plural_word(word: str) -> str:
    lower = word.lower()
    if lower in _PLURALS:
        return _PLURALS[lower]
    if not word[-1:].isalpha():
        return word
    if word.isupper():
        return word + "s"
    if lower.endswith("y") and lower[-2:-1] not in set("aeiou"):
        return word[:-1] + "ies"
    if lower.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    return word + "s"


def is_plural(noun: str) -> bool:
    """Return whether a noun phrase is one in the plural: "laps", but not "number of laps" or "status"."""
    words = noun.split(" ")
    last = next((i for i, word in enumerate(words) if word in _LINKS and i > 0), len(words)) - 1
    word = words[last].lower()
    return word.endswith("s") and word not in _PLURALS and _singular_word(word) != word


def without_owner(words: str, noun: str) -> str:
    """Return what a column is called next to its owner: the document name of a document is its name."""
    rest = words.removeprefix(f"{noun} ")
    return rest if rest != words and rest[:1].isalpha() and rest.split()[0] not in _LINKS else ""


def possessive(noun: str) -> str:
    """Return a noun with what makes it an owner."""
    return noun + ("'" if noun.endswith("s") else "'s")


def listed(items: Sequence[str], link: str = "and") -> str:
    """Return "a, b and c"; with semicolons where an item has commas of its own."""
    if len(items) < 2:
        return "".join(items)
    if any(", " in _outside(item) for item in items):
        return "; ".join(items[:-1]) + f"; {link} {items[-1]}"
    return f"{', '.join(items[:-1])} {link} {items[-1]}"


def _outside(text: str) -> str:
    """Return what of a text stands outside of parentheses and quotes."""
    text = re.sub(r'"[^"]*"', "", text)
    while (shorter := re.sub(r"\([^()]*\)", "", text)) != text:
        text = shorter
    return text


def a(noun: str) -> str:
    """Return a noun with its indefinite article."""
    return f"{'an' if noun[:1].lower() in set('aeio') else 'a'} {noun}"


def ordinal(number: int) -> str:
    """Return "first", "second" .. "tenth", and 11th from there on."""
    names = "first second third fourth fifth sixth seventh eighth ninth tenth".split()
    return names[number - 1] if 0 < number <= len(names) else f"{number}th"


def quoted(text: str) -> str:
    """Return a text value in quotes of a kind that it does not hold."""
    shown = re.sub(r"[\x00-\x1f\x7f]", lambda found: f"\\x{ord(found.group()):02x}", text)
    return f'"{shown}"' if '"' not in shown else f"“{shown}”"


def sentence(text: str, end: str = ".") -> str:
    """Return a text with a capital at its beginning and a mark at its end."""
    return text[:1].upper() + text[1:] + end
