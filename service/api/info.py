"""GET /info: what is served, and within which limits."""

import platform
from importlib.metadata import version

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

import service
from service.api.tei import AUTO_TRUNCATE
from service.embedding.cache import CacheInfo
from service.embedding.embedder import Limits
from service.embedding.manifest import Parity, Relevance, Source
from service.embedding.opening import TOKENIZATION_THREADS
from service.embedding.runtime_package import runtime_package
from service.memory.memories import Memories
from service.memory.store import StoreInfo


class Versions(msgspec.Struct):
    """What runs here."""

    service: str
    python: str
    onnxruntime: str
    tokenizers: str


class TeiInfo(msgspec.Struct, kw_only=True):
    """What text-embeddings-inference says of itself, as its clients read it."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, str]]
    max_concurrent_requests: int
    max_input_length: int
    max_client_batch_size: int
    max_batch_tokens: int
    auto_truncate: bool
    tokenization_workers: int
    version: str


class Info(TeiInfo, kw_only=True):
    """The served model and its limits, and the same once more in the words of another server."""

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
    "model_id": "google/embeddinggemma-300m",
    "model_sha": "57c266a740f537b4dc058e1b0cda161fd15afa75",
    "model_dtype": "int8",
    "served_model_name": "embeddinggemma-300m",
    "model_type": {"embedding": {}},
    "max_concurrent_requests": 524288,
    "max_input_length": 2048,
    "max_client_batch_size": 2048,
    "max_batch_tokens": 320,
    "auto_truncate": True,
    "tokenization_workers": 2,
    "version": "0.1.0",
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
    implementation; null where that was not measured. The fields from `model_id` to `version`
    are those of text-embeddings-inference.
    """
    embedder = memories.embedder
    manifest = embedder.manifest
    return Info(
        model_id=manifest.source.id,
        model_sha=manifest.source.revision,
        model_dtype=embedder.variant.precision,
        served_model_name=manifest.name,
        model_type={"embedding": {}},
        # All that fit into the queue, and each has at least one token.
        max_concurrent_requests=embedder.limits.max_queued_tokens,
        max_input_length=manifest.max_tokens,
        max_client_batch_size=embedder.limits.max_batch_texts,
        max_batch_tokens=embedder.limits.max_batch_tokens,
        auto_truncate=AUTO_TRUNCATE,
        tokenization_workers=TOKENIZATION_THREADS,
        version=service.__version__,
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
        versions=_installed_versions(),
    )


def _installed_versions() -> Versions:
    # Those that decide what an embedding looks like.
    return Versions(
        service=service.__version__,
        python=platform.python_version(),
        onnxruntime=version(runtime_package()),
        tokenizers=version("tokenizers"),
    )
