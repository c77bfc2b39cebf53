"""Text to embeddings: the door through which the rest of the service uses the model."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

from service.embedding.batching import Priority
from service.embedding.cache import CacheInfo, EmbeddingCache, embed_cached
from service.embedding.cuda_model import CudaModel
from service.embedding.manifest import Manifest
from service.embedding.matryoshka import shorten
from service.embedding.onnx_model import Embeddings, Model
from service.embedding.scheduler import Scheduler
from service.embedding.threaded_tokenizer import ThreadedTokenizer
from service.embedding.tokenization import (
    CHARACTERS_AT_ONCE,
    Reading,
    Side,
    TokenIds,
    TokenizedText,
    Tokenizer,
    pieces,
    read_texts,
)
from service.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    EmptyInput,
    InferenceError,
    Overloaded,
    UnsupportedDimensions,
)
from service.heap import return_freed

# A request of more texts than this is bulk, and others do not wait for it; so is one of more tokens
# than a text alone, or a batch, may have.
INTERACTIVE_TEXTS = 8

# A batch that was computed this recently proves the same as one more text would.
RECENT_SECONDS = 5.0

# No batch takes this long, so a model that gave no answer for it does not answer any more.
CHECK_TIMEOUT_SECONDS = 30.0

# Tokenizing this much takes 0.3 ms at most, and little more than to hand it to another thread.
CHARACTERS_ON_THE_LOOP = 2_000

# What the model is tried with, since it has to be some text.
TRIAL = "ready?"


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one request went, in seconds."""

    tokenization: float
    queue: float
    inference: float


@dataclass(frozen=True, slots=True)
class EmbeddedTexts:
    """The embeddings of some texts, in their order."""

    embeddings: Embeddings  # (texts, dimensions), of unit length
    tokens: tuple[int, ...]
    """How many tokens of each text the model read, its prompt included."""
    truncated: tuple[int, ...]
    """The indices of the texts that were cut to the model's limit."""
    timings: Timings


# Called in the context of whoever embeds, before the embeddings are there: it must not raise.
class Account(Protocol):
    """Who pays for tokens."""

    def take_tokens(self, tokens: int) -> None:
        """Pay for tokens that are about to be embedded.

        Raises:
            RateLimited: that is too much for now.
        """

    def give_tokens_back(self, tokens: int) -> None:
        """Take back what was paid for tokens that were not embedded."""


