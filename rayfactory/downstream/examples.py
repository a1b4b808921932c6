"""Questions that people asked, with their queries: found are those whose queries are most similar to a query.

Source: SQL-Factory, section 5.3.1: the Retrieval Tool, by hybrid similarity, over the training set of BIRD or Spider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rayfactory.config import CriticConfig, EmbeddingConfig
from rayfactory.downstream.questions import Question, read_questions
from rayfactory.errors import ConfigError
from rayfactory.files import sha256_of
from rayfactory.tools.embedding import ENCODERS, Embedder
from rayfactory.tools.execution import examine
from rayfactory.tools.retrieval import QueryIndex
from rayfactory.tools.similarity import Signature

_DIALECT = "sqlite"
"""Of Spider's and BIRD's queries."""

_ENCODED_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Examples:
    """Questions with what their queries are compared by; may be sent to another process."""

    questions: Sequence[Question]
    signatures: Sequence[Signature]


class Retriever:
    """Finds the examples with the most similar queries.

    Args:
        examples: at least one.
        weights: of the similarity, and how many are found.
    """

    def __init__(self, examples: Examples, weights: CriticConfig) -> None:
        self._questions = examples.questions
        self._index = QueryIndex(len(examples.signatures[0].vector), weights)
        for signature in examples.signatures:
            self._index.add(signature)
        self._index.commit(len(examples.signatures))

    def nearest(self, signature: Signature) -> list[Question]:
        """Return the examples for a query, the most similar first."""
        return [self._questions[found.position] for found in self._index.search(signature)]


def read_examples(
    path: Path, embedding: EmbeddingConfig, data_dir: Path, folder: Path, say: Callable[[int, int], None]
) -> Examples:
    """Return the examples of a file: its questions with text, whose queries parse.

    Args:
        path: of the file, see `questions.read_questions`.
        embedding: how queries are encoded.
        data_dir: what encoders are kept below.
        folder: that what is encoded is kept in, for the next time.
        say: told how many of how many are encoded.

    Raises:
        UserError: the file cannot be read, or holds no question with text.
    """
    questions, found = [], []
    for question in read_questions(path):
        examined = examine(question.gold, _DIALECT)
        if question.text and examined.tree is not None:
            questions.append(question)
            found.append(examined)
    if not questions:
        raise ConfigError(
            f"translation.examples={str(path)!r} holds no question with text and a query that parses; name a training "
            "set, such as Spider's or BIRD's train.json"
        )
    # Other examples, or another encoder, have other vectors.
    kept_by = hashlib.sha256(f"{sha256_of(path)} {embedding.model}".encode()).hexdigest()[:16]
    vectors = folder / f"examples-{kept_by}.npy"
    if vectors.exists():
        vectors_ND = np.load(vectors)
    else:
        embedder = Embedder(embedding, data_dir / ENCODERS)
        parts = []
        for start in range(0, len(found), _ENCODED_AT_ONCE):
            parts.append(embedder.encode([each.text for each in found[start : start + _ENCODED_AT_ONCE]]))
            say(min(len(found), start + _ENCODED_AT_ONCE), len(found))
        vectors_ND = np.concatenate(parts)
        partial = vectors.with_name(f"{vectors.name}.partial.npy")
        np.save(partial, vectors_ND)
        partial.replace(vectors)
    signatures = [Signature.of(each.text, each.tree, vector) for each, vector in zip(found, vectors_ND, strict=True)]
    return Examples(questions, signatures)
