from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.rate_limits import MINUTE, Allowance, TokenBucket
from service.errors import RateLimited
from service.keys import Limits

PER_MINUTE = st.integers(1, 1_000_000)
# When something is taken, in nanoseconds after the time before, and how much.
TAKES = st.lists(st.tuples(st.integers(0, 2 * MINUTE), st.integers(1, 3_000_000)), max_size=30)


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@given(PER_MINUTE, TAKES)
def test_in_any_time_no_more_passes_than_at_once_and_evenly(
    per_minute: int, takes: list[tuple[int, int]]
) -> None:
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    passed: list[tuple[int, int]] = []
    for later, amount in takes:
        clock.now += later
        if not bucket.take(amount):
            passed.append((clock.now, amount))
    for first, (start, _) in enumerate(passed):
        for last, (end, final) in enumerate(passed[first:], first):
            before = sum(amount for _, amount in passed[first:last])
            allowed = per_minute * (1 + Fraction(end - start, MINUTE))
            assert before + min(final, per_minute) <= allowed


@given(PER_MINUTE, TAKES, st.integers(1, 3_000_000))
def test_what_is_refused_passes_after_the_wait_and_not_before(
    per_minute: int, takes: list[tuple[int, int]], amount: int
) -> None:
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    for later, taken in takes:
        clock.now += later
        bucket.take(taken)
    wait = round(bucket.take(amount) * 1e9)
    if wait:
        clock.now += wait - max(2, wait >> 50)  # a float of so many seconds is not exact
        assert bucket.take(amount)
        clock.now += 2 * max(2, wait >> 50)
        assert not bucket.take(amount)


@given(PER_MINUTE, TAKES)
def test_what_is_given_back_can_be_taken_again(
    per_minute: int, takes: list[tuple[int, int]]
) -> None:
    clock = Clock()
    bucket, other = TokenBucket(per_minute, clock), TokenBucket(per_minute, clock)
    for later, amount in takes:
        clock.now += later
        if not bucket.take(amount):
            bucket.give_back(amount)
            assert not bucket.take(amount)
        other.take(amount)
    assert bucket.take(per_minute) == other.take(per_minute)


def test_without_limits_nothing_is_refused() -> None:
    allowance = Allowance(Limits())
    for _ in range(10):
        allowance.take_request()
        allowance.take_tokens(1_000_000_000)
    assert allowance.max_memories is None


def test_a_refusal_says_what_the_limit_is_and_when_to_come_back() -> None:
    allowance = Allowance(Limits(requests_per_minute=60, tokens_per_minute=6_000))
    for _ in range(60):
        allowance.take_request()
    with pytest.raises(RateLimited, match=r"at most 60 requests a minute .* in 1\.0 s") as refused:
        allowance.take_request()
    assert refused.value.retry_after == pytest.approx(1, abs=0.2)
    allowance.take_tokens(6_000)
    with pytest.raises(RateLimited, match=r"at most 6,000 tokens a minute .* these 3,000"):
        allowance.take_tokens(3_000)
