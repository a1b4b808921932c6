"""A query as a noun phrase, as it stands inside of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rayfactory.downstream.realiser.queries import Told
from rayfactory.downstream.realiser.telling import Phrase
from rayfactory.downstream.realiser.words import a, listed, plural, sentence, without_owner

Form = Literal["each", "all", "one"]
"""Which rows a noun phrase has in mind."""


def tail(order: str, limit: str, offset: str, *, is_sentence: bool) -> str:
    """Return order and limit, as the end of a phrase or as the end of a sentence with one of its own."""
    text = f", sorted by {order}" if order else ""
    if not limit and not offset:
        return text
    if not limit:
        part = "all the rest"
    elif order and not offset:
        part = "only the first row" if limit == "1" else f"only the first {limit} rows"
    else:
        part = "only one row" if limit == "1" else f"only {limit} rows"
    if is_sentence:
        return f"{text}. {sentence(_skip(limit, offset) if offset else f'show {part}', '')}"
    return f"{text}, {'leaving out the first ' + offset + ' and then ' if offset else ''}{part}"


def _skip(limit: str, offset: str) -> str:
    rows = "row" if offset == "1" else f"{offset} rows"
    return f"skip the first {rows} and show {f'the next {limit}' if limit else 'all the rest'}"


def phrase(found: Told, form: Form = "each", *, verb: str = "", is_sentence: bool = False) -> str:
    """Return a SELECT as a noun phrase: "the name of each singer whose age is above 20, sorted by age ..".

    Args:
        form: ``each``: a row for each; ``all``: the rows together; ``one``: the value of a single row.
        verb: stands before what is shown, and behind "for each ..".
    """
    if form == "one" and found.limit == "1" and found.best and not found.offset and not found.is_aggregate:
        mods = f" {found.mods.strip()}," if found.mods else ""
        return f"{things(found.items, is_owned=True)} of the {found.one}{mods} with the {found.best}"
    lead, text = _core(found, form)
    text = f"{lead}{verb} {text}" if verb else f"{lead}{text}"
    text += found.subtotals_told
    if found.qualify:
        text += f", keeping only the rows where {found.qualify}"
    return text + tail(found.order, found.limit, found.offset, is_sentence=is_sentence)


def things(items: Sequence[Phrase], *, is_owned: bool = False) -> str:
    """Return what is shown: "the name and age"; plain columns share an article.

    Args:
        is_owned: "of .." follows.
    """
    parts = [(is_owned and item.short) or item.full for item in items]
    if items and all(item.is_column and "'" not in item.text for item in items):
        return f"the {listed(parts)}"
    return listed([item.the for item in items])


def _core(found: Told, form: Form) -> tuple[str, str]:
    """Return what groups there are, and what is shown."""
    if not found.has_rows:
        return "", things(found.items)
    if found.is_aggregate:
        return _aggregated(found, form)
    rows = the(found.many, is_all=not found.mods)
    if found.is_star:
        if len(found.items) == 1:
            return "", f"{'the different rows of ' if found.is_different else ''}all columns of {found.each}"
        return "", f"{things(found.items)} for {found.each}"
    if found.is_different:
        return "", f"the different {different(found.items)} of {rows}"
    if form == "all" and len(found.items) == 1 and not found.limit:
        return "", f"the {different(found.items)} of {rows}"
    if form == "one":
        is_owned = all(item.is_plain for item in found.items)
        one = found.each.removeprefix("each of those ").removeprefix("each ")
        return "", f"{things(found.items, is_owned=is_owned)} of the {one}"
    first = next((i for i, item in enumerate(found.items) if not item.is_column), len(found.items))
    is_owned = all(item.is_plain for item in found.items[: first or None])
    link = "of" if is_owned else "for"
    if 0 < first < len(found.items):
        rest = things(found.items[first:])
        return "", f"{things(found.items[:first], is_owned=is_owned)} {link} {found.each}, together with {rest}"
    return "", f"{things(found.items, is_owned=is_owned)} {link} {found.each}"


def the(rows: str, *, is_all: bool = False) -> str:
    """Return rows with their article."""
    return rows if rows.startswith("those ") else f"{'all' if is_all else 'the'} {rows}"


def different(items: Sequence[Phrase]) -> str:
    """Return what is shown, each only once."""
    items = [replace(item, text=item.short or item.text) for item in items]
    if len(items) > 1:
        return f"combinations of {listed([item.full for item in items])}"
    item = items[0]
    if item.is_compound or item.definition or not item.article:
        return f"values of {item.the}"
    return plural(item.text)


def of_rows(found: Told) -> str:
    """Return what aggregates are of: " of the singers whose ..", or what is left to be said of counted rows."""
    items = found.items
    rows = the(found.many, is_all=not found.mods)
    if found.is_having_of_some:
        return ""
    if len(items) == 1 and items[0].text.endswith(f"number of {found.head}"):
        return found.mods
    if any(item.names_head for item in items):
        is_said = any(found.head in item.text for item in items)
        return f" among {rows}" if found.mods or not is_said else ""
    if found.keys and items and all(item.is_column and not item.is_plain for item in items):
        # What is shown is told by the groups themselves.
        return f" among {rows}" if found.mods else ""
    if found.shown_keys or found.keys:
        rows = the(found.many)
    return f" of {rows}" if items else ""


def _aggregated(found: Told, form: Form) -> tuple[str, str]:
    shown = "without duplicates, " if found.is_different else ""
    rows = the(found.many, is_all=not found.mods)
    if found.shown_keys:
        keys = listed([key.full for key in found.shown_keys])
        if not found.items:
            has = found.having.removeprefix(" with ") if found.having.startswith(" with ") else ""
            if has and form == "all":
                return shown, f"the {different(found.shown_keys)} that have {has}{found.mods}"
            if has:
                return shown, f"{'the' if form == 'one' else 'each'} {keys} that has {has}{found.mods}"
            if found.having and form == "all":
                return (
                    shown,
                    f"the {different(found.shown_keys)} of {rows}, as far as{found.having.removeprefix(' where')}",
                )
            if found.having and form == "one":
                return shown, f"the {keys}, among {rows},{found.having}"
            if found.having:
                return f"{shown}among {rows}, ", f"each {keys}{found.having}"
            return "", f"the different {different(found.shown_keys)} of {rows}"
        lead = f"among {rows}, for each" if found.is_having_of_some else "for each"
        return f"{shown}{lead} {keys}{found.having}, ", things(found.items) + of_rows(found)
    if found.keys == [found.one]:
        items, link = of_key(found)
        return shown, f"{things(items)} {link} {found.each}{found.having}"
    if found.keys and not of_rows(found):
        items, link = of_key(found)
        text = f"{things(items)} {link} each {listed(found.keys)}"
        # Only what has rows makes a group.
        has_rows = "" if found.head in text + found.having else f" that has {a(found.one)}"
        return shown, f"{text}{has_rows}{found.having}"
    if found.keys:
        shown_items, of, groups = things(found.items), of_rows(found), f"for each {listed(found.keys)}{found.having}"
        if of.startswith(" among "):
            return shown, f"{shown_items} {groups},{of}"
        return shown, f"{shown_items}{of}, {groups}"
    if form != "each" and not found.having and found.is_number_of_all:
        return shown, f"the number of all {found.head}"
    condition = f", only{found.having}" if found.having else ""
    return shown, f"{things(found.items)}{of_rows(found)}{condition}"


def of_key(found: Told) -> tuple[list[Phrase], str]:
    """Return what is shown, as it is called next to the only key of the groups, and what links the two."""
    if len(found.keys) > 1:
        return found.items, "for"
    items = [
        replace(item, text=(item.is_column and without_owner(item.text, found.keys[0])) or item.text)
        for item in found.items
    ]
    is_owned = all(item.is_column and item != old for item, old in zip(items, found.items, strict=True))
    return items, "of" if is_owned else "for"
