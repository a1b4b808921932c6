"""A thread that waits for an actor ends when the run is left, and the process with it."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
import threading, time
import ray
from rayfactory.cluster.waiting import LeavingError, Waiting

class Slow:
    def answer(self):
        time.sleep(3600)

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
waiting, slow, outcome = Waiting(), ray.remote(Slow).remote(), []

def wait():
    try:
        waiting.for_one([slow.answer.remote()])
    except LeavingError:
        outcome.append("left")

thread = threading.Thread(target=wait)
thread.start()
thread.join(timeout=2)
assert thread.is_alive()
waiting.leave()
thread.join()
ray.shutdown()
print(outcome)
"""


def test_leaving_ends_a_wait_and_the_process():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['left']\n"
