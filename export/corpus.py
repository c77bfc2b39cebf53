"""The fixed texts over which a graph is compared with its reference: data in export/corpus.json."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from service.embedding.tokenization import Tokenizer

_PATH = Path(__file__).parent / "corpus.json"

# Every length up to 16, a middle one, and what lies around the window of a sliding layer (257),
# around twice the window, and around the limit of EmbeddingGemma.
LENGTHS = (*range(1, 17), 64, *range(255, 260), *range(511, 516), 1024, 2047, 2048, 2100)


class Sentence(msgspec.Struct, frozen=True):
    """A text and its language (ISO 639-1)."""

    language: str
    text: str


class Query(msgspec.Struct, frozen=True):
    """A question and the index of the document that answers it."""

    text: str
    document: int


class Retrieval(msgspec.Struct, frozen=True):
    """Documents, and queries for them."""

    documents: tuple[str, ...]
    queries: tuple[Query, ...]


class Corpus(msgspec.Struct, frozen=True):
    """Sentences of many languages, oddities, and a small retrieval task.

    `calibration` are texts that nothing is compared on.
    """

    sentences: tuple[Sentence, ...]
    snippets: tuple[str, ...]
    retrieval: Retrieval
    calibration: tuple[str, ...]


def read_corpus() -> Corpus:
    """The committed corpus."""
    return msgspec.json.decode(_PATH.read_bytes(), type=Corpus)


def varied_texts(corpus: Corpus, prompts: Mapping[str, str], tokenizer: Tokenizer) -> list[str]:
    """Every sentence and snippet, the empty text, each prompt, and a text of each length.

    Lengths above the tokenizer's limit stand once: what is over-long is cut there.
    """
    sentences = [sentence.text for sentence in corpus.sentences]
    prompted = [
        prompt + sentences[index % len(sentences)] for index, prompt in enumerate(prompts.values())
    ]
    limit = tokenizer.max_tokens
    lengths = [n for n in LENGTHS if n <= limit] + [limit + limit // 40]
    return [
        *sentences,
        *corpus.snippets,
        "",
        *prompted,
        *texts_of_lengths(corpus, tokenizer, lengths),
    ]


def texts_of_lengths(corpus: Corpus, tokenizer: Tokenizer, lengths: list[int]) -> Iterator[str]:
    """For each length a text of so many tokens, special tokens counted; each starts elsewhere.

    A length that no text has, such as one below the number of special tokens, is left out.
    """
    documents = corpus.retrieval.documents
    for index, length in enumerate(lengths):
        words = " ".join(documents[index:] + documents[:index]).split()
        while len(words) < 2 * length:
            words += words
        text = _grow(words, length, tokenizer)
        if text is not None:
            yield text


def _grow(words: list[str], length: int, tokenizer: Tokenizer) -> str | None:
    low, high = 0, len(words)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        if tokenizer.count(" ".join(words[:middle])) <= length:
            low = middle
        else:
            high = middle - 1
    text = " ".join(words[:low])
    for filler in ("", " a", " a b", " a b c", " a b c d", " a b c d e", " a b c d e f"):
        grown = (text + filler).strip()
        if tokenizer.count(grown) == length:
            return grown
    return None
