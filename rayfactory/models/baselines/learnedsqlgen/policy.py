"""The policy: an actor and a critic, each two layers of LSTM, trained by the size of what queries return."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from rayfactory.databases.engine import Engine
from rayfactory.databases.schema import Schema
from rayfactory.errors import StatementError
from rayfactory.models.baselines.learnedsqlgen.automaton import Automaton, Walk

if TYPE_CHECKING:
    import torch

HIDDEN, LAYERS = 30, 2
"""Of each network. Source: the publication, section 7.1."""

LEARNING_RATE = 1e-2
"""Of both networks: some thousand queries have to do, where the publication learns from a hundred times as many."""

ENTROPY_WEIGHT = 0.01
BATCH = 32
"""Queries that are written for one step of training."""

_CAP = 10
"""A result is counted to so many times the most rows that are wanted: beyond that the reward is nearly nothing."""

Measure = Callable[[str], float]
"""Gives what a query is worth, in [0, 1]."""

logger = logging.getLogger("rayfactory.agents")


class _Steps(NamedTuple):
    """What happened at each step, float[B] over the queries; zeros where a query was at its end."""

    log_probabilities: list[torch.Tensor]
    entropies: list[torch.Tensor]
    values: list[torch.Tensor]
    rewards: list[torch.Tensor]


class Policy:
    """A trained policy over the automaton of a database.

    Args:
        automaton: of the database.
        seed: of the weights and of what is drawn while training.
    """

    def __init__(self, automaton: Automaton, seed: int) -> None:
        import torch

        torch.set_num_threads(1)  # as many processes as cores do this
        self._automaton = automaton
        self._generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._actor, self._critic = (_network(len(automaton.tokens), out) for out in (len(automaton.tokens), 1))
        parameters = [*self._actor.parameters(), *self._critic.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)

    def write(self, rng: Random) -> str:
        """Return a query that is drawn from the policy."""
        import torch

        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        with torch.inference_mode():
            (walk,), _ = self._walk(1, generator, None)
        sql = walk.sql()
        assert sql is not None
        return sql

    def train(self, num_queries: int, measure: Measure) -> list[float]:
        """Write queries and learn from what they are worth; return the mean worth of each batch.

        Args:
            num_queries: to learn from.
            measure: of a query.
        """
        means = []
        for _ in range(-(-num_queries // BATCH)):
            walks, steps = self._walk(BATCH, self._generator, measure)
            means.append(sum(measure(walk.sql() or "") for walk in walks) / len(walks))
            self._learn(steps)
        return means

    def _walk(self, count: int, generator: torch.Generator, measure: Measure | None) -> tuple[list[Walk], _Steps]:
        """Write queries side by side.

        Args:
            count: of queries, B.
            generator: of what is drawn.
            measure: gives the reward of each step; None: there is none.
        """
        import torch

        walks = [Walk(self._automaton) for _ in range(count)]
        last = torch.full((count, 1), len(self._automaton.tokens))
        actor_state = critic_state = None
        steps = _Steps([], [], [], [])
        while not all(walk.is_done for walk in walks):
            running = torch.tensor([not walk.is_done for walk in walks])
            logits, actor_state = self._actor(last, actor_state)
            value, critic_state = self._critic(last, critic_state)
            mask = torch.full_like(logits, -torch.inf)
            for row, walk in enumerate(walks):
                mask[row, list(walk.legal()) if not walk.is_done else [0]] = 0.0
            log_p = torch.log_softmax(logits + mask, dim=1)
            probability = log_p.exp()
            chosen = torch.multinomial(probability, 1, generator=generator)
            rewards = torch.zeros(count)
            for row, walk in enumerate(walks):
                if walk.is_done:
                    continue
                walk.take(int(chosen[row]))
                sql = walk.sql() if measure is not None else None
                rewards[row] = measure(sql) if measure is not None and sql is not None else 0.0
            entropy = -(probability * log_p.masked_fill(mask < 0, 0.0)).sum(dim=1)
            found = (log_p.gather(1, chosen)[:, 0], entropy, value[:, 0], rewards)
            for step, each in zip(steps, found, strict=True):
                step.append(each * running)
            last = chosen
        return walks, steps

    def _learn(self, steps: _Steps) -> None:
        import torch

        log_p, entropy, value, rewards = (torch.stack(each) for each in steps)
        advantage = rewards.flip(0).cumsum(0).flip(0) - value
        loss = -(log_p * advantage.detach()).sum(0) + advantage.square().sum(0) - ENTROPY_WEIGHT * entropy.sum(0)
        self._optimizer.zero_grad()
        loss.mean().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def trained(schema: Schema, engine: Engine, rows: tuple[int, int], num_queries: int, seed: int) -> Policy:
    """Return a policy that was trained to write queries which return a number of rows.

    Args:
        schema: of the database.
        engine: runs what is written.
        rows: fewest and most rows of a wanted result.
        num_queries: to learn from; how long that takes is up to the database.
        seed: of everything that is drawn.
    """
    worth: dict[str, float] = {"": 0.0}

    def measure(sql: str) -> float:
        if sql not in worth:
            worth[sql] = reward(_count(engine, sql, _CAP * rows[1]), *rows)
        return worth[sql]

    policy = Policy(Automaton(schema), seed)
    means = policy.train(num_queries, measure)
    logger.info("learnedsqlgen on %s: mean reward %.3f, at the end %.3f", schema.database, means[0], means[-1])
    return policy


def reward(num_rows: int, low: int, high: int) -> float:
    """Return how near the size of a result comes to the wanted range, in [0, 1] (the publication's equation 2)."""
    if num_rows <= 0:
        return 0.0
    if low <= num_rows <= high:
        return 1.0
    return max(min(num_rows / bound, bound / num_rows) for bound in (max(low, 1), high))


def _count(engine: Engine, sql: str, most: int) -> int:
    """Return the rows of a query, as far as they are counted; 0 where it does not run."""
    try:
        return engine.run(f"SELECT 1 FROM ({sql}) AS counted LIMIT {most}").row_count
    except StatementError:
        return 0


def _network(num_tokens: int, num_out: int) -> torch.nn.Module:
    import torch

    class Network(torch.nn.Module):
        """Reads a token after the other; the one before the first is `num_tokens`."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(num_tokens + 1, HIDDEN)
            self.lstm = torch.nn.LSTM(HIDDEN, HIDDEN, LAYERS, batch_first=True)
            self.out = torch.nn.Linear(HIDDEN, num_out)

        def forward(
            self, last_B1: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None
        ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
            hidden, state = self.lstm(self.embedding(last_B1), state)
            return self.out(hidden[:, 0]), state

    return Network()
