"""Completions in bad weather, by a process that is killed again and again: nothing is lost, nothing is paid for twice."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from rayfactory.models.completion import CallKey
from rayfactory.models.journal import FILE_NAME, Done, Failed, Record, Sent, _decode
from rayfactory.models.protocol import request_body
from tests.models.chat_client import call, model
from tests.models.endpoint_server import FAULTS, ODDITIES, echo, identity, serving

PROJECT = Path(__file__).resolve().parents[2]


def test_kills_and_faults_lose_nothing_and_ask_for_nothing_twice(tmp_path, record_property):
    """Under 30 % faults and SIGKILLs every completion is obtained, none is asked for again, and the books bound the bill.

    A fault is a reply without a completion: an error, or a body that is cut, broken, empty or endless. Another 5 % of the
    replies are slow, late or without a text, which are completions.
    """
    num_completions, num_kills, in_flight = 2_000, 10, 64
    rng = random.Random(5)
    with serving(delay_s=0.1, delay_spread=0.5, fault_share=0.3, odd_share=0.05, seed=3) as server:
        server.keep_requests = False
        command = [
            sys.executable, "-m", "tests.models.chat_client", str(tmp_path), server.base_url, str(num_completions),
            str(in_flight),
        ]  # fmt: skip
        # Kills fall evenly over the requests that there will be, somewhere within the time that one takes.
        for kill in range(1, num_kills + 1):
            with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as client:
                while server.num_requests < num_completions * kill // (num_kills + 1):
                    assert client.poll() is None, "the client ended before it was killed"
                    time.sleep(0.001)
                time.sleep(rng.uniform(0, 0.1))
                # It takes the kernel a while to end a process, and until then it takes replies in its name.
                server.is_held = True
                client.kill()
                client.wait()
                server.is_held = False
        last = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, check=True)
        bill = server.ledger()
    result = json.loads(last.stdout)

    expected = [
        echo([{"role": "system", "content": p.system}, {"role": "user", "content": p.user}])
        for _, p in map(call, range(num_completions))
    ]
    assert len(result["texts"]) == num_completions
    assert all(text in ("", whole) for text, whole in zip(result["texts"], expected, strict=True))

    records = read_journal(tmp_path / FILE_NAME)
    assert len({record.key for record in records if isinstance(record, Done)}) == num_completions
    assert asked_again(records) == []

    # A reply that lay in the socket, unread, when a kill fell (or the time of its attempt was up) is the one way to a second.
    assert len(bill["deliveries"]) == num_completions
    killed, late = cut_short(records)
    again = {"killed": 0, "late": 0}
    for key, prompt in map(call, range(num_completions)):
        body = request_body(model(server.base_url, in_flight), key, prompt)
        times = bill["deliveries"][identity(body)]
        assert times - 1 <= killed[key] + late[key]
        again["killed"] += min(times - 1, killed[key])
        again["late"] += max(0, times - 1 - killed[key])
    record_property("delivered_again", again)

    (row,) = result["ledger"]
    assert row["requests"] == num_completions
    for tokens in ("tokens_in", "tokens_out"):
        assert row[tokens] <= bill["billed"][tokens] <= row[tokens] + row[f"unconfirmed_{tokens}"]
    faults = Counter(bill["faults"])
    assert set(FAULTS) | set(ODDITIES) <= set(faults)
    # Three standard errors below what is drawn.
    assert sum(faults[name] for name in FAULTS) >= 0.275 * faults.total()


def read_journal(path: Path) -> list[Record]:
    records = [_decode(line) for line in path.read_bytes().splitlines(keepends=True)]
    assert None not in records
    return [record for record in records if record is not None]


def cut_short(records: list[Record]) -> tuple[Counter[CallKey], Counter[CallKey]]:
    """Return, for each call, how many attempts a kill cut short, and how many the clock did."""
    ended = {record.attempt for record in records if isinstance(record, Done | Failed)}
    late = {record.attempt for record in records if isinstance(record, Failed) and "timeout_s" in record.why}
    attempts = [record for record in records if isinstance(record, Sent)]
    return (
        Counter(record.key for record in attempts if record.attempt not in ended),
        Counter(record.key for record in attempts if record.attempt in late),
    )


def asked_again(records: list[Record]) -> list[Sent]:
    """Return the attempts that left after a reply to the same call was there."""
    done: Counter[object] = Counter()
    found = []
    for record in records:
        if isinstance(record, Done):
            done[record.key, record.request] += 1
        elif isinstance(record, Sent) and done[record.key, record.request]:
            found.append(record)
    return found
