"""Looks for statements that get past the first wall and should not. Prints one JSON object.

    python -m tests.trust.fuzz [--seconds 600] [--seed 0]

The seconds are those of work, shared by the dialects, which have a process each.

Statements are made from hostile ones, harmless ones and the vocabulary of the databases (their functions, settings and
keywords): pieces of one are put into another, names exchanged, comments and odd characters put in between. What the
wall turns down is only counted. What it lets pass is looked at twice:

- by the database itself (`readings`): a function that reads anything but its arguments, a table function, a table of
  another schema or a statement that is no query is an escape;
- and it is run in a sandbox: a trace in the folder or on the network is an escape.

An error of the wall itself that is no `StatementError` is a crash. Either ends with exit code 1 and the statement.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import cast

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import FILE_DIALECTS
from rayfactory.databases.sandbox import Sandbox
from rayfactory.errors import StatementError
from rayfactory.tools.execution import examine
from tests import servers
from tests.trust.hostile import DIALECTS, UNSTOPPABLE, Hostile, statements
from tests.trust.readings import DuckDBReading, MariaDBReading, PostgreSQLReading, Reading, SQLiteReading
from tests.trust.scene import Scene, ServerScene

LIMITS = ExecutionConfig(timeout_s=0.3, max_rows=1_000, memory_mb=256)

HARMLESS = (
    "SELECT i, s FROM t WHERE i > 3 ORDER BY s LIMIT 5",
    "SELECT count(*) FROM t GROUP BY s HAVING count(*) > 1",
    "WITH x AS (SELECT i FROM t) SELECT a.i, b.s FROM x AS a JOIN t AS b ON a.i = b.i",
    "SELECT i, row_number() OVER (PARTITION BY s ORDER BY i) FROM t",
    "SELECT CASE WHEN i > 3 THEN 'a' ELSE upper(s) END FROM t UNION SELECT s FROM t",
    "SELECT * FROM (SELECT i FROM t) AS u WHERE EXISTS (SELECT 1 FROM t WHERE t.i = u.i)",
    "SELECT CAST(i AS CHAR) || s FROM t WHERE s LIKE 'x%' AND i BETWEEN 1 AND 9",
    "SELECT max(i) FILTER (WHERE i < 5), avg(i) FROM t WHERE i IN (SELECT i FROM t)",
)

ODD = ("--\n", "/**/", "/* ' */", ";", ";;", "\x00", "\ufeff", "\u00a0", "\u2028", "\u037e", "\uff1b", "'", '"', "`", "[", "]",
       "$$", "\\", "#", "E'", "X'", "U&'", "::", ":=", "@", "@@", "?", "/*!", "/*!50000 ", "/*M! ", "_utf8'", "N'", "$a$", "\\'", "--\r", "-- ", "#\n", "(", ")", ",", "*", "\r", "\x1b", "..", "{", "}")  # fmt: skip

KEYWORDS = (
    "SELECT FROM WHERE WITH RECURSIVE VALUES TABLE LATERAL INTO FOR UPDATE ATTACH DETACH COPY EXPORT IMPORT INSTALL LOAD "
    "PRAGMA SET RESET CALL EXECUTE PREPARE EXPLAIN ANALYZE DESCRIBE SUMMARIZE SHOW CREATE DROP ALTER INSERT DELETE "
    "REPLACE MERGE RETURNING TEMP MACRO FUNCTION PIVOT UNPIVOT QUALIFY USING SAMPLE TABLESAMPLE POSITIONAL ASOF UNION "
    "ALL EXCEPT INTERSECT VACUUM CHECKPOINT BEGIN COMMIT USE NATURAL JOIN ON AS OF main temp information_schema"
).split()

_TOKEN = re.compile(r"\s+|\w+|'(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|.", re.DOTALL)


class Maker:
    """Makes statements of one dialect out of others.

    Args:
        sources: whole statements that mean harm.
        harmless: whole statements that do not.
        names: of functions and settings.
    """

    def __init__(self, rng: Random, sources: Sequence[str], harmless: Sequence[str], names: Sequence[str]) -> None:
        self._rng = rng
        self._sources = [_TOKEN.findall(sql) for sql in sources]
        self._harmless = [_TOKEN.findall(sql) for sql in harmless]
        self._names = names

    def make(self) -> str:
        """Return a statement: a harmless one, or a hostile one, after a few changes."""
        rng = self._rng
        tokens = list(rng.choice(self._harmless if rng.random() < 0.7 else self._sources))
        for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
            # Most of what cuts into a statement only makes it one that nobody can read.
            rng.choice(self.GENTLE if rng.random() < 0.7 else self.ROUGH)(self, tokens)
        text = "".join(tokens)
        return f"SELECT * FROM ({text}) AS z" if rng.random() < 0.05 else text

    def _place(self, tokens: list[str]) -> int:
        return self._rng.randrange(len(tokens) + 1)

    def _operand(self, tokens: list[str]) -> int | None:
        """Return the place of a word, a number or a text."""
        places = [i for i, token in enumerate(tokens) if re.match(r"[\w'\"]", token)]
        return self._rng.choice(places) if places else None

    def _drop(self, tokens: list[str]) -> None:
        if tokens:
            del tokens[self._rng.randrange(len(tokens))]

    def _insert_odd(self, tokens: list[str]) -> None:
        tokens.insert(self._place(tokens), self._rng.choice(ODD))

    def _insert_keyword(self, tokens: list[str]) -> None:
        tokens.insert(self._place(tokens), f" {self._rng.choice(KEYWORDS)} ")

    def _call(self, tokens: list[str]) -> None:
        place = self._operand(tokens)
        if place is not None:
            argument = self._rng.choice((tokens[place], "'secret.csv'", "'SELECT 1'", ""))
            name = self._rng.choice(self._names)
            tokens[place] = (
                f"{self._rng.choice(('', '', '', 'main.', 'system.', 'pg_catalog.', 'mysql.'))}{name}({argument})"
            )

    def _rename(self, tokens: list[str]) -> None:
        place = self._operand(tokens)
        if place is not None:
            tokens[place] = self._rng.choice(self._names)

    def _splice(self, tokens: list[str]) -> None:
        """Put another statement, in parentheses, in the place of an operand."""
        place = self._operand(tokens)
        if place is not None:
            tokens[place] = f"({''.join(self._rng.choice(self._sources))})"

    def _graft(self, tokens: list[str]) -> None:
        """Put some tokens of another statement in."""
        other = self._rng.choice(self._sources)
        start = self._rng.randrange(len(other))
        place = self._place(tokens)
        tokens[place:place] = other[start : start + self._rng.randint(1, 8)]

    def _append(self, tokens: list[str]) -> None:
        between = self._rng.choice((";", " UNION ALL ", "; --\n", " ; ", "\x00;", "\uff1b", " EXCEPT "))
        tokens += [between, *self._rng.choice(self._sources)]

    def _quote(self, tokens: list[str]) -> None:
        place = self._operand(tokens)
        if place is not None:
            mark = self._rng.choice(('"', "'", "`"))
            tokens[place] = f"{mark}{tokens[place]}{mark}"

    def _deepen(self, tokens: list[str]) -> None:
        place = self._operand(tokens)
        if place is not None:
            depth = self._rng.choice((2, 20, 400))
            tokens[place] = "(" * depth + tokens[place] + ")" * depth

    GENTLE = (_call, _call, _call, _rename, _splice, _quote, _deepen)
    ROUGH = (_drop, _insert_odd, _insert_keyword, _graft, _append)


@contextmanager
def _place(dialect: str) -> Iterator[tuple[Scene | ServerScene, Reading]]:
    """Yield what statements of a dialect are after, and the database's reading of them."""
    if dialect in FILE_DIALECTS:
        with tempfile.TemporaryDirectory() as folder:
            scene = Scene(Path(folder), dialect)
            yield scene, SQLiteReading() if dialect == "sqlite" else DuckDBReading()
            scene.listener.close()
        return
    with servers.postgresql() if dialect == "postgres" else servers.mariadb() as server:
        at_server = ServerScene(server)
        reading_type = PostgreSQLReading if dialect == "postgres" else MariaDBReading
        reading = reading_type(server, at_server.database.name)
        at_server.take_stock()
        yield at_server, reading
        reading.close()
        at_server.close()


