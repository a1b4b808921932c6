"""The crew without Ray: the same agents and tools, called in this process. What Ray runs is compared with it."""

from __future__ import annotations

import asyncio

from rayfactory.agents.management import ManagementAgent
from rayfactory.agents.seed_selection import SeedSelectionAgent
from rayfactory.agents.table_selection import TableSelectionAgent
from rayfactory.cluster.authors import ExpansionAgent, GenerationAgent
from rayfactory.cluster.critic import Contender, CriticalAgent
from rayfactory.cluster.judges import as_verdict
from rayfactory.cluster.tool_worker import ToolWorker
from rayfactory.records import Verdict
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

    def commit(self, ids):
        self._critic.commit(ids)
