"""The grammar that constrains a language model: one question over one join skeleton, told in several ways.

The offline author draws everything that has to agree in several places (grouping keys, what is measured, the names that
a query introduces, thresholds on groups) and leaves little open. A model is to choose more than that, so the same
question is drawn again over the same joins, and the tellings become alternatives of one grammar, whole statements each.
Their conditions leave more columns open than those of the offline author.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models.grammar.author import MAX_DRAWS, statement, with_rows
from rayfactory.models.grammar.cfg import Grammar, GrammarBuilder
from rayfactory.models.grammar.draft import DeadEndError, Draft, Shared
from rayfactory.models.grammar.questions import QUESTIONS, plainest
from rayfactory.models.grammar.skeleton import KeyGraph

NUM_TELLINGS = 6
"""Tellings of one grammar, where that many fit."""

MAX_FAILED_TELLINGS = 3

BYTES_PER_TOKEN = 1.6
"""Bytes of SQL that a token stands for, over a whole sentence, at the least. This is an assumption: Gemma 3's own
tokens for such a text hold 2.2 to 3.4, but a model that is led by a grammar does not always take the longest one, and
1.6 was the least in a reply. A reply that takes more tokens all the same is cut off, and the rule answers."""

MAX_TOKENS = 512
"""Tokens of the longest sentence, about."""


def draw_grammar(
    schema: Schema, tables: Sequence[str], rng: Random, engine: Engine | None, *, max_tokens: int = MAX_TOKENS
) -> Grammar:
    """Return the grammar of one query: tellings of a question over a join skeleton of some of the tables.

    Args:
        tables: names of base tables; those without rows are passed over, unless none has any.
        engine: runs the statements that the constants are taken from; None: they come from the profiles.
        max_tokens: of any sentence, as far as `BYTES_PER_TOKEN` holds. Where all others are longer, the plainest
            question is asked.

    Raises:
        KeyError: the database has no such table.
        ConfigError: the plainest question is longer, too.
    """
    max_bytes = int(BYTES_PER_TOKEN * max_tokens)
    graph = KeyGraph(schema)
    wanted = with_rows(schema, tables)
    for _ in range(MAX_DRAWS):
        grammar = _told(graph, wanted, rng, engine, max_bytes)
        if grammar:
            return grammar
    for _ in range(MAX_DRAWS):
        draft = Draft(graph, wanted, rng, engine, Counter())
        grammar = _grammar(draft.builder, [statement(draft, plainest(draft))])
        if grammar.max_bytes() <= max_bytes:
            return grammar
    raise ConfigError(
        f"no query over {', '.join(wanted)} is sure to end within the {max_tokens} tokens of a reply: raise the "
        "model's max_output_tokens"
    )


def _told(graph: KeyGraph, wanted: Sequence[str], rng: Random, engine: Engine | None, max_bytes: int) -> Grammar | None:
    """Return the tellings of one question that are short enough, or None where there are none."""
    shared = Shared()
    question = None
    told: list[str] = []
    failed = 0
    while len(told) < NUM_TELLINGS and failed < MAX_FAILED_TELLINGS:
        draft = Draft(graph, wanted, rng, engine, Counter(), shared)
        question = question or draft.pick(QUESTIONS)
        try:
            text = statement(draft, question(draft))
        except DeadEndError:
            text = ""
        if (
            text
            and len(draft.used) >= min(2, len(wanted))
            and _grammar(shared.builder, [text]).max_bytes() <= max_bytes
        ):
            told.append(text)
        elif told:
            failed += 1
        else:
            return None
    return _grammar(shared.builder, told) if told else None


def _grammar(builder: GrammarBuilder, statements: Sequence[str]) -> Grammar:
    builder.define("root", [(1.0, text) for text in statements])
    return builder.build().reachable()
