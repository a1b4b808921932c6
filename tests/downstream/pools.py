"""A pool over the shop to find questions for, and models that find them by script."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from random import Random

import numpy as np
import sqlglot

from rayfactory.agents.table_selection import select_tables
from rayfactory.compose import compose
from rayfactory.databases.engine import connect
from rayfactory.databases.schema import Schema
from rayfactory.downstream.control import pairs_over
from rayfactory.manifests import PlannedRequest
from rayfactory.models.grammar import write_queries
from rayfactory.pool import opened
from rayfactory.records import Candidate, Evaluation, Verdict
from rayfactory.rounds import round_tables
from rayfactory.runs import open_databases
from rayfactory.tools.execution import ExecutionTool, examine
from tests.shop import make_shop


def words(folder: Path, *more: str) -> list[str]:
    """Return the words of a command over the pool of a folder."""
    return [
        "+benchmark=custom", f"benchmark.root={folder / 'shop.sqlite'}", f"data_dir={folder / 'cache'}",
        f"run_dir={folder / 'run'}", *more,
    ]  # fmt: skip


def make_pool(folder: Path, num_queries: int, vectors: int = 384) -> Schema:
    """Write a run with so many queries of the rules' to a folder, beside its database; return the schema.

    Vectors are drawn, as nothing here compares by them.
    """
    make_shop(folder / "shop.sqlite")
    config = compose(words(folder))
    databases, schemas = open_databases(config)
    schema, rng, drawn = schemas["shop"], Random(3), np.random.default_rng(3)
    engine = connect(databases["shop"], config.execution)
    tool = ExecutionTool(databases, schemas, config.execution)
    verdicts: dict[str, Verdict] = {}
    while len(verdicts) < num_queries:
        for text in write_queries(schema, select_tables(schema, {}, 3, rng), 10, rng, engine):
            execution = tool.run("shop", text, examine(text, "sqlite"))
            if execution.reason is None and len(verdicts) < num_queries:
                candidate = Candidate(0, 0, len(verdicts), "generation", "shop", "sqlite", text, 1, (), "grammar", "")
                vector = drawn.normal(size=vectors).astype(np.float32)
                verdicts.setdefault(
                    execution.canonical,
                    Verdict(candidate, None, "", execution, vector / np.linalg.norm(vector)),
                )
    tool.close()
    identity = {
        "benchmark": "custom", "seed": 0, "rayfactory": "1", "config_sha256": "abc", "settings": {}, "fingerprints": {},
    }  # fmt: skip
    with opened(folder / "run", identity) as pool:
        ids = {position: position for position in range(num_queries)}
        evaluation = Evaluation(0, "GEN", num_queries, 1.0, 1.0, None, {}, {"shop": 1}, {"shop": num_queries})
        pool.commit(
            round_tables(list(verdicts.values()), ids, dict.fromkeys(ids, 0.0)),
            [PlannedRequest("generation", "shop", ("sale",), 10)],
            evaluation,
            1.0,
        )
    return schema


def digest(sql: str) -> str:
    """Return what a query is called in a scripted question."""
    return blake2b(" ".join(sql.split()).encode(), digest_size=6).hexdigest()


class ScriptedModels:
    """Writer and verifier by script: a callable that answers the messages of a request.

    A question names its query; that of every fifth query asks for less than it returns, so that it has to be cut down.

    Args:
        schema: of the pool.
        queries: of the pool, by id; what the control pairs are over.
        verifier: ``able``, or what it says whatever it is asked.
    """

    def __init__(self, schema: Schema, queries: Sequence[str], verifier: str = "able") -> None:
        self.asked: Counter[str] = Counter()
        self.prompts: dict[str, list[str]] = {}
        self._verifier = verifier
        self._known: dict[str, bool] = {}
        for query_id, sql in enumerate(queries):
            # As the seed of a run is 0.
            if pairs := pairs_over(sql, schema, 1 + query_id):
                right, wrong = pairs
                self._known |= {f"{digest(sql)} {right.text}": True, f"{digest(sql)} {wrong.text}": False}

    def __call__(self, messages: Sequence[dict[str, str]]) -> str:
        system, user = (message["content"] for message in messages)
        sql = re.findall(r"^Query: (.*)$", user, re.MULTILINE)[-1]
        kind = (
            "translation" if "says in plain English" in system
            else "verification" if "meticulous reviewer" in system
            else "simplification"
        )  # fmt: skip
        self.asked[kind] += 1
        self.prompts.setdefault(kind, []).append(f"{system}\n{user}")
        if kind == "translation":
            return self._question(sql)
        if kind == "simplification":
            return f"Here it is:\n<start-sql>\n{cut_down(sql)}\n<end-sql>"
        if self._verifier != "able":
            return self._verifier
        question = json.loads(re.findall(r"^Question: (.*)$", user, re.MULTILINE)[-1])
        return f"Let me see.\n**Verdict:** {'yes' if self._fits(question, sql) else 'no'}"

    @staticmethod
    def _question(sql: str) -> str:
        narrow = digest(cut_down(sql)) if int(digest(sql), 16) % 5 == 0 else digest(sql)
        return (
            f"<think>hm</think><question>\nWhat is the answer called {narrow}?\n</question>\n<evidence>none</evidence>"
        )

    def _fits(self, question: str, sql: str) -> bool:
        if found := re.fullmatch(r"What is the answer called (\w+)\?", question):
            return found[1] == digest(sql)
        return self._known.get(f"{digest(sql)} {question}", False)


def cut_down(sql: str) -> str:
    """Return a query without the last of its columns, where it has several and that one may go."""
    tree = sqlglot.parse_one(sql, dialect="sqlite")
    select = tree.find(sqlglot.exp.Select)
    if select is not None and select is tree and len(select.expressions) > 1 and not tree.args.get("order"):
        select.set("expressions", select.expressions[:-1])
    return tree.sql("sqlite")
