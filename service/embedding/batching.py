"""The queue of waiting texts: which of them are computed next, together, and on how many cores.

No threads and no clock in here: scheduler.py asks, and computes what it is told.
"""

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Priority = Literal["interactive", "bulk"]
Cores = Literal["one", "all"]

Text = TypeVar("Text", bound=Hashable)

# So often in a row may interactive texts be preferred to bulk ones. Each of those batches has at
# most the size of the bulk one that follows, so bulk gets a fifth of the workers' time or more.
INTERACTIVE_BATCHES_IN_A_ROW = 4

# Padding that takes less time than a batch of its own is allowed, and beyond it this share of the
# tokens. With 32 to 2,048 texts of log-normal length less of it makes no batch worth having fewer,
# and 0.1 costs up to 3 % more time; with none, where a batch costs nothing, each length is alone.
MAX_PADDING = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """The seconds of a batch: `batch` whatever it holds, and `token` for each of its tokens."""

    batch: float
    token: float

    def of(self, tokens: int) -> float:
        """The seconds that a batch of this many tokens takes, padding included."""
        return self.batch + self.token * tokens


@dataclass(frozen=True, slots=True)
class Plan:
    """How batches are formed on one machine.

    No batch has texts on both sides of a border, which belongs to the shorter ones: the model
    computes the two in different ways, and so not together.
    """

    workers: int
    max_batch_tokens: int  # padding included
    one_core: Cost
    all_cores: Cost
    borders: tuple[int, ...] = ()  # tokens, ascending
    repeatable: bool = False
    """Batches follow from the texts that wait alone, not from when a worker is idle, so that a
    request that has the queue for itself is computed in the same ones each time."""


@dataclass(frozen=True, slots=True)
class Batch(Generic[Text]):
    """Texts that are computed together, in any order."""

    texts: list[Text]
    cores: Cores


