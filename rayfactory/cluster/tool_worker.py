"""The actor that runs and embeds candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.records import Execution
from rayfactory.tools.embedding import Embedder
from rayfactory.tools.execution import ExecutionTool


class ToolWorker:
    """The Execution Tool and the encoder, which every candidate passes before it is compared."""

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        self._config = config
        self._execution = ExecutionTool(databases, schemas, config.execution)
        self._embedder: Embedder | None = None

    def warm_up(self) -> int:
        """Load the encoder; return the dimension of its vectors."""
        self._embedder = Embedder(self._config.embedding)
        return self._embedder.dimension

    def execute(self, work: Sequence[tuple[str, str, Execution]]) -> list[Execution]:
        """Run candidates given as (database, sql, examined), in order."""
        return [self._execution.run(database, sql, examined) for database, sql, examined in work]

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the unit vectors, float32[N, D], of normalised texts."""
        if self._embedder is None:
            self.warm_up()
        assert self._embedder is not None
        return self._embedder.encode(texts)
