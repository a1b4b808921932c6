"""How a model is asked for the query that answers a question: prompts by the names of `evaluation.prompt`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from rayfactory.config import AgentConfig, ModelConfig
from rayfactory.databases.schema import Schema, Value
from rayfactory.downstream.questions import Question, continued, is_query, query_in
from rayfactory.errors import ConfigError
from rayfactory.exports.text_to_sql import on_one_line
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
    if name == "codes":
        # One line, of which evidence is the first sentence.
        values = {part: _line(text) for part, text in values.items()}
        values["evidence"] = f"{values['evidence'].rstrip(';')};" if values["evidence"] else ""
    if name == "plain":
        tables = [table.name for table in schema.tables]
        return prompts.about_tables(template, schema, tables, model, GREEDY, values)
    forms = [{"create_tables": create_tables(schema)}] if name != "codes" else schema_sequences(schema)
    for form in forms:
        system, user = prompts.render(template, schema.dialect, {**values, **form})
        needed = estimated_tokens(system) + estimated_tokens(user) + TEMPLATE_TOKENS + model.max_output_tokens
        if needed <= model.context_tokens:
            return Prompt(system, user, model.max_output_tokens, GREEDY.temperature, GREEDY.top_p)
    raise ConfigError(
        f"the {name} prompt for database {schema.database!r} takes {needed} tokens with its reply, more than "
        f"context_tokens={model.context_tokens} of model {model.name!r}; use a larger window, or "
        "evaluation.prompt=plain, which leaves out what there is no room for"
    )


def reader_of(name: str) -> Callable[[str], str]:
    """Return what finds the query in a reply to the prompt of a name."""
    return continued if name == "codes" else query_in


def completion_of(name: str, gold: str, dialect: str) -> str | None:
    """Return what a model is to reply to the prompt of a name: the query in a code block, or bare; None where the query
    would not be found in it.
    """
    query = gold.strip().rstrip(";").strip()
    if name == "codes":
        query = completion = on_one_line(query, dialect)
    else:
        completion = f"```sql\n{query}\n```"
    return completion if is_query(query) and reader_of(name)(completion) == query else None


def schema_sequences(schema: Schema) -> Iterator[dict[str, str]]:
    """Yield a database as CodeS is shown one, the whole of it first: without values and descriptions it is shorter."""
    for values, comments in ((_VALUES, True), (_VALUES, False), (0, False)):
        yield {"schema_sequence": schema_sequence(schema, values, comments=comments)}


def schema_sequence(schema: Schema, num_values: int, *, comments: bool) -> str:
    """Return a database as CodeS is shown one: tables with the types, keys, descriptions and values of their columns.

    All tables and columns are shown, none is chosen for a question; descriptions are the benchmark's.

    Source: CodeS (github.com/RUCKBReasoning/codes, Apache-2.0), by its description of the input.
    """
    lines = ["database schema :"]
    for table in schema.tables:
        columns = []
        for column in table.columns:
            about = [_line(column.declared_type.lower())]
            if column.name in table.primary_key:
                about.append("primary key")
            if comments and column.description:
                about.append(f"comment : {_line(column.description.lower())}")
            examples = map(_value, column.profile.examples)
            if values := [text for text in examples if len(text) <= _VALUE_CHARACTERS][:num_values]:
                about.append(f"values : {' , '.join(values)}")
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
    plain = _line(name.lower())
    return f"`{plain}`" if re.search(r"[-() /]", plain) else plain


def _value(value: Value) -> str:
    """Return a value as a query would have it; SQLite's truth is a number."""
    return str(int(value)) if isinstance(value, bool) else _line(str(value))


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
