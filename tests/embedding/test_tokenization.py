import ctypes
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.manifest import BundleFile, read_manifest, sha256_of
from service.embedding.tokenization import Reading, Side, Token, Tokenizer, load_tokenizer, pad
from service.errors import ModelLoadError, TextTooLong
from tests.checkpoint_tokenizer import train_tokenizer
from tests.checkpoints import TINY

START, END = 101, 102  # [CLS] and [SEP] of the starter model's vocabulary


@pytest.fixture(scope="module")
def tokenizer(starter_bundle: Path) -> Tokenizer:
    return load_tokenizer(starter_bundle, read_manifest(starter_bundle))


def ids_of(tokenizer: Tokenizer, text: str, *, truncate: bool = False) -> list[int]:
    (tokenized,) = tokenizer.tokenize([text], truncate=truncate)
    return [int(id) for id in tokenized.ids]


def test_a_text_becomes_the_ids_of_its_words_between_the_special_ones(tokenizer: Tokenizer) -> None:
    assert ids_of(tokenizer, "Hello world") == [START, 7592, 2088, END]


def test_texts_are_not_padded_to_each_other(tokenizer: Tokenizer) -> None:
    short, long = tokenizer.tokenize(["one", "one two three"], truncate=False)
    assert (len(short.ids), len(long.ids)) == (3, 5)


def test_a_text_of_exactly_the_limit_is_read_whole(tokenizer: Tokenizer) -> None:
    (tokenized,) = tokenizer.tokenize(["word " * (tokenizer.max_tokens - 2)], truncate=True)
    assert len(tokenized.ids) == tokenizer.max_tokens
    assert not tokenized.truncated


def test_a_text_over_the_limit_is_refused_by_its_index(tokenizer: Tokenizer) -> None:
    texts = ["short", "word " * (tokenizer.max_tokens - 1)]
    with pytest.raises(TextTooLong, match=r"text 1 has 257 tokens .* at most 256"):
        tokenizer.tokenize(texts, truncate=False)


def test_truncation_keeps_the_beginning_and_the_closing_token(tokenizer: Tokenizer) -> None:
    text = "first " + "word " * 1_000
    (tokenized,) = tokenizer.tokenize([text], truncate=True)
    assert tokenized.truncated
    assert len(tokenized.ids) == tokenizer.max_tokens
    assert tokenized.ids[:2].tolist() == ids_of(tokenizer, "first")[:2]
    assert tokenized.ids[-1] == END


def test_a_text_of_too_many_characters_is_refused_without_tokenizing_it(
    tokenizer: Tokenizer,
) -> None:
    with pytest.raises(TextTooLong, match=r"text 0 has 10,000,000 characters"):
        tokenizer.tokenize(["a" * 10_000_000], truncate=False)


def test_truncation_reads_no_more_characters_than_could_fit(tokenizer: Tokenizer) -> None:
    (tokenized,) = tokenizer.tokenize([" " * 10_000_000 + "end"], truncate=True)
    assert tokenized.truncated
    assert tokenized.ids.tolist() == [START, END]


def test_the_end_can_be_kept_behind_the_prompt(tokenizer: Tokenizer) -> None:
    reading = Reading("find: ", truncate=True, keep="end")
    short, long = tokenizer.read(["last", "word " * 1_000 + "last"], reading)
    assert (short.truncated, long.truncated) == (False, True)
    assert len(long.ids) == tokenizer.max_tokens
    assert long.ids[:4].tolist() == ids_of(tokenizer, "find: word")[:4]
    assert long.ids[-2:].tolist() == ids_of(tokenizer, "last")[1:]


def test_a_prompt_that_ends_within_the_first_token_is_kept_up_to_it(tokenizer: Tokenizer) -> None:
    (tokenized,) = tokenizer.read(
        ["less " + "word " * 1_000], Reading("find: care", truncate=True, keep="end")
    )
    assert len(tokenized.ids) == tokenizer.max_tokens
    assert tokenized.ids[:4].tolist() == ids_of(tokenizer, "find: word")[:4]


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_text_that_brings_a_prompt_is_read_as_one_that_is_given_it(
    tokenizer: Tokenizer, keep: Side
) -> None:
    long = "word " * 1_000 + "last"
    texts = ["find: last", f"find: {long}", "last"]
    bringing = Reading("text: ", ("find: ", "group: "), truncate=True, keep=keep, max_tokens=300)
    found = tokenizer.read(texts, bringing)
    finding = Reading("find: ", truncate=True, keep=keep, max_tokens=300)
    reading = Reading("text: ", truncate=True, keep=keep, max_tokens=300)
    expected = tokenizer.read(["last", long], finding) + tokenizer.read(["last"], reading)
    assert [text.ids.tolist() for text in found] == [text.ids.tolist() for text in expected]
    assert [text.truncated for text in found] == [text.truncated for text in expected]