def fuzz(seconds: float, seed: int, dialects: Sequence[str] = DIALECTS) -> dict[str, object]:
    """Make and try statements for some time; return what came of them, with those that escaped or crashed the wall.

    Raises:
        AssertionError: one of them left a trace; the message is the statement.
    """
    outcomes: Counter[str] = Counter()
    escapes: list[str] = []
    for dialect in dialects:
        with _place(dialect) as (scene, reading):
            sources = [each.sql for each in statements(scene.bait) if _is_source(each, dialect)]
            harmless = [sql for sql in HARMLESS if examine(sql, dialect).reason is None]
            maker = Maker(Random(f"{seed} {dialect}"), sources, harmless, reading.names())
            database = replace(scene.database, name="shop")
            sandbox = Sandbox({"shop": database}, LIMITS)
            until = time.monotonic() + seconds / len(dialects)
            while time.monotonic() < until:
                sql = maker.make()
                try:
                    examined = examine(sql, dialect)
                except Exception as error:  # noqa: BLE001 - whatever it is, the statement is what one needs to know
                    outcomes["crashed"] += 1
                    escapes.append(f"{dialect}: {error!r}: {sql!r}")
                    continue
                if examined.reason is not None:
                    outcomes[examined.reason] += 1
                    continue
                if objections := reading.objections(sql):
                    escapes.append(f"{dialect}: {', '.join(objections)}: {sql!r}")
                try:
                    sandbox.run("shop", sql)
                    outcomes["ran"] += 1
                except StatementError as error:
                    outcomes[f"passed, then {error.reason}"] += 1
                scene.check(sql)
            sandbox.close()
            scene.check_content()
    return {"seconds": seconds, "seed": seed, "statements": outcomes.total(), **outcomes, "escapes": escapes}


