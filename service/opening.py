"""Opens what the settings ask for: the model, the store, and the memories in it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from service.embedding.embedder import EmbeddedTexts, Embedder, OnEmbedded
from service.embedding.observed_batches import OnBatch
from service.embedding.opening import open_embedder
from service.errors import InvalidSettings, StoreUnavailable
from service.memory import StoreAddress, open_store
from service.memory.memories import Memories, embedding_model_of
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.observed_store import observed_store
from service.telemetry.running_request import note_embedded, note_store_call

logger = logging.getLogger(__name__)

MODEL_NOT_SET = "MEMORY_MODEL is not set; expected the folder of a bundle"

# How long what is forgotten, and hidden since, stays on disk at most.
PURGE_SECONDS = 60.0


@asynccontextmanager
async def open_memories(
    settings: Settings, metrics: Metrics | None = None
) -> AsyncIterator[Memories]:
    """The memories of a store, with the model that embeds them; what expires is deleted.

    What is done with them is counted among the metrics, if there are any.

    Raises:
        StartupError: the bundle cannot be served, or the store cannot be opened.
    """
    metrics = metrics or Metrics()
    loop = asyncio.get_running_loop()

    def texts_embedded(embedded: EmbeddedTexts) -> None:
        note_embedded(embedded)
        loop.call_soon(metrics.texts_embedded, embedded)  # behind the answer, which waits for this

    def store_called(operation: str, seconds: float, failed: bool) -> None:
        metrics.store_called(operation, seconds, failed)
        note_store_call(operation, seconds)

    async with open_embedder_of(
        settings, on_batch=metrics.batch_computed, on_embedded=texts_embedded
    ) as embedder:
        model = embedding_model_of(embedder.manifest)
        async with open_store(store_address(settings), model) as store:
            memories = Memories(
                observed_store(store, store_called),
                embedder,
                relevance_cutoff=relevance_cutoff(settings, embedder),
            )
            purging = asyncio.create_task(_purge_now_and_then(memories))
            try:
                with metrics.watching(embedder):
                    yield memories
            finally:
                purging.cancel()
                with suppress(asyncio.CancelledError):
                    await purging


def open_embedder_of(
    settings: Settings, *, on_batch: OnBatch | None = None, on_embedded: OnEmbedded | None = None
) -> AbstractAsyncContextManager[Embedder]:
    """The embedder that the settings ask for.

    Raises:
        StartupError: no bundle is set, or, when it is entered, the bundle cannot be served.
    """
    if settings.model is None:
        raise InvalidSettings(MODEL_NOT_SET)
    return open_embedder(
        settings.model,
        precision=settings.precision,
        threads=settings.threads,
        workers=settings.workers,
        gpu_bytes=settings.gpu_bytes,
        warm_up=settings.warm_up,
        cache_bytes=settings.cache_bytes,
        max_batch_texts=settings.max_batch_texts,
        max_batch_tokens=settings.max_batch_tokens,
        max_queued_tokens=settings.max_queued_tokens,
        on_batch=on_batch,
        on_embedded=on_embedded,
    )


def store_address(settings: Settings) -> StoreAddress:
    """Where the settings say that memories are kept."""
    return StoreAddress(
        url=settings.store,
        neo4j_username=settings.neo4j_username,
        neo4j_password=settings.neo4j_password,
        neo4j_database=settings.neo4j_database,
    )


def relevance_cutoff(settings: Settings, embedder: Embedder) -> float:
    """From which similarity on a memory is relevant, as set, or else as measured for the model."""
    if settings.relevance_cutoff is not None:
        return settings.relevance_cutoff
    if embedder.manifest.relevance is not None:
        return embedder.manifest.relevance.cutoff
    logger.warning(
        "what is relevant was not measured for this model, so that recall answers with whatever is "
        "nearest; export the bundle again, or set MEMORY_RELEVANCE_CUTOFF"
    )
    return -1.0


async def _purge_now_and_then(memories: Memories) -> None:
    while True:
        try:
            if purged := await memories.purge():
                logger.info("deleted %d memories that had expired", purged)
        except StoreUnavailable as error:
            logger.warning("what has expired could not be deleted: %s", error)
        await asyncio.sleep(PURGE_SECONDS)
