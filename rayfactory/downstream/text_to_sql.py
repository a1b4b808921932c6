"""How a model is asked for the query that answers a question: prompts by the names of `evaluation.prompt`."""

from __future__ import annotations

import re

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
    # Each template takes one of the two.
    schemas = {"create_tables": create_tables(schema), "schema_sequence": schema_sequence(schema)}
    system, user = prompts.render(template, schema.dialect, {**values, **schemas})
    if name == "codes":
        user += "\n"
    needed = estimated_tokens(system) + estimated_tokens(user) + TEMPLATE_TOKENS + model.max_output_tokens
    if needed > model.context_tokens:
        raise ConfigError(
            f"the {name} prompt for database {schema.database!r} takes {needed} tokens with its reply, more than "
            f"context_tokens={model.context_tokens} of model {model.name!r}; use a larger window, or "
            "evaluation.prompt=plain, which leaves out what there is no room for"
        )
    return Prompt(system, user, model.max_output_tokens, GREEDY.temperature, GREEDY.top_p)


def schema_sequence(schema: Schema) -> str:
    """Return a database as CodeS is shown one: tables with types, keys, descriptions and two values of each column.

    Source: CodeS (github.com/RUCKBReasoning/codes, Apache-2.0), by its description of the input.
    """
    lines = ["database schema :"]
    for table in schema.tables:
        columns = []
        for column in table.columns:
            about = [column.declared_type.lower()]
            if column.name in table.primary_key:
                about.append("primary key")
            if column.description:
                about.append(f"comment : {_line(column.description.lower())}")
            values = [text for value in column.profile.examples if len(text := _line(str(value))) <= _VALUE_CHARACTERS]
            if values:
                about.append(f"values : {' , '.join(values[:_VALUES])}")
            columns.append(f"{_plain(table.name)}.{_plain(column.name)} ( {' | '.join(about)} )")
        lines.append(f"table {_plain(table.name)} , columns = [ {' , '.join(columns)} ]")
    pairs = [
        f"{_plain(key.table)}.{_plain(column)} = {_plain(key.referenced_table)}.{_plain(referenced)}"
        for key in schema.foreign_keys
        for column, referenced in zip(key.columns, key.referenced_columns, strict=True)
    ]
    return "\n".join([*lines, *(["foreign keys :", *pairs] if pairs else ["foreign keys : None"])])


_VALUES, _VALUE_CHARACTERS = 2, 25
"""Values of a column that CodeS is shown, and characters of one, at most."""


def _plain(name: str) -> str:
    """Return a name in lower case, in backticks where it is more than one word."""
    return f"`{name.lower()}`" if re.search(r"[-() /]", name) else name.lower()


def _line(text: str) -> str:
    return " ".join(text.split())


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
