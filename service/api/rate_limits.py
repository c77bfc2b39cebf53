"""What a key may use in a minute, counted in this process."""

import time
from collections.abc import Callable

from service.errors import RateLimited
from service.keys import Key, Limits

MINUTE = 60_000_000_000  # nanoseconds, so that the sums are exact


class TokenBucket:
    """Lets `per_minute` pass at once, and then as much again in each minute, evenly.

    More than that at once passes where nothing was taken for a while, and is waited for afterwards.
    """

    def __init__(self, per_minute: int, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._full_at = clock()

    def take(self, amount: int) -> float:
        """Take so much and give 0, or else the seconds until it can be taken."""
        now = self._clock()
        full_at = max(self._full_at, now)
        time = self._time_of(amount)
        if (wait := full_at + min(time, MINUTE) - MINUTE - now) > 0:
            return wait / 1e9
        self._full_at = full_at + time
        return 0.0

    def give_back(self, amount: int) -> None:
        """Put back what was taken and not used."""
        self._full_at -= self._time_of(amount)

    def _time_of(self, amount: int) -> int:
        return -(-amount * MINUTE // self.per_minute)


class Allowance:
    """What a key has left of its limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._requests = _bucket(limits.requests_per_minute)
        self._tokens = _bucket(limits.tokens_per_minute)

    @property
    def max_memories(self) -> int | None:
        """How many memories the tenant of the key may have."""
        return self.limits.max_memories

    def take_request(self) -> None:
        """Count a request.

        Raises:
            RateLimited: there were too many of late.
        """
        if self._requests and (wait := self._requests.take(1)):
            raise RateLimited(
                f"expected at most {self._requests.per_minute:,} requests a minute with this key; "
                f"there is room for this one in {wait:.1f} s",
                retry_after=wait,
            )

    def take_tokens(self, tokens: int) -> None:
        """Count tokens that are about to be embedded.

        Raises:
            RateLimited: there were too many of late.
        """
        if self._tokens and (wait := self._tokens.take(tokens)):
            raise RateLimited(
                f"expected at most {self._tokens.per_minute:,} tokens a minute with this key; "
                f"there is room for these {tokens:,} in {wait:.1f} s",
                retry_after=wait,
            )

    def give_tokens_back(self, tokens: int) -> None:
        """Put back tokens that were not embedded."""
        if self._tokens:
            self._tokens.give_back(tokens)


class Allowances:
    """The allowance of each key, which lasts as long as its limits stay the same."""

    def __init__(self) -> None:
        self._of_keys: dict[str, Allowance] = {}

    def of(self, key: Key) -> Allowance:
        """What this key has left."""
        allowance = self._of_keys.get(key.id)
        if allowance is None or allowance.limits != key.limits:
            allowance = self._of_keys[key.id] = Allowance(key.limits)
        return allowance


def _bucket(per_minute: int | None) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute)
