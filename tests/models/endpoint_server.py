"""A server that speaks the OpenAI chat-completions protocol, counts what it bills, and misbehaves on demand.

    python -m tests.models.endpoint_server --port 0 --faults 0.3 --seed 1      prints its port
    with serving(reply=lambda messages: "SELECT 1") as server: ...             in a thread of this process
    async with EndpointServer() as server: ...                                 in the loop of this test

It counts tokens by a rule of its own (`count_tokens`), and keeps a ledger that the client knows nothing of: what was
billed, and which requests (`identity`) were answered in full, how often. Faults come from `enqueue`, one for each
of the next completions, or by chance. A subclass adds endpoints by adding to `routes`.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from tests.models.http_messages import (
    Handler,
    HttpReply,
    HttpRequest,
    error_reply,
    json_reply,
    read_request,
    write_reply,
)

Messages = Sequence[Mapping[str, str]]

FAULTS = (
    "429", "429_retry_after", "500", "503", "drop_before_headers", "drop_mid_body", "malformed", "truncated",
    "empty_body", "no_choices", "endless",
)  # fmt: skip
"""What can go wrong by chance: no completion comes of any. `enqueue` takes further ones: see `_completion`."""

ODDITIES = ("empty_text", "slow", "delay")
"""What can be odd by chance about a completion that comes all the same."""


def count_tokens(text: str) -> int:
    """Return the tokens of a text: one for every four bytes begun, so fewer than it has bytes."""
    return (len(text.encode()) + 3) // 4


def identity(body: Mapping[str, Any]) -> str:
    """Return what a request's body is known by in the ledger: its model, messages and seed."""
    return hashlib.sha256(
        json.dumps([body["model"], body.get("messages") or body["prompt"], body.get("seed")]).encode()
    ).hexdigest()


def echo(messages: Messages) -> str:
    """Return a reply that depends on nothing but the messages: a few dozen words."""
    digest = hashlib.sha256(json.dumps(list(messages)).encode()).digest()
    return " ".join(f"word{byte}" for byte in digest[: 8 + digest[0] % 24])


