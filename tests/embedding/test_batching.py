from collections.abc import Iterable
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.batching import (
    INTERACTIVE_BATCHES_IN_A_ROW,
    MAX_PADDING,
    Batch,
    Cost,
    Plan,
    Priority,
    TextQueue,
)

# On these two workers a batch costs as much as four tokens, and on all cores half of everything.
PLAN = Plan(workers=2, max_batch_tokens=256, one_core=Cost(4, 1), all_cores=Cost(2, 0.5))
# Where nothing is gained by all cores.
NARROW = Plan(workers=2, max_batch_tokens=256, one_core=Cost(4, 1), all_cores=Cost(4, 1))
# What EmbeddingGemma takes on two cores, at int8.
MEASURED = Plan(2, 512, one_core=Cost(0.007, 0.00044), all_cores=Cost(0.0046, 0.00024))


class Text:
    """A waiting text; `looked_at` counts how often any of them was looked up."""

    looked_at = 0

    def __init__(self, length: int) -> None:
        self.length = length

    def __hash__(self) -> int:
        Text.looked_at += 1
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def queue_of(
    plan: Plan, lengths: Iterable[int] = (), priority: Priority = "bulk"
) -> TextQueue[Text]:
    queue: TextQueue[Text] = TextQueue(plan)
    put(queue, lengths, priority)
    return queue


def put(queue: TextQueue[Text], lengths: Iterable[int], priority: Priority) -> list[Text]:
    texts = [Text(length) for length in lengths]
    for text in texts:
        queue.put(text, text.length, priority)
    return texts


def take(queue: TextQueue[Text], computing: int) -> Batch[Text]:
    batch = queue.take(computing)
    assert batch
    return batch


def lengths_of(batch: Batch[Text]) -> list[int]:
    return sorted(text.length for text in batch.texts)


def drain(queue: TextQueue[Text], *, computing: int = 1) -> list[Batch[Text]]:
    return list(iter(lambda: queue.take(computing), None))


def log_normal_lengths(texts: int, seed: int) -> list[int]:
    """Of 60 tokens in the median, and at most 512."""
    lengths = np.random.default_rng(seed).lognormal(np.log(60), 0.8, texts)
    return [int(length) for length in np.clip(lengths, 2, 512)]


def padding_of(batch: Batch[Text]) -> int:
    lengths = lengths_of(batch)
    return len(lengths) * lengths[-1] - sum(lengths)


def test_a_batch_has_texts_of_similar_length() -> None:
    queue = queue_of(NARROW, [60, 10, 61, 11, 62, 10])
    assert [lengths_of(batch) for batch in drain(queue)] == [[60, 61, 62], [10, 10, 11]]


def test_a_batch_has_the_text_that_waits_longest_and_those_that_lengthen_it_least() -> None:
    queue = queue_of(NARROW, [30, 50, 31, 29, 10, 30])
    assert lengths_of(take(queue, 1)) == [29, 30, 30, 31]
    assert lengths_of(take(queue, 1)) == [50]
    assert lengths_of(take(queue, 1)) == [10]
    assert not queue.take(1)


def test_of_equal_texts_the_oldest_are_computed_first() -> None:
    queue = queue_of(NARROW)
    texts = put(queue, [100] * 5, "bulk")
    assert [batch.texts for batch in drain(queue)] == [texts[:2], texts[2:4], texts[4:]]


def test_a_text_longer_than_a_batch_may_be_is_alone() -> None:
    queue = queue_of(NARROW, [300, 300, 20])
    assert [lengths_of(batch) for batch in drain(queue)] == [[300], [300], [20]]


def test_idle_workers_share_what_waits() -> None:
    queue = queue_of(NARROW, [16] * 7)
    assert lengths_of(take(queue, 0)) == [16] * 4
    assert lengths_of(take(queue, 1)) == [16] * 3


def test_texts_that_differ_a_little_leave_nothing_over_when_they_are_shared() -> None:
    queue = queue_of(NARROW, [30, 31, 32, 33, 30, 31, 32, 33])
    assert lengths_of(take(queue, 0)) == [30, 30, 31, 31, 32]
    assert lengths_of(take(queue, 1)) == [32, 33, 33]
    assert not queue.take(1)


