"""An embedder whose model fails on every text, made of the real parts."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

from service.embedding.embedder import Embedder, Limits
from service.embedding.manifest import read_manifest
from service.embedding.onnx_model import Embeddings, load_model
from service.embedding.scheduler import open_scheduler
from service.embedding.tokenization import TokenIds, load_tokenizer
from service.errors import InferenceError


def fail(tokens: Sequence[TokenIds]) -> Embeddings:
    raise InferenceError(f"the processor is gone, and {len(tokens)} texts with it")


@asynccontextmanager
async def open_failing_embedder(bundle: Path) -> AsyncIterator[Embedder]:
    manifest = read_manifest(bundle)
    limits = Limits(
        max_tokens_per_text=manifest.max_tokens,
        max_batch_texts=8,
        max_batch_tokens=100,
        max_queued_tokens=1_000,
    )
    with ThreadPoolExecutor(1) as threads:
        async with open_scheduler(
            fail,
            max_batch_tokens=limits.max_batch_tokens,
            max_queued_tokens=limits.max_queued_tokens,
        ) as scheduler:
            yield Embedder(
                manifest,
                load_tokenizer(bundle, manifest),
                load_model(bundle, manifest),
                scheduler,
                threads,
                limits,
            )
