"""The server of `endpoint_server` with OpenAI's files and batches, and weather of their own."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from email.parser import BytesParser
from typing import Any
from urllib.parse import parse_qs

from tests.models.endpoint_server import EndpointServer, identity
from tests.models.http_messages import HttpReply, HttpRequest, error_reply, json_reply


class BatchServer(EndpointServer):
    """The server.

    Args:
        step_s: seconds that each step of a batch and each of its requests take.
        line_faults: what requests of batches meet (as `enqueue`), by their place in the file.
        ends_after: requests after which a batch ends as `ends_as`, ``expired`` or ``cancelled``; the rest is undone.
        invalid: why every batch fails its validation; empty: none does.
        room: requests that may wait in batches at a time; a batch that is too much for it fails.
        api_fault_share: share of the requests about files and batches that meet a fault, drawn with `seed`.
        content_pieces: number of parts that a file comes back in, 20 ms apart.
        page_size: batches that a page lists, at most.
    """

    def __init__(
        self,
        *,
        step_s: float = 0.02,
        line_faults: Mapping[int, str] | None = None,
        ends_after: int | None = None,
        ends_as: str = "expired",
        invalid: str = "",
        room: int | None = None,
        api_fault_share: float = 0.0,
        content_pieces: int = 1,
        page_size: int = 100,
        seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(seed=seed, **options)
        self.step_s = step_s
        self.line_faults = line_faults or {}
        self.ends_after = ends_after
        self.ends_as = ends_as
        self.invalid = invalid
        self.room = room
        self.api_fault_share = api_fault_share
        self.content_pieces = content_pieces
        self.page_size = page_size
        # How often each request (`identity`) was answered with a completion, and so billed, in whatever way.
        self.answers: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        # Faults of the next requests, by what `calls` names them by; a last one in `always` stays.
        self.weather: dict[str, deque[str]] = defaultdict(deque)
        self.always: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._api_random = random.Random(seed)
        self._work: set[asyncio.Task[None]] = set()
        for method, path in (("POST", "files"), ("GET", "files"), ("POST", "batches"), ("GET", "batches")):
            self.routes[method, f"/v1/{path}"] = self._api

    async def stop(self) -> None:
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await super().stop()

    async def _completion(self, request: HttpRequest, fault: str) -> HttpReply:
        reply = await super()._completion(request, fault)
        if reply.status == 200:
            self.answers.update([identity(request.json())])
        return reply

    async def _api(self, request: HttpRequest) -> HttpReply:
        """Answer a request about files or batches: `upload`, `create`, `list`, `state` or `content`."""
        path, _, query = request.path.removeprefix("/v1/").partition("?")
        kind, _, rest = path.partition("/")
        if request.method == "POST":
            what = "upload" if kind == "files" else "create"
        else:
            what = "content" if kind == "files" else "state" if rest else "list"
        self.calls.update([what])
        if (refusal := self._refusal(request)) is not None:
            return refusal
        fault = self._api_fault(what)
        if fault.isdigit():
            return error_reply(int(fault), f"fault {fault}")
        match what:
            case "upload":
                reply = self._upload(request)
            case "create":
                reply = self._create(request)
            case "list":
                reply = self._list(parse_qs(query))
            case "state" if rest in self.batches:
                reply = json_reply(self.batches[rest])
            case "content" if rest.removesuffix("/content") in self.files:
                reply = HttpReply(200, self.files[rest.removesuffix("/content")], pieces=self.content_pieces)
            case _:
                return error_reply(404, f"No {kind} found with id '{rest}'")
        match fault:
            case "500_after":
                return error_reply(500, "fault 500, though it is done")
            case "silence_after":
                await asyncio.Event().wait()
            case "drop_after":
                return HttpReply(200, b"", cut_at=-1)
            case "cut":
                return HttpReply(200, reply.body, cut_at=len(reply.body) // 2)
            case "torn":
                return HttpReply(200, reply.body[: len(reply.body) // 2])
        return reply

    def _api_fault(self, what: str) -> str:
        if self.weather[what]:
            return self.weather[what].popleft()
        if what in self.always:
            return self.always[what]
        if self._api_random.random() < self.api_fault_share:
            return self._api_random.choice(("500", "503", "429", "500_after", "drop_after", "cut"))
        return "ok"

    def _upload(self, request: HttpRequest) -> HttpReply:
        head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
        parts = {}
        for part in BytesParser().parsebytes(head + request.body).walk():
            if (name := part.get_param("name", header="content-disposition")) is not None:
                parts[name] = part.get_payload(decode=True)
        assert parts["purpose"] == b"batch"
        assert isinstance(parts["file"], bytes)
        return json_reply({"id": self._keep(parts["file"]), "object": "file", "purpose": "batch"})

    def _keep(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name

    def _create(self, request: HttpRequest) -> HttpReply:
        body = request.json()
        if body["input_file_id"] not in self.files:
            return error_reply(400, f"no file {body['input_file_id']}")
        assert (body["endpoint"], body["completion_window"]) == ("/v1/chat/completions", "24h")
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {
            "id": name, "object": "batch", "status": "validating", "created_at": int(time.time()),
            "metadata": body["metadata"], "input_file_id": body["input_file_id"], "output_file_id": None,
            "error_file_id": None, "errors": None, "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        task = asyncio.create_task(self._work_on(self.batches[name]))
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return json_reply(self.batches[name])

    def _list(self, query: Mapping[str, list[str]]) -> HttpReply:
        newest_first = list(self.batches.values())[::-1]
        names = [batch["id"] for batch in newest_first]
        begin = names.index(query["after"][0]) + 1 if "after" in query else 0
        end = begin + min(int(query["limit"][0]), self.page_size)
        page = newest_first[begin:end]
        return json_reply({"object": "list", "data": page, "has_more": end < len(newest_first)})

    async def _work_on(self, batch: dict[str, Any]) -> None:
        await asyncio.sleep(self.step_s)
        if self.invalid:
            error = {"code": "invalid", "message": self.invalid, "line": 1, "param": None}
            batch.update(status="failed", errors={"object": "list", "data": [error]})
            return
        requests = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        assert len({request["custom_id"] for request in requests}) == len(requests)
        if self.room is not None:
            waiting = [other["request_counts"] for other in self.batches.values() if other["status"] == "in_progress"]
            if sum(counts["total"] for counts in waiting) + len(requests) > self.room:
                message = f"Enqueued token limit reached for test-model. Limit: {self.room} enqueued tokens."
                error = {"code": "token_limit_exceeded", "message": message, "line": None, "param": None}
                batch.update(status="failed", errors={"object": "list", "data": [error]})
                return
        counts = batch["request_counts"]
        counts["total"] = len(requests)
        batch["status"] = "in_progress"
        lines: dict[str, list[dict[str, Any]]] = {"completed": [], "failed": []}
        for place, asked in enumerate(requests):
            line = {"id": f"batch_req_{place}", "custom_id": asked["custom_id"], "response": None, "error": None}
            if place == self.ends_after:
                batch["status"] = "cancelling" if self.ends_as == "cancelled" else "finalizing"
            if self.ends_after is not None and place >= self.ends_after:
                line["error"] = {"code": f"batch_{self.ends_as}", "message": f"This request was {self.ends_as}."}
                lines["failed"].append(line)
                continue
            await asyncio.sleep(self.step_s)
            assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
            request = HttpRequest("POST", asked["url"], {}, json.dumps(asked["body"]).encode())
            reply = await self._completion(request, self.line_faults.get(place, "ok"))
            line["response"] = {"status_code": reply.status, "request_id": "r", "body": json.loads(reply.body)}
            kind = "completed" if reply.status == 200 else "failed"
            lines[kind].append(line)
            counts[kind] += 1
        batch["status"] = "finalizing"
        await asyncio.sleep(self.step_s)
        for kind, place_of in (("completed", "output_file_id"), ("failed", "error_file_id")):
            self._api_random.shuffle(lines[kind])
            if lines[kind]:
                # As OpenAI does, and unlike JSON of Python's making: text as it is.
                batch[place_of] = self._keep(
                    b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines[kind])
                )
        batch["status"] = "completed" if self.ends_after is None else self.ends_as