class EndpointServer:
    """The server.

    Args:
        reply: what the model says.
        models: names that it answers to; all have `max_model_len` tokens of context (None: it does not tell).
        api_key: what `Authorization` has to carry; None: nothing is asked for.
        delay_s: seconds that a completion takes on average; `delay_spread` is the share by which it may be off.
        fault_share: share of requests that meet one of `faults`, drawn with `seed`.
        odd_share: share of them, further to that, that meet one of `ODDITIES`.
        max_concurrent: completions at work beyond this are answered with 429.
        refuse: says why a request's body is refused (400); None: it is taken.
        grammars: what becomes of a grammar in a request: ``honour`` (as far as it allows a single word), ``ignore`` or
            ``refuse``.
        host: the address that it listens at.
    """

    def __init__(
        self,
        *,
        reply: Callable[[Messages], str] = echo,
        models: Sequence[str] = ("test-model",),
        max_model_len: int | None = 32_768,
        api_key: str | None = None,
        delay_s: float = 0.0,
        delay_spread: float = 0.0,
        fault_share: float = 0.0,
        faults: Sequence[str] = FAULTS,
        odd_share: float = 0.0,
        seed: int = 0,
        max_concurrent: int | None = None,
        refuse: Callable[[Mapping[str, Any]], str | None] = lambda body: None,
        grammars: Literal["honour", "ignore", "refuse"] = "honour",
        host: str = "127.0.0.1",
    ) -> None:
        self.host = host
        self.reply = reply
        self.models = tuple(models)
        self.max_model_len = max_model_len
        self.api_key = api_key
        self.delay_s = delay_s
        self.delay_spread = delay_spread
        self.fault_share = fault_share
        self.faults = tuple(faults)
        self.odd_share = odd_share
        self.max_concurrent = max_concurrent
        self.refuse = refuse
        self.grammars = grammars
        self.port = 0
        # Handlers by method and path; the longest path that a request starts with answers it.
        self.routes: dict[tuple[str, str], Handler] = {
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/ledger"): self._ledger,
        }
        self.requests: list[dict[str, Any]] = []
        self.num_requests = 0
        self.num_concurrent = 0
        self.max_seen_concurrent = 0
        # When each completion began and ended, by the clock of the loop.
        self.spans_s: list[tuple[float, float]] = []
        self.billed = Counter({"replies": 0, "tokens_in": 0, "tokens_out": 0})
        self.deliveries: Counter[str] = Counter()
        self.faults_met: Counter[str] = Counter()
        self.keep_requests = True
        # While it is set nothing is sent.
        self.is_held = False
        self._random = random.Random(seed)
        self._delays = random.Random(seed)
        self._enqueued: deque[str] = deque()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def base_url(self) -> str:
        return f"http://{self.host}:{self.port}/v1"

    def enqueue(self, *faults: str) -> None:
        """Say what the next completions meet, one each; `ok` for none."""
        self._enqueued.extend(faults)

    def ledger(self) -> dict[str, Any]:
        """Return what was billed, and how often each request (`identity`) got its completion in full."""
        return {
            "requests": self.num_requests,
            "billed": dict(self.billed),
            "deliveries": dict(self.deliveries),
            "faults": dict(self.faults_met),
            "max_concurrent": self.max_seen_concurrent,
            "concurrent_s": sum(end - begin for begin, end in self.spans_s),
            "span_s": max((end for _, end in self.spans_s), default=0.0) - min(self.spans_s, default=(0.0, 0.0))[0],
        }

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0: on any that is free."""
        self._server = await asyncio.start_server(self._connection, self.host, port, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.stop()

    # --- endpoints ---

    async def _models(self, request: HttpRequest) -> HttpReply:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        name = request.path.removeprefix("/v1/models").removeprefix("/").replace("%2F", "/")
        cards = [
            {"id": model, "object": "model", "owned_by": "test"}
            | ({} if self.max_model_len is None else {"max_model_len": self.max_model_len})
            for model in self.models
        ]
        if not name:
            return json_reply({"object": "list", "data": cards})
        for card in cards:
            if card["id"] == name:
                return json_reply(card)
        return error_reply(404, f"The model '{name}' does not exist", "model_not_found")

    async def _ledger(self, request: HttpRequest) -> HttpReply:
        return json_reply(self.ledger())

    async def _chat(self, request: HttpRequest) -> HttpReply:
        self.num_requests += 1
        if self.keep_requests:
            self.requests.append({"headers": dict(request.headers), "body": request.json()})
        if (refusal := self._refusal(request)) is not None:
            return refusal
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        self.num_concurrent += 1
        self.max_seen_concurrent = max(self.max_seen_concurrent, self.num_concurrent)
        try:
            if self.max_concurrent is not None and self.num_concurrent > self.max_concurrent:
                return error_reply(429, "Rate limit reached", "rate_limit_exceeded")
            return await self._completion(request, self._next_fault())
        finally:
            self.num_concurrent -= 1
            self.spans_s.append((begun_s, loop.time()))

    def _refusal(self, request: HttpRequest) -> HttpReply | None:
        if self.api_key is not None and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return error_reply(401, f"Incorrect API key: {request.headers.get('authorization')}", "invalid_api_key")
        return None

    def _next_fault(self) -> str:
        if self._enqueued:
            return self._enqueued.popleft()
        chance = self._random.random()
        if chance < self.fault_share:
            return self._random.choice(self.faults)
        return self._random.choice(ODDITIES) if chance < self.fault_share + self.odd_share else "ok"

    async def _completion(self, request: HttpRequest, fault: str) -> HttpReply:
        self.faults_met[fault] += 1
        if fault.isdigit():
            status = int(fault)
            code = "rate_limit_exceeded" if status == 429 else None
            return error_reply(status, f"fault {fault} of {request.headers.get('authorization', '')}", code)
        match fault.split("="):
            case ["429_retry_after"]:
                return error_reply(429, "slow down", "rate_limit_exceeded", headers={"Retry-After": "0.2"})
            case ["429_retry_after", value]:
                return error_reply(429, "slow down", "rate_limit_exceeded", headers={"Retry-After": value})
            case ["429_retry_after_ms", value]:
                return error_reply(429, "slow down", "rate_limit_exceeded", headers={"Retry-After-Ms": value})
            case ["insufficient_quota"]:
                return error_reply(429, "You exceeded your current quota", "insufficient_quota")
            case ["content_filter"]:
                return error_reply(400, "The prompt was filtered", "content_filter")
            case ["redirect"]:
                return HttpReply(307, b"", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
            case ["endless_error"]:
                return HttpReply(500, b"", endless=True)
        body = request.json()
        if body["model"] not in self.models:
            return error_reply(404, f"The model '{body['model']}' does not exist", "model_not_found")
        if (why := self.refuse(body)) is not None:
            return error_reply(400, why, "unsupported_value")
        max_tokens = body.get("max_tokens", body.get("max_completion_tokens", 1_000))
        is_chat = request.path.startswith("/v1/chat/")
        if ("messages" in body) != is_chat or ("prompt" in body) == is_chat:
            return error_reply(400, "Unrecognized request argument supplied", "invalid_request")
        messages = body["messages"] if is_chat else [{"role": "text", "content": body["prompt"]}]
        tokens_in = sum(count_tokens(message["content"]) + 4 for message in messages)
        if self.max_model_len is not None and tokens_in + max_tokens > self.max_model_len:
            return error_reply(400, f"maximum context length is {self.max_model_len}", "context_length_exceeded")
        grammar = body.get("structured_outputs", {}).get("grammar", "")
        if grammar and self.grammars == "refuse":
            return error_reply(400, "Unrecognized request argument supplied: structured_outputs", "invalid_request")
        only = re.fullmatch(r'root ::= "(\w+)"\s*', grammar) if self.grammars == "honour" else None
        text = "" if fault == "empty_text" else only[1] if only else self.reply(messages)
        finish_reason = "stop"
        if count_tokens(text) > max_tokens:
            text, finish_reason = text.encode()[: 4 * max_tokens].decode(errors="ignore"), "length"
        tokens_out = count_tokens(text)
        # From here on it is paid for, whatever becomes of the reply: a model at work is billed.
        self.billed.update(replies=1, tokens_in=tokens_in, tokens_out=tokens_out)
        delay_s = self.delay_s * (1 + self._delays.uniform(-self.delay_spread, self.delay_spread))
        await asyncio.sleep(delay_s + (0.2 if fault == "delay" else 0.0))
        completion: dict[str, Any] = {
            "id": f"cmpl-{self.billed['replies']}",
            "object": "chat.completion" if is_chat else "text_completion",
            "created": 0,
            "model": body["model"],
            "choices": [
                {
                    "index": 0,
                    **({"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}),
                    "finish_reason": finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": tokens_in,
                "completion_tokens": tokens_out,
                "total_tokens": tokens_in + tokens_out,
                "prompt_tokens_details": {"cached_tokens": tokens_in // 2},
            },
        }
        if fault == "no_usage":
            del completion["usage"]
        if fault == "no_choices":
            completion["choices"] = []
        whole = json.dumps(completion).encode()
        asked = identity(body)
        match fault:
            case "drop_before_headers":
                return HttpReply(200, whole, cut_at=-1)
            case "drop_mid_body":
                return HttpReply(200, whole, cut_at=len(whole) // 2)
            case "malformed":
                return HttpReply(200, b"<html>" + whole)
            case "truncated":
                return HttpReply(200, whole[: len(whole) // 2])
            case "empty_body":
                return HttpReply(200, b"")
            case "no_choices":
                return HttpReply(200, whole)
            case "endless" | "flood":
                return HttpReply(200, whole[:-1], endless=True, pause_s=0.0 if fault == "flood" else 0.02)
            case "gzip":
                return HttpReply(200, whole, {"Content-Encoding": "gzip"})
        pieces = 5 if fault == "slow" else 1
        return HttpReply(200, whole, pieces=pieces, delivered=lambda: self.deliveries.update([asked]))

    # --- HTTP ---

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (request := await read_request(reader)) is not None:
                reply = await self._route(request)
                while self.is_held:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
                # To a client that is gone nothing can be delivered, though the kernel would take it.
                if reader.at_eof() or not await write_reply(writer, reply):
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _route(self, request: HttpRequest) -> HttpReply:
        path = request.path.partition("?")[0]
        fitting = [route for route in self.routes if route[0] == request.method and path.startswith(route[1])]
        if not fitting:
            return error_reply(404, f"nothing at {request.method} {path}")
        return await self.routes[max(fitting, key=lambda route: len(route[1]))](request)


ServerT = TypeVar("ServerT", bound=EndpointServer)


@contextmanager
def running(server: ServerT) -> Iterator[ServerT]:
    """Run a server in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="endpoint-server", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def serving(**options: Any) -> Iterator[EndpointServer]:
    """Make a server and run it in a thread of its own."""
    with running(EndpointServer(**options)) as server:
        yield server


async def _serve(arguments: argparse.Namespace) -> None:
    server = EndpointServer(
        delay_s=arguments.delay,
        fault_share=arguments.faults,
        seed=arguments.seed,
        models=(arguments.model,),
        reply=echo if arguments.reply is None else lambda _: str(arguments.reply.read_text(encoding="utf-8")),
    )
    server.keep_requests = False
    await server.start(arguments.port)
    print(server.port, flush=True)  # noqa: T201
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve chat completions on loopback, with faults.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="test-model")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that a completion takes")
    parser.add_argument("--faults", type=float, default=0.0, help="share of completions that meet a fault")
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--reply", type=Path, default=None, help="file with what the model says, always")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
