"""The schema grammar: the offline Generation Agent, and what may constrain a language model's decoding."""

from __future__ import annotations

from rayfactory.models.grammar.author import scope_grammar, write_queries
from rayfactory.models.grammar.cfg import Grammar
from rayfactory.models.grammar.tellings import draw_grammar

__all__ = ["Grammar", "draw_grammar", "scope_grammar", "write_queries"]
