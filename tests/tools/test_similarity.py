from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rapidfuzz import fuzz
from sqlglot import exp

from rayfactory.config import CriticConfig
from rayfactory.sql import normalise, parse
from rayfactory.tools.similarity import (
    Signature,
    ast_similarity,
    combine,
    embedding_similarity,
    similarity,
    token_similarity,
)
from rayfactory.tools.trees import flatten
from rayfactory.tools.vector_store import cosines
from rayfactory.tools.words import sort_tokens

WEIGHTS = CriticConfig()
SPACES = "".join(char for char in map(chr, range(0x3001)) if char.isspace())
QUERIES = [
    "SELECT a FROM t",
    "SELECT b, count(*) FROM t GROUP BY b HAVING count(*) > 3",
    "SELECT t.a FROM t JOIN u ON t.id = u.id WHERE u.c IN (1, 2)",
    "WITH x AS (SELECT a FROM t) SELECT * FROM x ORDER BY a DESC LIMIT 5",
    "SELECT a FROM t UNION ALL SELECT b FROM u",
]


def signature(query: str, vector: list[float]) -> Signature:
    tree = parse(query, "sqlite")
    return Signature.of(normalise(tree, "sqlite"), flatten(tree), np.array(vector, dtype=np.float32))


def vectors() -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float32, 4, elements=st.floats(-1, 1, width=32))


def signatures() -> st.SearchStrategy[Signature]:
    return st.builds(
        lambda query, vector, parses: Signature.of(query, flatten(parse(query, "sqlite")) if parses else None, vector),
        st.sampled_from(QUERIES),
        vectors(),
        st.booleans(),
    )


@pytest.mark.parametrize(
    ("left", "right", "cosine", "token", "ast"),
    [
        # One of 15 characters differs (2 of 30 to insert or delete); one of 6 nodes is relabelled.
        ("SELECT a FROM t", "SELECT b FROM t", 0.6, 28 / 30, 5 / 6),
        # The same words; two of 15 nodes, the literals, are relabelled.
        ("SELECT * FROM t WHERE a = 0 AND b = 1", "SELECT * FROM t WHERE a = 1 AND b = 0", 1.0, 1.0, 13 / 15),
        # "1 select" and "2 select": one of 8 characters; Select and Literal: one of 2 nodes.
        ("SELECT 1", "SELECT 2", 0.0, 14 / 16, 1 / 2),
        # "1 select" is 8 of the 15 characters of "1 from select t"; From, Table and Identifier are inserted.
        ("SELECT 1", "SELECT 1 FROM t", 0.8, 16 / 23, 2 / 5),
        # The word "distinct " (9 characters) beside 15 that both have, and a seventh node.
        ("SELECT a FROM t", "SELECT DISTINCT a FROM t", 1.0, 30 / 39, 6 / 7),
    ],
)
def test_the_formula_by_hand(left: str, right: str, cosine: float, token: float, ast: float):
    a, b = signature(left, [1, 0]), signature(right, [cosine, (1 - cosine**2) ** 0.5])
    assert token_similarity(a, b) == pytest.approx(token)
    assert ast_similarity(a, b) == pytest.approx(ast)
    assert embedding_similarity(a, b) == pytest.approx(cosine, abs=1e-7)
    assert similarity(a, b, WEIGHTS) == pytest.approx(0.6 * token + 0.3 * ast + 0.1 * cosine, abs=1e-7)


@settings(deadline=None)
@given(signatures(), signatures())
def test_every_similarity_is_symmetric_and_a_share(a: Signature, b: Signature):
    for measure in (token_similarity, ast_similarity, embedding_similarity):
        assert 0 <= measure(a, b) <= 1
        assert measure(a, b) == measure(b, a)
    assert 0 <= similarity(a, b, WEIGHTS) <= 1
    assert similarity(a, b, WEIGHTS) == similarity(b, a, WEIGHTS)


@settings(deadline=None)
@given(st.sampled_from(QUERIES), vectors().filter(np.any))
def test_a_query_has_similarity_1_to_itself(query: str, vector: np.ndarray):
    one = Signature.of(query, flatten(parse(query, "sqlite")), vector)
    assert similarity(one, one, WEIGHTS) == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(st.text(), st.text())
