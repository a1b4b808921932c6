"""A server of S3 on this machine, and one before it that fails now and then."""

from __future__ import annotations

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ACCESS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "secret-of-the-tester", "AWS_REGION": "us-east-1"}
BUCKET = "pools"


@dataclass(frozen=True)
class Storage:
    """A server with a bucket.

    Attributes:
        address: of the server.
        variables: of the environment of who uses it.
    """

    address: str

    @property
    def variables(self) -> dict[str, str]:
        return {**ACCESS, "AWS_ENDPOINT_URL": self.address}

    def new_url(self) -> str:
        """Return the address of a folder that nothing is in."""
        return f"s3://{BUCKET}/{uuid.uuid4().hex}/pool"


@contextmanager
def serving() -> Iterator[Storage]:
    """Run a server for the length of a with statement."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("moto_server")
    with subprocess.Popen(
        [str(program), "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            deadline = time.monotonic() + 120
            while True:
                with suppress(OSError):
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                    key = ACCESS["AWS_ACCESS_KEY_ID"]
                    connection.request(
                        "PUT",
                        f"/{BUCKET}",
                        headers={
                            "Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request"
                        },
                    )
                    assert connection.getresponse().status == 200
                    break
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield Storage(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()


@dataclass
class Faults:
    """What a server before another does to requests.

    Attributes:
        share: of the requests that fail, in [0, 1].
        is_cut: nothing comes through at all.
        counts: requests by what became of them.
    """

    share: float = 0.1
    is_cut: bool = False
    rng: random.Random = field(default_factory=lambda: random.Random(3))
    counts: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str:
        """Return what becomes of the next request."""
        with self.lock:
            what = "passed"
            if self.is_cut:
                what = "cut"
            elif self.rng.random() < self.share:
                # Busy; gone before anything was done; done, with the answer lost.
                what = self.rng.choice(("busy", "dropped", "unanswered"))
            self.counts[what] += 1
            return what


@contextmanager
def faulty(storage: Storage, faults: Faults) -> Iterator[Storage]:
    """Run a server before a storage, for the length of a with statement."""
    host = storage.address.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            what = faults.next()
            if what in ("cut", "dropped"):
                self.close_connection = True
                return
            if what == "busy":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            with suppress(OSError, http.client.HTTPException):
                there = http.client.HTTPConnection(host, timeout=60)
                there.request(self.command, self.path, body, dict(self.headers))
                answer = there.getresponse()
                content = answer.read()
                there.close()
                if what == "unanswered":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
                self.send_header("Content-Length", length or "0")
                self.end_headers()
                self.wfile.write(content)
                return
            self.close_connection = True

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any  # noqa: N815 - the library's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Storage(f"http://127.0.0.1:{server.server_address[1]}")
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def reached(storage: Storage) -> Iterator[Storage]:
    """Have this process use a storage for the length of a with statement."""
    before = {name: os.environ.get(name) for name in storage.variables}
    os.environ.update(storage.variables)
    try:
        yield storage
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
