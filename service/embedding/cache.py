"""Keeps embeddings of texts that were embedded lately, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from service.embedding.batching import Priority
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import ScheduledEmbeddings, Scheduler
from service.embedding.tokenization import TokenIds
from service.errors import InferenceError

# What the two objects and their place in the dictionary take beside the bytes in them.
ENTRY_BYTES = 200


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """What the cache holds, and how many texts it has had and has not had since the start."""

    bytes: int
    max_bytes: int
    entries: int
    hits: int
    misses: int


class EmbeddingCache:
    """The embeddings of exactly these tokens, the prompt's among them; the stalest make room.

    For one thread, the event loop's.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # Bytes and no arrays: nobody who gets a row can change what is kept.
        self._rows: OrderedDict[bytes, bytes] = OrderedDict()  # the stalest first
        self._hits = 0
        self._misses = 0

    def get(self, ids: TokenIds) -> Embeddings | None:
        """The embedding of a text at full size, read-only, if it is kept.  # (dimensions,)"""
        key = _key(ids)
        row = self._rows.get(key)
        if row is None:
            self._misses += 1
            return None
        self._hits += 1
        self._rows.move_to_end(key)
        return np.frombuffer(row, np.float32)

    def put(self, ids: TokenIds, embedding: Embeddings) -> None:
        """Keep the embedding of a text, as it is now.  # (dimensions,)"""
        key = _key(ids)
        row = embedding.tobytes()
        if key in self._rows or _size(key, row) > self._max_bytes:
            return
        self._rows[key] = row
        self._bytes += _size(key, row)
        while self._bytes > self._max_bytes:
            self._bytes -= _size(*self._rows.popitem(last=False))

    def info(self) -> CacheInfo:
        """What it holds now."""
        return CacheInfo(
            self._bytes, self._max_bytes, len(self._rows), hits=self._hits, misses=self._misses
        )


async def embed_cached(
    cache: EmbeddingCache, scheduler: Scheduler, texts: Sequence[TokenIds], priority: Priority
) -> ScheduledEmbeddings:
    """The embeddings of these texts, of which only those are scheduled that are not kept.

    Raises: as `Scheduler.embed`.
    """
    kept = [cache.get(ids) for ids in texts]
    missing = [index for index, embedding in enumerate(kept) if embedding is None]
    rows = [embedding for embedding in kept if embedding is not None]
    if not missing:
        return ScheduledEmbeddings(np.stack(rows), queue_seconds=0.0, inference_seconds=0.0)
    try:
        computed = await scheduler.embed([texts[index] for index in missing], priority)
    except InferenceError as error:
        if error.position is None:
            raise
        raise InferenceError(error.reason, position=missing[error.position]) from error
    for index, embedding in zip(missing, computed.embeddings, strict=True):  # (dimensions,)
        cache.put(texts[index], embedding)
    if not rows:
        return computed
    embeddings = np.empty((len(texts), computed.embeddings.shape[1]), np.float32)
    embeddings[missing] = computed.embeddings
    embeddings[[index for index, embedding in enumerate(kept) if embedding is not None]] = rows
    return replace(computed, embeddings=embeddings)


def _key(ids: TokenIds) -> bytes:
    return ids.astype(np.int32).tobytes()


def _size(key: bytes, row: bytes) -> int:
    return len(key) + len(row) + ENTRY_BYTES
