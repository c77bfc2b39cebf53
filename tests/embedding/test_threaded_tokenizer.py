from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.embedding.manifest import read_manifest
from service.embedding.threaded_tokenizer import ThreadedTokenizer
from service.embedding.tokenization import Tokenizer, load_tokenizer
from service.errors import BatchTooLarge, InvalidInput

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def tokenizer(starter_bundle: Path) -> Tokenizer:
    return load_tokenizer(starter_bundle, read_manifest(starter_bundle))


@pytest.fixture
def threaded(tokenizer: Tokenizer) -> Iterator[ThreadedTokenizer]:
    with ThreadPoolExecutor() as threads:
        yield ThreadedTokenizer(tokenizer, threads, max_tokens_at_once=100_000)


async def test_tokens_are_counted_beyond_the_limit_of_the_model(
    threaded: ThreadedTokenizer,
) -> None:
    assert await threaded.count(["one", "word " * 1_000]) == [3, 1_002]


async def test_many_texts_are_split_as_each_is(
    threaded: ThreadedTokenizer, tokenizer: Tokenizer
) -> None:
    texts = [f"{number} " + "word " * 500 for number in range(100)]
    split = await threaded.split(texts, add_special_tokens=True)
    assert split == [tokenizer.split(text, add_special_tokens=True) for text in texts]


async def test_more_tokens_than_the_service_takes_are_refused(threaded: ThreadedTokenizer) -> None:
    with pytest.raises(BatchTooLarge, match="at most 100,000 tokens"):
        await threaded.split(["word " * 60_000, "word " * 60_000], add_special_tokens=True)
    with pytest.raises(BatchTooLarge, match="at most 100,000 tokens"):
        await threaded.decode([[1] * 60_000, [1] * 60_000], skip_special_tokens=True)


async def test_half_of_a_surrogate_pair_is_refused_by_its_place(
    threaded: ThreadedTokenizer,
) -> None:
    with pytest.raises(InvalidInput, match="text 1 is not valid Unicode: at position 2"):
        await threaded.split(["one", "ab\udc00"], add_special_tokens=True)


async def test_lists_of_tokens_become_texts(threaded: ThreadedTokenizer) -> None:
    decoded = await threaded.decode([[7592], [2088, 102], []], skip_special_tokens=True)
    assert decoded == ["hello", "world", ""]