def test_a_busy_service_makes_full_batches() -> None:
    queue = queue_of(NARROW, [16] * 100)
    assert lengths_of(take(queue, 0)) == [16] * 16
    assert lengths_of(take(queue, 1)) == [16] * 16


def test_interactive_texts_go_first_and_alone() -> None:
    queue = queue_of(NARROW, [16, 16], "bulk")
    put(queue, [16], "interactive")
    batches = drain(queue)
    assert [lengths_of(batch) for batch in batches] == [[16], [16, 16]]


def test_bulk_texts_have_their_turn_after_some_interactive_batches() -> None:
    queue = queue_of(NARROW, [8] * 2, "bulk")
    put(queue, [256] * 10, "interactive")
    turns = [lengths_of(batch)[0] for batch in drain(queue)]
    assert turns.index(8) == INTERACTIVE_BATCHES_IN_A_ROW
    assert len(turns) == 11


def test_only_the_batches_that_bulk_texts_waited_for_are_counted() -> None:
    queue = queue_of(NARROW, [256] * 10, "interactive")
    for _ in range(5):
        assert lengths_of(take(queue, 1)) == [256]
    put(queue, [8], "bulk")
    turns = [lengths_of(batch)[0] for batch in drain(queue)]
    assert turns.index(8) == INTERACTIVE_BATCHES_IN_A_ROW


def test_a_promoted_text_is_interactive() -> None:
    queue = queue_of(NARROW)
    first, second = put(queue, [8, 8], "bulk")
    queue.promote(second)
    assert [batch.texts for batch in drain(queue)] == [[second], [first]]


def test_a_dropped_text_is_in_no_batch() -> None:
    queue = queue_of(NARROW)
    bulk = put(queue, [8, 9], "bulk")
    interactive = put(queue, [8, 9], "interactive")
    queue.drop(bulk[0])
    queue.drop(interactive[1])
    assert [batch.texts for batch in drain(queue)] == [interactive[:1], bulk[1:]]
    assert not queue.take(0)


def test_a_text_alone_has_all_cores() -> None:
    batch = take(queue_of(PLAN, [16], "interactive"), 0)
    assert (lengths_of(batch), batch.cores) == ([16], "all")


def test_beside_a_worker_that_computes_a_text_has_one_core() -> None:
    batch = take(queue_of(PLAN, [16], "interactive"), 1)
    assert (lengths_of(batch), batch.cores) == ([16], "one")


def test_all_cores_take_all_that_waits_of_both_classes() -> None:
    queue = queue_of(PLAN, [15, 16], "bulk")
    put(queue, [16], "interactive")
    batch = take(queue, 0)
    assert (lengths_of(batch), batch.cores) == ([15, 16, 16], "all")
    assert not queue.take(0)


def test_what_the_workers_have_done_sooner_is_shared() -> None:
    # Two texts: 20 s on a core each, 22 s on both. Three: 36 s, since one core has two, and 32 s.
    plan = Plan(2, 256, one_core=Cost(4, 1), all_cores=Cost(2, 0.625))
    two, three = (take(queue_of(plan, [16] * texts), 0) for texts in (2, 3))
    assert (len(two.texts), two.cores) == (1, "one")
    assert (len(three.texts), three.cores) == (3, "all")


@pytest.mark.parametrize("lengths", [[16] * 17, [8, 16], [60, 70]])
def test_what_is_no_batch_is_not_computed_as_one(lengths: list[int]) -> None:
    plan = Plan(2, 256, one_core=Cost(4, 1), all_cores=Cost(0, 0.01), borders=(64,))
    assert take(queue_of(plan, lengths), 0).cores == "one"


