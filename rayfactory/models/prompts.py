"""The prompts of the agents: their templates, what goes into them, and their fit into a model's context window."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayfactory.config import AgentConfig, ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.errors import ConfigError
from rayfactory.models.completion import Prompt
from rayfactory.models.schema_text import SchemaText, estimated_tokens, fit, name_text

if TYPE_CHECKING:
    from jinja2 import Template

logger = logging.getLogger("rayfactory.models")

TEMPLATE_TOKENS = 64
"""Room for what a model's chat template puts around the two messages."""

SQLITE_WITH_FULL_JOIN = (3, 39, 0)


def prompts_dir() -> Path:
    """Return the folder with the templates: beside the package when installed, at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "prompts"
    return installed if installed.is_dir() else package.parent / "prompts"


def templates_sha256(names: Sequence[str] = ()) -> str:
    """Return the digest of templates: whoever changes one starts another run.

    Args:
        names: of the templates; none: all that a run has.
    """
    digest = hashlib.sha256()
    for path in [prompts_dir() / f"{name}.j2" for name in names] or sorted(prompts_dir().glob("*.j2")):
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


class Prompts:
    """The templates, read once, and the prompts made of them.

    What a prompt has no room for is told once: for each template, database and kind of thing.

    Args:
        telling: whether it is; not where prompts are made to see whether they fit.
    """

    def __init__(self, *, telling: bool = True) -> None:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        self._environment = Environment(
            loader=FileSystemLoader(prompts_dir()),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701  prompts are plain text; what is data is quoted before it comes here
            keep_trailing_newline=False,
        )
        self._templates: dict[str, Template] = {}
        self._telling = telling
        self._told: set[tuple[str, str | None, str]] = set()

    def render(self, template: str, dialect: str | None, values: dict[str, Any]) -> tuple[str, str]:
        """Return the two messages, (system, user), of a template.

        Args:
            template: name of an agent, or ``correction``.
            dialect: of the database; None for a template that is about no database.
            values: of the template's variables.
        """
        if template not in self._templates:
            self._templates[template] = self._environment.get_template(f"{template}.j2")
        loaded = self._templates[template]
        context = loaded.new_context({**(_about_engine(dialect) if dialect else {}), **values})
        system, user = ("".join(loaded.blocks[block](context)).strip() for block in ("system", "user"))
        return system, user

    def about_tables(
        self,
        template: str,
        schema: Schema,
        tables: Sequence[str],
        model: ModelConfig,
        agent: AgentConfig,
        values: dict[str, Any],
    ) -> Prompt:
        """Return a prompt that shows tables of a database, cut to what the model's context window leaves for them.

        Args:
            template: with the variables ``schema_text``, ``foreign_keys``, ``database`` and ``tables``.
            tables: to show, the most important first.
            values: of the template's other variables.

        Raises:
            ConfigError: not even the smallest form fits.
        """
        names = [schema.table(name).name for name in tables]
        empty = self._render_schema(template, schema, SchemaText((), "", ""), names, values)
        room = model.context_tokens - model.max_output_tokens - TEMPLATE_TOKENS - sum(map(estimated_tokens, empty))
        found = fit(schema, tables, room)
        if found is None:
            smallest = fit(schema, tables[:1], 10**9)
            raise ConfigError(
                f"the {template} prompt for database {schema.database!r} does not fit into context_tokens="
                f"{model.context_tokens} of model {model.name!r} with max_output_tokens={model.max_output_tokens}: "
                f"{max(0, room)} tokens are left for the schema, and table {tables[0]!r} alone takes "
                f"{estimated_tokens(smallest.text) if smallest else 'more'}. "
                "Use a model with a larger context window, or a smaller max_output_tokens"
            )
        if found.cut:
            self.tell_cut(template, model, schema.database, "schema", found.cut)
        shown = [name for name in names if name in found.tables]
        system, user = self._render_schema(template, schema, found, shown, values)
        return Prompt(system, user, model.max_output_tokens, agent.temperature, agent.top_p)

    def _render_schema(
        self, template: str, schema: Schema, found: SchemaText, tables: Sequence[str], values: dict[str, Any]
    ) -> tuple[str, str]:
        about = {
            "tables": [name_text(name) for name in tables],
            "database": name_text(schema.database),
            "schema_text": found.text,
            "foreign_keys": found.foreign_keys,
        }
        if schema.server:
            about["engine"] = schema.server
        return self.render(template, schema.dialect, {**about, **values})

    def tell_cut(self, template: str, model: ModelConfig, database: str | None, kind: str, without: str) -> None:
        """Tell, the first time, what a prompt had to leave out.

        Args:
            database: that it is about; None: it is about no single one.
            kind: of what is left out.
            without: the same in words, for a person.
        """
        cut = f"the {template} prompt is cut to the {model.context_tokens} tokens of {model.name}: without {without}"
        self._tell_once(template, database, kind, cut)

    def tell_rule(self, template: str, database: str | None, error: ConfigError) -> None:
        """Tell, the first time, that a prompt does not fit at all, and that the agent's rule answers."""
        self._tell_once(template, database, "rule", f"the rule of {template} answers, because {error}")

    def _tell_once(self, template: str, database: str | None, kind: str, what: str) -> None:
        if self._telling and (template, database, kind) not in self._told:
            self._told.add((template, database, kind))
            logger.warning("%s%s", f"database {database!r}: " if database is not None else "", what)


_SERVERS = {"postgres": "PostgreSQL", "mysql": "MySQL"}
"""Of which release a server is, its schema tells."""


def _about_engine(dialect: str) -> dict[str, Any]:
    return {
        "dialect": dialect,
        "engine": engine_name(dialect),
        "has_full_join": dialect != "sqlite" or sqlite3.sqlite_version_info >= SQLITE_WITH_FULL_JOIN,
    }


def engine_name(dialect: str) -> str:
    """Return the name of the database engine that runs the queries, and its version where that is a package's."""
    if dialect in _SERVERS:
        return _SERVERS[dialect]
    if dialect == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    import duckdb

    return f"DuckDB {duckdb.__version__}"
