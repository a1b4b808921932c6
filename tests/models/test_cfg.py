"""The context-free grammar as data: what is sampled, and what its EBNF says."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rayfactory.models.grammar.cfg import Grammar, GrammarBuilder, Terminal

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[a-z0-9-]+|\|')
ESCAPE = re.compile(r'\\(x[0-9A-F]{2}|u[0-9A-F]{4}|U[0-9A-F]{8}|["\\])')


def read_ebnf(text: str) -> dict[str, list[list[str]]]:
    """Read what `Grammar.ebnf` writes: rule -> alternatives -> quoted texts and rule names."""
    rules: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        name, body = line.split(" ::= ", 1)
        alternatives: list[list[str]] = [[]]
        for token in TOKEN.findall(body):
            if token == "|":
                alternatives.append([])
            else:
                alternatives[-1].append(token)
        rules[name] = alternatives
    return rules


def matches(rules: dict[str, list[list[str]]], text: str, symbol: str = "root", start: int = 0) -> set[int]:
    """Return where a sentence of the symbol that begins at `start` may end."""
    ends: set[int] = set()
    for alternative in rules[symbol]:
        positions = {start}
        for token in alternative:
            following: set[int] = set()
            for position in positions:
                if token[0] == '"':
                    literal = ESCAPE.sub(unescape, token[1:-1])
                    if text.startswith(literal, position):
                        following.add(position + len(literal))
                else:
                    following |= matches(rules, text, token, position)
            positions = following
        ends |= positions
    return ends


def unescape(match: re.Match[str]) -> str:
    code = match.group(1)
    return code if code in '"\\' else chr(int(code[1:], 16))


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)


@st.composite
def grammars(draw: st.DrawFn) -> Grammar:
    builder = GrammarBuilder()
    references: list[str] = []
    for _ in range(draw(st.integers(1, 5))):
        parts = st.one_of(texts, st.sampled_from(references)) if references else texts
        alternatives = draw(
            st.lists(st.tuples(st.floats(0.1, 5), st.lists(parts, max_size=3).map("".join)), min_size=1, max_size=4)
        )
        references.append(builder.choice("part", alternatives))
    builder.define("root", [(1.0, "".join(references))])
    return builder.build()


@settings(deadline=None)
@given(grammars(), st.integers(0, 2**32))
def test_ebnf_accepts_what_is_sampled(grammar: Grammar, seed: int) -> None:
    """Every sentence that is sampled is a sentence of the EBNF, whatever its characters."""
    sentence = grammar.sample(Random(seed))
    assert len(sentence) in matches(read_ebnf(grammar.ebnf()), sentence)


def test_ebnf_says_nothing_more() -> None:
    """The EBNF has the sentences of the grammar and no others."""
    builder = GrammarBuilder()
    way = builder.choice("direction", [(1, " DESC"), (2, "")])
    builder.define("root", [(1, f'SELECT "a"{way}')])
    grammar = builder.build()
    rules = read_ebnf(grammar.ebnf())
    assert grammar.ebnf() == 'root ::= "SELECT \\"a\\"" direction-0\ndirection-0 ::= " DESC" | ""\n'
    assert {grammar.sample(Random(seed)) for seed in range(30)} == {'SELECT "a"', 'SELECT "a" DESC'}
    assert len('SELECT "b"') not in matches(rules, 'SELECT "b"')


def test_weights_decide_how_often() -> None:
    """An alternative of weight 0 is never drawn, and one of nine tenths nine times in ten."""
    builder = GrammarBuilder()
    builder.define("root", [(9, "often"), (1, "rarely"), (0, "never")])
    grammar, rng = builder.build(), Random(1)
    drawn = [grammar.sample(rng) for _ in range(2000)]
    assert "never" not in drawn
    assert 0.87 < drawn.count("often") / len(drawn) < 0.93


def test_unused_rules_are_left_out() -> None:
    """What no sentence of the root uses is neither in the reachable grammar nor in the EBNF."""
    builder = GrammarBuilder()
    builder.choice("unused", [(1, "x"), (1, "y")])
    used = builder.choice("used", [(1, "a"), (1, "b")])
    builder.define("root", [(1, used)])
    grammar = builder.build()
    assert list(grammar.reachable().rules) == ["used-1", "root"]
    assert "unused" not in grammar.ebnf()


def test_rule_needs_an_alternative() -> None:
    """A rule that could never be written is refused."""
    with pytest.raises(ValueError, match="without an alternative"):
        GrammarBuilder().choice("empty", [])


def derivations(grammar: Grammar, symbol: str = "root") -> list[str]:
    """Return the sentence of each way to choose."""
    found: list[str] = []
    for alternative in grammar.rules[symbol]:
        texts = [""]
        for part in alternative.symbols:
            following = [part.text] if isinstance(part, Terminal) else derivations(grammar, part.name)
            texts = [text + more for text in texts for more in following]
        found += texts
    return found


@settings(deadline=None)
@given(grammars())
def test_sizes_are_those_of_all_sentences(grammar: Grammar) -> None:
    """Number of derivations and length of the longest sentence are what enumerating them gives."""
    assume(grammar.num_derivations() <= 3_000)
    sentences = derivations(grammar)
    assert grammar.num_derivations() == len(sentences)
    assert grammar.max_bytes() == max(len(sentence.encode()) for sentence in sentences)


def test_equal_choices_are_one_rule() -> None:
    """A choice that is there already is referred to again, whatever its hint; with other weights it is another."""
    builder = GrammarBuilder()
    first = builder.choice("limit", [(1, "5"), (1, "10")])
    assert builder.choice("number", [(1, "5"), (1, "10")]) == first
    assert builder.choice("limit", [(1, "5"), (2, "10")]) != first


def test_rule_that_is_replaced_may_refer_to_later_ones() -> None:
    """A rule defined again stands after what it refers to."""
    builder = GrammarBuilder()
    builder.define("root", [(1, "short")])
    builder.define("root", [(1, "longer" + builder.choice("part", [(1, "a"), (1, "bc")]))])
    assert builder.build().max_bytes() == len("longerbc")
