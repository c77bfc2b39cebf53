"""The metrics, as Prometheus collects them.

Their names and labels are what dashboards, alerts and autoscalers are built on. Labels take few
values: routes as they are declared, never paths, and nothing that a client can choose.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service import __version__
from service.embedding.embedder import EmbeddedTexts, Embedder
from service.embedding.observed_batches import ComputedBatch

# From a short text on an idle machine to a request of 2,048 texts on a busy one.
SECONDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)

BATCH_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BATCH_TOKENS = (16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384)


class Metrics:
    """Counts what happens, from any thread."""

    def __init__(self) -> None:
        # Each series would have a second one that says since when it counts.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self._requests = Counter(
            "memory_requests_total",
            "Requests that ended; status 499 is a client that left before it was answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "memory_request_seconds",
            "From when a request came in until its answer was sent.",
            ["method", "route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._problems = Counter(
            "memory_problems_total",
            "Requests that were refused or failed, by the code in the answer.",
            ["code"],
            registry=registry,
        )
        self._texts = Counter(
            "memory_embedded_texts_total", "Texts that were embedded.", registry=registry
        )
        self._tokens = Counter(
            "memory_embedded_tokens_total",
            "Tokens of the texts that were embedded, their prompts included.",
            registry=registry,
        )
        self._truncated = Counter(
            "memory_truncated_texts_total",
            "Texts of which only the beginning was embedded.",
            registry=registry,
        )
        self._stage_seconds = Histogram(
            "memory_embedding_stage_seconds",
            "How long the texts that are embedded together were tokenized, waited and were "
            "computed.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_texts = Histogram(
            "memory_batch_texts",
            "Texts that the model computed at once.",
            buckets=BATCH_TEXTS,
            registry=registry,
        )
        self._batch_tokens = Histogram(
            "memory_batch_tokens",
            "Tokens that the model computed at once, without padding.",
            buckets=BATCH_TOKENS,
            registry=registry,
        )
        self._batch_padding = Counter(
            "memory_batch_padding_tokens_total",
            "Tokens that the model computed in vain, since texts are not of one length.",
            registry=registry,
        )
        self._batch_seconds = Histogram(
            "memory_batch_seconds",
            "How long the model computed a batch.",
            buckets=SECONDS,
            registry=registry,
        )
        self._store_seconds = Histogram(
            "memory_store_operation_seconds",
            "How long the store took, whether it succeeded or not.",
            ["operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self._store_errors = Counter(
            "memory_store_errors_total",
            "Operations that the store could not carry out.",
            ["operation"],
            registry=registry,
        )

    @contextmanager
    def watching(self, embedder: Embedder) -> Iterator[None]:
        """Have what the embedder is and holds among the metrics, as it is when they are read."""
        collector = _EmbedderCollector(embedder)
        self._registry.register(collector)
        try:
            yield
        finally:
            self._registry.unregister(collector)

    def request_ended(
        self, method: str, route: str, status: int, seconds: float, problem: str | None
    ) -> None:
        """Count a request."""
        self._requests.labels(method, route, status).inc()
        self._request_seconds.labels(method, route).observe(seconds)
        if problem:
            self._problems.labels(problem).inc()

    def texts_embedded(self, embedded: EmbeddedTexts) -> None:
        """Count texts that were embedded together."""
        self._texts.inc(len(embedded.tokens))
        self._tokens.inc(sum(embedded.tokens))
        self._truncated.inc(len(embedded.truncated))
        self._stage_seconds.labels("tokenization").observe(embedded.timings.tokenization)
        self._stage_seconds.labels("queue").observe(embedded.timings.queue)
        self._stage_seconds.labels("inference").observe(embedded.timings.inference)

    def batch_computed(self, batch: ComputedBatch) -> None:
        """Count a batch of texts, of one request or of several."""
        self._batch_texts.observe(batch.texts)
        self._batch_tokens.observe(batch.tokens)
        self._batch_padding.inc(batch.padding)
        self._batch_seconds.observe(batch.seconds)

    def store_called(self, operation: str, seconds: float, failed: bool) -> None:
        """Count an operation of the store."""
        self._store_seconds.labels(operation).observe(seconds)
        self._store_errors.labels(operation).inc(failed)  # also by 0, so that the first is a rise

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that a scraper accepts, and the name of the format."""
        encode, media_type = choose_encoder(accept)
        return encode(self._registry), media_type


class _EmbedderCollector(Collector):
    """What changes without an event that could be counted."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def describe(self) -> Iterator[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        embedder = self._embedder
        yield GaugeMetricFamily(
            "memory_queued_tokens", "Tokens waiting or running.", embedder.queued_tokens
        )
        yield GaugeMetricFamily(
            "memory_max_queued_tokens",
            "Tokens that may be waiting or running before requests are refused.",
            embedder.limits.max_queued_tokens,
        )
        yield GaugeMetricFamily("memory_workers", "Workers that there are to be.", embedder.workers)
        yield GaugeMetricFamily(
            "memory_workers_alive", "Workers that there are.", embedder.workers_alive
        )
        if cache := embedder.cache_info():
            yield CounterMetricFamily(
                "memory_cache_hits_total", "Texts whose embedding was kept.", cache.hits
            )
            yield CounterMetricFamily(
                "memory_cache_misses_total", "Texts whose embedding was not kept.", cache.misses
            )
            yield GaugeMetricFamily(
                "memory_cache_bytes", "Memory that kept embeddings take.", cache.bytes
            )
        yield InfoMetricFamily(
            "memory_model",
            "The model that is served.",
            {
                "model": embedder.manifest.name,
                "revision": embedder.manifest.source.revision or "",
                "precision": embedder.variant.precision,
                "execution_provider": embedder.execution_providers[0],
                "dimensions": str(embedder.dimensions),
            },
        )
        yield InfoMetricFamily("memory_service", "The service.", {"version": __version__})
