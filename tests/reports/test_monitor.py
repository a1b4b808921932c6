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
        for part in ("$4.20 of $20.00", "up to $0.05 more", "about $10.00 at the target", "12 of 32 requests in flight",
                     "812 tokens/s", "closed for 40 s: 503 overloaded; next try in 8 s"):  # fmt: skip
            assert part in text


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
