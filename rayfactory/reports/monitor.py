"""What a person sees while a run goes on: a live panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rayfactory.config import DisplayConfig
from rayfactory.models.chat import ChatStatus
from rayfactory.models.endpoint import SlotStatus
from rayfactory.records import Evaluation, State, Verdict
from rayfactory.reports.figures import dollars, projected_cost_usd, short
from rayfactory.shown import shown


@dataclass
class Progress:
    """The state of a run as a person follows it. The engine writes it, the monitor shows it.

    Attributes:
        activity: what is going on, in a few words.
        admitted, candidates, ran, expansion: rows and candidates of all committed rounds.
        round_admitted, round_judged, round_asked: of the round that is being judged.
        written_ahead: candidates that the authors have written for the rounds after it.
        similarity: mean similarity of the pool, in [0, 1]; None while there is none.
        models: how the language models are doing; None where there are none.
        admitted_before: rows that were there when this process started; rates leave them out.
    """

    title: str
    target: int | None
    activity: str = "starting"
    dashboard: str = ""
    state: State | None = None
    round: int = 0
    admitted: int = 0
    candidates: int = 0
    ran: int = 0
    expansion: int = 0
    round_admitted: int = 0
    round_judged: int = 0
    round_asked: int = 0
    written_ahead: int = 0
    similarity: float | None = None
    tables_covered: int = 0
    tables: int = 0
    models: ChatStatus | None = None
    reasons: Counter[str] = field(default_factory=Counter)
    admitted_before: int = 0
    started: float = field(default_factory=time.monotonic)
    first_verdict: float | None = None

    def begin_round(self, number: int, state: State, asked: int) -> None:
        """A round begins to be judged; `asked` queries were asked for."""
        self.round, self.state, self.round_asked = number, state, asked
        self.round_admitted = self.round_judged = 0

    def hand_over(self, num_candidates: int) -> None:
        """Candidates of the round go to the critics."""
        self.written_ahead -= num_candidates
        self.activity = "judging"

    def answer(self, num_candidates: int) -> None:
        """An author has answered a request of a round that will be judged."""
        self.written_ahead += num_candidates

    def judge(self, verdicts: list[Verdict]) -> None:
        """Verdicts of the round have come in."""
        self.first_verdict = self.first_verdict or time.monotonic()
        self.round_judged += len(verdicts)
        self.round_admitted += sum(verdict.reason is None for verdict in verdicts)

    def commit(self, evaluation: Evaluation) -> None:
        """The round is in the pool."""
        self.admitted += sum(evaluation.admitted.values())
        self.candidates += evaluation.candidates
        self.ran += round(evaluation.executability * evaluation.candidates)
        self.reasons.update(evaluation.reasons)
        self.round_admitted = self.round_judged = 0

    @property
    def admitted_now(self) -> int:
        """Rows admitted, those of the round under way included; what is beyond the target will be surplus."""
        now = self.admitted + self.round_admitted
        return now if self.target is None else min(now, self.target)

    @property
    def rate_per_s(self) -> float | None:
        """Rows admitted in a second since this process judged its first candidate; None before that."""
        if self.first_verdict is None:
            return None
        elapsed = time.monotonic() - self.started
        return (self.admitted_now - self.admitted_before) / elapsed if elapsed > 0 else None

    @property
    def projected_usd(self) -> float | None:
        """Dollars that the run will have cost at its target, see `projected_cost_usd`; None where unknown."""
        if self.models is None:
            return None
        # Both are of the whole run, also where this process goes on with it.
        spent_usd = self.models.confirmed_usd + self.models.unconfirmed_usd
        return projected_cost_usd(spent_usd, self.admitted_now, self.target)

    @property
    def remaining_s(self) -> float | None:
        """Seconds until the target is reached at this rate; None where that cannot be told."""
        rate = self.rate_per_s
        if not rate or self.target is None:
            return None
        return (self.target - self.admitted_now) / rate


class Monitor:
    """Shows a `Progress`.

    Args:
        progress: what to show; read whenever the display is drawn.
        config: how.
        console: where to; standard output by default.
    """

    def __init__(self, progress: Progress, config: DisplayConfig, console: Console | None = None) -> None:
        self._progress = progress
        self._interval_s = config.interval_s
        self._console = console or Console(highlight=False)
        self._mode = config.mode
        if self._mode == "auto":
            self._mode = "panel" if self._console.is_terminal else "lines"
        self._last_line_at = float("-inf")

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Keep the display up to date for the length of a with statement."""
        if self._mode != "panel":
            yield
            return
        with Live(
            console=self._console, get_renderable=lambda: panel(self._progress), refresh_per_second=4, transient=True
        ):
            yield

    def tick(self, *, now: bool = False) -> None:
        """Write a plain line if one is due: every interval, or at once."""
        if self._mode != "lines":
            return
        if now or time.monotonic() - self._last_line_at >= self._interval_s:
            self._last_line_at = time.monotonic()
            self._print(line(self._progress))

    def say(self, message: str) -> None:
        """Write a message that stays on the screen."""
        if self._mode != "none":
            self._print(message)

    def _print(self, text: str) -> None:
        # As `Text`, in which nothing is taken for markup.
        self._console.print(_text(text), soft_wrap=True)


