"""Tokens of texts, and texts of tokens, made in threads: large requests hold up no others."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from service.embedding.tokenization import Token, Tokenizer, check_unicode, pieces
from service.errors import BatchTooLarge

T = TypeVar("T")


class ThreadedTokenizer:
    """The model's tokenizer, for those who want tokens and no embeddings."""

    def __init__(
        self, tokenizer: Tokenizer, threads: ThreadPoolExecutor, *, max_tokens_at_once: int
    ) -> None:
        self._tokenizer = tokenizer
        self._threads = threads
        self._max_tokens_at_once = max_tokens_at_once

    async def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for the model, special tokens included, at any length."""
        return await self._in_thread(lambda: [self._tokenizer.count(text) for text in texts])

    async def split(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[Token]]:
        """The tokens of each text, at any length.

        Raises:
            BatchTooLarge: there are more tokens in all than the service takes at once.
            InvalidInput: a text is not valid Unicode.
        """
        check_unicode(texts)

        split_texts: list[list[Token]] = []
        tokens = 0
        for piece in pieces(texts):
            split_piece = await self._in_thread(partial(self._split, piece, add_special_tokens))
            split_texts += split_piece
            tokens += sum(map(len, split_piece))
            self._check(tokens)
        return split_texts

    async def decode(self, ids: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        """The text that each list of tokens makes; those that are not the model's are left out.

        Raises:
            BatchTooLarge: there are more tokens in all than the service takes at once.
        """
        self._check(sum(map(len, ids)))
        return await self._in_thread(
            lambda: [
                self._tokenizer.decode(text, skip_special_tokens=skip_special_tokens)
                for text in ids
            ]
        )

    def _split(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[Token]]:
        return [
            self._tokenizer.split(text, add_special_tokens=add_special_tokens) for text in texts
        ]

    def _check(self, tokens: int) -> None:
        if tokens > self._max_tokens_at_once:
            raise BatchTooLarge(
                f"expected at most {self._max_tokens_at_once:,} tokens in all, got more; send them "
                "in several requests",
                parameter="input",
            )

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
