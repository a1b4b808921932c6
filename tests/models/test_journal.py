"""The journal: what was written is there again, wherever the process that wrote it stopped."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayfactory.errors import RunDirError
from rayfactory.models.completion import CallKey, Completion
from rayfactory.models.journal import FILE_NAME, TORN_NAME, Done, Failed, Journal, Record, Sent
from rayfactory.models.ledger import WorstCase

REQUEST = "ab" * 32


def key(ordinal: int) -> CallKey:
    return CallKey(7, "generation", 1, ordinal)


def sent(attempt: int) -> Sent:
    return Sent(attempt, key(attempt), REQUEST, "m", WorstCase(300, 20, 0.25))


def done(attempt: int, text: str = "SELECT 1") -> Done:
    return Done(attempt, key(attempt), REQUEST, "m", Completion(text, "m-1", "stop", 10, 2, 5, 0.125))


def write(directory, *records: Record) -> None:
    async def run():
        journal = Journal(directory, lambda record: None)
        for record in records:
            journal.append(record)
        await journal.close()

    asyncio.run(run())


def close(journal: Journal) -> None:
    asyncio.run(journal.close())


def replay(directory) -> tuple[list[Record], Journal]:
    records: list[Record] = []
    return records, Journal(directory, records.append)


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(), max_size=6), lost=st.booleans())
def test_what_is_written_is_read_again(tmp_path_factory, texts, lost):
    """Records come back equal and in order, and every reply is found by its call."""
    directory = tmp_path_factory.mktemp("journal")
    records: list[Record] = []
    for attempt, text in enumerate(texts):
        records += [sent(attempt), done(attempt, text)]
    records += [sent(len(texts)), Failed(len(texts), lost, "why")]
    write(directory, *records)
    again, journal = replay(directory)
    assert again == records
    for attempt, text in enumerate(texts):
        found = journal.find(key(attempt), REQUEST)
        assert found is not None
        assert found.text == text
    assert journal.find(key(len(texts)), REQUEST) is None
    assert journal.find(key(0), "other") is None
    assert journal.new_attempt() == len(texts) + 1
    assert journal.new_attempt() == len(texts) + 2


def test_every_place_a_write_can_stop_at(tmp_path):
    """Cut off at any byte, the journal opens, keeps every whole record, sets the rest aside, and goes on."""
    write(tmp_path, sent(0), done(0), sent(1))
    whole = (tmp_path / FILE_NAME).read_bytes()
    ends = [end + 1 for end, byte in enumerate(whole) if byte == ord("\n")]
    # Every byte of the last line, and around and between the ends of the others.
    near_ends = {end + step for end in ends for step in (-2, -1, 0, 1)} | set(range(0, len(whole), 17))
    for cut in sorted(near_ends | set(range(ends[1], len(whole)))):
        if cut > len(whole):
            continue
        directory = tmp_path / str(cut)
        directory.mkdir()
        (directory / FILE_NAME).write_bytes(whole[:cut])
        records, journal = replay(directory)
        kept = sum(end <= cut for end in ends)
        assert len(records) == kept
        torn = whole[ends[kept - 1] if kept else 0 : cut]
        assert (directory / TORN_NAME).exists() == bool(torn)
        if torn:
            assert (directory / TORN_NAME).read_bytes() == torn + b"\n"
        journal.append(done(5))
        close(journal)
        assert replay(directory)[0] == [*records, done(5)]


def test_zeros_that_a_power_cut_leaves_are_torn_off(tmp_path):
    """A block that never reached the disk, with nothing after it, is set aside like a torn line."""
    write(tmp_path, sent(0))
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(bytes(5_000) + b"\n" + bytes(10))
    records, _ = replay(tmp_path)
    assert records == [sent(0)]


def test_damage_before_the_end_is_named(tmp_path):
    """A line that is damaged while later ones are whole is not passed over in silence."""
    write(tmp_path, sent(0), done(0), sent(1))
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"x" + lines[1] + lines[2])
    with pytest.raises(RunDirError, match="line 2 of"):
        replay(tmp_path)
    assert path.read_bytes() == lines[0] + b"x" + lines[1] + lines[2]


def test_journal_belongs_to_one_process(tmp_path):
    """Another one is refused with the remedy as long as the first lives, and waits a little for its end."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom rayfactory.models.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]), print)\nprint('open', flush=True)\nsys.stdin.read()"
    )
    write(tmp_path, sent(0))
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert "sent" in first.stdout.readline().lower()
        assert first.stdout.readline() == "open\n"
        with pytest.raises(RunDirError, match=r"still written by another process.*same command again.*fuser"):
            Journal(tmp_path, lambda record: None, patience_s=0.0)
        first.kill()
        records: list[Record] = []
        close(Journal(tmp_path, records.append, patience_s=60.0))
    assert records == [sent(0)]


