"""Questions that any table can answer, whatever its columns and keys."""

from __future__ import annotations

from rayfactory.models.grammar.draft import Draft
from rayfactory.models.grammar.scope import usable_columns
from rayfactory.models.grammar.syntax import quote_name, snake


def plainest(draft: Draft) -> str:
    """The size of one table, beside that of another where there is one."""
    taken: set[str] = set()
    names = [draft.must()]
    names += [name for name in draft.wanted if name != names[0]][:1]
    items = []
    for name in names:
        draft.used[name] = None
        table = draft.schema.table(name)
        columns = [
            column
            for column in usable_columns(table)
            if column.kind != "other" and column.role in ("key", "identifier", "category", "text")
        ]
        options = [(3.0, "*"), *((3.0, column.name) for column in columns)]
        column = draft.pick(options)
        counted = "*" if column == "*" else f"DISTINCT {quote_name(column)}"
        output = draft.output(f"num_{snake(name)}_{snake(column)}".strip("_"), taken)
        items.append(f"(SELECT COUNT({counted}) FROM {quote_name(name)}) AS {output}")
    if len(names) == 1:
        return f"SELECT COUNT(*) AS num_rows FROM {quote_name(names[0])}"
    return f"SELECT {', '.join(items)}"
