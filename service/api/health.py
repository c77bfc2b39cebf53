"""Whether the service lives, embeds and remembers, and what it serves."""

import platform
from importlib.metadata import version
from typing import Any, Literal

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

import service
from service.api.error_shapes import Problem
from service.api.problems import answer, problem_spec
from service.embedding.cache import CacheInfo
from service.embedding.embedder import Limits
from service.embedding.manifest import Parity, Relevance, Source
from service.embedding.runtime_package import runtime_package
from service.errors import ServiceError
from service.memory.memories import Memories
from service.memory.store import StoreInfo

NOT_READY = Problem("not_ready", 503)


class Live(msgspec.Struct):
    """The process answers."""

    live: Literal[True] = True


class Ready(msgspec.Struct):
    """The model embeds, and the store answers."""

    ready: Literal[True] = True


class Versions(msgspec.Struct):
    """What runs here."""

    service: str
    python: str
    onnxruntime: str
    tokenizers: str


class Info(msgspec.Struct, kw_only=True):
    """The served model and its limits."""

    model: str
    precision: str
    execution_provider: str
    dimensions: int
    supported_dimensions: tuple[int, ...]
    max_tokens: int
    prompts: dict[str, str]
    default_prompt: str | None
    query_prompt: str | None
    document_prompt: str | None
    limits: Limits
    workers: int
    threads: int
    cache: CacheInfo | None
    parity: Parity | None
    relevance: Relevance | None
    relevance_cutoff: float
    store: StoreInfo
    notice: str | None
    source: Source
    versions: Versions


INFO_EXAMPLE = {
    "model": "embeddinggemma-300m",
    "precision": "int8",
    "execution_provider": "CPUExecutionProvider",
    "dimensions": 768,
    "supported_dimensions": [768, 512, 256, 128],
    "max_tokens": 2048,
    "prompts": {
        "query": "task: search result | query: ",
        "document": "title: none | text: ",
    },
    "default_prompt": "document",
    "query_prompt": "query",
    "document_prompt": "document",
    "limits": {
        "max_tokens_per_text": 2048,
        "max_batch_texts": 2048,
        "max_batch_tokens": 320,
        "max_queued_tokens": 524288,
    },
    "workers": 2,
    "threads": 2,
    "cache": {
        "bytes": 3350000,
        "max_bytes": 100000000,
        "entries": 1000,
        "hits": 4200,
        "misses": 1000,
    },
    "parity": {
        "reference": "sentence-transformers 5.7.0, float32",
        "texts": 412,
        "cosine_min": 0.9871,
        "cosine_mean": 0.9968,
        "top1_agreement": 0.99,
        "reference_accuracy": 0.95,
    },
    "relevance": {
        "cutoff": 0.3124,
        "pairs": 150,
        "relevant_kept": 0.93,
        "irrelevant_refused": 0.95,
    },
    "relevance_cutoff": 0.3124,
    "store": {
        "kind": "sqlite",
        "address": "memory.db",
        "version": "3.40.1",
        "vector_search": "exact: int8 codes in memory, the best rescored in float32",
        "embedding_model": {
            "name": "embeddinggemma-300m",
            "digest": "5c5a0f0a6a5d8e31a3a9a1d1c5a2d3f7b7ce6d6b0b0f9f1d0b1f6a3ce0e2b7a1",
            "dimensions": 768,
        },
    },
    "notice": "Gemma's terms of use apply: https://ai.google.dev/gemma/terms",
    "source": {
        "id": "google/embeddinggemma-300m",
        "revision": "57c266a740f537b4dc058e1b0cda161fd15afa75",
        "sha256": "5c5a0f0a6a5d8e31a3a9a1d1c5a2d3f7b7ce6d6b0b0f9f1d0b1f6a3ce0e2b7a1",
    },
    "versions": {
        "service": "0.1.0",
        "python": "3.13.0",
        "onnxruntime": "1.31.1",
        "tokenizers": "0.22.2",
    },
}


@get(
    "/health/live",
    summary="Is the process alive",
    tags=["health"],
    operation_id="live",
    responses={
        200: ResponseSpec(
            Live,
            generate_examples=False,
            description="It is.",
            examples=[Example(value={"live": True})],
        )
    },
)
async def live() -> Live:
    """Answers as long as the process does; restart the service when it does not."""
    return Live()


@get(
    "/health/ready",
    summary="Does the model embed, and the store answer",
    tags=["health"],
    operation_id="ready",
    responses={
        200: ResponseSpec(
            Ready,
            generate_examples=False,
            description="It does.",
            examples=[Example(value={"ready": True})],
        ),
        503: problem_spec("It does not; `detail` says why."),
    },
)
async def ready(
    request: Request[Any, Any, Any], memories: NamedDependency[Memories]
) -> Response[Ready] | Response[bytes]:
    """Asks the store, and embeds a short text, unless one has been embedded in the last seconds."""
    refusal = await _why_not_ready(request, memories)
    return refusal or Response(Ready())


@get(
    "/health",
    summary="The same, as clients of other embedding servers ask it",
    tags=["health"],
    operation_id="health",
    responses={
        200: ResponseSpec(None, generate_examples=False, description="It does; there is no body."),
        503: problem_spec("It does not; `detail` says why."),
    },
)
async def healthy(
    request: Request[Any, Any, Any], memories: NamedDependency[Memories]
) -> Response[bytes]:
    """What `/health/ready` looks at; 200 without a body, or 503, as text-embeddings-inference."""
    refusal = await _why_not_ready(request, memories)
    return refusal or Response(b"", media_type=MediaType.TEXT)


@get(
    "/info",
    summary="Describe the served model",
    tags=["info"],
    operation_id="info",
    responses={
        200: ResponseSpec(
            Info,
            generate_examples=False,
            description="The model and its limits.",
            examples=[Example(value=INFO_EXAMPLE)],
        )
    },
)
async def info(memories: NamedDependency[Memories]) -> Info:
    """The model, what it can do, what one request may hold, how faithful it is, and the store.

    So many `workers` compute a batch each at the same time, on so many `threads` in all. `cache` is
    null where none was asked for. `parity` compares the running variant with the reference
    implementation; null where that was not measured.
    """
    embedder = memories.embedder
    manifest = embedder.manifest
    return Info(
        model=manifest.name,
        precision=embedder.variant.precision,
        execution_provider=embedder.execution_providers[0],
        dimensions=embedder.dimensions,
        supported_dimensions=embedder.supported_dimensions,
        max_tokens=manifest.max_tokens,
        prompts=manifest.prompts,
        default_prompt=manifest.default_prompt,
        query_prompt=manifest.query_prompt,
        document_prompt=manifest.document_prompt,
        limits=embedder.limits,
        workers=embedder.workers,
        threads=embedder.threads,
        cache=embedder.cache_info(),
        parity=embedder.variant.parity,
        relevance=manifest.relevance,
        relevance_cutoff=memories.relevance_cutoff,
        store=await memories.store.info(),
        notice=manifest.notice,
        source=manifest.source,
        versions=installed_versions(),
    )


async def _why_not_ready(
    request: Request[Any, Any, Any], memories: Memories
) -> Response[bytes] | None:
    try:
        await memories.embedder.check()
        await memories.store.ping()
    except ServiceError as error:
        return answer(request, NOT_READY, str(error))
    return None


def installed_versions() -> Versions:
    """The versions that decide what an embedding looks like."""
    return Versions(
        service=service.__version__,
        python=platform.python_version(),
        onnxruntime=version(runtime_package()),
        tokenizers=version("tokenizers"),
    )