def test_directory_that_cannot_be_written_is_told(tmp_path):
    """A file in the directory's place ends with a message, not a traceback."""
    (tmp_path / "journal").write_text("")
    with pytest.raises(RunDirError, match="cannot be written"):
        replay(tmp_path / "journal")


def test_full_disk_stops_every_further_write(tmp_path):
    """Once a write fails nothing more is taken, and what was there opens again."""
    _, journal = replay(tmp_path)
    journal.append(sent(0))
    # Writes beyond this size fail as on a full disk.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, limits[1]))
    try:
        for record in (done(0, "x" * 1_000), sent(1)):
            with pytest.raises(RunDirError, match="File too large"):
                journal.append(record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / FILE_NAME).stat().st_size == 400
    close(journal)
    assert replay(tmp_path)[0] == [sent(0)]


def test_sync_is_shared_and_covers_what_was_written_before_it(tmp_path, monkeypatch):
    """Many who wait at once cost few fsyncs, and each fsync starts after the writes of those it answers."""
    synced: list[int] = []
    fsync = os.fsync

    def counting(fd):
        synced.append(os.fstat(fd).st_size)
        fsync(fd)

    async def run():
        _, journal = replay(tmp_path)
        monkeypatch.setattr(os, "fsync", counting)

        async def write_one(attempt):
            journal.append(sent(attempt))
            size = (tmp_path / FILE_NAME).stat().st_size
            await journal.sync()
            assert max(synced) >= size

        await asyncio.gather(*(write_one(attempt) for attempt in range(200)))
        assert len(synced) <= 3
        await journal.close()

    asyncio.run(run())


def test_failing_sync_stops_every_further_write(tmp_path, monkeypatch):
    """A disk that cannot hold what it took is told to everyone who waits for it."""

    async def run():
        _, journal = replay(tmp_path)
        journal.append(sent(0))

        def fail(fd):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)
        results = await asyncio.gather(journal.sync(), journal.sync(), return_exceptions=True)
        assert all(isinstance(result, RunDirError) for result in results)
        with pytest.raises(RunDirError, match="Input/output error"):
            journal.append(sent(1))
        await journal.close()

    asyncio.run(run())


def test_replies_of_rounds_in_the_pool_are_not_held(tmp_path):
    """A long run would have millions of them; what was asked before the first round stays."""

    def reply(attempt, agent, number):
        call = CallKey(7, agent, number, 0)
        return Done(attempt, call, REQUEST, "m", Completion(f"{agent} {number}", "m-1", "stop", 10, 2, 5, 0.0))

    records = [reply(0, "check", 0), *(reply(number + 1, "generation", number) for number in range(5))]
    write(tmp_path, *records)
    _, journal = replay(tmp_path)
    journal.forget_before(3)
    found = [journal.find(record.key, REQUEST) for record in records]
    assert [completion.text for completion in found if completion] == ["check 0", "generation 3", "generation 4"]
    close(journal)
    _, journal = replay(tmp_path)
    assert all(journal.find(record.key, REQUEST) for record in records)
    close(journal)
