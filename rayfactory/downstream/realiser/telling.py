"""What the parts of the realiser pass to each other: phrases, clauses, the manner of speaking, and who tells what."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from sqlglot import exp

from rayfactory.databases.schema import Schema
from rayfactory.downstream.realiser.sources import Derived, Scope
from rayfactory.errors import StatementError


def unsupported(node: exp.Expr | str) -> StatementError:
    """Return the error for what the rules have no words for."""
    what = node if isinstance(node, str) else f"{node.key}: {node.sql()[:80]}"
    return StatementError("unsupported", f"no words for {what}")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A value in words.

    Attributes:
        text: without an article: "average age".
        article: whether "the" may stand before it.
        names_head: whether it says what the rows are: "number of singers".
        is_plain: a column of the table that the rows are of.
        is_compound: has to stand in parentheses inside a calculation.
        definition: what `text` stands for, where it is a name that the query gives; said once.
        rest: what follows `text` where it is said first.
        is_column: a column as it is.
        short: what it is called next to what the rows are; empty where that is no shorter.
        is_headed: can stand behind "whose", since there is a noun for what the rows are.
    """

    text: str
    article: bool = True
    names_head: bool = False
    is_plain: bool = False
    is_compound: bool = False
    definition: str = ""
    rest: str = ""
    is_column: bool = False
    short: str = ""
    is_headed: bool = True

    @property
    def the(self) -> str:
        """The phrase as the subject of a sentence."""
        return f"the {self.full}" if self.article else self.full

    @property
    def full(self) -> str:
        """The phrase with its definition."""
        return f"{self.text} ({self.definition})" if self.definition else self.text + self.rest

    @property
    def operand(self) -> str:
        """The phrase as a part of a calculation."""
        return f"({self.text})" if self.is_compound else self.full


@dataclass(frozen=True, slots=True)
class Clause:
    """A condition in words, in the forms that it can take.

    Attributes:
        full: a sentence: "the age is above 20".
        subject: what "whose" may be followed by: "age"; empty where there is no such form.
        predicate: what follows the subject: "is above 20".
        has: what follows "that have": "no concert"; empty where there is no such form.
        adjunct: what stands directly behind the noun: "with the same country"; empty where there is no such form.
        is_long: holds conditions of its own, so that it stands behind the short ones.
        is_compound: has AND or OR inside.
    """

    full: str
    subject: str = ""
    predicate: str = ""
    has: str = ""
    adjunct: str = ""
    is_long: bool = False
    is_compound: bool = False

    @property
    def behind_noun(self) -> str:
        """The condition as it stands behind a noun."""
        return f"whose {self.subject} {self.predicate}" if self.subject else f"where {self.full}"


@dataclass(frozen=True, slots=True)
class Style:
    """The manner of speaking: which of several equal ways of saying something is taken."""

    opening: str
    greater: str
    less: str
    descending: str
    ascending: str
    is_group_first: bool
    is_counted: bool
    is_asked: bool


def style(seed: int) -> Style:
    """Return the manner of speaking that belongs to a seed."""
    rng = random.Random(seed)
    return Style(
        opening=rng.choice(("List", "Show", "Find", "Give me", "Return")),
        greater=rng.choice(("greater than", "more than", "above")),
        less=rng.choice(("less than", "below")),
        descending=rng.choice(("from highest to lowest", "in descending order")),
        ascending=rng.choice(("from lowest to highest", "in ascending order")),
        is_group_first=rng.random() < 0.6,
        is_counted=rng.random() < 0.75,
        is_asked=rng.random() < 0.5,
    )


PLAIN = Style("List", "greater than", "less than", "from highest to lowest", "from lowest to highest", True, True, True)
"""The manner of seed 0."""


class Teller(Protocol):
    """Who puts values, conditions and queries into words; each may hold the others."""

    schema: Schema
    style: Style
    heard: set[int]
    notes: dict[str, str]

    def value(self, node: exp.Expr, scope: Scope) -> Phrase:
        """Return a value in words."""

    def clause(self, node: exp.Expr, scope: Scope, *, negated: bool = False) -> Clause:
        """Return a condition, or its negation, in words."""

    def query(self, node: exp.Expr, outer: Scope | None, form: Literal["each", "all", "one"] = "all") -> str:
        """Return the result of a query as a noun phrase."""

    def derived(self, node: exp.Expr, outer: Scope | None, names: list[str]) -> Derived:
        """Tell a query in FROM or WITH as a step of its own, and return what its rows are."""

    def opened(self, select: exp.Select, outer: Scope | None) -> Scope:
        """Return what the FROM clause of a SELECT brings into sight."""

    def narrowed(self, scope: Scope) -> str:
        """Return what joins and WHERE say of the rows, to stand behind their noun; see `clauses.numbered`."""


Rule = Callable[[Teller, exp.Expr, Scope], Phrase]
"""Puts one kind of value into words."""


def hear(tell: Teller, node: exp.Expr) -> None:
    """Note that a node and all below it have been said."""
    tell.heard.update(id(part) for part in node.walk())


def only(node: exp.Expr, *known: str) -> None:
    """See that a node has no parts but those.

    Raises:
        StatementError: reason ``unsupported``.
    """
    for name, value in node.args.items():
        if value not in (None, False, [], "") and name not in known:
            raise unsupported(f"{name} of {node.key}: {node.sql()[:80]}")
