"""When a request may leave for an endpoint: how many at a time, how many a minute, and whether the door is open.

`Limits` decides and keeps no time of its own: every method is told what the clock says. `Gate` makes tasks wait for it.

- At most `max_in_flight` requests are under way; fewer once the endpoint says that it is too many: down by a share,
  once for a burst, and up by one for every so many successes.
- `Retry-After` of one reply holds for all requests.
- Requests and tokens of any minute stay within what the account may ask for.
- After several failures in a row the door closes: single requests are let through as probes, after 1, 2, 4 .. 60
  seconds, until one succeeds.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rayfactory.config import ModelConfig
from rayfactory.errors import EngineError, RayfactoryError

_DECREASE = 0.7
"""Share of the limit that is left after a burst of "too many"."""

_FAILURES_TO_CLOSE = 8
"""Failures in a row that close the door. Three of ten requests failing at random do so once in 15,000."""

_RESOLUTION_S = 1e-6
"""Waits below this are rounding errors; a clock might never get past them."""

_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0


class TokenBucket:
    """Lets at most `per_minute` through in any minute, evenly; an item larger than a second's worth passes on credit.

    Source: the token bucket of Turner 1986. A second's worth is kept at most, and the rate is lower by as much, so that
    a full bucket and a minute's refill together are `per_minute`.
    """

    def __init__(self, per_minute: int, now: float) -> None:
        self._capacity = max(1.0, per_minute / 60)
        self._per_s = max(per_minute - self._capacity, per_minute / 2) / 60
        self._level = self._capacity
        self._at = now

    def wait_s(self, amount: int, now: float) -> float:
        """Return the seconds until `amount` may pass."""
        missing = min(amount, self._capacity) - self._refilled(now)
        return max(0.0, missing / self._per_s)

    def take(self, amount: int, now: float) -> None:
        """Let `amount` pass."""
        self._level = self._refilled(now) - amount
        self._at = now

    def _refilled(self, now: float) -> float:
        return min(self._capacity, self._level + (now - self._at) * self._per_s)


@dataclass(frozen=True, slots=True)
class Permit:
    """One request under way."""

    sent_at: float
    is_probe: bool


class Limits:
    """The state behind a gate. Times are seconds of one monotonic clock."""

    def __init__(self, config: ModelConfig, now: float) -> None:
        self._max_in_flight = config.max_in_flight
        self._max_pause_s = config.max_pause_s
        self._buckets = (
            None if config.requests_per_minute is None else TokenBucket(config.requests_per_minute, now),
            None if config.tokens_per_minute is None else TokenBucket(config.tokens_per_minute, now),
        )
        self.limit = config.max_in_flight
        self.in_flight = 0
        self._successes = 0
        self._decreased_at = -math.inf
        self._held_until = -math.inf
        self._failures = 0
        # Since when requests have been sent without a single success.
        self._barren_since: float | None = None
        self.closed_since: float | None = None
        self.closed_why = ""
        self._pause_s = _FIRST_PAUSE_S
        self._probe_at = -math.inf
        self._probing = False

    def wait_s(self, tokens: int, now: float) -> float:
        """Return the seconds until a request may leave; infinite while it depends on others coming back."""
        if self.in_flight >= self.limit:
            return math.inf
        waits = [self._held_until - now, 0.0]
        if self.closed_since is not None:
            waits.append(math.inf if self._probing else self._probe_at - now)
        waits += [
            bucket.wait_s(amount, now) for bucket, amount in zip(self._buckets, (1, tokens), strict=True) if bucket
        ]
        return max(waits)

    def send(self, tokens: int, now: float) -> Permit:
        """Note that a request leaves."""
        for bucket, amount in zip(self._buckets, (1, tokens), strict=True):
            if bucket:
                bucket.take(amount, now)
        self.in_flight += 1
        if self._barren_since is None:
            self._barren_since = now
        is_probe = self.closed_since is not None
        self._probing = self._probing or is_probe
        return Permit(now, is_probe)

    def succeeded(self, permit: Permit) -> None:
        """Note a reply that shows the endpoint at work."""
        self._come_back(permit)
        self._failures = 0
        self._barren_since = None
        self.closed_since = None
        self._pause_s = _FIRST_PAUSE_S
        self._successes += 1
        if self._successes >= self.limit and self.limit < self._max_in_flight:
            self.limit += 1
            self._successes = 0

    def too_many(self, permit: Permit, now: float, retry_after_s: float | None) -> None:
        """Note that the endpoint wants fewer requests (429)."""
        self._come_back(permit)
        self._hold(now, retry_after_s)
        # What left before the last decrease is of the same burst.
        if permit.sent_at > self._decreased_at:
            self._decreased_at = now
            self.limit = max(1, math.floor(self.limit * _DECREASE))
            self._successes = 0
        if permit.is_probe:
            self._pause(now)
        self._check_barren(now)

    def failed(self, permit: Permit, now: float, why: str, retry_after_s: float | None = None) -> bool:
        """Note a failure of the endpoint or on the way to it; return whether the door is closed."""
        self._come_back(permit)
        self._hold(now, retry_after_s)
        self._failures += 1
        if self.closed_since is None and self._failures >= _FAILURES_TO_CLOSE:
            self.closed_since = now
            self._probe_at = now + self._pause_s
        if self.closed_since is not None:
            self.closed_why = why
            self._check_barren(now)
        if permit.is_probe:
            self._pause(now)
        return self.closed_since is not None

    def abandoned(self, permit: Permit) -> None:
        """Note a request that came to nothing for a reason of ours."""
        self._come_back(permit)

    def waits_for(self, now: float) -> str:
        """Return what requests wait for, for a person; empty: for nothing but their turn."""
        if self.closed_since is not None:
            wait = "a probe is under way" if self._probing else f"next try in {max(0.0, self._probe_at - now):.0f} s"
            return f"closed for {now - self.closed_since:.0f} s: {self.closed_why}; {wait}"
        if self._held_until > now:
            return f"the endpoint asks to wait for {self._held_until - now:.0f} s"
        names = ("requests_per_minute", "tokens_per_minute")
        for name, bucket in zip(names, self._buckets, strict=True):
            if bucket and bucket.wait_s(1, now) > 0:
                return name
        return ""

    def _come_back(self, permit: Permit) -> None:
        self.in_flight -= 1
        if permit.is_probe:
            self._probing = False
        # Whether the endpoint has been asked in vain for as long as it may be.
        self.exhausted = False

    def _hold(self, now: float, retry_after_s: float | None) -> None:
        if retry_after_s is not None:
            self._held_until = max(self._held_until, now + min(retry_after_s, self._max_pause_s))

    def _pause(self, now: float) -> None:
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._probe_at = now + self._pause_s

    def _check_barren(self, now: float) -> None:
        if self._barren_since is not None and now - self._barren_since >= self._max_pause_s:
            self.exhausted = True


_Waiters = deque[tuple[int, asyncio.Future[Permit]]]


class Gate:
    """Lets tasks through to an endpoint in the order in which they came, the urgent ones before the others.

    Args:
        name: of the endpoint, for messages.
        clock: seconds, monotonic; that of the event loop the tasks run in.
    """

    def __init__(self, name: str, config: ModelConfig, clock: Callable[[], float]) -> None:
        self.limits = Limits(config, clock())
        self._name = name
        self._max_pause_s = config.max_pause_s
        self._clock = clock
        self._urgent: _Waiters = deque()
        self._others: _Waiters = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._shut: RayfactoryError | None = None

    @property
    def num_waiting(self) -> int:
        """Tasks that wait to be let through."""
        return len(self._urgent) + len(self._others)

    async def enter(self, tokens: int, *, urgent: bool = False) -> Permit:
        """Wait to be let through; whoever is has to say how it ended: by one of the methods below.

        Args:
            tokens: that the endpoint will count.
            urgent: go before those who are not.

        Raises:
            EngineError: the endpoint has been away for too long.
            EndpointError: the gate was shut with it.
        """
        waiter: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        (self._urgent if urgent else self._others).append((tokens, waiter))
        self._let_through()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self.abandoned(waiter.result())
            raise

    def shut(self, error: RayfactoryError) -> None:
        """Let nobody through any more; everyone who waits or comes gets the error."""
        if self._shut is None:
            self._shut = error
        self._let_through()

    def succeeded(self, permit: Permit) -> None:
        """See `Limits.succeeded`."""
        self.limits.succeeded(permit)
        self._let_through()

    def too_many(self, permit: Permit, retry_after_s: float | None) -> None:
        """See `Limits.too_many`."""
        self.limits.too_many(permit, self._clock(), retry_after_s)
        self._give_up_if_exhausted("429 Too Many Requests")
        self._let_through()

    def failed(self, permit: Permit, why: str, retry_after_s: float | None = None) -> bool:
        """See `Limits.failed`."""
        is_closed = self.limits.failed(permit, self._clock(), why, retry_after_s)
        self._give_up_if_exhausted(why)
        self._let_through()
        return is_closed

    def abandoned(self, permit: Permit) -> None:
        """See `Limits.abandoned`."""
        self.limits.abandoned(permit)
        self._let_through()

    def _give_up_if_exhausted(self, why: str) -> None:
        if self.limits.exhausted:
            self.shut(
                EngineError(
                    f"{self._name} has not answered one request for {self._max_pause_s:g} s (max_pause_s); "
                    f"what came last: {why}; the same command goes on from here once it is back"
                )
            )

    def _let_through(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while waiters := self._urgent or self._others:
            tokens, waiter = waiters[0]
            if waiter.done():
                waiters.popleft()
                continue
            if self._shut is not None:
                waiter.set_exception(type(self._shut)(*self._shut.args))
                continue
            now = self._clock()
            wait_s = self.limits.wait_s(tokens, now)
            if wait_s > _RESOLUTION_S:
                if wait_s < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._let_through)
                return
            waiter.set_result(self.limits.send(tokens, now))
