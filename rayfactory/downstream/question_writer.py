"""The actor of `task=translate`: it has blocks of queries translated on one of the nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from rayfactory.cluster.dataflow import Workers
from rayfactory.cluster.gateway import through_gateway
from rayfactory.cluster.row_flow import running_on
from rayfactory.config import Config, CriticConfig, Slot
from rayfactory.databases.schema import Schema
from rayfactory.downstream.dialogue import Asking
from rayfactory.downstream.examples import Examples, Retriever
from rayfactory.downstream.translator import Query, Translator, Voice
from rayfactory.errors import EngineError, RayfactoryError
from rayfactory.models.completion import Completion
from rayfactory.models.prompts import Prompts
from rayfactory.records import Execution, Tree
from rayfactory.tools.similarity import Signature
from rayfactory.tools.words import encode
from rayfactory.translation import Q_SCHEMA

Translated = tuple[pa.Table, RayfactoryError | None]
"""Rows of table Q, and what kept the others of their block from being there."""


class QuestionWriter:
    """Translates blocks of queries on one of the nodes."""

    def __init__(
        self,
        config: Config,
        weights: CriticConfig,
        workers: Workers | None,
        schemas: Mapping[str, Schema],
        examples: Examples | None,
    ) -> None:
        settings, prompts = config.translation, Prompts()
        self._retriever = Retriever(examples, weights) if examples is not None else None

        def voice(who: str) -> Voice | None:
            if who == "rule":
                return None
            slot: Slot = "strong" if who == "strong" else "local"
            return Voice(slot, Asking(getattr(config.models, slot), prompts, settings.temperature))

        writer, verifier = voice(settings.model), voice(settings.verifier)
        complete = _nobody if writer is None and verifier is None else through_gateway()
        run_sql = _nothing if workers is None else running_on(workers)
        self._translator = Translator(settings, config.seed, schemas, writer, verifier, complete, run_sql)

    def __call__(self, block: pa.Table) -> Translated:
        queries = [Query(row, self._similar(row)) for row in block.to_pylist()]

        async def all_of_them() -> list[dict[str, Any] | BaseException]:
            return await asyncio.gather(*map(self._translator.translate, queries), return_exceptions=True)

        found = asyncio.run(all_of_them())
        rows = [row for row in found if isinstance(row, dict)]
        ended = None
        for error in found:
            if isinstance(error, RayfactoryError):
                ended = ended or error
            elif isinstance(error, BaseException):
                raise error
        # What was paid for is done, whatever ended the others.
        return pa.Table.from_pylist(rows, schema=Q_SCHEMA), ended

    def _similar(self, row: Mapping[str, Any]) -> list[Any]:
        if self._retriever is None:
            return []
        labels, leftmost = np.array(row["labels"], np.int64), np.array(row["leftmost"], np.int32)
        tree = Tree(labels, leftmost) if len(labels) else None
        signature = Signature(encode(row["words"]), tree, np.array(row["vector"], np.float32))
        return self._retriever.nearest(signature)


async def _nobody(*_: Any) -> Completion:
    raise EngineError("no model is asked where the rules write")


async def _nothing(*_: Any) -> Execution:
    raise EngineError("nothing is cut down where the rules write")
