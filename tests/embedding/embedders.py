"""Embedders with limits that tests can reach."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from service.embedding.embedder import Embedder
from service.embedding.opening import open_embedder


def embedder_of(bundle: Path, **limits: Any) -> AbstractAsyncContextManager[Embedder]:
    return open_embedder(bundle, **{"max_batch_texts": 64, "max_queued_tokens": 10_000} | limits)
