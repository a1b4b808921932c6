"""Vectors of queries from other encoders than the run's own, for what is to be compared under the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rayfactory import sql
from rayfactory.analysis.corpus import Corpus, described
from rayfactory.analysis.draw import of_ids
from rayfactory.config import Config, EmbeddingConfig
from rayfactory.errors import StatementError
from rayfactory.tools.embedding import ENCODERS, Embedder


class Encoders:
    """The encoders that a user names, each loaded when it is first needed.

    Args:
        config: its `encoders`, `embedding` and `data_dir` count. Where no encoder is named it is that of `embedding`.
    """

    def __init__(self, config: Config) -> None:
        self.names = list(dict.fromkeys(config.encoders)) or [config.embedding.model]
        self._config = config
        self._embedder = cache(self._new_embedder)

    def vectors(self, corpus: Corpus, query_ids: Sequence[int], name: str) -> npt.NDArray[np.float32]:
        """Return float32[N, D], a unit vector for each query in ascending order: the corpus's own where it has them.

        Raises:
            ConfigError: the encoder cannot be loaded.
        """
        embedding = self._settings(name)
        if corpus.encoder == described(embedding.model, embedding.precision) or (
            embedding.precision == "auto" and corpus.encoder.startswith(f"{embedding.model} (")
        ):
            return np.concatenate(list(corpus.vectors(sorted(query_ids))))
        texts = []
        for row in of_ids(corpus, query_ids, "sql, dialect"):
            try:
                texts.append(sql.normalise(sql.parse(row["sql"], row["dialect"]), row["dialect"], copy=False))
            except StatementError:
                texts.append(" ".join(row["sql"].lower().split()))
        return self._embedder(name).encode(texts)

    def description(self, name: str) -> str:
        """Return what an encoder is, in words."""
        embedding = self._settings(name)
        return embedding.model if embedding.precision == "auto" else described(embedding.model, embedding.precision)

    def _settings(self, name: str) -> EmbeddingConfig:
        return replace(self._config.embedding, model=name)

    def _new_embedder(self, name: str) -> Embedder:
        return Embedder(self._settings(name), Path(self._config.data_dir) / ENCODERS)