def greeting(
    benchmark: str,
    target: int | None,
    num_databases: int,
    num_tables: int,
    num_empty: int,
    num_rows: int,
    dashboard: str,
) -> str:
    """Return what a person is told at the start: what will be done, what is there already, and where to watch."""
    goal = f"{target} queries" if target else "queries until the pool is saturated"
    resumed = f"; {num_rows} of them are here from before" if num_rows else ""
    empty = f" ({num_empty} more without rows are left out)" if num_empty else ""
    lines = [f"{benchmark}: {goal} over {num_databases} database(s) with {num_tables} tables{empty}{resumed}."]
    if dashboard:
        lines.append(f"Ray dashboard: {dashboard} (sign in with what `ray get-auth-token` prints)")
    return "\n".join(lines)


def line(progress: Progress) -> str:
    """Return the progress in one line of plain text."""
    now = progress.admitted_now
    parts = [f"{now} of {progress.target} admitted" if progress.target else f"{now} admitted"]
    if progress.state is not None:
        if progress.round_judged:
            doing = f"{progress.round_judged} of {progress.round_asked} judged"
        elif progress.written_ahead > 0:
            doing = f"{progress.activity}, {progress.written_ahead} written"
        else:
            doing = progress.activity
        parts.append(f"round {progress.round} {progress.state} ({doing})")
    else:
        parts.append(progress.activity)
    if progress.candidates:
        parts.append(f"executability {progress.ran / progress.candidates:.3f}")
    if progress.similarity is not None:
        parts.append(f"similarity {progress.similarity:.3f}")
    if progress.tables_covered:
        parts.append(f"tables {progress.tables_covered} of {progress.tables}")
    if progress.rate_per_s:
        parts.append(f"{progress.rate_per_s:.1f} rows/s")
    if progress.remaining_s is not None:
        parts.append(f"about {_duration(progress.remaining_s)} left")
    if progress.reasons:
        parts.append("rejected " + _reasons(progress.reasons))
    if progress.models is not None:
        parts.append(_cost(progress, progress.models))
        if progress.models.ledger:
            parts.append(_shares(progress.models.ledger))
        parts.extend(f"{slot.slot}: {slot.waits_for or _slot(slot)}" for slot in progress.models.slots)
    return " | ".join(parts)


def panel(progress: Progress) -> RenderableType:
    """Return the progress as a panel."""
    now = progress.admitted_now
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", no_wrap=True)
    rows.add_column()
    below: list[RenderableType] = []
    left = f", about {_duration(progress.remaining_s)} left" if progress.remaining_s is not None else ""
    rate = f"{progress.rate_per_s:.1f} rows/s{left}" if progress.rate_per_s else "no rows yet"
    goal = f"{now:,} of {progress.target:,}" if progress.target else f"{now:,}"
    rows.add_row("admitted", _text(f"{goal}   {rate}"))
    if progress.target:
        rows.add_row("", ProgressBar(total=progress.target, completed=now, width=48))
    rows.add_row("doing", Text.assemble(*map(_shown_part, _doing(progress))))
    if progress.candidates:
        share = progress.expansion / progress.admitted if progress.admitted else 0.0
        similarity = "none yet" if progress.similarity is None else f"{progress.similarity:.3f}"
        rows.add_row(
            "quality",
            f"executability {progress.ran / progress.candidates:.3f}   mean similarity {similarity}   "
            f"from expansion {share:.0%}",
        )
        rows.add_row("tables", f"{progress.tables_covered} of {progress.tables} used")
        rows.add_row("rejected", _reasons(progress.reasons) or "none")
    if progress.models is not None:
        rows.add_row("cost", _cost(progress, progress.models))
        for slot in progress.models.slots:
            rows.add_row(slot.slot, _text(_slot(slot)))
            if slot.waits_for:
                rows.add_row("", _text(slot.waits_for, "bold yellow"))
        if progress.models.ledger:
            below = [Text(), _ledger(progress.models)]
    if progress.dashboard:
        rows.add_row("dashboard", _text(f"{progress.dashboard}   (sign in with what `ray get-auth-token` prints)"))
    return Panel(Group(rows, *below), title=_text(progress.title), title_align="left", expand=False)


