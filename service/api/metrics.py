"""GET /metrics, for Prometheus."""

from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

from service.telemetry.metrics import Metrics

TEXT = "text/plain"


@get(
    "/metrics",
    sync_to_thread=True,
    media_type=TEXT,
    summary="Read the metrics",
    tags=["info"],
    operation_id="metrics",
    responses={
        200: ResponseSpec(
            str,
            generate_examples=False,
            media_type=TEXT,
            description="All metrics, in the format that the scraper accepts.",
            examples=[
                Example(
                    value="# HELP memory_queued_tokens Tokens waiting or running.\n"
                    "# TYPE memory_queued_tokens gauge\nmemory_queued_tokens 0.0\n"
                )
            ],
        )
    },
)
def read_metrics(
    request: Request[Any, Any, Any], metrics: NamedDependency[Metrics]
) -> Response[bytes]:
    """Counters, latencies and depths for Prometheus, as text or as OpenMetrics."""
    content, media_type = metrics.exposition(request.headers.get("accept", ""))
    # As a header, since Litestar would add a second charset to a media type.
    return Response(content, headers={"Content-Type": media_type})
