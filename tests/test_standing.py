"""A run that goes on knows what the run before it knew, and holds as much of a long pool as of a short one."""

from __future__ import annotations

import gc
import tracemalloc

from rayfactory.agents import management
from rayfactory.config import Config, DisplayConfig
from rayfactory.databases.schema import Schema, Table
from rayfactory.factory import Clock, Loop
from rayfactory.pool import opened
from rayfactory.records import Evaluation
from rayfactory.reports.monitor import Monitor, Progress
from rayfactory.standing import before, reason_to_stop
from tests.test_compaction import grow, sizes
from tests.test_pool import IDENTITY, commit

SCHEMAS = {"d": Schema("d", "duckdb", (Table("t", (), (), 1),), ())}


def test_run_that_is_opened_knows_all_rounds_but_what_the_newest_came_to(tmp_path):
    """Round t is planned on the judged rounds up to t - 2, and on the plan of t - 1."""
    seen: list[Evaluation] = []
    with opened(tmp_path, IDENTITY) as pool:
        for num_rows in (3, 2, 4):
            commit(pool, num_rows, num_rejects=num_rows)
        counted, knowledge = before(Config(), SCHEMAS, pool, seen.append)
    assert [evaluation.candidates for evaluation in seen] == [3, 2, 4]
    assert counted.statistics.total == 9
    assert knowledge.statistics.total == 5
    assert (knowledge.history.num_planned, knowledge.history.num_judged) == (3, 2)
    assert knowledge.requested == {"d": 30}
    assert knowledge.under_way == [("d", ("t", "u"), 10)]
    assert len(knowledge.failures) == 2


def test_run_over_nothing_knows_nothing(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        counted, knowledge = before(Config(), SCHEMAS, pool, lambda evaluation: None)
        assert reason_to_stop(Config(target=None), pool) is None
    assert counted.statistics.total == knowledge.statistics.total == knowledge.history.num_planned == 0
    assert not knowledge.failures


def test_reasons_to_stop_are_those_of_all_rounds(tmp_path):
    with opened(tmp_path, IDENTITY) as pool:
        for _ in range(3):
            commit(pool, 2)
        assert reason_to_stop(Config(target=6), pool) == "target"
        assert reason_to_stop(Config(target=7), pool) is None
        assert reason_to_stop(Config(target=7, max_candidates=30), pool) == "max_candidates"
        assert reason_to_stop(Config(target=None, max_candidates=31), pool) is None
        for _ in range(Config().management.exhausted_rounds):
            commit(pool, 0)
        assert reason_to_stop(Config(target=7), pool) == "exhausted"


def held_by_a_run(run_dir, num_rounds):
    """Return the bytes that a run holds on to, which goes on with so many rounds."""
    with opened(run_dir, IDENTITY) as pool:
        for _ in range(num_rounds):
            grow(pool, 2)
    tracemalloc.start()
    try:
        with opened(run_dir, IDENTITY) as pool:
            progress = Progress("", None)
            loop = Loop(Config(), SCHEMAS, pool, Monitor(progress, DisplayConfig(mode="none")), progress, Clock(0.0))
            gc.collect()
            assert len(pool.manifests) == num_rounds
            assert loop is not None
            return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_what_a_run_holds_does_not_grow_with_its_rounds(tmp_path, monkeypatch):
    """Its newest rounds, its counts, and of a segment some digests: nothing of each round, whose manifest has 3 kB."""
    monkeypatch.setattr(management, "_TELLING_ROUNDS", 16)
    with sizes(4, 16, 64):
        before, after = (held_by_a_run(tmp_path / str(number), number) for number in (128, 512))
    assert after <= before + 64 * (512 - 128)
