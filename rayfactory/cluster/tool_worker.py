"""The actor that runs candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.records import Execution
from rayfactory.tools.execution import ExecutionTool


class ToolWorker:
    """The Execution Tool, which every candidate passes before it is encoded and compared."""

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        self._execution = ExecutionTool(databases, schemas, config.execution)

    def ready(self) -> None:
        """Return once this worker is there, for whoever lost it."""

    def execute(self, work: Sequence[tuple[str, str, Execution]]) -> list[Execution]:
        """Run candidates given as (database, sql, examined), in order."""
        return [self._execution.run(database, sql, examined) for database, sql, examined in work]
