"""Text to token ids, with the tokenizer of the bundle."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import tokenizers

from service.embedding.manifest import Manifest, verify_file
from service.errors import EmptyInput, InvalidInput, ModelLoadError, TextTooLong
from service.heap import return_freed

TokenIds = npt.NDArray[np.int64]

Side = Literal["start", "end"]

# Longer than any token of the supported vocabularies is on average: a text above max_tokens times
# this is too long whatever it says, and is refused before it costs tokenization.
MAX_CHARACTERS_PER_TOKEN = 64

# Tokenizing this much takes some 10 ms.
CHARACTERS_AT_ONCE = 50_000


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The token ids of one text, special tokens included, at most max_tokens of them."""

    ids: TokenIds  # (tokens,)
    truncated: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What the model reads of each text."""

    prompt: str
    own_prompts: tuple[str, ...] = ()
    """A text that begins with one of these is read behind that, and not behind `prompt`."""
    truncate: bool = False
    """Whether a text that is too long is cut; it is refused otherwise."""
    keep: Side = "start"
    """Which side of a text that is cut is read. The prompt is, always."""
    max_tokens: int | None = None
    """How many tokens a text may have beside its prompt, if that is less than the model's limit."""

    def split(self, text: str) -> tuple[str, str]:
        """The prompt of a text, and what is read behind it."""
        for own in self.own_prompts:
            if text.startswith(own):
                return own, text.removeprefix(own)
        return self.prompt, text


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a text, and where it is there; special ones are nowhere."""

    id: int
    content: str
    span: tuple[int, int] | None
    """The first character, and the one behind the last."""


class Tokenizer:
    """Tokenizes texts exactly as the reference implementation does. Safe to call from threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.max_characters = max_tokens * MAX_CHARACTERS_PER_TOKEN
        special = tokenizer.encode("a").special_tokens_mask
        self._closing = len(special) - 1 - _last_index(special, 0)

    def tokenize(
        self, texts: Sequence[str], *, truncate: bool, first_index: int = 0
    ) -> list[TokenizedText]:
        """The tokens of each text, in order; errors count the texts from `first_index` on.

        Raises:
            TextTooLong: a text exceeds the model's limit and `truncate` is false.
        """
        return self.read(texts, Reading(prompt="", truncate=truncate), first_index=first_index)

    def read(
        self, texts: Sequence[str], reading: Reading, *, first_index: int = 0
    ) -> list[TokenizedText]:
        """The tokens of the prompt and each text; errors count the texts from `first_index` on.

        Raises:
            TextTooLong: a text exceeds the limit and may not be truncated.
        """
        parts = [reading.split(text) for text in texts]
        prompted = []
        for index, (prompt, text) in enumerate(parts, first_index):
            room = self.max_characters - len(prompt)
            if len(text) > room and not reading.truncate:
                raise _too_long(index, f"{len(text):,} characters", self._limit(prompt, reading))
            prompted.append(prompt + (text[:room] if reading.keep == "start" else text[-room:]))
        encodings = self._tokenizer.encode_batch_fast(prompted)
        tokenized = []
        for index, ((prompt, text), encoding) in enumerate(
            zip(parts, encodings, strict=True), first_index
        ):
            ids = encoding.ids
            limit = self._limit(prompt, reading)
            if len(ids) > limit:
                if not reading.truncate:
                    raise _too_long(index, f"{len(ids):,} tokens", limit)
                head = limit - self._closing
                if reading.keep == "end":
                    prompt_ids = self._tokenizer.encode(prompt).ids
                    head = min(head, _common_beginning(prompt_ids, ids))
                ids = ids[:head] + ids[len(ids) - limit + head :]
            truncated = len(ids) < len(encoding.ids) or len(prompt + text) > self.max_characters
            tokenized.append(TokenizedText(np.array(ids, np.int64), truncated))
        return tokenized

    def count(self, text: str) -> int:
        """How many tokens a text has, special tokens included, whatever the limit."""
        return len(self._tokenizer.encode(text).ids)

    def split(self, text: str, *, add_special_tokens: bool) -> list[Token]:
        """The tokens of a text, whatever the limit."""
        encoding = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return [
            Token(id, content, None) if special else Token(id, text[start:stop], (start, stop))
            for id, content, special, (start, stop) in zip(
                encoding.ids,
                encoding.tokens,
                encoding.special_tokens_mask,
                encoding.offsets,
                strict=True,
            )
        ]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text that these tokens make; those that the vocabulary lacks are left out."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return text

    def _limit(self, prompt: str, reading: Reading) -> int:
        if reading.max_tokens is None:
            return self.max_tokens
        return min(self.max_tokens, self.count(prompt) + reading.max_tokens)


