"""A person sees how far the run is, how good it is, and why candidates are rejected."""

import io

import pytest
from rich.console import Console

from rayfactory.config import DisplayConfig
from rayfactory.models.chat import ChatStatus
from rayfactory.models.endpoint import SlotStatus
from rayfactory.records import Candidate, Evaluation, Execution, Verdict
from rayfactory.reports.monitor import Monitor, Progress, line, panel


def verdicts(num_admitted, num_rejected):
    candidate = Candidate(0, 0, 0, "generation", "d", "duckdb", "SELECT 1", 1, (), "m", "")
    reasons = [None] * num_admitted + ["error"] * num_rejected
    return [Verdict(candidate, reason, "", Execution(None, "", "")) for reason in reasons]


@pytest.fixture
def progress():
    progress = Progress("rayfactory tpcds", 100, dashboard="http://127.0.0.1:8265")
    progress.begin_round(0, "GEN", 40)
    progress.judge(verdicts(30, 10))
    progress.commit(Evaluation(0, "GEN", 40, 0.75, 0.75, 0.4, {"error": 10}, {"d": 4}, {"d": 30}))
    progress.begin_round(1, "EXP", 40)
    progress.judge(verdicts(12, 4))
    progress.similarity, progress.tables_covered, progress.tables = 0.4, 22, 24
    return progress


def test_line_has_what_matters(progress):
    text = line(progress)
    for part in ("42 of 100 admitted", "round 1 EXP (16 of 40 judged)", "executability 0.750", "similarity 0.400",
                 "tables 22 of 24", "rows/s", "left", "rejected error 10"):  # fmt: skip
        assert part in text


def test_panel_has_what_matters(progress):
    out = io.StringIO()
    Console(file=out, width=110).print(panel(progress))
    for part in ("42 of 100", "EXP", "exploiting", "16 of 40 judged", "0.750", "22 of 24", "error 10", "8265",
                 "get-auth-token"):  # fmt: skip
        assert part in out.getvalue()


def test_models_are_shown_with_what_they_cost_and_what_they_wait_for(progress):
    """Spent, the budget, what may be lost, what the target will cost; and why nothing moves where nothing moves."""
    slots = (
        SlotStatus("strong", "gpt-4o", 12, 32, 3, 40.0, 812.4, ""),
        SlotStatus("local", "qwen", 0, 64, 20, 0.0, 0.0, "closed for 40 s: 503 overloaded; next try in 8 s"),
    )
    progress.models = ChatStatus(slots, (), 4.2, 0.05, 0.3, 20.0)
    out = io.StringIO()
    Console(file=out, width=130).print(panel(progress))
    for text in (out.getvalue(), line(progress)):
        for part in ("$4.20 of $20.00", "up to $0.05 more", "about $10.12 at the target", "12 of 32 requests in flight",
                     "812 tokens/s", "closed for 40 s: 503 overloaded; next try in 8 s"):  # fmt: skip
            assert part in text


QWEN = "Qwen2.5-Coder-14B-Instruct"


def ledger_row(model, agent, requests, tokens_in, tokens_cached, tokens_out, cost_usd, lost=0, lost_usd=0.0):
    return {
        "model": model, "agent": agent, "requests": requests, "tokens_in": tokens_in, "tokens_cached": tokens_cached,
        "tokens_out": tokens_out, "cost_usd": cost_usd, "unconfirmed_attempts": lost, "unconfirmed_tokens_in": 9 * lost,
        "unconfirmed_tokens_out": 9 * lost, "unconfirmed_usd": lost_usd,
    }  # fmt: skip


def shown(progress, width=80):
    out = io.StringIO()
    Console(file=out, width=width).print(panel(progress))
    return out.getvalue().splitlines()


def with_ledger(progress, *rows):
    slots = (
        SlotStatus("strong", "gpt-4o", 12, 32, 3, 40.0, 812.4, ""),
        SlotStatus("local", QWEN, 0, 64, 20, 0.0, 0.0, ""),
    )
    cost, lost = sum(row["cost_usd"] for row in rows), sum(row["unconfirmed_usd"] for row in rows)
    progress.models = ChatStatus(slots, rows, cost, lost, 0.0, None)
    return progress


