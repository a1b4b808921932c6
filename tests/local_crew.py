"""The crew without Ray: the same agents and tools, called in this process. What Ray runs is compared with it."""

from __future__ import annotations

import asyncio
import functools
import itertools
from pathlib import Path

from rayfactory.agents.management import ManagementAgent
from rayfactory.agents.seed_selection import SeedSelectionAgent
from rayfactory.agents.table_selection import TableSelectionAgent
from rayfactory.cluster.authors import ExpansionAgent, GenerationAgent
from rayfactory.cluster.critic import Contender, CriticalAgent
from rayfactory.cluster.judges import as_verdict
from rayfactory.cluster.tool_worker import ToolWorker
from rayfactory.config import EmbeddingConfig
from rayfactory.factory import Clock, Loop
from rayfactory.pool import opened
from rayfactory.records import Verdict
from rayfactory.reports.monitor import Monitor, Progress
from rayfactory.runs import open_databases, run_identity, with_encoder, with_round_size
from rayfactory.tools.embedding import ENCODERS, Embedder
from rayfactory.tools.execution import examine


class LocalCrew:
    """Plans, produces, judges and commits as `rayfactory.cluster.crew.Crew` does."""

    def __init__(self, config, databases, schemas, load_pool, embedder):
        self._block_size = config.embedding.batch_size
        self._authors: dict[str, GenerationAgent | ExpansionAgent] = {
            "generation": GenerationAgent(config, databases, schemas),
            "expansion": ExpansionAgent(config, databases, schemas),
        }
        self.decide = ManagementAgent(config.management, config.round).decide
        self._table_selection = TableSelectionAgent(config.table_selection, schemas)
        self._seed_selection = SeedSelectionAgent(config.seed_selection, schemas)
        self._tools = ToolWorker(config, databases, schemas)
        self._embedder = embedder
        self._critic = CriticalAgent(config, {name: schema.dialect for name, schema in schemas.items()})
        for rows, vectors in load_pool():
            self._critic.load(rows, vectors)

    def select_tables(self, number, asks, use):
        return self._table_selection.select(asks, use)

    def select_seeds(self, number, asks, shelves, use):
        return self._seed_selection.select(asks, shelves, use)

    def advise(self, number, failures):
        return ""

    def take_tallies(self):
        return []

    def leave(self):
        """What it does here ends by itself."""

    def models(self):
        return None

    def produce(self, requests, on_answer):
        async def ask():
            return [await self._authors[request.origin].answer(request) for request in requests]

        answers = asyncio.run(ask())
        for i, answer in enumerate(answers):
            on_answer(i, answer)
        return answers

    def judge(self, chunks, first_id, on_verdicts):
        verdicts: list[Verdict] = []
        blocks = (chunk[i : i + self._block_size] for chunk in chunks for i in range(0, len(chunk), self._block_size))
        for block in blocks:
            start = len(verdicts)
            work = [(c.database, c.sql, examine(c.sql, c.dialect)) for c in block]
            executions = self._tools.execute(work)
            ran = [i for i, execution in enumerate(executions) if execution.reason is None]
            vectors = dict(zip(ran, self._embedder.encode([executions[i].text for i in ran]), strict=True))
            contenders = [Contender(start + i, block[i], executions[i], vectors[i]) for i in ran]
            decisions = dict(zip(ran, self._critic.admit(contenders, first_id), strict=True))
            found = [
                as_verdict(candidate, executions[i], vectors.get(i), decisions.get(i), first_id)
                for i, candidate in enumerate(block)
            ]
            on_verdicts(found)
            verdicts += found
        return verdicts

    def show(self, progress, phase_s=None):
        """Nobody watches."""

    def commit(self, ids):
        self._critic.commit(ids)


class Encoder:
    """The real encoder, asked once for each text: these runs write the same queries again and again."""

    def __init__(self, cache):
        self._embedder = Embedder(EmbeddingConfig(), cache)
        self._known = {}

    def encode(self, texts):
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        self._known.update(zip(new, self._embedder.encode(new), strict=True))
        return [self._known[text] for text in texts]


@functools.cache
def _encoder(cache):
    return Encoder(cache)


class StoppedError(Exception):
    """Raised where a test lets a run die."""


def grow(config, *, die_in_round=None, die_in="judge", produce=None, judge=None):
    """Run the loop without Ray; return its stop reason."""
    config = with_encoder(with_round_size(config))
    databases, schemas = open_databases(config)
    progress = Progress("test", config.target)
    with opened(Path(config.run_dir), run_identity(config, schemas)) as pool:
        loop = Loop(config, schemas, pool, Monitor(progress, config.display), progress, Clock(0.0))
        crew = LocalCrew(config, databases, schemas, loop.committed_tables, _encoder(Path(config.data_dir) / ENCODERS))
        inner = getattr(crew, die_in)
        calls = itertools.count()

        def dying(*args):
            if next(calls) == die_in_round:
                raise StoppedError
            return inner(*args)

        setattr(crew, die_in, dying)
        if produce is not None:
            setattr(crew, "produce", functools.partial(produce, crew.produce))  # noqa: B010 - a method, for this one
        if judge is not None:
            setattr(crew, "judge", functools.partial(judge, crew.judge))  # noqa: B010
        return loop.run(crew)