def read_texts(
    tokenizer: Tokenizer, texts: Sequence[str], reading: Reading, *, first_index: int = 0
) -> list[TokenizedText]:
    """The tokens of the prompt and each text; errors count the texts from `first_index` on.

    Raises:
        InvalidInput: a text is not valid Unicode.
        TextTooLong: a text exceeds the limit and may not be truncated.
        EmptyInput: a text has no tokens.
    """
    check_unicode(texts, first_index=first_index)
    tokenized = tokenizer.read(texts, reading, first_index=first_index)
    for index, text_ids in enumerate(tokenized, first_index):
        if not len(text_ids.ids):
            raise EmptyInput(
                f"text {index} has nothing that the model reads",
                parameter="input",
                position=index,
            )
    return tokenized


def check_unicode(texts: Sequence[str], *, first_index: int = 0) -> None:
    """Return if the texts are valid Unicode; errors count them from `first_index` on.

    Raises:
        InvalidInput: one is not.
    """
    for index, text in enumerate(texts, first_index):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput(
                f"text {index} is not valid Unicode: at position {error.start} there is half of a "
                f"surrogate pair (U+{ord(text[error.start]):04X})",
                parameter="input",
                position=index,
            ) from None


def pieces(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts in order, each piece of about CHARACTERS_AT_ONCE."""
    first = characters = 0
    for index, text in enumerate(texts):
        if characters > CHARACTERS_AT_ONCE:
            yield texts[first:index]
            first, characters = index, 0
        characters += len(text)
    yield texts[first:]


def load_tokenizer(bundle: Path, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a bundle.

    Raises:
        ModelLoadError: its file is missing, damaged, or not a tokenizer.
    """
    path = verify_file(bundle, manifest.tokenizer)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelLoadError(f"{path} is not a tokenizer: {error}") from error
    # Some published files carry a fixed padding and a truncation below the model's own limit.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    if isinstance(tokenizer.model, tokenizers.models.BPE):
        # It would keep 10,000 of the words that it was given. Gemma's is given whole texts, which
        # take 6 KB each there and hardly come again.
        tokenizer.model._resize_cache(0)
    return_freed()  # what parsing took: 200 MB for a vocabulary of 262,144
    return Tokenizer(tokenizer, manifest.max_tokens)


def pad(tokens: Sequence[TokenIds], pad_token_id: int) -> tuple[TokenIds, TokenIds]:
    """The input_ids and attention_mask of a batch, padded on the right to its longest text."""
    lengths = np.array([len(ids) for ids in tokens])
    attention_mask = np.arange(lengths.max()) < lengths[:, None]  # (texts, tokens)
    input_ids = np.full(attention_mask.shape, pad_token_id, np.int64)
    input_ids[attention_mask] = np.concatenate(tokens)
    return input_ids, attention_mask.astype(np.int64)


def _too_long(index: int, size: str, limit: int) -> TextTooLong:
    return TextTooLong(
        f"text {index} has {size} and the model reads at most {limit:,} tokens; split it, or let "
        "it be truncated",
        parameter="input",
        position=index,
    )


def _common_beginning(some: Sequence[int], others: Sequence[int]) -> int:
    """How many ids are the same in both, up to the first that is not."""
    pairs = enumerate(zip(some, others, strict=False))
    return next(
        (index for index, (one, other) in pairs if one != other), min(len(some), len(others))
    )


def _last_index(values: Sequence[int], value: int) -> int:
    return len(values) - 1 - list(reversed(values)).index(value)
