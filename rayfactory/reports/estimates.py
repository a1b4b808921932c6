"""What a run would still ask of its models and pay for it, as far as can be told beforehand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rayfactory.agents.management import LAG
from rayfactory.agents.planning import requests_of_round
from rayfactory.agents.player import Player, player_of, stand_in_of
from rayfactory.agents.table_selection import REQUESTS_PER_CALL
from rayfactory.config import AGENTS, Config
from rayfactory.databases.schema import Schema
from rayfactory.manifests import Manifest
from rayfactory.models.completion import Prompt
from rayfactory.models.ledger import Usage, cost_usd
from rayfactory.models.prompts import Prompts
from rayfactory.models.schema_text import estimated_tokens
from rayfactory.reports.examples import NUM_FAILED, ask_nobody

ADMITTED_SHARE = 0.85
"""Share of what models write that a pool takes: an assumption, on the cautious side of what strong models do."""

EXPLORED_SHARE = 0.4
"""Share of the candidates that exploring rounds write: an assumption; runs of the rules had about this."""

TOKENS_PER_QUERY = 160
"""Tokens of a query that a model writes: an assumption; the official TPC-DS queries have 400, BIRD's gold ones 60."""

TOKENS_PER_CHOICE = 20
"""Tokens of the line that gives one request its tables or its seeds: an assumption."""

TOKENS_PER_OPINION = 80
"""Tokens of a reply that decides a state or advises, a few sentences: an assumption."""

CORRECTED_SHARE = 0.5
"""Share of the requests of which something goes back to be corrected: an assumption. What a grammar led runs."""

