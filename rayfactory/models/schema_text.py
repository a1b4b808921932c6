"""A schema as a prompt shows it: tables, columns, keys, and hints on what is in them, cut to the room there is.

Whatever comes from a database is data: a name that is no plain word, a type that is none of the usual, a value or a
note stands in double quotes with JSON escapes, bounded in length. Nothing in it can end its line or its quotes, turn
the direction of the text about, or look like what has a meaning around it: a tag, a mark of a chat template, a fence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rayfactory.databases.schema import Column, ForeignKey, Role, Schema, Table, Value
from rayfactory.models.grammar.syntax import KEYWORDS
from rayfactory.shown import is_seen

MAX_NAME_CHARACTERS = 200
MAX_VALUE_CHARACTERS = 60
MAX_NOTE_CHARACTERS = 160
MAX_HINT_VALUES = 5
"""Source: SQL-Factory, section 4.2.2."""

# As long as PostgreSQL's may be: a longer one has something to say.
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
# SQLite takes any words for a type. One is shown as it is; several only where all of them are of types.
_TYPE_WORD = (
    r"(?:BIG|BINARY|BIT|BLOB|BOOL|BOOLEAN|CHAR|CHARACTER|CLOB|DATE|DATETIME|DECIMAL|DOUBLE|FLOAT|INT|INTEGER|LARGE|LOCAL|LONG"
    r"|MEDIUM|NATIONAL|NATIVE|NULL|NOT|NUMBER|NUMERIC|OBJECT|PRECISION|REAL|SIGNED|SMALL|SMALLINT|TEXT|TIME|TIMESTAMP|TINY"
    r"|TINYINT|BIGINT|UNSIGNED|VARCHAR|VARYING|WITH|WITHOUT|YEAR|ZEROFILL|ZONE)"
)
_PLAIN_TYPE = re.compile(
    rf"(?:[A-Z][A-Z0-9_]{{0,30}}|{_TYPE_WORD}(?: {_TYPE_WORD}){{0,4}})(?: ?\( ?\d{{1,6}} ?(?:, ?\d{{1,6}} ?)?\))?"
    rf"(?: {_TYPE_WORD}){{0,4}}",
    re.IGNORECASE,
)
_PIECES = re.compile(r"([A-Za-z]+)|(\s+)|([^A-Za-z\s]+)")
# What means something to those who read prompts and replies: the beginning of a tag or of a chat template's mark
# (<end-sql>, </think>, <|im_end|>, <｜User｜>, [INST]), plain or as HTML escapes it, and fences.
_MARKUP = re.compile(
    r"<(?=[^\s\d=<>('\"+.-]|\s+(?:[/\\]|(?i:start|begin|end|sql)))|&(?=(?i:lt|gt|amp|quot|apos)|#)"
    r"|\[(?=/?[A-Za-z]?[A-Z_]{3,24}\])|`{3,}|~{3,}"
)

_DROP_ORDER: tuple[Role, ...] = ("opaque", "identifier", "text", "code", "measure", "category", "date", "key")
"""Columns that a query can do the least with go first."""


@dataclass(frozen=True, slots=True)
class SchemaText:
    """What a prompt says of some tables.

    Attributes:
        tables: the tables that are in it, in the database's order.
        text: of the tables and columns.
        foreign_keys: among them, one a line; may be empty.
        cut: what was left out for want of room, in words; empty where nothing was.
    """

    tables: tuple[str, ...]
    text: str
    foreign_keys: str
    cut: str = ""


def estimated_tokens(text: str) -> int:
    """Return how many tokens a text is at most, for the byte-pair vocabularies in common use.

    Bytes over three, the usual rule, is too few for a schema: digits and underscores are often tokens of their own. So
    a word counts one for every four letters begun, a line break and a run of blanks one, and anything else its bytes.
    With Gemma 3's vocabulary that measures 1.03 to 1.3 times the true number on schemas, SQL and the prompts' prose.
    """
    num_tokens = 0
    for letters, blanks, rest in _PIECES.findall(text):
        if letters:
            num_tokens += (len(letters) + 3) // 4
        elif blanks:
            # A single blank belongs to the word after it.
            num_tokens += blanks != " "
        else:
            num_tokens += len(rest.encode("utf-8", "replace"))
    return num_tokens


def quoted(text: str, max_characters: int) -> str:
    """Return a text as a JSON string on one line, at most so many characters of it, without anything like markup.

    What it stands for is the text: `json.loads` gives it back, as far as it was not too long.
    """
    if len(text) > max_characters:
        text = text[: max_characters - 1] + "…"
    escaped = json.dumps(text, ensure_ascii=False)
    if not is_seen(escaped):
        escaped = "".join(c if is_seen(c) else json.dumps(c)[1:-1] for c in escaped)
    return _MARKUP.sub(lambda found: "".join(f"\\u{ord(c):04x}" for c in found[0]), escaped)


def name_text(name: str) -> str:
    """Return a name as a query has to spell it where that is safe to show, and as a JSON string otherwise."""
    if _PLAIN_NAME.fullmatch(name) and name.lower() not in KEYWORDS:
        return name
    return quoted(name, MAX_NAME_CHARACTERS)


def query_text(sql: str, max_characters: int) -> str:
    """Return a query as it is where it can do no harm in a prompt, and as a JSON string otherwise."""
    lines = " ".join(sql.split())
    # A line break inside a literal would be lost, so that only the length of the lines may differ.
    if len(lines) <= max_characters and is_seen(lines) and not _MARKUP.search(lines) and "--" not in lines:
        return lines
    return quoted(sql, max_characters)


def describe(
    schema: Schema,
    tables: Sequence[str],
    *,
    hints: bool = True,
    notes: bool = True,
    without: Mapping[str, Collection[str]] | None = None,
) -> SchemaText:
    """Return what a prompt says of the tables: each with its rows, keys and columns.

    Args:
        tables: names of base tables; they are shown in the database's order, so that equal sets give equal text.
        hints: whether up to five values of a text or enumerated column, and the range of a number or date, are shown.
        notes: whether descriptions are shown.
        without: columns that are left out, by table.

    Raises:
        KeyError: the database has no such table.
    """
    wanted = {schema.table(name).name for name in tables}
    shown = [table for table in schema.tables if table.name in wanted]
    blocks = []
    for table in shown:
        left_out = (without or {}).get(table.name, ())
        lines = [_table_line(table, notes=notes)]
        lines += [
            _column_line(column, hints=hints, notes=notes) for column in table.columns if column.name not in left_out
        ]
        blocks.append("\n".join(lines))
    keys = [key for key in schema.foreign_keys if key.table in wanted and key.referenced_table in wanted]
    return SchemaText(tuple(table.name for table in shown), "\n".join(blocks), "\n".join(map(_key_line, keys)))


def fit(schema: Schema, tables: Sequence[str], max_tokens: int) -> SchemaText | None:
    """Return what a prompt says of the tables, cut to so many estimated tokens; None where not even one table fits.

    First the hints go, then the descriptions, then columns that are no keys, those first that a query can do the
    least with, then tables from the end of `tables`.
    """

    def fits(found: SchemaText) -> bool:
        return estimated_tokens(found.text) + estimated_tokens(found.foreign_keys) <= max_tokens

    found = describe(schema, tables)
    if fits(found):
        return found
    cuts: list[str] = []
    for notes, cut in ((True, "values"), (False, "descriptions")):
        before, found = found, describe(schema, tables, hints=False, notes=notes)
        cuts += [cut] if found.text != before.text else []
        if fits(found):
            return _with_cut(found, cuts)
    left = list(tables)
    while left:
        excess = sum(map(estimated_tokens, (found.text, found.foreign_keys))) - max_tokens
        without, num_columns = _columns_to_drop(schema, left, excess)
        found = describe(schema, left, hints=False, notes=False, without=without)
        if fits(found):
            dropped = [f"{num_columns} of the columns"] if num_columns else []
            if len(left) < len(tables):
                dropped.append(f"{len(tables) - len(left)} of {len(tables)} tables")
            return _with_cut(found, cuts + dropped)
        left.pop()
        found = describe(schema, left, hints=False, notes=False)
    return None


def smallest_tokens(schema: Schema, table: Table) -> int:
    """Return how many estimated tokens the smallest text takes that `fit` makes of a table."""
    without, _ = _columns_to_drop(schema, [table.name], 2**62)
    found = describe(schema, [table.name], hints=False, notes=False, without=without)
    return estimated_tokens(found.text) + estimated_tokens(found.foreign_keys)


def _with_cut(found: SchemaText, cuts: Sequence[str]) -> SchemaText:
    return SchemaText(found.tables, found.text, found.foreign_keys, " and ".join(cuts))


def _columns_to_drop(schema: Schema, tables: Sequence[str], excess: int) -> tuple[dict[str, set[str]], int]:
    """Return columns that make up for the excess, in estimated tokens, as far as columns can; and how many."""
    droppable: list[tuple[int, int, int, str, str, int]] = []
    for place, name in enumerate(tables):
        table = schema.table(name)
        keys = key_columns(schema, table) or {table.columns[0].name}
        for position, column in enumerate(table.columns):
            if column.name not in keys:
                size = estimated_tokens(_column_line(column, hints=False, notes=False) + "\n")
                rank = _DROP_ORDER.index(column.role)
                droppable.append((rank, -place, -position, table.name, column.name, size))
    without: dict[str, set[str]] = {}
    count = 0
    for _, _, _, table_name, column_name, size in sorted(droppable):
        if excess <= 0:
            break
        without.setdefault(table_name, set()).add(column_name)
        # Rounding up line by line may make each a token smaller in the whole.
        excess -= size - 1
        count += 1
    return without, count


def key_columns(schema: Schema, table: Table) -> set[str]:
    """Return the columns of a table that its primary key or a foreign key, from or to it, is made of."""
    columns = set(table.primary_key)
    for key in schema.foreign_keys:
        if key.table == table.name:
            columns.update(key.columns)
        if key.referenced_table == table.name:
            columns.update(key.referenced_columns)
    return columns


def _table_line(table: Table, *, notes: bool) -> str:
    line = f"Table {name_text(table.name)}, {table.num_rows} rows"
    if table.primary_key:
        line += f", primary key ({', '.join(map(name_text, table.primary_key))})"
    if notes and table.description:
        line += f"; {quoted(table.description, MAX_NOTE_CHARACTERS)}"
    return line


def _column_line(column: Column, *, hints: bool, notes: bool) -> str:
    parts = [f"- {name_text(column.name)} {_type_text(column)}".rstrip()]
    if notes and column.description:
        parts.append(quoted(column.description, MAX_NOTE_CHARACTERS))
    if hints:
        parts.extend(_hints(column))
    return "; ".join(parts)


def _type_text(column: Column) -> str:
    declared = column.declared_type
    if not declared or _PLAIN_TYPE.fullmatch(declared):
        # Where SQLite keeps dates as text, the declared type does not tell.
        is_hidden_date = column.kind in ("date", "timestamp", "time") and column.kind not in declared.lower()
        return f"{declared} ({column.kind}s as text)".lstrip() if is_hidden_date else declared
    return quoted(declared, 40)


def _hints(column: Column) -> Iterator[str]:
    profile = column.profile
    is_ordered = column.kind in ("integer", "real", "date", "timestamp", "time")
    if is_ordered and profile.minimum is not None and profile.maximum is not None:
        yield f"min {_value_text(profile.minimum)}, max {_value_text(profile.maximum)}"
    if profile.examples and (not is_ordered or column.role == "category"):
        yield f"values {', '.join(map(_value_text, profile.examples[:MAX_HINT_VALUES]))}"


def _value_text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value, MAX_VALUE_CHARACTERS) if isinstance(value, str) else repr(value)


def _key_line(key: ForeignKey) -> str:
    def side(table: str, columns: Sequence[str]) -> str:
        return f"{name_text(table)}({', '.join(map(name_text, columns))})"

    return f"{side(key.table, key.columns)} references {side(key.referenced_table, key.referenced_columns)}"
