"""Every request, counted, logged and traced once, whatever becomes of it."""

import logging
import re
import secrets
import time

from litestar.datastructures import Headers
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from service.api.access import Caller
from service.api.problems import CLIENT_CLOSED_REQUEST
from service.telemetry.metrics import Metrics
from service.telemetry.running_request import RunningRequest, running_request
from service.telemetry.tracing import Tracing, trace_id_of

logger = logging.getLogger(__name__)

# What supervisors and scrapers ask every few seconds: logged where it fails only, and not traced.
QUIET_PATHS = frozenset(("/health", "/health/live", "/health/ready", "/metrics"))

# The method and the route of whatever is not one of ours, since clients can invent any number.
UNMATCHED = ("*", "unmatched")

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

# What a client may choose as the id of its request.
REQUEST_ID = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")


class ObservedRequests:
    """An ASGI application around Litestar's, since its own middlewares see no unknown path."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics
        self.tracing: Tracing | None = None
        """Records spans, as long as there is one."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, with its id and where its time went among the headers."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request = self._begin(scope)
        answer = _Answer(request, send)
        running = running_request.set(request)
        failed = False
        try:
            await self._app(scope, receive, answer.send)
        except Exception:
            failed = True
            raise
        finally:
            unfinished = 500 if failed else CLIENT_CLOSED_REQUEST
            status = answer.status if answer.complete else unfinished
            self._end(scope, request, status, time.perf_counter() - started)
            running_request.reset(running)

    def _begin(self, scope: HTTPScope) -> RunningRequest:
        headers = Headers.from_scope(scope)  # which Litestar then takes up from there
        given = headers.get("x-request-id", "")
        id = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        if self.tracing and scope["path"] not in QUIET_PATHS:
            span = self.tracing.begin(headers)
            return RunningRequest(id, trace_id=span.trace_id, span=span)
        return RunningRequest(id, trace_id=trace_id_of(headers.get("traceparent", "")))

    def _end(self, scope: HTTPScope, request: RunningRequest, status: int, seconds: float) -> None:
        method, route = _method_and_route(scope)
        self._metrics.request_ended(method, route, status, seconds, request.problem)
        if request.span:
            request.span.end(
                f"{method} {route}",
                {
                    "http.request.method": method,
                    "http.route": route,
                    "http.response.status_code": status,
                    "memory.request_id": request.id,
                    "memory.texts": request.texts,
                    "memory.tokens": request.tokens,
                },
                failed=status >= 500,
            )
        quiet = scope["path"] in QUIET_PATHS and status < 500
        level = logging.DEBUG if quiet else logging.INFO
        if logger.isEnabledFor(level):
            caller: Caller | None = scope["state"].get("caller")
            fields = {
                "method": scope["method"],
                "route": route,
                "path": scope["path"][:200] if route == "unmatched" else None,
                "status": status,
                "duration_ms": round(seconds * 1000, 2),
                "texts": request.texts or None,
                "tokens": request.tokens or None,
                "problem": request.problem,
                "tenant": caller.tenant if caller else None,
                "key": caller.key_id if caller else None,
                "client": scope["client"][0] if scope["client"] else None,
            }
            logger.log(level, "answered", extra={"fields": fields})


class _Answer:
    """What is sent, with our headers, and how far it has come."""

    def __init__(self, request: RunningRequest, send: Send) -> None:
        self._request = request
        self._send = send
        self.status = 0
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], (b"x-request-id", self._request.id.encode())]
            if timing := self._request.server_timing():
                headers.append((b"server-timing", timing.encode()))
            message = {**message, "headers": headers}
        await self._send(message)
        if message["type"] == "http.response.body":
            self.complete = not message.get("more_body", False)


def _method_and_route(scope: HTTPScope) -> tuple[str, str]:
    template = scope.get("path_template")
    if not template:
        return UNMATCHED
    method = scope["method"]
    return method if method in METHODS else "*", template
