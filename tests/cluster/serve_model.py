"""The endpoint of the tests as an app on Ray Serve: requests come in at Serve's proxy, a replica of its own answers.

    python -m tests.cluster.serve_model ADDRESS FOLDER PORT      says `answers`, and stays until standard input ends

The model is `test_faults.sql_model` over the shop in the folder. Each replica adds its process id to `replicas` there,
and the identity of each request that it has answered to `answered`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from tests.models.endpoint_server import EndpointServer, identity
from tests.models.http_messages import HttpRequest

ROUTE = "/model"


class Replica:
    """One replica of the model."""

    def __init__(self, folder: str) -> None:
        from tests.cluster.test_faults import sql_model

        self._folder = Path(folder)
        self._server = EndpointServer(reply=sql_model(self._folder), delay_s=0.3)
        self._note("replicas", str(os.getpid()))

    def _note(self, name: str, line: str) -> None:
        with (self._folder / name).open("a") as file:
            file.write(f"{line}\n")

    async def __call__(self, request: Any) -> Any:
        from starlette.responses import Response

        asked = HttpRequest(
            request.method, request.url.path.removeprefix(ROUTE), dict(request.headers), await request.body()
        )
        reply = await self._server._route(asked)
        if asked.method == "POST":
            self._note("answered", identity(asked.json()))
        return Response(reply.body, reply.status, media_type="application/json")


def main(address: str, folder: str, port: str) -> None:
    """Serve until standard input ends."""
    import ray
    from ray import serve

    ray.init(address=address, log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(port)})
    deployment: Any = serve.deployment(
        Replica,
        name="model",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100,
        health_check_period_s=0.5,
        graceful_shutdown_timeout_s=1,
    )
    serve.run(deployment.bind(folder), name="model", route_prefix=ROUTE)
    sys.stdout.write("answers\n")
    sys.stdout.flush()
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