def test_a_worker_alone_has_all_cores_and_keeps_the_classes_apart() -> None:
    plan = Plan(1, 256, one_core=Cost(4, 1), all_cores=Cost(4, 1))
    queue = queue_of(plan, [16], "bulk")
    put(queue, [16], "interactive")
    assert [(len(batch.texts), batch.cores) for batch in drain(queue, computing=0)] == [
        (1, "all"),
        (1, "all"),
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("texts", "priority"), [(2_048, "bulk"), (32, "interactive")])
def test_less_than_a_tenth_of_mixed_load_is_padding(
    texts: int, priority: Priority, seed: int
) -> None:
    lengths = log_normal_lengths(texts, seed)
    batches = drain(queue_of(MEASURED, lengths, priority))
    assert sum(map(padding_of, batches)) < sum(lengths) / 10


def test_a_batch_is_formed_without_a_look_at_all_that_wait() -> None:
    queue = queue_of(MEASURED, np.arange(100_000) % 2_048 + 1)
    Text.looked_at = 0
    batch = take(queue, 0)
    assert Text.looked_at <= 10 * len(batch.texts)


COSTS = st.builds(Cost, batch=st.sampled_from([0, 4, 30]), token=st.sampled_from([0.5, 1]))
PLANS = st.builds(
    Plan,
    workers=st.integers(1, 4),
    max_batch_tokens=st.sampled_from([16, 128, 512]),
    one_core=COSTS,
    all_cores=COSTS,
    borders=st.sampled_from([(), (64,), (10, 40)]),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["interactive", "bulk"]), st.integers(1, 100)),
        st.tuples(st.sampled_from(["drop", "promote"]), st.integers(0, 1_000)),
        st.tuples(st.just("take"), st.integers(0, 4)),
    ),
    max_size=60,
)


@given(plan=PLANS, steps=STEPS)
def test_every_text_is_taken_once_in_batches_that_keep_to_the_plan(
    plan: Plan, steps: list[tuple[str, int]]
) -> None:
    queue: TextQueue[Text] = TextQueue(plan)
    waiting: dict[Text, tuple[bool, int]] = {}  # interactive first, then by age
    ages = count()

    def check(batch: Batch[Text]) -> None:
        lengths = lengths_of(batch)
        if len(lengths) > 1:
            padding = padding_of(batch)
            cost = plan.all_cores if plan.workers == 1 else plan.one_core
            assert padding + sum(lengths) <= plan.max_batch_tokens
            assert padding <= max(MAX_PADDING * sum(lengths), cost.batch / cost.token)
        for border in plan.borders:
            assert lengths[-1] <= border or border < lengths[0]
        ranks = {text: waiting.pop(text) for text in batch.texts}
        bulk = {is_bulk for is_bulk, _ in ranks.values()}
        if len(bulk) == 2:
            assert batch.cores == "all"
            assert not waiting
        else:
            assert all(rank >= min(ranks.values()) for rank in waiting.values() if rank[0] in bulk)

    for step, number in steps:
        some = list(waiting)[number % len(waiting)] if waiting else None
        match step:
            case "interactive" | "bulk" as priority:
                text = Text(number)
                queue.put(text, number, priority)
                waiting[text] = (priority == "bulk", next(ages))
            case "drop" if some:
                queue.drop(some)
                del waiting[some]
            case "promote" if some:
                queue.promote(some)
                if waiting[some][0]:
                    waiting[some] = (False, next(ages))
            case "take" if batch := queue.take(number):
                check(batch)
    for batch in drain(queue):
        check(batch)
    assert not waiting


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=60),
    workers=st.integers(1, 4),
    computing=st.integers(0, 3),
)
def test_a_repeatable_plan_takes_the_same_batches_whoever_is_idle(
    lengths: list[int], workers: int, computing: int
) -> None:
    one_core = PLAN.one_core
    plan = Plan(workers, 256, one_core=one_core, all_cores=one_core, repeatable=True)
    alone = queue_of(replace(plan, workers=1), lengths)
    together = queue_of(plan, lengths)
    expected = [lengths_of(batch) for batch in drain(alone)]
    taken = drain(together, computing=min(computing, workers - 1))
    assert [lengths_of(batch) for batch in taken] == expected
