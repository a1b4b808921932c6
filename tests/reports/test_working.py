"""What is seen of a task that takes a while, where there is no terminal."""

from __future__ import annotations

import threading
import time

import pytest

from rayfactory.config import DisplayConfig
from rayfactory.reports.working import Lines, console, working


def test_what_was_told_last_is_written_once(capsys):
    """When it is due, also where it was told before a silence."""
    lines = Lines(console(), "the pool is read")
    told = iter([["step 1", "step 2"], [], ["step 3"], ["step 4", "step 3"], ["step 5"]])

    class Ended(threading.Event):
        def wait(self, timeout=None):
            assert timeout == 10
            texts = next(told)
            for text in texts:
                lines.say(text)
            return texts == ["step 5"]

    lines.write_until(Ended(), 10)
    assert capsys.readouterr().err.splitlines() == ["step 2", "step 3"]


def test_a_log_hears_of_what_takes_long(capsys):
    with working("the pool is read", DisplayConfig(interval_s=0.01)) as say:
        seen, deadline = "", time.monotonic() + 60
        while "step 1" not in seen and time.monotonic() < deadline:
            say("step 1")
            time.sleep(0.01)
            seen += capsys.readouterr().err
    assert seen.splitlines() in (["step 1"], ["the pool is read", "step 1"])


@pytest.mark.parametrize("mode", ["none", "panel"])
def test_nobody_is_told_where_nobody_wants_to_be(capsys, mode):
    """A line that is replaced is for terminals, and `none` is for nobody."""
    with working("the pool is read", DisplayConfig(mode=mode)) as say:
        say("step 1")
    assert "step 1" not in capsys.readouterr().err
