"""One model endpoint: what is sent to it and when, what it answers, and how it is doing.

The only module that knows the `openai` client, and that reads a key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import ssl
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from rayfactory.config import OMITTABLE, ModelConfig, Slot
from rayfactory.errors import EndpointError, EngineError, RayfactoryError
from rayfactory.models.completion import CallKey, Completion, Prompt
from rayfactory.models.ledger import WorstCase
from rayfactory.models.limits import Gate
from rayfactory.models.protocol import (
    ErrorReply,
    path_of,
    quoted,
    read_completion,
    read_error,
    request_body,
    retry_after_s,
)
from rayfactory.shown import (
    HIDDEN,
    KEY_NAMES,
    address_variable,
    full_address,
    has_key,
    named_secrets,
    shown_url,
    url_parts,
    url_secrets,
    without,
)

if TYPE_CHECKING:
    import httpx2
    import openai

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 2**20
"""Longer replies are cut off: 8,192 tokens of the longest kind, every character escaped, are shorter."""

_MAX_FILE_BYTES = 2 * 2**30
"""Longer files are cut off: 50,000 replies of 8,192 tokens are shorter. They are read line by line."""

_REFUSED_AT_FIRST = 5
_REFUSED_IN_A_ROW = 50
"""So many requests refused in a row, before the first reply or after it, are no accident."""

_REFUSED_OF_AN_AGENT = 3
"""So many requests of one agent refused, before its first reply, are worth telling: others may be answered."""

_MIN_KEY_CHARACTERS = 12
"""A shorter key, such as ``EMPTY`` or a password, may well be a word of a query."""

_FILE_TIMEOUT_S = 1_800.0
_CONNECT_TIMEOUT_S = 10.0
_READING_S = 0.05

_CONNECTIONS_PER_CLIENT = 16
"""The client's connection pool looks through all its connections for each request: several small ones are quicker."""

_KEEPALIVE_S = 2.0
"""Common servers drop a connection that is idle for 5 s; a request that meets such a drop would count as lost."""


def needs_key(config: ModelConfig) -> bool:
    """Return whether a model is asked with a key, in a variable of its own or in its address."""
    return bool(config.api_key_env) or HIDDEN in config.base_url


def keys_at_hand(models: Mapping[Slot, ModelConfig]) -> dict[str, str]:
    """Return the models' keys that are in this process's environment, by the names of their variables.

    With them goes the variable that has those names, so that whoever takes the keys knows what to keep to himself.
    """
    names = {KEY_NAMES, *(config.api_key_env for config in models.values())} - {""}
    names |= {address_variable(slot) for slot, config in models.items() if HIDDEN in config.base_url}
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}


def take_keys(keys: Mapping[str, str]) -> None:
    """Put another process's keys into the environment of this one, where clients look for them."""
    os.environ.update(keys)


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """How one endpoint is doing.

    Attributes:
        limit: requests that may be in flight now; `max_in_flight` at best.
        waiting: requests that wait for their turn.
        requests_per_minute, tokens_per_s: replies and their tokens, over the last minute.
        waits_for: what holds all requests back, and why; empty: nothing.
    """

    slot: Slot
    model: str
    in_flight: int
    limit: int
    waiting: int
    requests_per_minute: float
    tokens_per_s: float
    waits_for: str


class ErrorReplyError(Exception):
    """There is no completion, for the reason in `reply`; `retry_after_s` if the endpoint says when to ask again.

    `status` is that of HTTP; 0: there was no whole reply, or nothing was wrong with its status.
    """

    def __init__(self, reply: ErrorReply, retry_after_s: float | None = None, status: int = 0) -> None:
        super().__init__(reply.text)
        self.reply = reply
        self.retry_after_s = retry_after_s
        self.status = status


