"""A context-free grammar as data: built of alternatives, sampled with a seeded generator, written as EBNF.

The grammar is unrolled: a rule refers only to rules that were made before it, so every derivation ends and
the language is finite. Builders write a sequence as one text in which a reference to a rule is the
rule's name between two NUL characters, which no identifier or constant of SQL can hold; `seq` reads it back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

_MARK = "\0"
_NOT_A_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True)
class Terminal:
    """Text that stands as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class NonTerminal:
    """A reference to a rule."""

    name: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """One way to write a rule: symbols in order, taken with a weight above 0."""

    weight: float
    symbols: tuple[Terminal | NonTerminal, ...]


@dataclass(frozen=True, slots=True)
class Grammar:
    """A context-free grammar without recursion.

    Attributes:
        rules: the alternatives of each nonterminal; every rule stands after those it refers to.
    """

    rules: Mapping[str, tuple[Alternative, ...]]

    @property
    def size(self) -> int:
        """Number of alternatives over all rules."""
        return sum(len(alternatives) for alternatives in self.rules.values())

    def num_derivations(self, symbol: str = "root") -> int:
        """Return in how many ways a sentence of a symbol can be chosen: a bound on the number of its sentences.

        Raises:
            KeyError: the grammar has no such symbol.
        """
        found: dict[str, int] = {}
        for name, alternatives in self.rules.items():
            found[name] = sum(
                math.prod(found[part.name] for part in alternative.symbols if isinstance(part, NonTerminal))
                for alternative in alternatives
            )
        return found[symbol]

    def max_bytes(self, symbol: str = "root") -> int:
        """Return the length of the longest sentence of a symbol, in bytes of UTF-8.

        Raises:
            KeyError: the grammar has no such symbol.
        """
        found: dict[str, int] = {}
        for name, alternatives in self.rules.items():
            found[name] = max(
                sum(
                    len(part.text.encode()) if isinstance(part, Terminal) else found[part.name]
                    for part in alternative.symbols
                )
                for alternative in alternatives
            )
        return found[symbol]

    def sample(self, rng: Random, symbol: str = "root") -> str:
        """Return one sentence of a symbol, each alternative drawn by its weight.

        Raises:
            KeyError: the grammar has no such symbol.
        """
        alternatives = self.rules[symbol]
        if len(alternatives) == 1:
            chosen = alternatives[0]
        else:
            (chosen,) = rng.choices(alternatives, [alternative.weight for alternative in alternatives])
        return "".join(
            part.text if isinstance(part, Terminal) else self.sample(rng, part.name) for part in chosen.symbols
        )

    def reachable(self, symbol: str = "root") -> Grammar:
        """Return the grammar without the rules that no sentence of the symbol uses.

        Raises:
            KeyError: the grammar has no such symbol.
        """
        used: set[str] = set()
        waiting = [symbol]
        while waiting:
            name = waiting.pop()
            if name in used:
                continue
            used.add(name)
            waiting.extend(
                part.name
                for alternative in self.rules[name]
                for part in alternative.symbols
                if isinstance(part, NonTerminal)
            )
        return Grammar({name: alternatives for name, alternatives in self.rules.items() if name in used})

    def ebnf(self) -> str:
        """Return the language of ``root`` in the EBNF of constrained decoding (GBNF): one rule a line, root first.

        Weights are left out: the model that decodes has its own.

        Raises:
            KeyError: the grammar has no root.
        """
        needed = self.reachable("root").rules
        names = ["root", *(name for name in reversed(list(needed)) if name != "root")]
        return "".join(f"{name} ::= {' | '.join(map(_write, needed[name]))}\n" for name in names)


class GrammarBuilder:
    """Collects the rules of one grammar. References are texts that are put into larger texts."""

    def __init__(self) -> None:
        self._rules: dict[str, tuple[Alternative, ...]] = {}
        # Reference to the rule with these alternatives.
        self._known: dict[tuple[tuple[str, float], ...], str] = {}

    def choice(self, hint: str, alternatives: Iterable[tuple[float, str]]) -> str:
        """Add a rule with a fresh name made of the hint, and return a reference to it, or to one that says the same.

        Of equal alternatives one is kept, with their weights added; a single one is returned as it is.
        """
        merged = _merge(alternatives)
        if len(merged) == 1:
            return next(iter(merged))
        key = tuple(merged.items())
        if key not in self._known:
            name = f"{_NOT_A_NAME.sub('-', hint.lower()).strip('-') or 'rule'}-{len(self._rules)}"
            self._rules[name] = tuple(Alternative(weight, seq(text)) for text, weight in key)
            self._known[key] = _MARK + name + _MARK
        return self._known[key]

    def optional(self, hint: str, probability: float, text: str) -> str:
        """Return a reference to the text or nothing."""
        if not text or probability <= 0:
            return ""
        return self.choice(hint, ((probability, text), (1 - probability, ""))) if probability < 1 else text

    def define(self, symbol: str, alternatives: Iterable[tuple[float, str]]) -> str:
        """Add a rule under a name of the caller's, or replace it, and return a reference to it."""
        self._rules.pop(symbol, None)  # what it refers to stands before it
        self._rules[symbol] = tuple(Alternative(weight, seq(text)) for text, weight in _merge(alternatives).items())
        return _MARK + symbol + _MARK

    def build(self) -> Grammar:
        """Return what was collected."""
        return Grammar(dict(self._rules))


def seq(text: str) -> tuple[Terminal | NonTerminal, ...]:
    """Read a text with marked references as a sequence of symbols."""
    parts = text.split(_MARK)
    return tuple(
        NonTerminal(part) if position % 2 else Terminal(part)
        for position, part in enumerate(parts)
        if part or position % 2
    )


def is_plain(text: str) -> bool:
    """Whether a text can stand in a grammar as a terminal."""
    return _MARK not in text


def _merge(alternatives: Iterable[tuple[float, str]]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for weight, text in alternatives:
        if weight > 0:
            merged[text] = merged.get(text, 0.0) + weight
    if not merged:
        raise ValueError("a rule without an alternative")
    return merged


def _write(alternative: Alternative) -> str:
    parts: Sequence[str] = [
        _quote(part.text) if isinstance(part, Terminal) else part.name for part in alternative.symbols
    ]
    return " ".join(parts) or '""'


def _quote(text: str) -> str:
    escaped = []
    for character in text:
        if character in '"\\':
            escaped.append("\\" + character)
        elif character.isprintable():
            escaped.append(character)
        else:
            # Not by \x: decoders take more than two digits after it where there are some.
            code = ord(character)
            escaped.append(f"\\u{code:04X}" if code < 0x10000 else f"\\U{code:08X}")
    return '"' + "".join(escaped) + '"'
