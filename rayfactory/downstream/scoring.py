"""Is a predicted query right? It and the gold query are run, and their results compared by a benchmark's rule.

What is counted is what the benchmarks' own evaluations count: executability is the share of the predictions that run,
execution accuracy the share whose results are those of the gold queries (`databases.results`).
"""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from rayfactory.config import ExecutionConfig
from rayfactory.databases.engine import Database
from rayfactory.databases.results import for_spider, is_ordered
from rayfactory.databases.sandbox import Sandbox
from rayfactory.downstream.questions import Question
from rayfactory.errors import StatementError

Rule = Literal["bird", "spider"]

KINDS = {
    "right": "its result is that of the gold query",
    "gold": "the gold query itself does not run here",
    "empty": "nothing was predicted",
    "table": "it names a table that is not there",
    "column": "it names a column that is not there",
    "ambiguous": "it names a column that several tables have",
    "function": "it calls a function that is not there, or wrongly",
    "aggregate": "an aggregate stands where none may",
    "syntax": "it does not parse",
    "timeout": "it ran out of time",
    "memory": "it ran out of memory",
    "too_many_rows": "its result is too large",
    "crashed": "it ended the database's process",
    "error": "the database refused it for another reason",
    "other columns": "its result has another number of columns",
    "no rows": "its result is empty, and that of the gold query is not",
    "other number of rows": "its result has another number of rows",
    "other order": "its result has the rows in another order",
    "other values": "its result has other values",
}
"""What can come of a prediction, by the names that reports give it; those that do not run stand together."""

NOT_RUN = tuple(KINDS)[2:14]
"""The kinds of predictions that do not run."""

_MESSAGES = (
    (r"no such table|Table with name .* does not exist|relation .* does not exist", "table"),
    (r"no such column|Referenced column|column .* does not exist|Unknown column", "column"),
    (r"ambiguous", "ambiguous"),
    (r"misuse of aggregate|misuse of window|aggregate functions|GROUP BY", "aggregate"),
    (r"no such function|wrong number of arguments|Function with name|function .* does not exist", "function"),
    (r"syntax error|incomplete input|unrecognized token|unterminated|Parser Error|one statement at a time", "syntax"),
)
"""What a database says, and the kind that it is; the first that fits."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What came of one prediction.

    Attributes:
        kind: one of `KINDS`.
        detail: what the database said; empty where it ran.
    """

    kind: str
    detail: str = ""

    @property
    def is_right(self) -> bool:
        """Whether it counts for execution accuracy."""
        return self.kind == "right"

    @property
    def ran(self) -> bool:
        """Whether it counts for executability."""
        return self.kind not in NOT_RUN and self.kind != "gold"


def score(sandbox: Sandbox, rule: Rule, question: Question, prediction: str) -> Scored:
    """Return what comes of a prediction.

    Args:
        sandbox: over the databases; for this thread alone.
        rule: whose definition counts.
        question: with the gold query.
        prediction: a query; may be anything.
    """
    if not prediction.strip():
        return Scored("empty")
    gold, name = question.gold, str(rule)
    if rule == "spider":
        gold, prediction = for_spider(gold), for_spider(prediction)
        name = "spider, ordered" if is_ordered(gold) else "spider"
    try:
        sandbox.keep(question.database, gold)
    except StatementError as error:
        return Scored("gold", f"{error.reason}: {error}")
    try:
        found = sandbox.compare(question.database, prediction, name)
    except StatementError as error:
        return Scored(kind_of(error), " ".join(str(error).split())[:300])
    return Scored(found.difference or "right")


def kind_of(error: StatementError) -> str:
    """Return the kind of a statement that did not run."""
    if error.reason != "error":
        return error.reason if error.reason in KINDS else "error"
    return next((kind for pattern, kind in _MESSAGES if re.search(pattern, str(error), re.IGNORECASE)), "error")


def score_all(
    databases: Mapping[str, Database],
    limits: ExecutionConfig,
    rule: Rule,
    questions: Sequence[Question],
    predictions: Sequence[str],
    on_scored: Callable[[int], None] = lambda _: None,
) -> list[Scored]:
    """Return what comes of each prediction, in order; as many at a time as there are CPUs.

    Args:
        databases: by name, those of the questions among them.
        limits: of each statement.
        rule: whose definition counts.
        questions, predictions: of the same length.
        on_scored: called with how many are done.

    Raises:
        DatabaseError: a database cannot be opened.
    """
    here, sandboxes, lock = threading.local(), list[Sandbox](), threading.Lock()
    num_done = 0

    def work(place: int) -> Scored:
        nonlocal num_done
        if not hasattr(here, "sandbox"):
            here.sandbox = Sandbox(databases, limits)
            with lock:
                sandboxes.append(here.sandbox)
        scored = score(here.sandbox, rule, questions[place], predictions[place])
        with lock:
            num_done += 1
            on_scored(num_done)
        return scored

    try:
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
            # Those of a database one after the other: a process keeps a few open.
            places = sorted(range(len(questions)), key=lambda place: questions[place].database)
            found = dict(zip(places, threads.map(work, places), strict=True))
    finally:
        for sandbox in sandboxes:
            sandbox.close()
    return [found[place] for place in range(len(questions))]


def figures(questions: Iterable[Question], scored: Iterable[Scored]) -> dict[str, Any]:
    """Return what the scores come to.

    Returns:
        ``questions``, ``executability`` and ``execution_accuracy`` (shares of all questions), ``by_difficulty`` with
        the same of each difficulty that the benchmark tells, and ``kinds`` with how many there are of each.
    """
    pairs = list(zip(questions, scored, strict=True))
    difficulties = [name for name in dict.fromkeys(question.difficulty for question, _ in pairs) if name]
    usual = ("simple", "moderate", "challenging")
    difficulties.sort(key=lambda name: (usual.index(name) if name in usual else len(usual), name))
    return {
        **_shares([each for _, each in pairs]),
        "by_difficulty": {
            name: _shares([each for question, each in pairs if question.difficulty == name]) for name in difficulties
        },
        "kinds": {kind: count for kind in KINDS if (count := Counter(each.kind for _, each in pairs)[kind])},
    }


def _shares(scored: Sequence[Scored]) -> dict[str, Any]:
    count = len(scored)
    return {
        "questions": count,
        "executability": round(sum(each.ran for each in scored) / count, 4),
        "execution_accuracy": round(sum(each.is_right for each in scored) / count, 4),
    }
