"""Conditions put together: either .. or .., both .. and .., and behind the noun that they are about."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from rayfactory.downstream.realiser.telling import Clause, Phrase
from rayfactory.downstream.realiser.words import is_plural, listed

HAVE = "\x02have"
"""Stands for "have" or "has" until it is known how many are meant."""


def about(subject: Phrase, predicate: str, *, is_long: bool = False) -> Clause:
    """Return what is said of a value as a condition."""
    text = subject.full
    if predicate.startswith("is ") and is_plural(subject.text) and not subject.is_compound:
        predicate = f"are {predicate.removeprefix('is ')}"
    return Clause(
        f"{subject.the} {predicate}",
        (subject.short or text)
        if subject.article and subject.is_headed and not subject.names_head and not subject.definition
        else "",
        predicate,
        is_long=is_long or len(text) + len(predicate) > 70,
    )


def joined(parts: Sequence[Clause], kind: type[exp.Expr]) -> str:
    """Return conditions with "either .. or .." or "both .. and .." around them, which leaves no doubt what belongs."""
    word, link = ("either", "or") if kind is exp.Or else ("both", "and")
    texts = [part.full for part in parts]
    if len(texts) == 2 and ", " not in texts[0]:
        return f"{word} {texts[0]} {link} {texts[1]}"
    return f"{word} {listed(texts, link)}"


def modifiers(clauses: Sequence[Clause]) -> str:
    """Return conditions as they stand together behind the noun of what they are about, with a blank before them.

    `numbered` makes it singular or plural.
    """
    if not clauses:
        return ""
    ordered = sorted(clauses, key=lambda part: part.is_long)
    adjuncts = [part for part in ordered if part.adjunct]
    rest = [part for part in ordered if not part.adjunct]
    text = "".join(f" {part.adjunct}" for part in adjuncts)
    if any(not part.subject and not part.has for part in rest):
        fulls = [part.full for part in rest]
        return f"{text} where {_chain(fulls, [part.is_long for part in rest])}"
    whose = [part for part in rest if part.subject]
    having = [part for part in rest if not part.subject]
    verb = HAVE
    if not rest:
        return text
    pieces = []
    if whose:
        pieces.append(
            "whose " + _chain([f"{p.subject} {p.predicate}" for p in whose], [p.is_long for p in whose], "whose ")
        )
    if having:
        is_nested = any(part.is_long for part in having)
        pieces.append(
            f"that {verb} " + _chain([part.has for part in having], [is_nested for _ in having], f"that {verb} ")
        )
    return f"{text} {' and '.join(pieces)}" if len(pieces) < 2 else f"{text} {', and '.join(pieces)}"


def numbered(text: str, *, is_plural: bool) -> str:
    """Return what stands behind a noun with its verbs in the noun's number."""
    return text.replace(HAVE, "have" if is_plural else "has")


def _chain(items: Sequence[str], are_long: Sequence[bool], again: str = "") -> str:
    """Return "a, b and c"; where items are long or have commas themselves, each begins anew."""
    if len(items) < 2:
        return "".join(items)
    begun = [items[0], *(f"{again}{item}" for item in items[1:])]
    if len(items) == 2 and not any(are_long) and ", " not in items[0]:
        return " and ".join(begun)
    return ", ".join(begun[:-1]) + f", and {begun[-1]}"
