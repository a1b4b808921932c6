"""Another run of a cluster, as far as a served model can tell: it has it answer until its standard input ends."""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

from rayfactory.cluster.serving import serve_models
from rayfactory.cluster.session import connected
from rayfactory.config import ClusterConfig


def main(address: str, folder: str, pickled: str) -> None:
    """Come when somebody else starts the model, and leave at the end of standard input."""
    from ray import serve

    with connected(ClusterConfig(address=address, dashboard=False)):
        while not serve.status().applications:
            time.sleep(0.1)
        config = pickle.loads(bytes.fromhex(pickled))
        with serve_models([config], Path(folder), _say) as (served,):
            _say(f"answers at {served.base_url}")
            sys.stdin.read()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
