import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from service.embedding.batching import Cores
from service.embedding.cache import EmbeddingCache
from service.embedding.embedder import (
    INTERACTIVE_TEXTS,
    EmbeddedTexts,
    Embedder,
)
from service.embedding.onnx_model import Embeddings
from service.embedding.tokenization import TokenIds
from service.errors import (
    BatchTooLarge,
    DeadlineExceeded,
    EmptyInput,
    InferenceError,
    InvalidInput,
    Overloaded,
    RateLimited,
    TextTooLong,
    UnsupportedDimensions,
)
from tests.embedding.embedders import Purse, embedder_of
from tests.failing import open_embedder_running, open_failing_embedder

pytestmark = pytest.mark.anyio

LONG = "word " * 1_000


class Model:
    """Gives each text its number of tokens as embedding, when it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []  # of lengths
        self.may_run = threading.Event()
        self.runs = threading.Event()

    def __call__(self, tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
        self.runs.set()
        assert self.may_run.wait(10)
        self.batches.append([len(ids) for ids in tokens])
        return np.array([[len(ids)] * 384 for ids in tokens], np.float32)

    async def hold(self, embedder: Embedder) -> "asyncio.Task[EmbeddedTexts]":
        """Keep the worker busy with a text of three tokens until `may_run` is set."""
        holding = asyncio.create_task(embedder.embed(["one"], prompt=""))
        await asyncio.to_thread(self.runs.wait, 10)
        return holding


@pytest.fixture(scope="module")
async def embedder(anyio_backend: str, prompted_bundle: Path) -> AsyncIterator[Embedder]:
    async with embedder_of(prompted_bundle) as embedder:
        yield embedder


async def test_texts_become_unit_vectors_in_their_order(embedder: Embedder) -> None:
    texts = ["Mars is red.", "Venus is bright.", "Mars is red."]
    embedded = await embedder.embed(texts, prompt="")
    assert embedded.embeddings.shape == (3, 384)
    assert embedded.embeddings.dtype == np.float32
    assert np.linalg.norm(embedded.embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert embedded.embeddings[0] @ embedded.embeddings[2] == pytest.approx(1, abs=1e-4)
    assert embedded.embeddings[0] @ embedded.embeddings[1] < 0.9


async def test_tokens_count_what_the_model_read_prompt_included(embedder: Embedder) -> None:
    bare = await embedder.embed(["one two", "three"], prompt="")
    prompted = await embedder.embed(["one two", "three"], prompt="text: ")
    assert bare.tokens == (4, 3)
    assert prompted.tokens == (6, 5)


async def test_the_prompt_is_read_before_the_text(embedder: Embedder) -> None:
    prompted = await embedder.embed(["red planet"], prompt="find: ")
    written = await embedder.embed(["find: red planet"], prompt="")
    other = await embedder.embed(["red planet"], prompt="text: ")
    assert prompted.embeddings[0] @ written.embeddings[0] == pytest.approx(1, abs=1e-5)
    assert prompted.embeddings[0] @ other.embeddings[0] < 0.99


async def test_an_embedding_does_not_depend_on_the_other_texts(embedder: Embedder) -> None:
    texts = ["short", "a text of some more words than that", "word " * 200]
    together = await embedder.embed(texts, prompt="")
    alone = [await embedder.embed([text], prompt="") for text in texts]
    for embedding, single in zip(together.embeddings, alone, strict=True):
        assert embedding @ single.embeddings[0] >= 0.9999


@pytest.mark.parametrize("dimensions", [256, 128])
async def test_a_shorter_embedding_is_the_beginning_of_the_whole_at_unit_length(
    embedder: Embedder, dimensions: int
) -> None:
    whole = await embedder.embed(["one", "two"], prompt="")
    short = await embedder.embed(["one", "two"], prompt="", dimensions=dimensions)
    assert short.embeddings.shape == (2, dimensions)
    assert np.linalg.norm(short.embeddings, axis=1) == pytest.approx(1, abs=1e-6)
    beginnings = whole.embeddings[:, :dimensions]
    cosines = (short.embeddings * beginnings).sum(axis=1) / np.linalg.norm(beginnings, axis=1)
    assert cosines == pytest.approx(1, abs=1e-5)


async def test_other_dimensions_are_refused_before_anything_is_looked_at(
    embedder: Embedder,
) -> None:
    for dimensions in (300, 0, -1, 385):
        with pytest.raises(UnsupportedDimensions, match=f"={dimensions} is not one of 384, 256, 1"):
            await embedder.embed([], prompt="", dimensions=dimensions)


async def test_a_model_without_matryoshka_sizes_has_its_own_size_only(
    starter_bundle: Path,
) -> None:
    async with embedder_of(starter_bundle) as embedder:
        assert embedder.supported_dimensions == (384,)
        assert (await embedder.embed(["a"], prompt="", dimensions=384)).embeddings.shape == (1, 384)
        with pytest.raises(UnsupportedDimensions):
            await embedder.embed(["a"], prompt="", dimensions=128)


async def test_over_long_text_is_refused_or_truncated_as_asked(embedder: Embedder) -> None:
    with pytest.raises(TextTooLong, match="text 1 has 1,002 tokens"):
        await embedder.embed(["short", LONG], prompt="")
    embedded = await embedder.embed(["short", LONG, "short", LONG], prompt="", truncate=True)
    assert embedded.truncated == (1, 3)
    assert embedded.tokens == (3, 256, 3, 256)


async def test_texts_are_counted_through_where_there_are_many(embedder: Embedder) -> None:
    many = ["a text of some length " * 40] * 40
    with pytest.raises(TextTooLong, match="text 63 has 1,002 tokens"):
        await embedder.embed([*many, *["short"] * 23, LONG], prompt="", truncate=False)
    with pytest.raises(InvalidInput, match="text 63 is not valid Unicode"):
        await embedder.embed([*many, *["short"] * 23, "\ud800"], prompt="", truncate=True)


async def test_a_text_that_fits_is_not_reported_as_truncated(embedder: Embedder) -> None:
    assert (await embedder.embed(["short"], prompt="", truncate=True)).truncated == ()


@pytest.mark.parametrize(
    ("texts", "complaint"), [([], "an empty list"), (["a", "", "b"], "text 1 is empty")]
)
async def test_nothing_to_embed_is_refused(
    embedder: Embedder, texts: list[str], complaint: str
) -> None:
    with pytest.raises(EmptyInput, match=complaint):
        await embedder.embed(texts, prompt="")


async def test_too_many_texts_are_refused(embedder: Embedder) -> None:
    with pytest.raises(BatchTooLarge, match="at most 64 texts, got 65"):
        await embedder.embed(["a"] * 65, prompt="")


async def test_too_many_tokens_in_all_are_refused(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle, max_queued_tokens=100) as embedder:
        with pytest.raises(BatchTooLarge, match="more than 100 tokens together"):
            await embedder.embed([f"{n} " * 10 for n in range(10)], prompt="")
        assert (await embedder.embed(["word " * 10], prompt="")).tokens == (12,)


@pytest.mark.parametrize(
    ("text", "position"), [("\ud800", 0), ("ab\udc00c", 2), ("\U0001f600\ude00", 1)]
)
async def test_half_a_surrogate_pair_is_refused_with_its_place(
    embedder: Embedder, text: str, position: int
) -> None:
    with pytest.raises(InvalidInput, match=f"text 1 .* at position {position} .* surrogate"):
        await embedder.embed(["fine", text], prompt="")


@pytest.mark.parametrize("text", ["a\0b", "\0", "\u200b", " ", "\n", "\U0001f600", "\ufffe"])
async def test_unusual_text_is_text(embedder: Embedder, text: str) -> None:
    assert (await embedder.embed([text], prompt="")).embeddings.shape == (1, 384)


async def test_timings_say_where_the_time_went(embedder: Embedder) -> None:
    timings = (await embedder.embed(["a"] * 8, prompt="")).timings
    assert timings.tokenization > 0
    assert timings.queue >= 0
    assert timings.inference > 0


async def test_concurrent_requests_get_their_own_embeddings(embedder: Embedder) -> None:
    texts = [f"text number {n} " + "and more " * (n % 7) for n in range(40)]
    alone = [await embedder.embed([text], prompt="") for text in texts]
    together = await asyncio.gather(*(embedder.embed([text], prompt="") for text in texts))
    for one, other in zip(alone, together, strict=True):
        assert one.embeddings[0] @ other.embeddings[0] >= 0.9999


async def test_a_full_queue_refuses_and_serves_again(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle, max_queued_tokens=2_000) as embedder:
        many = [asyncio.create_task(embedder.embed([LONG], prompt="", truncate=True))]
        many += [
            asyncio.create_task(embedder.embed([f"{n} " * 200 for n in range(i, i + 8)], prompt=""))
            for i in (0, 8, 16)
        ]
        results = await asyncio.gather(*many, return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        assert refused
        assert all(isinstance(error, Overloaded) for error in refused)
        await embedder.embed([f"{n} " * 200 for n in range(8)], prompt="")


async def test_what_is_embedded_is_paid_for_before(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle) as embedder:
        purse = Purse(10)
        paying = embedder.on_account(purse)
        embedded = await paying.embed(["tea", "red planet"], prompt="")
        assert purse.tokens == 10 - sum(embedded.tokens) == 3
        with pytest.raises(RateLimited):
            await paying.embed(["red planet"], prompt="")
        assert purse.tokens == 3
        await embedder.embed(["red planet"], prompt="")


async def test_what_the_queue_refuses_costs_nothing(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle, max_queued_tokens=2_000) as embedder:
        purse = Purse(100_000)
        paying = embedder.on_account(purse)
        texts = [[f"{n} " * 200 for n in range(i, i + 8)] for i in range(0, 32, 8)]
        results = await asyncio.gather(
            *(paying.embed(some, prompt="") for some in texts), return_exceptions=True
        )
        done = [result for result in results if not isinstance(result, BaseException)]
        assert len(done) < len(results)
        assert 100_000 - purse.tokens == sum(sum(embedded.tokens) for embedded in done)


async def test_the_same_text_takes_room_once(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle, max_queued_tokens=300) as embedder:
        embedded = await embedder.embed(["word " * 200] * 40, prompt="")
        assert len(embedded.embeddings) == 40


def texts_of(tokens: int, *, count: int, named: str) -> list[str]:
    """Different texts of so many tokens, the two special ones included."""
    return [f"{named} " + "word " * (tokens - 4) + str(number) for number in range(count)]


# The model reads 256 tokens at most, and a batch holds 100.
@pytest.mark.parametrize(
    ("texts", "tokens", "asked", "interactive"),
    [
        (1, 256, None, True),
        (INTERACTIVE_TEXTS, 256 // INTERACTIVE_TEXTS, None, True),
        (INTERACTIVE_TEXTS, 256 // INTERACTIVE_TEXTS + 1, None, False),
        (INTERACTIVE_TEXTS + 1, 5, None, False),
        (1, 5, "bulk", False),
    ],
)
async def test_few_texts_of_few_tokens_go_before_others(
    starter_bundle: Path,
    texts: int,
    tokens: int,
    asked: Literal["bulk"] | None,
    interactive: bool,
) -> None:
    model = Model()
    async with open_embedder_running(model, starter_bundle) as embedder:
        holding = [await model.hold(embedder)]
        others = embedder.embed(texts_of(50, count=2, named="that"), prompt="", priority="bulk")
        these = embedder.embed(
            texts_of(tokens, count=texts, named="this"), prompt="", priority=asked
        )
        for embedding in (others, these):
            holding.append(asyncio.create_task(embedding))
            await asyncio.sleep(0)
        model.may_run.set()
        await asyncio.gather(*holding)
    assert (tokens in model.batches[1]) == interactive


async def test_what_is_not_done_in_time_is_given_up_and_never_computed(
    starter_bundle: Path,
) -> None:
    model = Model()
    async with open_embedder_running(model, starter_bundle) as embedder:
        holding = await model.hold(embedder)
        with pytest.raises(DeadlineExceeded, match=r"in 0\.001 s.*allow more time"):
            await embedder.embed(["one two three"], prompt="", timeout_seconds=0.001)
        model.may_run.set()
        await holding
        await embedder.embed(["two"], prompt="", timeout_seconds=60)
    assert model.batches == [[3], [3]]


async def test_what_the_cache_has_is_not_computed_again(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle, cache_bytes=10**6) as embedder:
        computed = await embedder.embed(["red", "blue"], prompt="a ")
        kept = await embedder.embed(["blue", "red"], prompt="a ", dimensions=128)
        assert kept.timings.queue == kept.timings.inference == 0
        assert kept.embeddings.shape == (2, 128)
        assert kept.tokens == computed.tokens[::-1]
        await embedder.embed(["red", "blue"], prompt="the ")
        info = embedder.cache_info()
        assert info
        assert (info.entries, info.hits, info.misses) == (4, 2, 4)


async def test_what_the_cache_has_takes_no_room(starter_bundle: Path) -> None:
    model = Model()
    model.may_run.set()
    async with open_embedder_running(model, starter_bundle, cache=EmbeddingCache(10**6)) as filled:
        texts = [f"{n} " * 98 for n in range(10)]
        for text in texts:
            await filled.embed([text], prompt="")
        model.may_run.clear()
        model.runs.clear()
        holding = await model.hold(filled)
        assert len((await filled.embed(texts, prompt="")).embeddings) == 10
        model.may_run.set()
        await holding


async def test_without_a_cache_there_is_nothing_to_say_of_it(embedder: Embedder) -> None:
    assert embedder.cache_info() is None


async def test_the_check_embeds(prompted_bundle: Path) -> None:
    async with embedder_of(prompted_bundle) as embedder:
        await embedder.check()


async def test_a_text_on_which_the_model_fails_fails_alone(fragile_bundle: Path) -> None:
    async with embedder_of(fragile_bundle) as embedder:
        good, bad, both = await asyncio.gather(
            embedder.embed(["a quiet hill"], prompt=""),
            embedder.embed(["a loud volcano"], prompt=""),
            embedder.embed(["a quiet hill", "a loud volcano"], prompt=""),
            return_exceptions=True,
        )
        assert isinstance(good, EmbeddedTexts)
        assert isinstance(bad, InferenceError)
        assert "text 0" in str(bad)
        assert isinstance(both, InferenceError)
        assert "text 1" in str(both)
        await embedder.check()


async def test_the_check_fails_where_the_model_does(starter_bundle: Path) -> None:
    async with open_failing_embedder(starter_bundle) as embedder:
        with pytest.raises(InferenceError, match="the model failed on text 0"):
            await embedder.check()


async def test_the_check_computes_what_the_cache_has(starter_bundle: Path) -> None:
    async with open_embedder_running(
        fails_on_long_texts, starter_bundle, cache=EmbeddingCache(10**6)
    ) as embedder:
        await embedder.check()
        await embedder.embed(["ready?"], prompt="")
        with pytest.raises(InferenceError, match="the model failed on text 0"):
            await embedder.embed(["a longer one"], prompt="")
        await embedder.check()
        info = embedder.cache_info()
        assert info
        assert (info.hits, info.misses) == (0, 2)


def fails_on_long_texts(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
    if max(map(len, tokens)) > 4:
        raise InferenceError("too long for a test")
    return np.ones((len(tokens), 384), np.float32)


async def test_the_check_fails_while_a_worker_is_missing(starter_bundle: Path) -> None:
    reasons = set()
    async with open_embedder_running(die, starter_bundle, workers=2) as embedder:
        for _ in range(20):
            with pytest.raises(InferenceError) as failure:
                await embedder.check()
            reasons.add(str(failure.value).split(",")[0])
    assert "expected 2 inference workers" in reasons


def die(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
    raise SystemExit