def test_panel_shows_the_ledger_in_eighty_columns(progress):
    """One line for each model and agent, the largest numbers and every column at once, none cut."""
    agents = ("correction", "critical", "expansion", "management", "seed_selection", "table_selection")
    rows = [ledger_row(QWEN, agent, 34, 120_000, 30, 9_000, 0.0, 3) for agent in agents]
    rows.append(ledger_row("gpt-4o", "generation", 1212, 2_234_567, 120_000, 998_000, 1123.14, 12, 11.25))
    lines = shown(with_ledger(progress, *rows))
    cells = [" ".join(line.strip("│ ").split()) for line in lines]
    assert "agent model requests tokens in cached out dollars unconfirmed" in cells
    assert "table_selection local 34 120k 30 9.0k $0.00 3" in cells
    assert "generation strong 1.2k 2.2M 120k 998k $1,123.14 12: $11.25" in cells
    assert all(len(line) == 80 for line in lines)
    assert not any("…" in line for line in lines)


def test_columns_that_have_nothing_are_left_out(progress):
    """Without prices there are no dollars, and without losses nothing is unconfirmed; without requests no table."""
    text = "\n".join(shown(with_ledger(progress, ledger_row(QWEN, "expansion", 4, 5_000, 0, 900, 0.0))))
    assert "tokens in" in text
    assert "dollars" not in text
    assert "unconfirmed" not in text
    assert "tokens in" not in "\n".join(shown(with_ledger(progress)))


def test_line_says_how_much_is_written_before_anything_is_judged():
    progress = Progress("shop", target=100)
    progress.begin_round(0, "GEN", 200)
    progress.activity = "writing the first round"
    assert "round 0 GEN (writing the first round)" in line(progress)
    progress.answer(10)
    assert "round 0 GEN (writing the first round, 10 written)" in line(progress)


def test_line_has_the_cost_of_each_agent_or_its_tokens(progress):
    """The dearest first, over both models; an agent without a price is not named beside those that have one."""
    rows = (
        ledger_row("gpt-4o", "correction", 4, 5_000, 0, 900, 0.25),
        ledger_row("gpt-4o", "generation", 4, 5_000, 0, 900, 4.0, 1, 0.5),
        ledger_row(QWEN, "correction", 4, 5_000, 0, 900, 0.0),
        ledger_row(QWEN, "expansion", 4, 5_000, 0, 900, 0.0),
    )
    assert " | generation $4.50, correction $0.25 | " in line(with_ledger(progress, *rows))
    assert " | tokens: correction 5.9k, expansion 5.9k | " in line(with_ledger(progress, *rows[2:]))
    assert "\n" not in line(progress)


def test_projection_counts_what_may_be_billed_and_ends_at_what_was_spent(progress):
    """Rows that were there before this process count as what the whole run has cost does."""
    progress.admitted_before = 30
    with_ledger(progress, ledger_row("gpt-4o", "generation", 4, 5_000, 0, 900, 4.0, 1, 0.2))
    assert progress.projected_usd == pytest.approx(4.2 + 4.2 / 42 * 58)
    progress.judge(verdicts(500, 0))
    assert progress.projected_usd == pytest.approx(4.2)


def test_no_more_rows_are_shown_than_were_asked_for(progress):
    progress.judge(verdicts(500, 0))
    assert line(progress).startswith("100 of 100 admitted")


def test_fresh_run_shows_no_rate():
    text = line(Progress("rayfactory tpcds", None))
    assert text == "0 admitted | starting"


@pytest.mark.parametrize(("mode", "num_lines"), [("lines", 2), ("none", 0)])
def test_lines_come_at_their_interval(progress, mode, num_lines):
    """Of three ticks at once, one forced and the others not due, the plain display prints the first and the forced one."""
    out = io.StringIO()
    monitor = Monitor(progress, DisplayConfig(mode=mode, interval_s=1000), Console(file=out, width=200))
    with monitor.showing():
        monitor.tick()
        monitor.tick()
        monitor.tick(now=True)
    assert len(out.getvalue().splitlines()) == num_lines


def test_markup_in_a_message_is_plain_text(progress):
    out = io.StringIO()
    Monitor(progress, DisplayConfig(mode="lines"), Console(file=out, width=200)).say("table [bold]x[/bold]")
    assert out.getvalue() == "table [bold]x[/bold]\n"
