"""Text to words, and the order of texts by words (BM25): one analysis for every store.

The stores' own analysers differ in what a word is, and with that in what a search finds. So they
are given words that are ready: ASCII tokens, separated by spaces.
"""

import math
import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

import snowballstemmer

from service.memory.model import to_microseconds

# Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009): the
# middle of the ranges that they found to work, and what Lucene and SQLite use.
K1 = 1.2
B = 0.75

MAX_QUERY_WORDS = 128
MAX_WORD_LENGTH = 64
MAX_TOKEN_BYTES = 120  # two characters each, and Lucene cuts words at 255

_WORD = re.compile(r"[^\W_]+")
# Scripts that are written without spaces; their words are overlapping pairs of characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]+"
)

# Letters that Unicode does not take apart, and that are often typed without their stroke.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "\u0131": "i"} | {"æ": "ae", "œ": "oe", "ð": "d"}
)

# Words that say nothing of what a question is about, in English, the language of the stemmer.
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        a about all also am an and any are as at be been being but by can could did do does doing
        for from had has have having he her hers him his how i if in into is it its just me my no
        nor not of on or our ours out over she should so some such than that the their theirs them
        then there these they this those to too up us was we were what when where which while who
        whom whose why will with would you your yours
        """,
    )
)


def words_of(text: str) -> list[str]:
    """The words of a text in their order: without case and accents, English endings taken off.

    A token has only the characters a-z, 0-9 and _, whatever the script of the text.
    """
    return [_token(word) for word in _split(text)]


def indexed_words(title: str | None, content: str) -> str:
    """What a store indexes of a memory: the words of title and content, separated by spaces.

    Of scripts without spaces the single characters, too, for queries of one character.
    """
    text = f"{title}\n{content}" if title else content
    return " ".join(_token(word) for word in _split(text, characters=True))


def query_words_of(text: str) -> list[str]:
    """The different words of a query that say what it is about, or all where none does."""
    words = list(dict.fromkeys(_split(text)))
    telling = [word for word in words if word not in STOP_WORDS] or words
    return list(dict.fromkeys(_token(word) for word in telling))[:MAX_QUERY_WORDS]


class Candidate(NamedTuple):
    """A text that has one of the words of a query."""

    id: str
    created_at: datetime
    words: str
    """As words_of gives them, separated by spaces."""


class WordMatch(NamedTuple):
    """A memory that has words of a query, and which."""

    id: str
    words: tuple[str, ...]


def rank_by_words(query: Sequence[str], candidates: Sequence[Candidate]) -> list[WordMatch]:
    """The candidates by BM25, best first; of equals the newer first, then by id.

    How rare a word is, is taken from the candidates, so that no store's statistics, and nothing of
    other tenants, decides the order.
    """
    tokens = [candidate.words.split() for candidate in candidates]
    counts = [[each.count(word) for word in query] for each in tokens]
    mean_length = sum(map(len, tokens)) / len(tokens) if any(tokens) else 1.0
    rarities = []
    for place in range(len(query)):
        having = sum(counted[place] > 0 for counted in counts)
        rarities.append(math.log(1 + (len(candidates) - having + 0.5) / (having + 0.5)))

    def relevance(counted: Sequence[int], length: int) -> float:
        penalty = K1 * (1 - B + B * length / mean_length)
        return sum(
            rarity * count * (K1 + 1) / (count + penalty)
            for rarity, count in zip(rarities, counted, strict=True)
        )

    ranked = sorted(
        (
            -round(relevance(counted, len(each)), 9),
            -to_microseconds(candidate.created_at),
            candidate.id,
            tuple(word for word, count in zip(query, counted, strict=True) if count),
        )
        for candidate, counted, each in zip(candidates, counts, tokens, strict=True)
    )
    return [WordMatch(id, words) for _, _, id, words in ranked]


def _split(text: str, *, characters: bool = False) -> list[str]:
    if text.isascii():
        return [word[:MAX_WORD_LENGTH] for word in _WORD.findall(text.lower())]
    # NFKD takes letters and accents, and ligatures, apart, and can bring capitals back. Accents and
    # vowel signs are no part of a word here, and do not divide one.
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    plain = "".join(
        character for character in folded if not unicodedata.category(character).startswith("M")
    )
    found: list[str] = []
    for word in _WORD.findall(plain.translate(_LETTERS)):
        if _UNSPACED.search(word):
            found += _pairs(word, characters)
        else:
            found.append(word[:MAX_WORD_LENGTH])
    return found


def _pairs(word: str, characters: bool) -> list[str]:
    found: list[str] = []
    position = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > position:
            found.append(word[position : run.start()][:MAX_WORD_LENGTH])
        unspaced = run[0]
        found += [unspaced[index : index + 2] for index in range(max(1, len(unspaced) - 1))]
        if characters and len(unspaced) > 1:
            found += unspaced
        position = run.end()
    if position < len(word):
        found.append(word[position:][:MAX_WORD_LENGTH])
    return found


@lru_cache(maxsize=65_536)
def _token(word: str) -> str:
    if word.isascii():
        return str(_STEMMER.stemWord(word))
    return f"_{word.encode()[:MAX_TOKEN_BYTES].hex()}"


_STEMMER = snowballstemmer.stemmer("english")