def _is_source(statement: Hostile, dialect: str) -> bool:
    return statement.dialect == dialect and len(statement.sql) < 2_000 and statement.family != UNSTOPPABLE


def installed() -> list[str]:
    """Return the dialects whose databases are here; servers are the system's."""
    needed = {"postgres": "postgres", "mysql": "mariadbd"}
    return [each for each in DIALECTS if each not in needed or servers.program(needed[each]) is not None]


def fuzz_side_by_side(seconds: float, seed: int) -> dict[str, object]:
    """Do as `fuzz` does, with a process for each dialect: so many seconds of work take as long only on one CPU."""
    dialects = installed()
    num_processes = min(len(dialects), len(os.sched_getaffinity(0)))
    with ProcessPoolExecutor(num_processes, get_context("spawn"), _silence) as processes:
        share = seconds / len(dialects)
        futures = [processes.submit(fuzz, share, seed, (dialect,)) for dialect in dialects]
        reports = [future.result() for future in futures]
    outcomes: Counter[str] = Counter()
    escapes: list[object] = []
    for report in reports:
        escapes += cast("list[object]", report.pop("escapes"))
        outcomes.update(
            cast("dict[str, int]", {name: report[name] for name in report if name not in ("seconds", "seed")})
        )
    return {"seconds": seconds, "seed": seed, "dialects": dialects, **outcomes, "escapes": escapes}


def _silence() -> None:
    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it would tell of each statement that it does not know


def main() -> None:
    """Fuzz and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    report = fuzz_side_by_side(arguments.seconds, arguments.seed)
    print(json.dumps(report, indent=1))
    if report["escapes"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
