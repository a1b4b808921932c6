"""Commits rounds until there is no more room, at every size of a file system; run by `test_disk` on one of its own."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rayfactory.errors import RunDirError
from rayfactory.pool import connect, opened
from tests.test_compaction import SMALL, parts, sizes
from tests.test_pool import IDENTITY, commit, snapshot
from tests.trust.disk import grow

ROUND_ROWS = 20


def rows(run_dir: Path) -> list[tuple[object, ...]]:
    return connect(run_dir).sql("SELECT query_id, sql, round FROM R ORDER BY query_id").fetchall()


def filled(folder: Path, kilobytes: int) -> str:
    """Commit rounds to a new run until one does not fit; return what was said, after going on with more room."""
    grow(folder, kilobytes)
    run_dir = folder / "run"
    said = ""
    try:
        with opened(run_dir, IDENTITY) as pool:
            before: list[tuple[object, ...]] = []
            files: dict[Path, bytes] = {}
            try:
                for _ in range(100):
                    commit(pool, ROUND_ROWS)
                    before, files = rows(run_dir), snapshot(run_dir)
            except RunDirError as error:
                said = str(error)
            assert len(before) == pool.num_rows
            assert not files or rows(run_dir) == before
            now = snapshot(run_dir)
            assert {path: now[path] for path in files} == files
    except RunDirError as error:
        said = str(error)  # not even the beginning of a run fits
        before = []
    grow(folder, 4_096)
    with opened(run_dir, IDENTITY) as pool:
        assert pool.num_rows == len(before)
        commit(pool, ROUND_ROWS)
        assert rows(run_dir)[: len(before)] == before
        assert len(rows(run_dir)) == len(before) + ROUND_ROWS
    for path in sorted(run_dir.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    return said


def put_together(folder: Path, kilobytes: int) -> str:
    """Put rounds together where only so much room is left; return what was said, after doing it with more room."""
    run_dir = folder / "run"
    said = ""
    grow(folder, 4_096)
    with sizes(*SMALL), opened(run_dir, IDENTITY) as pool:
        for _ in range(SMALL[-1]):
            commit(pool, ROUND_ROWS)
        before, files = rows(run_dir), snapshot(run_dir)
        grow(folder, shutil.disk_usage(folder).used // 1024 + kilobytes)
        try:
            pool.compact()
        except RunDirError as error:
            said = str(error)
            assert snapshot(run_dir) == files
        assert rows(run_dir) == before
        grow(folder, 4_096)
        pool.compact()
        assert parts(run_dir) == [f"000000-{SMALL[-1] - 1:06d}"]
        assert rows(run_dir) == before
        commit(pool, ROUND_ROWS)
        assert len(rows(run_dir)) == len(before) + ROUND_ROWS
    shutil.rmtree(run_dir)
    return said


def main(folder: str, what: str) -> None:
    """Fill disks of growing size; print what was said of each."""
    use = {"commit": filled, "compact": put_together}[what]
    for kilobytes in range(4, 132, 4):
        sys.stdout.write(f"{kilobytes}: {use(Path(folder), kilobytes)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
