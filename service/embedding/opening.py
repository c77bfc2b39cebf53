"""Opens an embedder: loads the bundle, measures what is faster, and starts the workers."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.embedding.cache import EmbeddingCache
from service.embedding.embedder import TRIAL, Embedder, Limits, OnEmbedded
from service.embedding.manifest import Precision, read_manifest
from service.embedding.observed_batches import OnBatch, observed
from service.embedding.onnx_model import OnnxModel, load_model
from service.embedding.scheduler import open_scheduler
from service.embedding.tokenization import load_tokenizer
from service.embedding.warm_up import plan_for
from service.errors import ModelLoadError, ServiceError

logger = logging.getLogger(__name__)

TOKENIZATION_THREADS = 2

T = TypeVar("T")


@asynccontextmanager
async def open_embedder(
    bundle: Path,
    *,
    max_batch_texts: int,
    max_queued_tokens: int,
    max_batch_tokens: int = 0,
    precision: Precision | None = None,
    threads: int = 0,
    workers: int = 0,
    gpu_bytes: int = 0,
    warm_up: bool = True,
    cache_bytes: int = 0,
    on_batch: OnBatch | None = None,
    on_embedded: OnEmbedded | None = None,
    repeatable: bool = False,
) -> AsyncIterator[Embedder]:
    """An embedder of the bundle in this folder; leaving it finishes what was accepted.

    `threads` compute at the same time, 0 for each core one. `workers` and `max_batch_tokens` are
    measured where they are 0, unless there is to be no `warm_up`. On a GPU the model takes at most
    `gpu_bytes`, or what there is. `on_batch` is told of each batch
    that is computed, and `on_embedded` of each call of `embed`. A `repeatable` embedder measures
    nothing either, and gives a request the same bits each time, as long as it has one at a time.

    Raises:
        ModelLoadError: the bundle is missing, damaged, or not for this machine.
    """
    started = time.perf_counter()
    manifest = read_manifest(bundle)
    load = partial(
        load_model,
        bundle,
        manifest,
        precision=precision,
        threads=threads,
        one_core=workers != 1,
        gpu_bytes=gpu_bytes,
    )
    (tokenizer, tokenizer_seconds), (model, model_seconds) = await asyncio.gather(
        asyncio.to_thread(_timed, lambda: load_tokenizer(bundle, manifest)),
        asyncio.to_thread(_timed, load),
    )
    with _refusing(bundle):
        (trial,) = tokenizer.tokenize([TRIAL], truncate=False)
        choose_plan = partial(
            plan_for,
            model,
            trial.ids,
            workers=workers,
            max_batch_tokens=max_batch_tokens,
            measured=warm_up and not repeatable,
        )
        plan, warm_up_seconds = await asyncio.to_thread(_timed, choose_plan)
        plan = replace(plan, repeatable=repeatable)
    if plan.workers == 1 and isinstance(model, OnnxModel):
        model.release_one_core()
    limits = Limits(
        max_tokens_per_text=manifest.max_tokens,
        max_batch_texts=max_batch_texts,
        max_batch_tokens=plan.max_batch_tokens,
        max_queued_tokens=max_queued_tokens,
    )
    with ThreadPoolExecutor(TOKENIZATION_THREADS, "tokenization") as tokenization_threads:
        async with open_scheduler(
            observed(model.run, on_batch) if on_batch else model.run,
            plan,
            max_queued_tokens=limits.max_queued_tokens,
        ) as scheduler:
            embedder = Embedder(
                manifest,
                tokenizer,
                model,
                scheduler,
                tokenization_threads,
                limits=limits,
                workers=plan.workers,
                cache=EmbeddingCache(cache_bytes) if cache_bytes else None,
                on_embedded=on_embedded,
            )
            with _refusing(bundle):
                await embedder.check()
            logger.info(
                "loaded %s (%s, %s) from %s in %.2f s: tokenizer %.2f s, session %.2f s, "
                "warm-up %.2f s",
                manifest.name,
                model.variant.precision,
                model.execution_providers[0],
                bundle,
                time.perf_counter() - started,
                tokenizer_seconds,
                model_seconds,
                warm_up_seconds,
            )
            if manifest.notice:
                logger.info(manifest.notice)
            if model.variant.parity is None:
                logger.warning(
                    "how faithful this %s variant is was not measured: its parity is null",
                    model.variant.precision,
                )
            yield embedder


@contextmanager
def _refusing(bundle: Path) -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        raise ModelLoadError(f"{bundle} was loaded, but cannot embed: {error}") from error


def _timed(load: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    return load(), time.perf_counter() - started
