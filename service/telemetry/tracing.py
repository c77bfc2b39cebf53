"""Traces: the id that a request brings along (W3C Trace Context), and its spans where exported."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from service.errors import InvalidSettings
from service.telemetry.running_request import Span

# https://www.w3.org/TR/trace-context/#traceparent-header; later versions than 00 may have more.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")


class Tracing(Protocol):
    """Records requests as spans."""

    def begin(self, headers: Mapping[str, str]) -> Span:
        """The span of a request that begins, in the trace that these headers may name."""


def trace_id_of(traceparent: str) -> str | None:
    """The trace that a header `traceparent` names; None where it is not a valid one."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if not found:
        return None
    version, trace_id, parent_id, more = found.groups()
    if version == "ff" or (version == "00" and more):
        return None
    return trace_id if trace_id.strip("0") and parent_id.strip("0") else None


@contextmanager
def open_tracing(endpoint: str | None) -> Iterator[Tracing | None]:
    """What records spans for an OTLP receiver; None without one. Leaving it sends what is left.

    Raises:
        InvalidSettings: what exports spans is not installed.
    """
    if endpoint is None:
        yield None
        return
    try:
        from service.telemetry.otlp import open_otlp_tracing
    except ImportError as error:
        raise InvalidSettings(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but what exports traces is not installed "
            f"({error}); install the extra otel: uv sync --extra otel"
        ) from error
    with open_otlp_tracing(endpoint) as tracing:
        yield tracing
