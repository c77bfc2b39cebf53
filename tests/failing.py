"""Embedders whose model is a function, made of the real parts."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from service.embedding.batching import Cores, Cost, Plan
from service.embedding.cache import EmbeddingCache
from service.embedding.embedder import Embedder, Limits
from service.embedding.manifest import read_manifest
from service.embedding.onnx_model import Embeddings, load_model
from service.embedding.scheduler import RunBatch, open_scheduler
from service.embedding.tokenization import TokenIds, load_tokenizer
from service.errors import InferenceError


def fail(tokens: Sequence[TokenIds], cores: Cores) -> Embeddings:
    raise InferenceError(f"the processor is gone, and {len(tokens)} texts with it")


def open_failing_embedder(bundle: Path) -> AbstractAsyncContextManager[Embedder]:
    """Fails on every text."""
    return open_embedder_running(fail, bundle)


@asynccontextmanager
async def open_embedder_running(
    run: RunBatch, bundle: Path, *, workers: int = 1, cache: EmbeddingCache | None = None
) -> AsyncIterator[Embedder]:
    """Takes what `run` gives for the embeddings of a batch."""
    manifest = read_manifest(bundle)
    plan = Plan(workers, max_batch_tokens=100, one_core=Cost(0, 1e-4), all_cores=Cost(0, 1e-4))
    limits = Limits(
        max_tokens_per_text=manifest.max_tokens,
        max_batch_texts=16,
        max_batch_tokens=plan.max_batch_tokens,
        max_queued_tokens=1_000,
    )
    with ThreadPoolExecutor(1) as threads:
        async with open_scheduler(
            run, plan, max_queued_tokens=limits.max_queued_tokens
        ) as scheduler:
            yield Embedder(
                manifest,
                load_tokenizer(bundle, manifest),
                load_model(bundle, manifest),
                scheduler,
                threads,
                limits=limits,
                workers=plan.workers,
                cache=cache,
            )
