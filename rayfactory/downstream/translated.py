"""What came of a translation: counts, a page, and the pairs that hold."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from rayfactory.analysis.report import write
from rayfactory.downstream.control import MIN_PAIRS, Control
from rayfactory.downstream.translator import RULES
from rayfactory.errors import RunDirError
from rayfactory.exports.text_to_sql import difficulty
from rayfactory.models.chat import read_books
from rayfactory.translation import PAIRS, REASONS, connect

COUNTED = ("reason", "is_simplified", "control_right", "control_wrong")
"""The columns of table Q that are counted."""


@dataclass(slots=True)
class Tallies:
    """What has become of queries, counted.

    Attributes:
        kept: pairs that hold.
        simplified: those of them whose query was cut down.
        reasons: why the others have no question.
        control: what the verifier said of pairs that are known.
    """

    kept: int = 0
    simplified: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    control: Control = field(default_factory=Control)

    def add(self, rows: pa.Table) -> None:
        """Count rows of table Q."""
        reasons = Counter(rows["reason"].to_pylist())
        self.kept += reasons.pop(None, 0)
        self.reasons.update(reasons)
        self.simplified += sum(rows["is_simplified"].to_pylist())
        for right, wrong in zip(rows["control_right"].to_pylist(), rows["control_wrong"].to_pylist(), strict=True):
            self.control.add(right, wrong)

    @property
    def total(self) -> int:
        """Queries."""
        return self.kept + self.reasons.total()


def finish(
    out: Path, journal: Path, tallies: Tallies, run: str, num_queries: int, model: str, verifier: str, stopped: str
) -> dict[str, Any]:
    """Write what there is, the figures, the page and the pairs that hold; return the figures.

    Args:
        out: folder of the translation.
        journal: of what was asked of its models.
        tallies: of what has become of queries.
        run: what the run is called.
        num_queries: of its pool.
        model: who wrote.
        verifier: who verified.
        stopped: why not all is translated; empty where it is.
    """
    connection = connect(out)
    try:
        _write_pairs(out / PAIRS, connection)
        rejected = connection.sql(
            "SELECT reason, database, question, sql, detail FROM Q WHERE reason IS NOT NULL "
            "QUALIFY row_number() OVER (PARTITION BY reason ORDER BY query_id) <= 3 ORDER BY reason, query_id"
        ).to_arrow_table()
    finally:
        connection.close()
    books = read_books(journal)
    found = {
        "run": run,
        "queries": num_queries,
        "translated": tallies.total,
        "kept": tallies.kept,
        "simplified": tallies.simplified,
        "reasons": dict(tallies.reasons.most_common()),
        "model": model,
        "verifier": verifier,
        "control": tallies.control.to_json(),
        "cost_usd": round(sum(row["cost_usd"] for row in books), 6),
        "unconfirmed_usd": round(sum(row["unconfirmed_usd"] for row in books), 6),
        "models": books,
        "stopped": stopped,
        "examples_of_rejects": rejected.to_pylist(),
    }
    write(out, {"translation.json": json.dumps(found, indent=1) + "\n", "translation.md": markdown(found)})
    return found


def _write_pairs(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    """Write the pairs that hold as BIRD's questions are, one on each line.

    Raises:
        RunDirError: the file cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_to(beside, connection)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise RunDirError(
            f"{str(path)!r} cannot be written: {error.strerror or error}; make room, and give the same command again"
        ) from None


def _write_to(path: Path, connection: duckdb.DuckDBPyConnection) -> None:
    with path.open("w", encoding="utf-8") as file:
        begins = "[\n"
        for batch in connection.sql("SELECT * FROM Q WHERE reason IS NULL ORDER BY query_id").to_arrow_reader(2_000):
            for row in batch.to_pylist():
                entry = {
                    "question_id": row["query_id"],
                    "db_id": row["database"],
                    "question": row["question"],
                    "evidence": row["evidence"],
                    "SQL": row["sql"],
                    "difficulty": difficulty(row),
                }
                file.write(begins + json.dumps(entry, ensure_ascii=False))
                begins = ",\n"
        file.write("\n]\n" if begins != "[\n" else "[]\n")


def markdown(found: Mapping[str, Any]) -> str:
    """Return the figures as a page of Markdown."""
    share = found["kept"] / found["translated"] if found["translated"] else 0.0
    lines = [
        f"# Questions for {found['run']}",
        "",
        (
            f"{found['kept']:,} of {found['translated']:,} queries have a question that holds ({share:.1%}); "
            f"{found['simplified']:,} of them were cut down to what it asks. Written by {found['model']}, verified by "
            f"{found['verifier']}. ${found['cost_usd']:.2f} was paid"
            + (f", and at most ${found['unconfirmed_usd']:.2f} more." if found["unconfirmed_usd"] else ".")
        ),
    ]
    if found["translated"] < found["queries"]:
        lines.append(f"{found['queries'] - found['translated']:,} queries are left.")
    if found["reasons"]:
        lines += ["", "| why a query has none | number |", "|---|---|"]
        lines += [f"| {REASONS[reason]} | {count:,} |" for reason, count in found["reasons"].items()]
    control = found["control"]
    lines += ["", "| pairs that are known to be | the verifier says yes | no | neither |", "|---|---|---|---|"]
    for name in ("right", "wrong"):
        row = control[name]
        low, high = row["said_yes_95"]
        asked = row["yes"] + row["no"] + row["unclear"]
        said = f"{row['yes']} ({row['said_yes']:.1%}; {low:.1%} to {high:.1%})" if asked else "0"
        lines.append(f"| {name} ({asked}) | {said} | {row['no']} | {row['unclear']} |")
    if found["verifier"] != RULES and not control["is_controlled"]:
        lines += ["", f"That is too little to know the verifier by: {MIN_PAIRS} pairs of each kind are needed."]
    if control["fault"]:
        lines += ["", f"**The verifier cannot be trusted:** {control['fault']}."]
    return "\n".join([*lines, ""])