def test_of_too_many_characters_the_last_are_kept(tokenizer: Tokenizer) -> None:
    (tokenized,) = tokenizer.read(
        [" " * 10_000_000 + "last"], Reading("find: ", truncate=True, keep="end")
    )
    assert tokenized.truncated
    assert tokenized.ids.tolist() == ids_of(tokenizer, "find: last")


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_text_may_have_fewer_tokens_than_the_model_reads(
    tokenizer: Tokenizer, keep: Side
) -> None:
    reading = Reading("find: ", truncate=True, keep=keep, max_tokens=2)
    exact, long = tokenizer.read(["one two", "one two three"], reading)
    assert exact.ids.tolist() == ids_of(tokenizer, "find: one two")
    assert not exact.truncated
    kept = "find: one two" if keep == "start" else "find: two three"
    assert long.ids.tolist() == ids_of(tokenizer, kept)
    assert long.truncated


def test_more_tokens_than_a_text_may_have_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(TextTooLong, match=r"text 1 has 7 tokens"):
        tokenizer.read(["one", "one two three"], Reading("find: ", max_tokens=2))


def test_no_limit_is_above_the_models(tokenizer: Tokenizer) -> None:
    reading = Reading("", truncate=True, max_tokens=10_000)
    (tokenized,) = tokenizer.read(["word " * 1_000], reading)
    assert len(tokenized.ids) == tokenizer.max_tokens


def test_a_text_is_split_into_tokens_that_say_where_they_are(tokenizer: Tokenizer) -> None:
    assert tokenizer.split("Hello wörld", add_special_tokens=True) == [
        Token(START, "[CLS]", None),
        Token(7592, "Hello", (0, 5)),
        Token(2088, "wörld", (6, 11)),
        Token(END, "[SEP]", None),
    ]


def test_tokens_are_split_off_without_the_special_ones(tokenizer: Tokenizer) -> None:
    split = tokenizer.split("Hello world", add_special_tokens=False)
    assert [token.id for token in split] == [7592, 2088]


def test_tokens_become_their_text_again(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "hello world")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "hello world"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "[CLS] hello world [SEP]"
    assert tokenizer.decode([10**9], skip_special_tokens=True) == ""


@given(st.lists(st.text(), min_size=1, max_size=5))
def test_a_text_is_tokenized_alone_as_among_others(tokenizer: Tokenizer, texts: list[str]) -> None:
    together = tokenizer.tokenize(texts, truncate=True)
    for text, tokenized in zip(texts, together, strict=True):
        assert tokenized.ids.tolist() == ids_of(tokenizer, text, truncate=True)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 9))
def test_padding_is_masked_and_nothing_else(lengths: Sequence[int], pad_token_id: int) -> None:
    tokens = [np.arange(10, 10 + length) for length in lengths]
    input_ids, attention_mask = pad(tokens, pad_token_id)
    assert input_ids.shape == attention_mask.shape == (len(lengths), max(lengths))
    for row, mask, ids in zip(input_ids, attention_mask, tokens, strict=True):
        assert row[: len(ids)].tolist() == ids.tolist()
        assert (row[len(ids) :] == pad_token_id).all()
        assert mask.tolist() == [1] * len(ids) + [0] * (max(lengths) - len(ids))


def test_a_file_that_is_no_tokenizer_is_refused(starter_bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(starter_bundle)
    path = tmp_path / "tokenizer.json"
    shutil.copy(starter_bundle / "manifest.json", path)
    recorded = BundleFile(path.name, sha256_of(path), path.stat().st_size)
    with pytest.raises(ModelLoadError, match="is not a tokenizer"):
        load_tokenizer(tmp_path, msgspec.structs.replace(manifest, tokenizer=recorded))


def test_texts_are_not_kept(starter_bundle: Path, tmp_path: Path) -> None:
    """A tokenizer of Gemma's layout takes each text for a word, and libraries keep words."""
    path = tmp_path / "tokenizer.json"
    train_tokenizer(TINY.vocab_size, seed=0).save(str(path))
    file = BundleFile(path.name, sha256_of(path), path.stat().st_size)
    manifest = msgspec.structs.replace(read_manifest(starter_bundle), tokenizer=file)
    tokenizer = load_tokenizer(tmp_path, manifest)
    tokenizer.tokenize(["the first text"], truncate=False)
    before = bytes_in_use()
    for number in range(2_000):
        tokenizer.tokenize([f"this is text number {number} of many"], truncate=False)
    assert bytes_in_use() - before < 500_000


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def bytes_in_use() -> int:
    """What glibc has given out in this thread's heap, and in mappings of their own."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)