class TextQueue(Generic[Text]):
    """The texts that wait, in two classes: interactive ones come first, bulk ones never starve."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cost = plan.all_cores if plan.workers == 1 else plan.one_core
        self._interactive: _Waiting[Text] = _Waiting()
        self._bulk: _Waiting[Text] = _Waiting()
        self._preferred = 0  # interactive batches in a row that bulk texts waited for

    def put(self, text: Text, length: int, priority: Priority) -> None:
        """Let a text of `length` tokens wait behind all of its class."""
        (self._interactive if priority == "interactive" else self._bulk).add(text, length)

    def promote(self, text: Text) -> None:
        """Let a waiting text be interactive; from here on it waits behind all that are."""
        if text in self._bulk.lengths:
            self._interactive.add(text, self._bulk.remove(text))

    def drop(self, text: Text) -> None:
        """Take a waiting text out of the queue."""
        (self._bulk if text in self._bulk.lengths else self._interactive).remove(text)

    def take(self, computing: int) -> Batch[Text] | None:
        """The next batch, for a worker that is idle while `computing` others are not.

        The text that has waited longest in its class is in it, with those that lengthen the batch
        least. Idle workers share what waits in a class, so that a request alone is spread over all.
        """
        if not (self._interactive.lengths or self._bulk.lengths):
            return None
        if self._plan.repeatable:
            computing = self._plan.workers - 1
        alone = self._plan.workers == 1
        if not alone and not computing and self._sooner_on_all_cores():
            self._preferred = 0
            return Batch([*self._interactive.remove_all(), *self._bulk.remove_all()], "all")
        waiting = self._next_class()
        share = waiting.tokens / max(self._plan.workers - computing, 1)
        texts = self._similar_to_the_oldest(waiting, share)
        for text in texts:
            waiting.remove(text)
        return Batch(texts, "all" if alone else "one")

    def _next_class(self) -> "_Waiting[Text]":
        if not self._bulk.lengths:
            self._preferred = 0
            return self._interactive
        if not self._interactive.lengths or self._preferred >= INTERACTIVE_BATCHES_IN_A_ROW:
            self._preferred = 0
            return self._bulk
        self._preferred += 1
        return self._interactive

    def _sooner_on_all_cores(self) -> bool:
        """Whether all that waits is one batch, and has all cores sooner done with it than each."""
        classes = [waiting for waiting in (self._interactive, self._bulk) if waiting.lengths]
        texts = sum(len(waiting.lengths) for waiting in classes)
        tokens = sum(waiting.tokens for waiting in classes)
        shortest = min(waiting.sorted_lengths[0] for waiting in classes)
        longest = max(waiting.sorted_lengths[-1] for waiting in classes)
        if self._side(shortest) != self._side(longest) or not self._fits(texts, longest, tokens):
            return False
        texts_a_worker = -(-texts // self._plan.workers)
        return self._plan.all_cores.of(texts * longest) < self._plan.one_core.of(
            texts_a_worker * longest
        )

    def _similar_to_the_oldest(self, waiting: "_Waiting[Text]", share: float) -> list[Text]:
        """Texts of about `share` tokens, one of them the oldest, each the one that pads least."""
        longest = waiting.oldest_length()
        side = self._side(longest)
        borders = (-1, *self._plan.borders)
        ceiling = self._plan.borders[side] if side < len(self._plan.borders) else None
        shorter = waiting.at_most(longest, above=borders[side])
        longer = waiting.above(longest, at_most=ceiling)
        down, up = next(shorter, None), next(longer, None)
        texts: list[Text] = []
        tokens = 0
        while not texts or tokens < share:
            count = len(texts) + 1
            can_go_down = down is not None and self._fits(count, longest, tokens + down[0])
            can_go_up = up is not None and self._fits(count, up[0], tokens + up[0])
            if can_go_down and can_go_up and down and up:
                can_go_down = longest - down[0] <= len(texts) * (up[0] - longest)
            if can_go_down and down:
                tokens += down[0]
                texts.append(down[1])
                down = next(shorter, None)
            elif can_go_up and up:
                longest = up[0]
                tokens += up[0]
                texts.append(up[1])
                up = next(longer, None)
            else:
                break
        return texts

    def _fits(self, texts: int, longest: int, tokens: int) -> bool:
        padded = texts * longest
        padding = padded - tokens
        cheap = padding <= MAX_PADDING * tokens or padding * self._cost.token <= self._cost.batch
        return texts == 1 or (padded <= self._plan.max_batch_tokens and cheap)

    def _side(self, length: int) -> int:
        return bisect_left(self._plan.borders, length)


class _Waiting(Generic[Text]):
    """The texts of one class, by age and by length."""

    def __init__(self) -> None:
        self.lengths: OrderedDict[Text, int] = OrderedDict()  # the oldest first
        self.sorted_lengths: list[int] = []  # each once
        self.tokens = 0
        self._by_length: dict[int, OrderedDict[Text, None]] = {}

    def add(self, text: Text, length: int) -> None:
        if length not in self._by_length:
            self._by_length[length] = OrderedDict()
            insort(self.sorted_lengths, length)
        self._by_length[length][text] = None
        self.lengths[text] = length
        self.tokens += length

    def remove(self, text: Text) -> int:
        """Its length."""
        length = self.lengths.pop(text)
        texts = self._by_length[length]
        del texts[text]
        if not texts:
            del self._by_length[length]
            del self.sorted_lengths[bisect_left(self.sorted_lengths, length)]
        self.tokens -= length
        return length

    def remove_all(self) -> list[Text]:
        texts = list(self.lengths)
        for text in texts:
            self.remove(text)
        return texts

    def oldest_length(self) -> int:
        return next(iter(self.lengths.values()))

    def at_most(self, length: int, *, above: int) -> Iterator[tuple[int, Text]]:
        """Length and text, the longest first, of one length the oldest first."""
        lengths = self.sorted_lengths
        chosen = lengths[bisect_right(lengths, above) : bisect_right(lengths, length)]
        return ((tokens, text) for tokens in reversed(chosen) for text in self._by_length[tokens])

    def above(self, length: int, *, at_most: int | None) -> Iterator[tuple[int, Text]]:
        """Length and text, the shortest first, of one length the oldest first."""
        lengths = self.sorted_lengths
        end = len(lengths) if at_most is None else bisect_right(lengths, at_most)
        chosen = lengths[bisect_right(lengths, length) : end]
        return ((tokens, text) for tokens in chosen for text in self._by_length[tokens])
