"""What is seen of a task that takes a while, where there is no terminal."""

from __future__ import annotations

import pytest

from rayfactory.config import DisplayConfig
from rayfactory.reports.working import working


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last member is the time."""
    times = [0.0]
    monkeypatch.setattr("rayfactory.reports.working.time.monotonic", lambda: times[-1])
    return times


def test_a_log_has_a_line_now_and_then(clock, capsys):
    """What is told in between is left out, what is told again once; what is over soon writes nothing."""
    with working("the pool is read", DisplayConfig(interval_s=10)) as say:
        for at, text in [(1, "step 1"), (9, "step 2"), (11, "step 3"), (12, "step 4"), (30, "step 4"), (60, "step 4")]:
            clock.append(at)
            say(text)
    assert capsys.readouterr().err.splitlines() == ["step 3", "step 4"]


@pytest.mark.parametrize("mode", ["none", "panel"])
def test_nobody_is_told_where_nobody_wants_to_be(clock, capsys, mode):
    """A line that is replaced is for terminals, and `none` is for nobody."""
    with working("the pool is read", DisplayConfig(mode=mode, interval_s=1)) as say:
        clock.append(100)
        say("step 1")
    assert "step 1" not in capsys.readouterr().err
