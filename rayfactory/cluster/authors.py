"""The actors that write: each with its own database connections."""

from __future__ import annotations

from collections.abc import Mapping

from rayfactory.agents.expansion import expand
from rayfactory.agents.generation import generate
from rayfactory.config import Config
from rayfactory.databases.engine import Database
from rayfactory.databases.schema import Schema
from rayfactory.records import Candidate, Request
from rayfactory.tools.execution import Connections


class GenerationAgent:
    """The Generation Agent with its own database connections."""

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._connections = Connections(databases, config.execution)

    def answer(self, request: Request) -> list[Candidate]:
        """Return the candidates that a generation request asked for."""
        return generate(request, self._schemas[request.database], self._connections.get(request.database))


class ExpansionAgent:
    """The Expansion Agent with its own database connections."""

    def __init__(self, config: Config, databases: Mapping[str, Database], schemas: Mapping[str, Schema]) -> None:
        self._schemas = schemas
        self._connections = Connections(databases, config.execution)

    def answer(self, request: Request) -> list[Candidate]:
        """Return the candidates that an expansion request asked for."""
        return expand(request, self._schemas[request.database], self._connections.get(request.database))
