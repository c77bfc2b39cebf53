"""Sends the spans of requests to an OpenTelemetry collector, with the official SDK.

What else can be set is set as OpenTelemetry documents it, by its own variables, which the SDK
reads: OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS and so on.
"""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__

SERVICE = {"service.name": "ai-memory-service", "service.version": __version__}

NANOSECONDS = 1_000_000_000

# How long the end of the service waits for the collector to take the last spans.
LAST_SPANS_SECONDS = 2.0


@contextmanager
def open_otlp_tracing(endpoint: str) -> Iterator["OtlpTracing"]:
    """Records spans for the collector at an endpoint, over HTTP; leaving it sends what is left."""
    # Of its own, not the process's, and so without the hook at exit that would keep it alive.
    provider = TracerProvider(
        resource=Resource(SERVICE).merge(OTELResourceDetector().detect()), shutdown_on_exit=False
    )
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    try:
        yield OtlpTracing(provider.get_tracer("service", __version__))
    finally:
        # Without a collector the exporter would go on trying for ten seconds.
        giving_up = threading.Timer(LAST_SPANS_SECONDS, exporter.shutdown)
        giving_up.start()
        provider.shutdown()
        giving_up.cancel()


class OtlpTracing:
    """Records requests as spans of the traces that they belong to."""

    def __init__(self, tracer: trace.Tracer) -> None:
        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str]) -> "OtlpSpan":
        """The span of a request that begins."""
        span = self._tracer.start_span(
            "request", self._propagator.extract(headers), kind=trace.SpanKind.SERVER
        )
        return OtlpSpan(self._tracer, span)


class OtlpSpan:
    """A request, and its stages as spans within."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        self._tracer = tracer
        self._span = span

    def add_stage(self, name: str, *, seconds: float, ended_ago: float) -> None:
        """A span within, of what has ended."""
        ended = time.time_ns() - int(ended_ago * NANOSECONDS)
        within = trace.set_span_in_context(self._span)
        started = ended - int(seconds * NANOSECONDS)
        self._tracer.start_span(name, within, start_time=started).end(ended)

    def end(self, name: str, attributes: dict[str, str | int], *, failed: bool) -> None:
        """The request is over."""
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if failed:
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()