ROWS_WITHOUT_TARGET = 1_000
"""A run without a target is estimated for so many rows."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is left of a run to do.

    Attributes:
        rows: of the pool that are missing.
        queries: to be written for them.
        explored: of these, in exploring rounds.
        first_round: the round that comes next.
        exploring, exploiting: requests of each round to come.
    """

    rows: int
    queries: int
    explored: int
    first_round: int
    exploring: tuple[int, ...]
    exploiting: tuple[int, ...]

    @property
    def rounds(self) -> int:
        """Rounds to come."""
        return len(self.exploring) + len(self.exploiting)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one agent would ask of one model.

    Attributes:
        agent: as the ledger books it.
        calls: completions.
        tokens_in, tokens_out: in all of them.
        cost_usd: at the model's prices, as if nothing were cached.
        least_usd: as if the endpoint had the system message of every prompt but the first already.
    """

    agent: str
    model: str
    calls: int
    tokens_in: int
    tokens_out: int
    cost_usd: float
    least_usd: float


def outlook(config: Config, manifests: Sequence[Manifest] = ()) -> Outlook:
    """Return what is left to do after the committed rounds.

    `ADMITTED_SHARE` of the candidates are taken for admitted, and `EXPLORED_SHARE` of them, what is left of the warm-up
    at least, for explored.
    """
    num_rows = sum(manifest.num_rows for manifest in manifests)
    rows = max(0, (config.target or ROWS_WITHOUT_TARGET) - num_rows)
    queries = math.ceil(rows / ADMITTED_SHARE)
    if config.max_candidates is not None:
        asked = sum(request.num_queries for manifest in manifests for request in manifest.plan)
        queries = min(queries, max(0, config.max_candidates - asked))
    per_request, number = config.round.queries_per_request, len(manifests)
    warmup = max(0, config.management.warmup_rounds - number) * config.round.requests * per_request
    explored = min(queries, max(warmup, math.ceil(EXPLORED_SHARE * queries)))

    def rounds(missing: int) -> tuple[int, ...]:
        nonlocal number
        requests, sizes = math.ceil(missing / per_request), []
        while requests > 0:
            sizes.append(min(requests, requests_of_round(config, number)))
            requests -= sizes[-1]
            number += 1
        return tuple(sizes)

    return Outlook(rows, queries, explored, len(manifests), rounds(explored), rounds(queries - explored))


def estimates(
    config: Config, schemas: Mapping[str, Schema], prompts: Mapping[str, Prompt], left: Outlook
) -> list[Estimate]:
    """Return what each agent would ask of its model for what is left, the corrections of each author apart.

    Args:
        prompts: an example of each; agents without one ask nothing.
        left: from `outlook`.
    """
    templates = Prompts()
    players = {agent: player_of(config, agent, ask_nobody, templates) for agent in AGENTS}
    last = left.first_round + left.rounds
    decided = max(0, last - max(left.first_round, config.management.warmup_rounds, LAG))
    advised = max(0, last - max(left.first_round, LAG))
    written = {"generation": left.explored, "expansion": left.queries - left.explored}
    decisions = {
        "table_selection": _choices(left.exploring, len(schemas)),
        "seed_selection": _choices(left.exploiting, len(schemas)),
        "management": (decided, decided * TOKENS_PER_OPINION),
        "critical": (advised, advised * TOKENS_PER_OPINION),
    }
    found = []
    for agent, player in players.items():
        if player is None or agent not in prompts:
            continue
        if agent not in written:
            found.append(_estimate(agent, player, prompts[agent], *decisions[agent]))
            continue
        stand_in = stand_in_of(config, player) if agent == "generation" else None
        theirs = 0 if stand_in is None else round(config.models.local_share * written[agent])
        for author, num_queries in ((player, written[agent] - theirs), (stand_in, theirs)):
            if author is not None:
                calls = math.ceil(num_queries / queries_per_call(config, author))
                found.append(_estimate(agent, author, prompts[agent], calls, num_queries * TOKENS_PER_QUERY))
    authors = [player for agent in written if (player := players[agent]) is not None and not player.model.constrained]
    for author in {player.slot: player for player in authors}.values():
        if "correction" in prompts:
            num_queries = sum(written[agent] for agent in written if getattr(config.models, agent).model == author.slot)
            calls = math.ceil(CORRECTED_SHARE * num_queries / config.round.queries_per_request)
            tokens_out = calls * NUM_FAILED * TOKENS_PER_QUERY
            found.append(_estimate("correction", author, prompts["correction"], calls, tokens_out))
    return found


def _choices(rounds: Sequence[int], num_databases: int) -> tuple[int, int]:
    """Return the calls of a selection agent and the tokens of their replies, for rounds of so many requests."""
    calls = 0
    for requests in rounds:
        databases = min(num_databases, requests)
        calls += databases * math.ceil(requests / databases / REQUESTS_PER_CALL)
    return calls, sum(rounds) * TOKENS_PER_CHOICE


def queries_per_call(config: Config, player: Player) -> int:
    """Return how many queries an author asks for at once: one where decoding follows a grammar."""
    return 1 if player.model.constrained else config.round.queries_per_request


def assumptions(prompts: Mapping[str, Prompt], left: Outlook) -> list[str]:
    """Return in words what the estimates rest on."""
    admitted = (
        f"{ADMITTED_SHARE:.0%} of the candidates are admitted; {left.queries:,} queries in {left.rounds:,} round(s), "
        f"{left.explored:,} of them from exploring"
    )
    lengths = (
        f"a prompt is as long as its example above; a reply has {TOKENS_PER_QUERY} tokens for a query, "
        f"{TOKENS_PER_CHOICE} for the tables or seeds of a request, {TOKENS_PER_OPINION} for a state or advice"
    )
    corrected = (
        f"of {CORRECTED_SHARE:.0%} of the requests, {NUM_FAILED} queries go back to be corrected; of none where "
        "decoding follows a grammar"
    )
    return [admitted, lengths, *([corrected] if "correction" in prompts else [])]


def _estimate(agent: str, player: Player, prompt: Prompt, calls: int, tokens_out: int) -> Estimate:
    system, user = estimated_tokens(prompt.system), estimated_tokens(prompt.user)
    tokens_in = calls * (system + user)
    cached = max(0, calls - 1) * system
    share = player.model.batch_price if player.model.batch and agent == "generation" else 1.0
    most, least = (
        share * cost_usd(Usage(tokens_in, tokens_cached, tokens_out), player.model) for tokens_cached in (0, cached)
    )
    return Estimate(agent, player.model.name, calls, tokens_in, tokens_out, most, least)