OnEmbedded = Callable[[EmbeddedTexts], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, one batch and the queue may hold."""

    max_tokens_per_text: int
    max_batch_texts: int
    max_batch_tokens: int
    max_queued_tokens: int


class Embedder:
    """Embeds texts with one model; made by open_embedder."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        model: Model,
        scheduler: Scheduler,
        tokenization_threads: ThreadPoolExecutor,
        *,
        limits: Limits,
        workers: int,
        cache: EmbeddingCache | None = None,
        on_embedded: OnEmbedded | None = None,
    ) -> None:
        self.manifest = manifest
        self.variant = model.variant
        self.execution_providers = model.execution_providers
        self.threads = model.threads
        self.gpu_nodes = model.nodes if isinstance(model, CudaModel) else None
        self.workers = workers
        self.limits = limits
        self.loaded_at = int(time.time())
        self.dimensions = manifest.dimensions
        self.supported_dimensions = tuple(
            sorted({manifest.dimensions, *manifest.matryoshka_dimensions}, reverse=True)
        )
        self.tokenizer = ThreadedTokenizer(
            tokenizer, tokenization_threads, max_tokens_at_once=limits.max_queued_tokens
        )
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._tokenization_threads = tokenization_threads
        self._cache = cache
        self._account: Account | None = None
        self._on_embedded = on_embedded

    def on_account(self, account: Account) -> "Embedder":
        """This embedder, as one who pays for tokens uses it."""
        paid = copy(self)
        paid._account = account
        return paid

    async def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str,
        own_prompts: tuple[str, ...] = (),
        dimensions: int | None = None,
        truncate: bool = False,
        keep: Side = "start",
        max_tokens: int | None = None,
        priority: Literal["bulk"] | None = None,
        timeout_seconds: float | None = None,
    ) -> EmbeddedTexts:
        """Embed each text behind the prompt, at full size unless `dimensions` says otherwise.

        A text that begins with one of `own_prompts` is read behind that and not behind `prompt`.
        A text of more than `max_tokens` beside its prompt, or of more than the model reads, is
        refused, or cut to the side that is to be kept where it may be truncated.

        Bulk requests are those of more than INTERACTIVE_TEXTS texts, or of more tokens than a text
        or a batch may have, and those that say so. What is not done in `timeout_seconds` is given
        up, and costs nothing more.

        Raises:
            EmptyInput: there is no text, or one of them is empty.
            BatchTooLarge: there are more texts, or more tokens in all, than the service takes.
            UnsupportedDimensions: the model was not trained for this size.
            InvalidInput: a text is not valid Unicode.
            TextTooLong: a text exceeds the limit and `truncate` is false.
            Overloaded: the queue is full.
            RateLimited: the account has not enough tokens left.
            DeadlineExceeded: they were not embedded in `timeout_seconds`.
            InferenceError: the model failed on one of these texts.
        """
        if dimensions is not None and dimensions not in self.supported_dimensions:
            raise UnsupportedDimensions(dimensions, supported=self.supported_dimensions)
        self._check(texts)
        try:
            async with asyncio.timeout(timeout_seconds):
                embedded = await self._embed(
                    texts,
                    Reading(prompt, own_prompts, truncate, keep, max_tokens),
                    dimensions or self.dimensions,
                    priority,
                )
        except TimeoutError:
            raise DeadlineExceeded(
                f"expected the embeddings in {timeout_seconds:g} s, as the request says, but they "
                "are not ready; allow more time, or send fewer texts"
            ) from None
        if self._on_embedded:
            self._on_embedded(embedded)
        return embedded

    def cache_info(self) -> CacheInfo | None:
        """What the cache holds; None where there is none."""
        return None if self._cache is None else self._cache.info()

    @property
    def queued_tokens(self) -> int:
        """How many tokens are waiting or running."""
        return self._scheduler.queued_tokens

    @property
    def workers_alive(self) -> int:
        """How many of the workers there are, which is all of them unless some die."""
        return self._scheduler.workers_alive

    async def check(self) -> None:
        """Return if all workers live and the model embeds: lately, or else a short text now.

        Raises:
            Overloaded: the queue is full, and nothing was computed lately.
            InferenceError: a worker is missing, or the model failed, or gave no answer in time.
        """
        if (alive := self.workers_alive) < self.workers:
            raise InferenceError(
                f"expected {self.workers} inference workers, got {alive}; the log says why one "
                "ended, and another takes its place"
            )
        if self._scheduler.seconds_since_success() < RECENT_SECONDS:
            return
        (trial,) = self._tokenizer.tokenize([TRIAL], truncate=False)
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self._scheduler.embed([trial.ids], "interactive")
        except TimeoutError:
            if self._scheduler.seconds_since_success() > CHECK_TIMEOUT_SECONDS:
                raise InferenceError(
                    f"the model has given no answer for {CHECK_TIMEOUT_SECONDS:.0f} s"
                ) from None

    async def _embed(
        self,
        texts: Sequence[str],
        reading: Reading,
        dimensions: int,
        asked: Literal["bulk"] | None,
    ) -> EmbeddedTexts:
        if self._cache is None:  # what is kept needs no room
            self._scheduler.check_room()
        started = time.perf_counter()
        if sum(map(len, texts)) <= CHARACTERS_ON_THE_LOOP:
            tokenized = read_texts(self._tokenizer, texts, reading)
        else:
            tokenized = await self._tokenize_in_threads(texts, reading)
        tokenization_seconds = time.perf_counter() - started
        ids = [text.ids for text in tokenized]
        priority = asked or self._priority_of(ids)
        with self._paid(sum(map(len, ids))):
            if self._cache is None:
                scheduled = await self._scheduler.embed(ids, priority)
            else:
                scheduled = await embed_cached(self._cache, self._scheduler, ids, priority)
        return EmbeddedTexts(
            embeddings=shorten(scheduled.embeddings, dimensions),
            tokens=tuple(map(len, ids)),
            truncated=tuple(index for index, text in enumerate(tokenized) if text.truncated),
            timings=Timings(
                tokenization=tokenization_seconds,
                queue=scheduled.queue_seconds,
                inference=scheduled.inference_seconds,
            ),
        )

    @contextmanager
    def _paid(self, tokens: int) -> Iterator[None]:
        if self._account is None:
            yield
            return
        self._account.take_tokens(tokens)
        try:
            yield
        except Overloaded:
            self._account.give_tokens_back(tokens)
            raise

    def _priority_of(self, texts: Sequence[TokenIds]) -> Priority:
        few_tokens = max(self.limits.max_tokens_per_text, self.limits.max_batch_tokens)
        few = len(texts) <= INTERACTIVE_TEXTS and sum(map(len, texts)) <= few_tokens
        return "interactive" if few else "bulk"

    async def _tokenize_in_threads(
        self, texts: Sequence[str], reading: Reading
    ) -> list[TokenizedText]:
        # Piece by piece, so that a large request neither holds up the small ones nor is tokenized
        # to its end when that is more than the queue can hold.
        loop = asyncio.get_running_loop()
        tokenized: list[TokenizedText] = []
        tokens: dict[str, int] = {}  # by text, since the same text is computed once
        for piece in pieces(texts):
            tokenize = partial(
                read_texts, self._tokenizer, piece, reading, first_index=len(tokenized)
            )
            tokenized_piece = await loop.run_in_executor(self._tokenization_threads, tokenize)
            tokenized += tokenized_piece
            if self._cache is None:
                tokens |= zip(piece, (len(text.ids) for text in tokenized_piece), strict=True)
                self._scheduler.check_room(sum(tokens.values()))
        if sum(map(len, texts)) > CHARACTERS_AT_ONCE:
            # Tokenizing takes 500 bytes a token and more, in small blocks all over the heap.
            await loop.run_in_executor(self._tokenization_threads, return_freed)
        return tokenized

    def _check(self, texts: Sequence[str]) -> None:
        if not texts:
            raise EmptyInput("expected at least one text, got an empty list", parameter="input")
        if len(texts) > self.limits.max_batch_texts:
            raise BatchTooLarge(
                f"expected at most {self.limits.max_batch_texts:,} texts, got {len(texts):,}; "
                "send them in several requests",
                parameter="input",
            )
        if "" in texts:
            raise EmptyInput(
                f"text {texts.index('')} is empty; leave it out, or send a text",
                parameter="input",
                position=texts.index(""),
            )
