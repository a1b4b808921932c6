"""The summary of a report in Markdown: for a pull request, a model card, a mail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rayfactory.analysis.page import figure
from rayfactory.analysis.report_page import (
    DIVERSITY,
    MODELS,
    REJECTS,
    TABLE_1,
    contents_text,
    cost_text,
    diversity_rows,
    subtitle,
    tables_text,
    tiles,
)
from rayfactory.shown import shown


def summary(measures: Mapping[str, Any]) -> str:
    """Return the figures of a corpus that a person asks for first."""
    corpus = measures["corpus"]
    missing = measures["constructs"]["missing"]
    parts = [
        f"# {plain(corpus['name'])}: {corpus['queries']:,} queries",
        plain(subtitle(corpus)),
        "\n".join(
            f"- **{plain(name)}**: {plain(value)}" + f" ({plain(note)})" * bool(note)
            for name, value, note in tiles(measures)
        ),
        table([measures["table_1"]], TABLE_1),
        "## What the queries are made of",
        plain(contents_text(measures["figure_6"])),
        f"No query has: {plain(', '.join(missing))}." if missing else "Every construct that is looked for occurs.",
        "## Which tables they read",
        plain(tables_text(measures["figure_7"])),
        "## How diverse they are",
        table(diversity_rows(measures), DIVERSITY),
    ]
    if measures["cost"] is not None:
        parts += ["## Cost and time", plain(cost_text(measures)), table(measures["models"], MODELS)]
        parts += [
            "## Why candidates were rejected",
            table(measures["rejects"], REJECTS) if measures["rejects"] else "None was.",
        ]
    return shown("\n\n".join(parts) + "\n")


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str, str]]) -> str:
    """Return a table."""
    head = "| " + " | ".join(title for _, title, _ in columns) + " |"
    rule = "|" + "|".join("---:" if kind else "---" for _, _, kind in columns) + "|"
    body = ["| " + " | ".join(plain(figure(row[name], kind)) for name, _, kind in columns) + " |" for row in rows]
    return "\n".join([head, rule, *body])


def plain(text: str) -> str:
    """Return a text in one line in which nothing is markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))
