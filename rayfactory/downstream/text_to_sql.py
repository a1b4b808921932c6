"""How a model is asked for the query that answers a question: prompts by the names of `evaluation.prompt`."""

from __future__ import annotations

from rayfactory.config import AgentConfig, ModelConfig
from rayfactory.databases.schema import Schema
from rayfactory.downstream.questions import Question
from rayfactory.errors import ConfigError
from rayfactory.models.completion import Prompt
from rayfactory.models.grammar.syntax import quote_name
from rayfactory.models.prompts import TEMPLATE_TOKENS, Prompts
from rayfactory.models.schema_text import estimated_tokens

GREEDY = AgentConfig(temperature=0.0, top_p=1.0)
"""How an evaluation samples: not at all."""


def prompt_of(name: str, schema: Schema, question: Question, model: ModelConfig, prompts: Prompts) -> Prompt:
    """Return the prompt for a question.

    Args:
        name: one of `validate.TEXT_TO_SQL_PROMPTS`.
        schema: of the question's database.
        question: with its text.
        model: that is asked; the plain prompt's schema is cut to what its context window leaves.
        prompts: the templates.

    Raises:
        ConfigError: the prompt does not fit into the context window.
    """
    template = f"downstream/{name}"
    values = {"question": question.text, "evidence": question.evidence}
    if name == "plain":
        tables = [table.name for table in schema.tables]
        return prompts.about_tables(template, schema, tables, model, GREEDY, values)
    system, user = prompts.render(template, schema.dialect, {**values, "create_tables": create_tables(schema)})
    needed = estimated_tokens(system) + estimated_tokens(user) + TEMPLATE_TOKENS + model.max_output_tokens
    if needed > model.context_tokens:
        raise ConfigError(
            f"the {name} prompt for database {schema.database!r} takes {needed} tokens with its reply, more than "
            f"context_tokens={model.context_tokens} of model {model.name!r}; use a larger window, or "
            "evaluation.prompt=plain, which leaves out what there is no room for"
        )
    return Prompt(system, user, model.max_output_tokens, GREEDY.temperature, GREEDY.top_p)


def create_tables(schema: Schema) -> str:
    """Return a database as CREATE TABLE statements, with types and keys; names quoted where they have to be."""
    statements = []
    for table in schema.tables:
        lines = [f"    {quote_name(column.name)} {column.declared_type}".rstrip() for column in table.columns]
        if table.primary_key:
            lines.append(f"    PRIMARY KEY ({', '.join(map(quote_name, table.primary_key))})")
        for key in schema.foreign_keys:
            if key.table == table.name:
                here, there = (", ".join(map(quote_name, names)) for names in (key.columns, key.referenced_columns))
                lines.append(f"    FOREIGN KEY ({here}) REFERENCES {quote_name(key.referenced_table)} ({there})")
        statements.append(f"CREATE TABLE {quote_name(table.name)} (\n" + ",\n".join(lines) + "\n);")
    return "\n\n".join(statements)
