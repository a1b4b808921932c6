"""One statement as text and as a tree: parse, normalise, count its parts, name its tables, decide whether it may run.

Everything here is a pure function of a statement and its dialect; nothing opens a database.
"""

from __future__ import annotations

from rayfactory.sql.canonical import canonical, skeleton
from rayfactory.sql.features import features
from rayfactory.sql.safety import check_safe, check_text
from rayfactory.sql.spelling import spell, spelled, written_in
from rayfactory.sql.statement import base_tables, normalise, num_tokens, parse, schemas_named

__all__ = [
    "base_tables",
    "canonical",
    "check_safe",
    "check_text",
    "features",
    "normalise",
    "num_tokens",
    "parse",
    "schemas_named",
    "skeleton",
    "spell",
    "spelled",
    "written_in",
]
