"""Embedders with limits that tests can reach, and those who pay for their tokens."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from service.embedding.embedder import Embedder
from service.embedding.opening import open_embedder
from service.errors import RateLimited


def embedder_of(bundle: Path, **limits: Any) -> AbstractAsyncContextManager[Embedder]:
    return open_embedder(bundle, **{"max_batch_texts": 64, "max_queued_tokens": 10_000} | limits)


class Purse:
    """Pays for tokens, from some that it has."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def take_tokens(self, tokens: int) -> None:
        if tokens > self.tokens:
            raise RateLimited("all spent", retry_after=1)
        self.tokens -= tokens

    def give_tokens_back(self, tokens: int) -> None:
        self.tokens += tokens
