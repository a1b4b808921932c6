"""What a run with language models would ask, cost and start: `task=preview`. Nothing is asked, started or written."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rayfactory.config import AGENTS, Config, ModelConfig, Slot
from rayfactory.databases.schema import Schema
from rayfactory.manifests import Manifest
from rayfactory.models.completion import Prompt
from rayfactory.reports.estimates import ROWS_WITHOUT_TARGET, Estimate, Outlook, assumptions, estimates, outlook
from rayfactory.reports.examples import MADE_UP, example_prompts
from rayfactory.reports.figures import dollars, short
from rayfactory.reports.places import places
from rayfactory.validate import used_slots

WIDTH = 100
"""Columns of what is not a prompt."""

MAX_USER_LINES, MAX_USER_COLUMNS = 40, 2_000
MAX_GRAMMAR_LINES, MAX_GRAMMAR_COLUMNS = 12, 300
"""As much is shown of the part of a prompt that is asked, and of a grammar; a note says how long all of it is."""


@dataclass(frozen=True, slots=True)
class Before:
    """What a preview knows of the run directory.

    Attributes:
        manifests: of the committed rounds of this run.
        books: its ledger so far.
        note: what is to be said of the directory; empty: nothing.
        journal: where the gateway would keep its journal.
        addresses: where the models that the run serves itself would answer, where that is known.
    """

    manifests: Sequence[Manifest] = ()
    books: Sequence[Mapping[str, Any]] = ()
    note: str = ""
    journal: Path = Path("journal")
    addresses: Mapping[Slot, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows that are there."""
        return sum(manifest.num_rows for manifest in self.manifests)

    @property
    def spent_usd(self) -> float:
        """Dollars that are spent, what is unconfirmed included."""
        return sum((row["cost_usd"] + row["unconfirmed_usd"] for row in self.books), 0.0)


def preview(config: Config, schemas: Mapping[str, Schema], before: Before) -> str:
    """Return the preview of a run as text: prompts, estimated tokens and dollars, and what would be started where.

    Raises:
        ConfigError: a prompt does not fit into its model's context window.
    """
    if not used_slots(config.models):
        return (
            "models=offline asks no model: nothing is sent and nothing is paid. "
            "models=paper, vllm, endpoint or vllm_cpu would.\n"
        )
    prompts = example_prompts(config, schemas)
    left = outlook(config, before.manifests)
    lines = ["# Prompts", "", *_prompts(config, prompts)]
    lines += [
        "# What it would take",
        "",
        *_costs(config, prompts, left, estimates(config, schemas, prompts, left), before),
    ]
    lines += ["", "# What would be started where", ""]
    for place in places(config, before.journal, before.addresses):
        for number, line in enumerate(place.lines):
            lines += _wrapped(line, f"{'' if number else place.name:<9} ")
    return "\n".join(lines) + "\n"


def _prompts(config: Config, prompts: Mapping[str, Prompt]) -> Iterator[str]:
    yield from _wrapped("One example of each, about one database, as it would be sent.")
    yield ""
    grammar_of = ""
    for name, prompt in prompts.items():
        yield from (f"## {name}: system", "", prompt.system, "", f"## {name}: user", "")
        if name in MADE_UP:
            yield from (*_wrapped(f"(EXAMPLE DATA: {MADE_UP[name]}.)"), "")
        yield from (*_cut(prompt.user, MAX_USER_LINES, MAX_USER_COLUMNS), "")
        if prompt.grammar and grammar_of:
            yield from (f"## {name}: a grammar, as with {grammar_of}", "")
        elif prompt.grammar:
            grammar_of = name
            yield from (f"## {name}: the grammar that a reply has to follow; each query has one of its own", "")
            yield from (*_cut(prompt.grammar, MAX_GRAMMAR_LINES, MAX_GRAMMAR_COLUMNS), "")
    for agent in AGENTS:
        if getattr(config.models, agent).model != "rule" and agent not in prompts:
            yield f"{agent}: its prompt does not fit into the model's context window, so its rule would decide."
            yield ""
    if config.models.self_correction and "correction" not in prompts:
        yield "correction: its prompt does not fit into the model's context window, so nothing would go back."
        yield ""