def test_token_similarity_is_token_sort_ratio(left: str, right: str):
    a, b = (Signature.of(text, None, np.zeros(2, dtype=np.float32)) for text in (left, right))
    assert token_similarity(a, b) == fuzz.token_sort_ratio(left, right) / 100


@settings(deadline=None)
@given(st.text("ab\xe9\u4e2d" + SPACES), st.text("ab\xe9" + SPACES))
def test_words_end_where_token_sort_ratio_ends_them(left: str, right: str):
    """Which spaces are spaces depends on what else is in a text."""
    a, b = (Signature.of(text, None, np.zeros(2, dtype=np.float32)) for text in (left, right))
    assert token_similarity(a, b) == fuzz.token_sort_ratio(left, right) / 100


@pytest.mark.parametrize("space", SPACES, ids=[f"{ord(space):04x}" for space in SPACES])
@pytest.mark.parametrize("letter", ["c", "\xe9", "\u4e2d", "\U0001f600"], ids=["ascii", "latin", "wide", "widest"])
def test_every_space_ends_a_word_where_it_does_in_token_sort_ratio(space: str, letter: str):
    text, other = f"b{space}a{letter}", f"a{letter} b"
    a, b = (Signature.of(each, None, np.zeros(2, dtype=np.float32)) for each in (text, other))
    assert token_similarity(a, b) == fuzz.token_sort_ratio(text, other) / 100


@given(st.permutations("select a , b from t where a = 1".split()))
def test_token_similarity_does_not_see_the_order_of_words(words: list[str]):
    assert sort_tokens(" ".join(words)) == sort_tokens("select a , b from t where a = 1")


def test_a_text_that_does_not_parse_is_still_compared():
    whole = signature("SELECT a FROM t", [1, 0])
    broken = Signature.of("select a from t where (", None, np.array([1, 0], dtype=np.float32))
    assert ast_similarity(whole, broken) == ast_similarity(broken, broken) == 0
    assert similarity(whole, broken, WEIGHTS) == pytest.approx(0.6 * token_similarity(whole, broken) + 0.1)


def test_trees_further_apart_than_they_are_large_have_no_similarity():
    chain: exp.Expr = exp.Literal.number(0)
    for _ in range(20):
        chain = exp.Paren(this=chain)
    star = exp.Tuple(expressions=[exp.Literal.number(i) for i in range(1, 21)])
    a, b = (Signature.of("", flatten(tree), np.zeros(2, dtype=np.float32)) for tree in (chain, star))
    assert ast_similarity(a, b) == 0


def test_opposite_and_zero_vectors_have_no_similarity():
    zero = np.zeros((1, 2), dtype=np.float32)
    one = np.array([1, 0], dtype=np.float32)
    assert cosines(one, -one[np.newaxis]).tolist() == [0]
    assert cosines(one, zero).tolist() == [0]
    assert cosines(zero[0], zero).tolist() == [0]


@given(arrays(np.float32, (7, 384), elements=st.floats(-1, 1, width=32)), st.permutations(range(7)))
def test_equal_vectors_have_equal_cosines_wherever_they_stand(vectors_ND: np.ndarray, order: list[int]):
    straight = cosines(vectors_ND[0], vectors_ND)
    assert cosines(vectors_ND[0], vectors_ND[order]).tolist() == straight[order].tolist()
    assert [cosines(vectors_ND[0], row[np.newaxis])[0] for row in vectors_ND] == straight.tolist()


SHARES = st.floats(0, 1)


@given(SHARES, SHARES, SHARES, SHARES)
def test_an_upper_bound_of_the_structure_bounds_the_sum(token: float, ast: float, embedding: float, bound: float):
    low, high = sorted((ast, bound))
    assert combine(token, low, embedding, WEIGHTS) <= combine(token, high, embedding, WEIGHTS)
    assert combine(1, 1, 1, CriticConfig()) == pytest.approx(1)
