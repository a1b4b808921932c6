"""Table Q: what is committed stays, once, however files were left."""

from __future__ import annotations

import json
import shutil

import pyarrow as pa
import pytest

from rayfactory import translation
from rayfactory.errors import RunDirError
from rayfactory.translation import Q_SCHEMA, opened, read

SETTINGS = {"seed": 0, "model": "rules"}


def rows(first, count):
    values = {
        "database": "d", "dialect": "sqlite", "reason": None, "detail": "", "question": "q", "evidence": "",
        "is_simplified": False, "sql": "SELECT 1", "tables": ["t"], "model": "m", "verifier": "m",
        "control_right": None, "control_wrong": "no",
    }  # fmt: skip
    numbers = {name: 0 for name in Q_SCHEMA.names if name not in values}
    return pa.Table.from_pylist([{**values, **numbers, "query_id": first + i} for i in range(count)], schema=Q_SCHEMA)


def ids(folder):
    return read(folder)["query_id"].to_pylist()


def test_blocks_are_there_in_the_order_of_the_pool(tmp_path):
    assert ids(tmp_path) == []
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(rows(64, 64))
        table.commit(rows(0, 64))
        assert table.done(Q_SCHEMA.names).schema == Q_SCHEMA
    assert ids(tmp_path) == list(range(128))
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(rows(128, 3))
        table.commit(rows(131, 5))
    assert ids(tmp_path) == list(range(136))


def test_blocks_become_one_file_even_where_that_was_interrupted(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        for first in (0, 64, 128, 192):
            table.commit(rows(first, 64))
        before = tmp_path / "before"
        shutil.copytree(tmp_path / "Q", before)
        table.compact(0, 191)
        # Whoever reads meanwhile finds what was there.
        assert {path.name for path in before.iterdir()} < {path.name for path in (tmp_path / "Q").iterdir()}
        assert ids(tmp_path) == list(range(256))
    assert ids(tmp_path) == list(range(256))
    with opened(tmp_path, SETTINGS, tmp_path / "journal"):
        assert sorted(path.name for path in (tmp_path / "Q").iterdir()) == ["0-191-192.parquet", "192-255-64.parquet"]
    assert ids(tmp_path) == list(range(256))


def test_half_a_file_counts_for_nothing(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(rows(0, 64))
        (tmp_path / "Q" / "64-127-64.parquet.partial").write_bytes(b"PAR1")
    assert ids(tmp_path) == list(range(64))


def test_what_was_left_out_of_a_block_comes_later(tmp_path):
    whole = rows(0, 64)
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(pa.concat_tables([whole.slice(0, 10), whole.slice(11)]))
        table.commit(whole.slice(0, 0))
    assert 10 not in ids(tmp_path)
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(whole.slice(10, 1))
        table.compact(0, 63)
    assert ids(tmp_path) == list(range(64))
    with opened(tmp_path, SETTINGS, tmp_path / "journal"):
        assert [path.name for path in (tmp_path / "Q").iterdir()] == ["0-63-64.parquet"]


def test_damaged_file_is_said(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(rows(0, 64))
    (tmp_path / "Q" / "64-127-64.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(RunDirError, match="remove the file that is damaged"):
        read(tmp_path)


def test_settings_may_change_until_something_is_there(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal"):
        pass
    with opened(tmp_path, {**SETTINGS, "model": "gpt"}, tmp_path / "journal"):
        pass
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "completions.jsonl").write_text("{}")
    with (
        pytest.raises(RunDirError, match="another model: 'gpt', not 'rules'"),
        opened(tmp_path, SETTINGS, tmp_path / "journal"),
    ):
        pass


def test_other_settings_are_refused_by_name(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal") as table:
        table.commit(rows(0, 1))
    others = {**SETTINGS, "model": "gpt"}
    with pytest.raises(RunDirError, match="another model: 'rules', not 'gpt'"), opened(tmp_path, others, tmp_path):
        pass
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(RunDirError, match="output="), opened(tmp_path, SETTINGS, tmp_path / "journal"):
        pass


def test_one_process_at_a_time(tmp_path):
    with opened(tmp_path, SETTINGS, tmp_path / "journal"):
        with (
            pytest.raises(RunDirError, match="another process translates"),
            opened(tmp_path, SETTINGS, tmp_path / "journal"),
        ):
            pass
        assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS


def test_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirError, match="cannot be written"), opened(tmp_path / "file" / "out", SETTINGS, tmp_path):
        pass


def test_every_reason_has_a_meaning():
    assert all(translation.REASONS.values())