def _text(text: str, style: str = "") -> Text:
    """Return a text as the panel may have it: nothing in it is obeyed, by the terminal or as markup."""
    return Text(shown(text), style=style)


def _shown_part(part: tuple[str, str] | str) -> Text:
    return _text(part) if isinstance(part, str) else _text(*part)


def _doing(progress: Progress) -> Iterator[tuple[str, str] | str]:
    if progress.state is None:
        yield progress.activity
        return
    meaning = "exploring" if progress.state == "GEN" else "exploiting"
    yield (f"{progress.state}", "bold green" if progress.state == "GEN" else "bold cyan")
    yield f" ({meaning})  round {progress.round}: {progress.round_judged} of {progress.round_asked} judged"
    if progress.written_ahead > 0:
        yield f", {progress.written_ahead} written ahead"


def _cost(progress: Progress, models: ChatStatus) -> str:
    text = dollars(models.confirmed_usd)
    if models.max_cost_usd is not None:
        text += f" of {dollars(models.max_cost_usd)}"
    if models.unconfirmed_usd:
        text += f", up to {dollars(models.unconfirmed_usd)} more for replies that were lost"
    if progress.projected_usd:
        text += f", about {dollars(progress.projected_usd)} at the target"
    return text


def _shares(ledger: Sequence[Mapping[str, Any]]) -> str:
    """Return what each agent has cost, the dearest first; its tokens where no model has a price."""
    cost, tokens = Counter[str](), Counter[str]()
    for row in ledger:
        cost[row["agent"]] += row["cost_usd"] + row["unconfirmed_usd"]
        tokens[row["agent"]] += row["tokens_in"] + row["tokens_out"]
    if cost.total():
        return ", ".join(f"{agent} {dollars(usd)}" for agent, usd in cost.most_common() if usd)
    return "tokens: " + ", ".join(f"{agent} {short(count)}" for agent, count in tokens.most_common())


def _ledger(models: ChatStatus) -> Table:
    """Return the ledger as a table of at most 76 columns: one row for each model and agent that has asked."""
    has_price = any(row["cost_usd"] or row["unconfirmed_usd"] for row in models.ledger)
    has_lost = any(row["unconfirmed_attempts"] for row in models.ledger)
    slots = {slot.model: slot.slot for slot in models.slots}
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("agent", no_wrap=True)
    table.add_column("model", no_wrap=True, max_width=12)
    numbers = ["requests", "tokens in", "cached", "out"]
    numbers += ["dollars"] * has_price + ["unconfirmed"] * has_lost
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    for row in models.ledger:
        cells = [short(row[name]) for name in ("requests", "tokens_in", "tokens_cached", "tokens_out")]
        if has_price:
            cells.append(dollars(row["cost_usd"]))
        if has_lost:
            cells.append(_unconfirmed(row))
        table.add_row(row["agent"], _text(slots.get(row["model"], row["model"])), *cells)
    return table


def _unconfirmed(row: Mapping[str, Any]) -> str:
    """Return how many requests brought no reply, and what they have cost at most."""
    if not row["unconfirmed_attempts"]:
        return ""
    cost = f": {dollars(row['unconfirmed_usd'])}" if row["unconfirmed_usd"] else ""
    return f"{row['unconfirmed_attempts']}{cost}"


def _slot(slot: SlotStatus) -> str:
    return (
        f"{slot.model}   {slot.in_flight} of {slot.limit} requests in flight, {slot.waiting} waiting, "
        f"{slot.tokens_per_s:.0f} tokens/s"
    )


def _reasons(reasons: Counter[str]) -> str:
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{reason} {count}" for reason, count in ordered[:4])


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
