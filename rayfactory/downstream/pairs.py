"""Pairs of queries that an encoder is to bring together: each with those most similar to it, or with itself as somebody
else would write it.

Source of the first: SQL-Factory, section 5.4, with the hybrid similarity.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from rayfactory import sql
from rayfactory.analysis.corpus import Corpus
from rayfactory.config import CriticConfig
from rayfactory.downstream.written_otherwise import written_otherwise
from rayfactory.errors import StatementError
from rayfactory.tools.retrieval import QueryIndex

_ATTEMPTS = 8
"""At writing a query otherwise, of which some change nothing."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two queries, by their normalised texts, and how similar they are, in [0, 1]; None: one query, written twice."""

    anchor: str
    positive: str
    similarity: float | None


def pairs_of(
    corpus: Corpus, count: int, num_positives: int, seed: int, without: Collection[str]
) -> tuple[list[Pair], int]:
    """Return pairs of a corpus, in an order that the seed decides: of each query with the nearest to it.

    Where there are more than are wanted, as many queries as there can be have a pair, and as many have two: what is
    learnt is then of the whole corpus, and not of a few queries with all that is near them.

    The second part is how many of its queries were left out.

    Args:
        corpus: a run or a file.
        count: how many, at most.
        num_positives: neighbours of each query that count as similar to it.
        seed: decides which are chosen where there are more.
        without: normalised and canonical texts of queries that are to be in no pair.
    """
    num_left_out = 0
    by_database = defaultdict[str, list[tuple[int, str]]](list)
    for query in _queries(corpus, without):
        if query is None:
            num_left_out += 1
        else:
            by_database[query.database].append((query.query_id, query.text))
    rng = random.Random(seed)
    anchors = [(database, place) for database, queries in by_database.items() for place in range(len(queries))]
    rng.shuffle(anchors)
    weights = replace(corpus.weights, k=num_positives + 1)  # the nearest to a query is itself
    neighbourhoods = {database: _Neighbourhood(corpus, each, weights) for database, each in by_database.items()}
    pairs, waiting = list[Pair](), list[list[Pair]]()
    for database, place in anchors:
        if len(pairs) >= count:
            break
        around = neighbourhoods[database].around(place)
        rng.shuffle(around)
        if around:
            pairs.append(around.pop())
            waiting.append(around)
    while len(pairs) < count and (waiting := [around for around in waiting if around]):
        pairs += [around.pop() for around in waiting]
    del pairs[count:]
    rng.shuffle(pairs)
    return pairs, num_left_out


def rewritten_pairs(corpus: Corpus, count: int, seed: int, without: Collection[str]) -> tuple[list[Pair], int]:
    """Return pairs of a corpus, in an order that the seed decides: of each query with itself, written otherwise.

    Args and the second part: as `pairs_of`.
    """
    found = list(_queries(corpus, without))
    queries = [query for query in found if query is not None]
    rng = random.Random(seed)
    rng.shuffle(queries)
    pairs = list[Pair]()
    for query in queries:
        if len(pairs) >= count:
            break
        tree = sql.parse(query.sql, query.dialect)
        for _ in range(_ATTEMPTS):
            text = sql.normalise(written_otherwise(tree, rng), query.dialect)
            if text != query.text and text not in without:
                pairs.append(Pair(query.text, text, None))
                break
    return pairs, len(found) - len(queries)


@dataclass(frozen=True, slots=True)
class _Query:
    query_id: int
    database: str
    dialect: str
    sql: str
    text: str


def _queries(corpus: Corpus, without: Collection[str]) -> Iterator[_Query | None]:
    """Yield the queries of a corpus that can be read; None for one that is left out for its text."""
    for row in corpus.rows("SELECT query_id, database, dialect, sql FROM R ORDER BY query_id"):
        try:
            tree = sql.parse(row["sql"], row["dialect"])
        except StatementError:
            continue
        text = sql.normalise(tree, row["dialect"])
        if text in without or sql.canonical(tree, row["dialect"]) in without:
            yield None
        else:
            yield _Query(row["query_id"], row["database"], row["dialect"], row["sql"], text)


class _Neighbourhood:
    """The queries of one database, to be searched.

    Args:
        corpus: that they are of.
        queries: their ids and normalised texts.
        weights: of the similarity, and how many neighbours are looked for.
    """

    def __init__(self, corpus: Corpus, queries: Sequence[tuple[int, str]], weights: CriticConfig) -> None:
        self._signatures = corpus.signatures([query_id for query_id, _ in queries])
        self._texts = [text for _, text in queries]
        self._num_positives = weights.k - 1
        self._index = QueryIndex(len(self._signatures[0].vector), weights)
        for signature in self._signatures:
            self._index.add(signature)

    def around(self, place: int) -> list[Pair]:
        """Return the pairs of a query."""
        return [
            Pair(self._texts[place], self._texts[near.position], near.similarity)
            for near in self._index.search(self._signatures[place])
            if near.position != place and self._texts[near.position] != self._texts[place]
        ][: self._num_positives]