class Endpoint:
    """One endpoint: its gate, its clients, and what it has been doing."""

    def __init__(self, slot: Slot, config: ModelConfig) -> None:
        self.slot = slot
        self.config = config
        self.gate = Gate(self.name, config, time.monotonic)
        self._secrets: list[str] = []
        self._clients: list[openai.AsyncOpenAI] = []
        self._load: list[int] = []
        self._replies: deque[tuple[float, int]] = deque()
        self._num_refused = 0
        self._refused_of: Counter[str] = Counter()
        self._replied_to: set[str] = set()
        self._told: set[str] = set()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the {self.slot} model {self.config.name!r} at {shown_url(self.config.base_url)!r}"

    async def ask(self, key: CallKey, prompt: Prompt) -> tuple[Completion, bool]:
        """Send one request for a completion; return as `protocol.read_completion`.

        Raises:
            ErrorReplyError: there is none.
            EndpointError: there is no key, or no address to send it to.
        """
        import httpx2

        body = request_body(self.config, key, prompt)
        async with self._exchange(self.config.timeout_s) as client:
            # The client's own methods would walk through the body by its types, for as long as all else takes.
            response = await client.post(path_of(self.config), cast_to=httpx2.Response, body=body)
            return read_completion(self._starred(response.content), self.config)

    async def fetch(self, path: str, read: Callable[[bytes], T]) -> T:
        """Return what `read` makes of what is at a path; a ValueError of its own counts as a failed reply.

        Raises:
            ErrorReplyError, EndpointError: as `ask`.
        """
        import httpx2

        async with self._exchange(self.config.timeout_s) as client:
            response = await client.get(path, cast_to=httpx2.Response)
            return read(self._starred(response.content))

    async def post(self, path: str, body: dict[str, Any], read: Callable[[bytes], T]) -> T:
        """Post JSON; return and raise as `fetch`."""
        import httpx2

        async with self._exchange(self.config.timeout_s) as client:
            response = await client.post(path, cast_to=httpx2.Response, body=body)
            return read(self._starred(response.content))

    async def upload(self, name: str, content: bytes, purpose: str, read: Callable[[bytes], T]) -> T:
        """Upload a file; return and raise as `fetch`."""
        import httpx2

        async with self._exchange(_FILE_TIMEOUT_S) as client:
            response = await client.post(
                "/files",
                cast_to=httpx2.Response,
                body={"purpose": purpose},
                files={"file": (name, content, "application/jsonl")},
                options={"headers": {"Content-Type": "multipart/form-data"}},
            )
            return read(self._starred(response.content))

    async def file_lines(self, file_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a file as they arrive, without their ends.

        Raises:
            ErrorReplyError, EndpointError: as `ask`.
        """
        async with (
            self._exchange(_FILE_TIMEOUT_S) as client,
            client.files.with_streaming_response.content(file_id) as response,
        ):
            begun = b""
            async for chunk in response.iter_bytes():
                *ends, rest = chunk.split(b"\n")
                for end in ends:
                    yield self._starred(begun + end)
                    begun = b""
                begun += rest
                if len(begun) > MAX_BODY_BYTES:
                    raise ValueError(f"a line of more than {MAX_BODY_BYTES} bytes in the file {quoted(file_id)!r}")
            if begun:
                yield self._starred(begun)

    @asynccontextmanager
    async def _exchange(self, timeout_s: float) -> AsyncIterator[openai.AsyncOpenAI]:
        """Lend a client for one request, and make an ErrorReplyError of whatever becomes of it."""
        import httpx2
        import openai

        try:
            with self._lent_client() as client:
                async with _deadline(timeout_s):
                    yield client
        except openai.APIStatusError as error:
            wait_s = retry_after_s(error.response.headers, datetime.now(UTC))
            raise ErrorReplyError(self._error_reply(error), wait_s, error.status_code) from None
        except TimeoutError:
            why = f"no reply within {timeout_s:g} s" + (" (timeout_s)" if timeout_s == self.config.timeout_s else "")
            raise ErrorReplyError(ErrorReply("failed", True, why)) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            cause = error.__cause__ if isinstance(error, openai.APIConnectionError) else error
            is_unsent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            reply = ErrorReply("failed", not is_unsent, self._failure(error), away=is_unsent)
            raise ErrorReplyError(reply) from None
        except ValueError as error:
            raise ErrorReplyError(ErrorReply("failed", True, self._without_keys(str(error)))) from None
        except (RayfactoryError, ErrorReplyError):
            raise
        except Exception as error:  # noqa: BLE001
            # Whoever lets it pass, Ray above all, writes it down with its causes, and those may name a key.
            what = self._without_keys(f"{type(error).__name__}: {error}")
            raise EngineError(f"{self.name} could not be asked: {what}") from None

    @contextmanager
    def _lent_client(self) -> Iterator[openai.AsyncOpenAI]:
        """Lend the least busy client."""
        import httpx2

        if not self._clients:
            address, key = self._find_address(), self._find_key()
            # Those of another model too: one server may be behind both.
            self._secrets = [*([key] if key else []), *url_secrets(address), *named_secrets(os.environ)]
            # Reading the machine's certificates takes longer than all else in a client.
            tls = httpx2.create_ssl_context()
            self._clients = [
                _make_client(self.config, address, key, tls)
                for _ in range(math.ceil(self.config.max_in_flight / _CONNECTIONS_PER_CLIENT))
            ]
            self._load = [0] * len(self._clients)
        index = self._load.index(min(self._load))
        self._load[index] += 1
        try:
            yield self._clients[index]
        finally:
            self._load[index] -= 1

    def _error_reply(self, error: openai.APIStatusError) -> ErrorReply:
        reply = read_error(error.status_code, self._starred(error.response.content, 0), self.config)
        return replace(reply, text=self._without_keys(reply.text))

    def _failure(self, error: BaseException) -> str:
        """Return what went wrong on the way, in a few words."""
        cause = error.__cause__ or error
        return quoted(self._without_keys(f"{type(cause).__name__}: {cause}".rstrip(": ")))

    def _starred(self, content: bytes, min_characters: int = _MIN_KEY_CHARACTERS) -> bytes:
        """Return what an endpoint says without keys of some length that it says back, in good replies too."""
        secrets = [secret for secret in self._secrets if len(secret) >= min_characters]
        if not any(secret.encode() in content for secret in secrets):
            return content
        text = content.decode("utf-8", "surrogateescape")
        return without(text, secrets, fragments=False).encode("utf-8", "surrogateescape")

    def _without_keys(self, text: str) -> str:
        """Return words about what went wrong without keys, and without what is left of one that was cut or masked."""
        return without(text, self._secrets)

    def note_refusal(self, agent: str, why: str) -> EndpointError | None:
        """Count a request that was refused for itself; return an error where it seems that every one is.

        A model that refuses all of them costs nothing, but its part would be written by rules to the end of the run.
        Where it refuses all those of one agent, a person is told.
        """
        self._num_refused += 1
        self._refused_of[agent] += 1
        if self._replied_to and agent not in self._replied_to and self._refused_of[agent] >= _REFUSED_OF_AN_AGENT:
            self._tell_once(
                f"refused {agent}",
                "%s has refused every request of the agent %r so far (%s), whose part is done without a model. What it "
                "does not take can be left out of requests, in a run_dir of its own: models.%s.omit=[%s], any of %s",
                agent,
                why,
                self.slot,
                _named(why),
                ", ".join(OMITTABLE),
            )
        if self._num_refused < (_REFUSED_IN_A_ROW if self._replied_to else _REFUSED_AT_FIRST):
            return None
        return EndpointError(
            f"{self.name} refused {self._num_refused} requests in a row ({why}): leave out of requests what it does "
            f"not take (models.{self.slot}.omit=[{_named(why)}], any of {', '.join(OMITTABLE)}), change the setting "
            f"that it does not take (models.{self.slot}.constrained, max_output_tokens, context_tokens; the agents' "
            "temperature and top_p), or use another model"
        )

    def note_reply(self, agent: str, completion: Completion, worst: WorstCase, *, is_counted: bool) -> None:
        """Count a reply, and say once what is odd about it."""
        self._replied_to.add(agent)
        self._num_refused = 0
        now = time.monotonic()
        self._replies.append((now, completion.tokens_out))
        while self._replies[0][0] < now - 60:
            self._replies.popleft()
        if not is_counted:
            self._tell_once(
                "usage",
                "%s does not say how many tokens it took (usage): its replies are booked at their worst case",
            )
        elif completion.tokens_in > worst.tokens_in or completion.tokens_out > worst.tokens_out:
            self._tell_once(
                "tokens", "%s takes more tokens than a request can hold: max_cost_usd cannot be kept to the cent"
            )

    def status(self) -> SlotStatus:
        """Return how it is doing."""
        now = time.monotonic()
        recent = [(at, tokens) for at, tokens in self._replies if at >= now - 60]
        span_s = max(1.0, now - recent[0][0]) if recent else 1.0
        return SlotStatus(
            slot=self.slot,
            model=self.config.name,
            in_flight=self.gate.limits.in_flight,
            limit=self.gate.limits.limit,
            waiting=self.gate.num_waiting,
            requests_per_minute=60 * len(recent) / span_s,
            tokens_per_s=sum(tokens for _, tokens in recent) / span_s,
            waits_for=self.gate.limits.waits_for(now),
        )

    async def check(self) -> str:
        """See that the endpoint is there, takes the key, and has the model; return what a person should know, or "".

        Raises:
            EndpointError: it is not, or does not.
        """
        await self._check_model()
        if self.config.api_key_env and await self._is_public():
            return (
                f"{self.name} says which models it has whatever the key: the one in {self.config.api_key_env} is not "
                "checked before the first completion"
            )
        return ""

    async def _check_model(self) -> None:
        reply = await self._get(f"/models/{self.config.name}")
        cards: list[Any] | None = None
        if isinstance(reply, dict) and "id" in reply:
            cards = [reply]
        elif (listed := await self._get("/models")) is not None and isinstance(listed, dict):
            cards = listed["data"] if isinstance(listed.get("data"), list) else None
        if cards is None:
            logger.info("%s does not tell which models it has", self.name)
            return
        by_id = {str(card.get("id")): card for card in cards if isinstance(card, dict)}
        card = by_id.get(self.config.name) or (reply if isinstance(reply, dict) and "id" in reply else None)
        if card is None:
            there = quoted(", ".join(sorted(by_id))) or "none"
            raise EndpointError(
                f"{self.name} does not exist there: set models.{self.slot}.name to one of its models ({there})"
            )
        window = card.get("max_model_len")
        if isinstance(window, int) and window < self.config.context_tokens:
            raise EndpointError(
                f"{self.name} takes {window} tokens, not the {self.config.context_tokens} of "
                f"models.{self.slot}.context_tokens: set that to {window} or less, or serve the model with more"
            )

    async def _is_public(self) -> bool:
        """Return whether a key that is none is answered too, where the endpoint's models are listed."""
        import httpx2
        import openai

        address = self._find_address()
        if has_key(address):
            return False
        client = _make_client(self.config, address, "", httpx2.create_ssl_context())
        try:
            async with asyncio.timeout(min(30.0, self.config.timeout_s)):
                await client.get("/models", cast_to=httpx2.Response)
        except (openai.OpenAIError, httpx2.HTTPError, TimeoutError, OSError):
            return False
        finally:
            await client.close()
        return True

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            await client.close()

    async def _get(self, path: str) -> object:
        """Return the JSON that the endpoint has at a path; None: it has none.

        Raises:
            EndpointError: it cannot be asked.
        """
        import httpx2
        import openai

        body = b""
        for retry in range(4):
            try:
                with self._lent_client() as client:
                    async with asyncio.timeout(min(30.0, self.config.timeout_s)):
                        response = await client.get(path, cast_to=httpx2.Response)
                        body = self._starred(response.content)
                break
            except openai.APIStatusError as error:
                reply = self._error_reply(error)
                if error.status_code in (404, 405, 501) or (error.status_code == 403 and "scope" in reply.text):
                    # A key may be good for completions alone.
                    return None
                if reply.kind == "refused_all":
                    raise EndpointError(f"{self.name}: {reply.text}; {reply.remedy}") from None
                why = reply.text
            except (openai.OpenAIError, httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
                why = self._failure(error)
                if retry == 3:
                    raise EndpointError(
                        f"nothing answers at {shown_url(self.config.base_url)!r} ({why}): start the server there, or "
                        f"set models.{self.slot}.base_url"
                    ) from None
            await asyncio.sleep(0.2 * 2**retry)
        else:
            logger.warning("%s is there, but answers %s; it is given time", self.name, why)
            return None
        try:
            value: object = json.loads(body)
        except ValueError:
            return None
        return value

    def _find_address(self) -> str:
        shown = shown_url(self.config.base_url)
        if not shown.startswith(("http://", "https://")):
            raise EndpointError(
                f"models.{self.slot}.base_url is {shown!r}: set it to the address of an OpenAI-compatible endpoint, "
                "for instance http://localhost:8000/v1"
            )
        address = full_address(self.slot, self.config.base_url, os.environ)
        if HIDDEN in address:
            raise EndpointError(
                f"models.{self.slot}.base_url is {shown!r}, where {HIDDEN} stands for a key that is not at hand: give "
                "the address with it"
            )
        return address

    def _find_key(self) -> str:
        config = self.config
        if not config.api_key_env:
            return ""
        key = os.environ.get(config.api_key_env, "").strip()
        if not key:
            raise EndpointError(
                f"{self.name} needs a key, and the environment variable {config.api_key_env} is not set: "
                f"export {config.api_key_env}=... where the run is started"
            )
        if not (key.isascii() and key.isprintable() and " " not in key):
            raise EndpointError(
                f"the key in the environment variable {config.api_key_env} holds a blank or a character that no key "
                "has: set it again"
            )
        return key

    def _tell_once(self, what: str, message: str, *more: object) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning(message, self.name, *more)


def _named(why: str) -> str:
    """Return which of what can be left out a refusal names; two dots where it names none."""
    return ",".join(name for name in OMITTABLE if name in why) or ".."


@asynccontextmanager
async def _deadline(timeout_s: float) -> AsyncIterator[None]:
    """Raise TimeoutError after so many seconds, but not before what has arrived by then is read.

    A loop that was held up finds the timer and the reply ready at the same time, and would take the timer first.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timeout:
        timer = loop.call_later(timeout_s, lambda: timeout.reschedule(loop.time() + _READING_S))
        try:
            yield
        finally:
            timer.cancel()


def _make_client(config: ModelConfig, address: str, key: str, tls: ssl.SSLContext) -> openai.AsyncOpenAI:
    import httpx2
    import openai

    # What it writes at a lower level has addresses in it, with what they hold.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    scheme, user, place, query = url_parts(address)
    if user is not None:
        name, _, password = (quote(unquote(part), safe="") for part in user.partition(":"))
        place = f"{name}:{password}@{place}"

    async def bound(response: httpx2.Response) -> None:
        is_file = response.request.url.path.endswith("/content")
        response.stream = _bounded(response, _MAX_FILE_BYTES if is_file else MAX_BODY_BYTES)

    connections = min(config.max_in_flight, _CONNECTIONS_PER_CLIENT)
    http_client = openai.DefaultAsyncHttpxClient(
        limits=httpx2.Limits(
            max_connections=connections + 1, max_keepalive_connections=connections + 1, keepalive_expiry=_KEEPALIVE_S
        ),
        verify=tls,
        # A redirected POST becomes a GET; the address is the user's to mend.
        follow_redirects=False,
        event_hooks={"response": [bound]},
    )
    return openai.AsyncOpenAI(
        base_url=f"{scheme}{place}",
        default_query=dict(parse_qsl(query, keep_blank_values=True)),
        # Without one, the client would take OPENAI_API_KEY from the environment and show it to this endpoint.
        api_key=key or "none",
        timeout=openai.Timeout(config.timeout_s, connect=min(_CONNECT_TIMEOUT_S, config.timeout_s)),
        max_retries=0,
        # What is compressed has no bound.
        default_headers={"Accept-Encoding": "identity"},
        http_client=http_client,
    )


def _bounded(response: httpx2.Response, max_bytes: int) -> httpx2.AsyncByteStream:
    """Return a response's stream, cut off with an error after so many bytes."""
    import httpx2

    assert isinstance(response.stream, httpx2.AsyncByteStream)
    stream: httpx2.AsyncByteStream = response.stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            num_bytes = 0
            async for chunk in stream:
                num_bytes += len(chunk)
                if num_bytes > max_bytes:
                    raise httpx2.ReadError(f"a reply of more than {max_bytes} bytes")
                yield chunk

        async def aclose(self) -> None:
            await stream.aclose()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("a compressed reply, which was not asked for")
    return Bounded()
