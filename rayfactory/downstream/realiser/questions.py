"""A query as the question that it answers."""

from __future__ import annotations

from collections.abc import Sequence

from rayfactory.downstream.realiser.phrases import of_key, of_rows, phrase, tail, the, things
from rayfactory.downstream.realiser.queries import Told
from rayfactory.downstream.realiser.telling import Phrase, Teller
from rayfactory.downstream.realiser.words import listed, plural, sentence


def question(tell: Teller, found: Told) -> str:
    """Return a SELECT as the question that it answers."""
    style = tell.style
    is_bare = not (found.order or found.limit or found.offset or found.qualify or found.subtotals)
    if found.is_aggregate and not found.is_different:
        if not found.shown_keys and not found.keys and is_bare and not found.having:
            return _one_row(tell, found)
        asked = _which_group(tell, found)
        if asked:
            return asked
        if found.shown_keys and found.items and is_bare and style.is_asked:
            keys = listed([key.full for key in found.shown_keys])
            asked = f"what {_is(found.items)} {things(found.items)}{of_rows(found)}?"
            return sentence(f"{_among(found)}for each {keys}{found.having}, {asked}", "")
        if found.shown_keys and found.items:
            return _grouped(tell, found)
        if found.shown_keys and found.having and is_bare and style.is_asked and len(found.shown_keys) == 1:
            asked = _which_groups(found)
            if asked:
                return asked
    best = _best(tell, found)
    if best:
        return best
    if found.is_aggregate:
        return sentence(phrase(found, verb=style.opening.lower(), is_sentence=True))
    return sentence(phrase(found, verb=style.opening, is_sentence=True))


def _is(items: Sequence[Phrase]) -> str:
    return "are" if len(items) > 1 else "is"


def _one_row(tell: Teller, found: Told) -> str:
    item = found.items[0]
    if len(found.items) == 1 and tell.style.is_counted:
        if item.text == f"number of {found.head}" and found.head.startswith("those "):
            return f"How many of {found.head} are there{found.mods}?"
        if item.text == f"number of {found.head}":
            return f"How many {found.head} are there{found.mods}?"
        if item.text.startswith("number of different ") and not item.is_compound:
            what = item.text.removeprefix("number of ")
            rows = the(found.many, is_all=not found.mods)
            return f"How many {what} are there among {rows}?"
    if tell.style.is_asked:
        return f"What {_is(found.items)} {things(found.items)}{of_rows(found)}?"
    return f"{tell.style.opening} {things(found.items)}{of_rows(found)}."


def _grouped(tell: Teller, found: Told) -> str:
    keys = listed([key.full for key in found.shown_keys])
    shown = f"{things(found.items)}{of_rows(found)}"
    end = found.subtotals_told
    if found.qualify:
        end += f", keeping only the rows where {found.qualify}"
    end += tail(found.order, found.limit, found.offset, is_sentence=True)
    opening = tell.style.opening
    if tell.style.is_group_first:
        return sentence(f"{_among(found)}for each {keys}{found.having}, {opening.lower()} {shown}{end}")
    return sentence(f"{_among(found)}{opening.lower()} each {keys}{found.having} with {shown}{end}")


def _among(found: Told) -> str:
    return f"among {the(found.many)}, " if found.is_having_of_some else ""


def _which_group(tell: Teller, found: Told) -> str:
    """Return "Which country has the highest number of singers?", or "" where it is no such question."""
    if len(found.keys) == 1 and not found.shown_keys:
        return _which_owner(tell, found)
    keys = found.shown_keys
    if (
        found.items
        or len(keys) != 1
        or found.having
        or found.offset
        or found.qualify
        or found.subtotals
        or keys[0].definition
    ):
        return ""
    if not found.best_of_group or not found.limit.isdigit():
        return ""
    rest = found.mods
    if not found.best_of_group.endswith(f"number of {found.head}"):
        rest = f" of {'the ' if rest else ''}{found.many}"
    if found.limit == "1":
        return f"Which {keys[0].text} has the {found.best_of_group}{rest}?"
    return f"Which {found.limit} {plural(keys[0].text)} have the {found.best_of_group}{rest}?"


def _which_owner(tell: Teller, found: Told) -> str:
    """Return "List the name for the stadium with the highest number of concerts.", or "" where it is not so."""
    if found.having or found.offset or found.qualify or found.subtotals or not found.best_of_group:
        return ""
    if not found.limit.isdigit():
        return ""
    rest = found.mods
    if not found.best_of_group.endswith(f"number of {found.head}"):
        rest = f" of {'the ' if rest else ''}{found.many}"
    key = found.keys[0] if found.limit == "1" else f"{found.limit} {plural(found.keys[0])}"
    items, link = of_key(found)
    return sentence(f"{tell.style.opening} {things(items)} {link} the {key} with the {found.best_of_group}{rest}")


def _which_groups(found: Told) -> str:
    key = found.shown_keys[0]
    if key.definition or not key.article or key.is_compound or not found.having.startswith(" with "):
        return ""
    return f"Which {plural(key.text)} have {found.having.removeprefix(' with ')}{found.mods}?"


def _best(tell: Teller, found: Told) -> str:
    """Return "Of the singers whose .., what is the name of the one with the highest age?", or ""."""
    if (
        not found.best
        or found.is_different
        or found.offset
        or found.qualify
        or not found.limit.isdigit()
        or found.is_star
    ):
        return ""
    if not all(item.is_column for item in found.items):
        return ""
    is_one, is_owned = found.limit == "1", all(item.is_plain for item in found.items)
    shown = f"{things(found.items, is_owned=is_owned)} {'of' if is_owned else 'for'}"
    if found.mods or found.head.startswith("those "):
        of = f"Of {the(found.many)}, "
        which = f"the one with the {found.best}" if is_one else f"the {found.limit} with the {found.best}"
    else:
        of = ""
        which = (
            f"the {found.one} with the {found.best}"
            if is_one
            else f"the {found.limit} {found.head} with the {found.best}"
        )
    if is_one and tell.style.is_asked:
        return sentence(f"{of}what {_is(found.items)} {shown} {which}?", "")
    return sentence(f"{of}{tell.style.opening.lower()} {shown} {which}")
