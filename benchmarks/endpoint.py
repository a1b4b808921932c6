"""Is the client ever what a run waits for? Completions from a slow endpoint, many at a time. Prints one JSON object.

    python -m benchmarks.endpoint [--completions 1280 --in-flight 64 --delay 2.0] [--faults 0.0] [--prompt-bytes 12000]

The endpoint is the one of the tests, in a process of its own. `occupancy` is the mean number of requests that it had at
work, of those that may be in flight, from the first that came until the last that went; `core_ms_per_completion` is
what one completion costs the client, journal and books included. With 1,280 completions or more and no faults, an
occupancy below 0.9 ends it with exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayfactory.config import ModelConfig
from rayfactory.models.chat import Chat
from rayfactory.models.completion import CallKey, Prompt

PROJECT = Path(__file__).resolve().parents[1]
FULL_COMPLETIONS = 1_280
MIN_OCCUPANCY = 0.9


@contextmanager
def endpoint(delay_s: float, fault_share: float) -> Iterator[str]:
    """Run the test endpoint; yield its address."""
    command = [sys.executable, "-m", "tests.models.endpoint_server"]
    command += ["--delay", str(delay_s), "--faults", str(fault_share), "--seed", "1"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


async def obtain(address: str, directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Obtain the completions; return what it took."""
    model = ModelConfig(
        name="test-model",
        base_url=f"{address}/v1",
        max_in_flight=arguments.in_flight,
        max_attempts=30,
        timeout_s=10 + 5 * arguments.delay,
        # A price, so that every attempt is on disk before it leaves.
        usd_per_million_out=10.0,
    )
    chat = Chat({"strong": model}, directory, max_cost_usd=1e6)
    await chat.check()
    system = "Table of many columns. " * (arguments.prompt_bytes // 23)
    calls = (
        (CallKey(0, "generation", 0, ordinal), Prompt(system, f"Request {ordinal}.", 400, 0.8, 0.8))
        for ordinal in range(arguments.completions)
    )
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(chat.complete("strong", key, prompt) for key, prompt in calls))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    status = chat.status()
    await chat.close()
    served = json.loads(await asyncio.to_thread(_read, f"{address}/ledger"))
    return {
        "completions": arguments.completions,
        "in_flight": arguments.in_flight,
        "delay_s": arguments.delay,
        "fault_share": arguments.faults,
        "prompt_bytes": arguments.prompt_bytes,
        "occupancy": round(served["concurrent_s"] / served["span_s"] / arguments.in_flight, 4),
        "core_ms_per_completion": round(1e3 * cpu / arguments.completions, 3),
        "completions_per_s": round(arguments.completions / wall, 1),
        "wall_s": round(wall, 2),
        "requests": served["requests"],
        "max_concurrent": served["max_concurrent"],
        "confirmed_usd": status.confirmed_usd,
        "unconfirmed_usd": status.unconfirmed_usd,
    }


def _read(address: str) -> bytes:
    with urllib.request.urlopen(address) as reply:
        return bytes(reply.read())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--completions", type=int, default=FULL_COMPLETIONS)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--delay", type=float, default=2.0, help="seconds that the endpoint takes")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that meet a fault")
    parser.add_argument("--prompt-bytes", type=int, default=12_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, endpoint(arguments.delay, arguments.faults) as address:
        result = asyncio.run(obtain(address, Path(directory), arguments))
        print(json.dumps(result))
    is_full = arguments.completions >= FULL_COMPLETIONS and not arguments.faults
    if is_full and result["occupancy"] < MIN_OCCUPANCY:
        sys.exit(f"occupancy {result['occupancy']} is less than {MIN_OCCUPANCY}")


if __name__ == "__main__":
    main()
