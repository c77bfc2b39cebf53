"""Text to embeddings: the door through which the rest of the service uses the model."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from service.embedding.manifest import Manifest, Precision, read_manifest
from service.embedding.onnx_model import Embeddings, OnnxModel, load_model
from service.embedding.scheduler import Scheduler, open_scheduler
from service.embedding.tokenization import TokenizedText, Tokenizer, load_tokenizer
from service.errors import (
    BatchTooLarge,
    EmptyInput,
    InferenceError,
    InvalidInput,
    ModelLoadError,
    ServiceError,
    UnsupportedDimensions,
)

logger = logging.getLogger(__name__)

# On two CPU cores 256 tokens at once are computed as fast, per token, as any more are; a GPU wants
# more. A larger batch only makes those wait that come after it.
CPU_BATCH_TOKENS = 2_048
GPU_BATCH_TOKENS = 16_384

# A batch that was computed this recently proves the same as one more text would.
RECENT_SECONDS = 5.0

# No batch takes this long, so a model that gave no answer for it does not answer any more.
CHECK_TIMEOUT_SECONDS = 30.0

TOKENIZATION_THREADS = 2

# Tokenizing this much takes some 10 ms.
CHARACTERS_AT_ONCE = 50_000

T = TypeVar("T")


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
        model: OnnxModel,
        scheduler: Scheduler,
        threads: ThreadPoolExecutor,
        limits: Limits,
    ) -> None:
        self.manifest = manifest
        self.variant = model.variant
        self.execution_providers = model.execution_providers
        self.limits = limits
        self.loaded_at = int(time.time())
        self.dimensions = manifest.dimensions
        self.supported_dimensions = tuple(
            sorted({manifest.dimensions, *manifest.matryoshka_dimensions}, reverse=True)
        )
        self._tokenizer = tokenizer
        self._scheduler = scheduler
        self._threads = threads

    async def embed(
        self,
        texts: Sequence[str],
        *,
        prompt: str,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> EmbeddedTexts:
        """Embed each text behind the prompt, at full size unless `dimensions` says otherwise.

        Raises:
            EmptyInput: there is no text, or one of them is empty.
            BatchTooLarge: there are more texts, or more tokens in all, than the service takes.
            UnsupportedDimensions: the model was not trained for this size.
            InvalidInput: a text is not valid Unicode.
            TextTooLong: a text exceeds the model's limit and `truncate` is false.
            Overloaded: the queue is full.
            InferenceError: the model failed on one of these texts.
        """
        if dimensions is not None and dimensions not in self.supported_dimensions:
            raise UnsupportedDimensions(dimensions, supported=self.supported_dimensions)
        self._check(texts)
        self._scheduler.check_room()
        started = time.perf_counter()
        tokenized = await self._tokenize(texts, prompt, truncate)
        tokenization_seconds = time.perf_counter() - started
        scheduled = await self._scheduler.embed([text.ids for text in tokenized])
        return EmbeddedTexts(
            embeddings=shorten(scheduled.embeddings, dimensions or self.dimensions),
            tokens=tuple(len(text.ids) for text in tokenized),
            truncated=tuple(index for index, text in enumerate(tokenized) if text.truncated),
            timings=Timings(
                tokenization=tokenization_seconds,
                queue=scheduled.queue_seconds,
                inference=scheduled.inference_seconds,
            ),
        )

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for the model, special tokens included, at any length."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: [self._tokenizer.count(text) for text in texts]
        )

    async def check(self) -> None:
        """Return if the model embeds: it has just done so, or it embeds a short text now.

        Raises:
            Overloaded: the queue is full, and nothing was computed lately.
            InferenceError: the model failed, or gave no answer in time.
        """
        if self._scheduler.seconds_since_success() < RECENT_SECONDS:
            return
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_SECONDS):
                await self.embed(["ready?"], prompt="")
        except TimeoutError:
            if self._scheduler.seconds_since_success() > CHECK_TIMEOUT_SECONDS:
                raise InferenceError(
                    f"the model has given no answer for {CHECK_TIMEOUT_SECONDS:.0f} s"
                ) from None

    async def _tokenize(
        self, texts: Sequence[str], prompt: str, truncate: bool
    ) -> list[TokenizedText]:
        # Piece by piece, so that a large request neither holds up the small ones nor is tokenized
        # to its end when that is more than the queue can hold.
        loop = asyncio.get_running_loop()
        tokenized: list[TokenizedText] = []
        tokens = 0
        for piece in _pieces(texts):
            tokenized_piece = await loop.run_in_executor(
                self._threads,
                _tokenize,
                self._tokenizer,
                piece,
                len(tokenized),
                prompt,
                truncate,
            )
            tokenized += tokenized_piece
            tokens += sum(len(text.ids) for text in tokenized_piece)
            self._scheduler.check_room(tokens)
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
                f"text {texts.index('')} is empty; leave it out, or send a text", parameter="input"
            )


@asynccontextmanager
async def open_embedder(
    bundle: Path,
    *,
    max_batch_texts: int,
    max_queued_tokens: int,
    max_batch_tokens: int = 0,
    precision: Precision | None = None,
    threads: int = 0,
) -> AsyncIterator[Embedder]:
    """An embedder of the bundle in this folder; leaving it finishes what was accepted.

    `threads` compute one batch, 0 for each core one; `max_batch_tokens` 0 suits the processor.

    Raises:
        ModelLoadError: the bundle is missing, damaged, or not for this machine.
    """
    started = time.perf_counter()
    manifest = read_manifest(bundle)
    (tokenizer, tokenizer_seconds), (model, model_seconds) = await asyncio.gather(
        asyncio.to_thread(_timed, lambda: load_tokenizer(bundle, manifest)),
        asyncio.to_thread(
            _timed, lambda: load_model(bundle, manifest, precision=precision, threads=threads)
        ),
    )
    on_cpu = model.execution_providers[0] == "CPUExecutionProvider"
    limits = Limits(
        max_tokens_per_text=manifest.max_tokens,
        max_batch_texts=max_batch_texts,
        max_batch_tokens=max_batch_tokens or (CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS),
        max_queued_tokens=max_queued_tokens,
    )
    with ThreadPoolExecutor(TOKENIZATION_THREADS, "tokenization") as tokenization_threads:
        async with open_scheduler(
            model.run,
            max_batch_tokens=limits.max_batch_tokens,
            max_queued_tokens=limits.max_queued_tokens,
        ) as scheduler:
            embedder = Embedder(manifest, tokenizer, model, scheduler, tokenization_threads, limits)
            try:
                await embedder.check()
            except ServiceError as error:
                raise ModelLoadError(f"{bundle} was loaded, but cannot embed: {error}") from error
            logger.info(
                "loaded %s (%s, %s) from %s in %.2f s: tokenizer %.2f s, session %.2f s",
                manifest.name,
                model.variant.precision,
                model.execution_providers[0],
                bundle,
                time.perf_counter() - started,
                tokenizer_seconds,
                model_seconds,
            )
            if manifest.notice:
                logger.info(manifest.notice)
            if model.variant.parity is None:
                logger.warning(
                    "how faithful this %s variant is was not measured: its parity is null",
                    model.variant.precision,
                )
            yield embedder


def shorten(embeddings: Embeddings, dimensions: int) -> Embeddings:
    """Keep the first components of each embedding, at unit length.

    A Matryoshka model is trained so that the beginning of an embedding is one itself. It is shorter
    than one, and whoever compares embeddings takes them for unit vectors.

    Raises:
        InferenceError: a beginning is zero and has no direction.
    """
    if dimensions == embeddings.shape[1]:
        return embeddings
    beginnings = embeddings[:, :dimensions]  # (texts, dimensions)
    lengths = np.linalg.norm(beginnings, axis=1, keepdims=True)
    if not lengths.all():
        raise InferenceError(f"an embedding is zero in its first {dimensions} components")
    return np.ascontiguousarray(beginnings / lengths)


def _pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    first = characters = 0
    for index, text in enumerate(texts):
        if characters > CHARACTERS_AT_ONCE:
            yield texts[first:index]
            first, characters = index, 0
        characters += len(text)
    yield texts[first:]


def _tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], first_index: int, prompt: str, truncate: bool
) -> list[TokenizedText]:
    for index, text in enumerate(texts, first_index):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"text {index} is not valid Unicode: at position {error.start} there is half of a "
                f"surrogate pair (U+{ord(text[error.start]):04X})",
                parameter="input",
            ) from None
    tokenized = tokenizer.tokenize(
        [prompt + text for text in texts], truncate=truncate, first_index=first_index
    )
    for index, text_ids in enumerate(tokenized, first_index):
        if not len(text_ids.ids):
            raise EmptyInput(f"text {index} has nothing that the model reads", parameter="input")
    return tokenized


def _timed(load: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return load(), time.perf_counter() - started