def _cut(text: str, max_lines: int, max_columns: int) -> Iterator[str]:
    """Yield as much of a text as fits within the bounds, and how long all of it is."""
    lines = text.splitlines()
    yield from (line if len(line) <= max_columns else f"{line[:max_columns]} [...]" for line in lines[:max_lines])
    if len(lines) > max_lines or any(len(line) > max_columns for line in lines):
        yield f"[... cut here: {len(lines):,} lines, {len(text):,} characters in all]"


def _costs(
    config: Config, prompts: Mapping[str, Prompt], left: Outlook, found: Sequence[Estimate], before: Before
) -> Iterator[str]:
    target = f"{config.target:,} rows" if config.target else f"the {ROWS_WITHOUT_TARGET:,} rows taken for a target"
    if before.note:
        yield from _wrapped(before.note)
    if before.manifests or before.books:
        yield from _wrapped(
            f"Of {target}, {before.num_rows:,} are there from {len(before.manifests):,} round(s), and {left.rows:,} "
            "are missing. The table is for those that are missing."
        )
    if before.books:
        tokens_in, tokens_out = (sum(row[name] for row in before.books) for name in ("tokens_in", "tokens_out"))
        yield from _wrapped(
            f"So far {sum(row['requests'] for row in before.books):,} replies with {short(tokens_in)} tokens in and "
            f"{short(tokens_out)} out; {dollars(before.spent_usd)} are spent, what is unconfirmed included. Replies of "
            "a round that is not committed are in the journal, and are not paid for again."
        )
    if before.manifests or before.books or before.note:
        yield ""
    if not left.queries:
        yield "Nothing is left to ask for."
        return
    yield from _table(found)
    yield ""
    yield f"Estimated for {left.rows:,} rows{'' if config.target else ', since there is no target'}:"
    for line in assumptions(prompts, left):
        yield from _wrapped(line, "- ")
    most, least = sum(e.cost_usd for e in found), sum(e.least_usd for e in found)
    if least < most:
        yield from _wrapped(
            f"nothing is cached. Where the endpoint has the system message of each prompt already, it is "
            f"{dollars(least)} instead of {dollars(most)}: between the two",
            "- ",
        )
    yield ""
    yield from _wrapped(_budget(config, most, before.spent_usd, left.rows))


def _budget(config: Config, most: float, spent_usd: float, rows: int) -> str:
    models: list[ModelConfig] = [getattr(config.models, slot) for slot in used_slots(config.models)]
    if not any(model.usd_per_million_in or model.usd_per_million_out for model in models):
        return "No model of this run has a price, so nothing is counted in dollars."
    if config.max_cost_usd is None:
        return "max_cost_usd is not set: nothing bounds what the run may spend."
    bound = f"max_cost_usd={config.max_cost_usd:g} is never passed; the run stops before."
    room = max(0.0, config.max_cost_usd - spent_usd)
    if most <= room:
        return bound
    return (
        f"{bound} It leaves {dollars(room)}, which is less than the estimate: enough for about "
        f"{int(rows * room / most):,} more rows."
    )


def _table(found: Sequence[Estimate]) -> Iterator[str]:
    width = max(len("model"), *(len(e.model) for e in found)) if found else 5
    yield f"{'agent':<15}  {'model':<{width}}  {'calls':>7}  {'tokens in':>9}  {'tokens out':>10}  {'US dollars':>10}"
    total = Estimate(
        "together",
        "",
        sum(e.calls for e in found),
        sum(e.tokens_in for e in found),
        sum(e.tokens_out for e in found),
        sum(e.cost_usd for e in found),
        0.0,
    )
    for e in [*found, total]:
        yield (
            f"{e.agent:<15}  {e.model:<{width}}  {e.calls:>7,}  {short(e.tokens_in):>9}  {short(e.tokens_out):>10}  "
            f"{e.cost_usd:>10,.2f}"
        )


def _wrapped(text: str, first: str = "") -> list[str]:
    """Return a text in lines; those after the first stand under its beginning."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
