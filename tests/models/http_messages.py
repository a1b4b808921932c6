"""As much of HTTP as the servers of the tests speak, with replies that can be cut, stretched or never end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class HttpRequest:
    """One request as it came in. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class HttpReply:
    """One reply as it goes out.

    Attributes:
        cut_at: bytes of the body after which the connection is dropped; -1: before the status line; None: not at all.
        endless: whether more body follows, for ever.
        pieces: number of parts that the body is sent in, `pause_s` apart.
        delivered: called once everything has been handed to the kernel.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    endless: bool = False
    pieces: int = 1
    pause_s: float = 0.02
    delivered: Callable[[], None] = lambda: None


Handler = Callable[[HttpRequest], Awaitable[HttpReply]]


def json_reply(value: Any, status: int = 200, **rest: Any) -> HttpReply:
    """Return a reply with a JSON body."""
    return HttpReply(status, json.dumps(value).encode(), **rest)


def error_reply(status: int, message: str, code: str | None = None, **rest: Any) -> HttpReply:
    """Return an error as OpenAI words it."""
    return json_reply({"error": {"message": message, "type": "error", "param": None, "code": code}}, status, **rest)


async def read_request(reader: asyncio.StreamReader) -> HttpRequest | None:
    """Return the next request of a connection; None where it ends."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return HttpRequest(method, path, headers, body)


async def write_reply(writer: asyncio.StreamWriter, reply: HttpReply) -> bool:
    """Send a reply; return whether the connection can take another request."""
    if reply.cut_at == -1:
        return False
    headers = {"Content-Type": "application/json", **reply.headers}
    headers |= {"Transfer-Encoding": "chunked"} if reply.endless else {"Content-Length": str(len(reply.body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {reply.status} Status\r\n{head}\r\n"
    if reply.endless:
        writer.write(head.encode())
        chunk = reply.body + b" " * 1000
        while True:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await writer.drain()
            await asyncio.sleep(reply.pause_s)
            chunk = b" " * (1_000 if reply.pause_s else 100_000)
    body = reply.body if reply.cut_at is None else reply.body[: reply.cut_at]
    size = max(1, -(-len(body) // reply.pieces))
    writer.write(head.encode() + body[:size])
    for start in range(size, len(body), size):
        await writer.drain()
        await asyncio.sleep(reply.pause_s)
        writer.write(body[start : start + size])
    await writer.drain()
    if reply.cut_at is not None:
        # What was written so far shall arrive before the connection goes.
        writer.close()
        await writer.wait_closed()
        return False
    reply.delivered()
    return True
