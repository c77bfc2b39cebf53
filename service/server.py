"""Serves the application with granian, in this process, until it is told to stop."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import closing, suppress
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.net import SocketHolder  # type: ignore[attr-defined]
from granian.server.embed import Server
from granian.utils.proxies import wrap_asgi_with_proxy_headers

from service.app import MAX_BODY_BYTES, create_app
from service.errors import InvalidSettings, RequestTooSlow, StartupError
from service.settings import Networks, Settings

logger = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Coroutine[Any, Any, None]]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Connections that may wait to be accepted, and that may be open; idle ones count.
MAX_CONNECTIONS = 8192

# How much of a refused request's body is read before the refusal is sent, and for how long.
MAX_DISCARDED_BYTES = 8 * MAX_BODY_BYTES
MAX_DISCARD_SECONDS = 10

# What a body brings in each second at least, once the seconds that it may take are used up.
SLOWEST_BYTES = 16 * 1024

# granian's own words would be "Embedded server is experimental!" at each start.
QUIET_GRANIAN = {"loggers": {"_granian": {"propagate": True}}}


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT and finish what was accepted; the exit status.

    Raises:
        StartupError: the service cannot start.
    """
    with (
        closing(bind_for_callers(settings)) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        try:
            return runner.run(_serve(settings, listener))
        except ExceptionGroup as group:
            raise _startup_error_in(group) or group from None


def bind(host: str, port: int) -> socket.socket:
    """A socket on this address that no other process can share, as granian's own could be.

    Raises:
        InvalidSettings: the address is in use, or not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise _cannot_listen(host, port, error) from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _cannot_listen(host, port, error) from error
    return listener


def bind_for_callers(settings: Settings) -> socket.socket:
    """A socket on the address that is set; without API keys only this machine reaches it.

    Raises:
        InvalidSettings: others would reach it, too; or it cannot be listened on.
    """
    listener = bind(settings.host, settings.port)
    host = listener.getsockname()[0]
    if settings.api_keys is None and not ipaddress.ip_address(host).is_loopback:
        listener.close()
        raise InvalidSettings(
            f"other machines reach {settings.host}, and without API keys everyone could do "
            "everything; make a key with python -m service keys add --api-keys FILE, and set "
            "MEMORY_API_KEYS to that file; or listen on 127.0.0.1"
        )
    return listener


async def _serve(settings: Settings, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    for signum in STOP_SIGNALS:
        loop.add_signal_handler(signum, _leave, 0)
    app = create_app(settings)
    async with app.lifespan():
        counted = CountedRequests(app, settings.receive_timeout_seconds)
        proxied = _behind(settings.trusted_proxies, counted)
        server = _EmbeddedServer(proxied, listener, settings.receive_timeout_seconds)
        stopping = asyncio.Event()
        for signum in STOP_SIGNALS:
            loop.add_signal_handler(signum, stopping.set)
        try:
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            raise _cannot_listen(settings.host, settings.port, error) from error
        _log_ready(listener)
        return await _run(server, counted, stopping, settings.shutdown_grace_seconds)


async def _run(
    server: "_EmbeddedServer", counted: "CountedRequests", stopping: asyncio.Event, grace: int
) -> int:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve())
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        logger.error("the HTTP server ended by itself", exc_info=serving.exception())
        return 1
    logger.info("stopping; finishing %d requests, for at most %d s", counted.running, grace)
    # A second Ctrl-C ends it at once, but a second later: `uv run` passes the first one on, too.
    loop.call_later(1, loop.add_signal_handler, signal.SIGINT, _leave, 1)
    server.stop()  # type: ignore[no-untyped-call]
    await asyncio.wait((serving,), timeout=grace)
    if not serving.done():
        logger.error("%d requests did not finish in %d s", counted.running, grace)
        _leave(1)  # a thread that computes cannot be interrupted
    await counted.cancel()
    logger.info("stopped")
    return 0


class CountedRequests:
    """An ASGI application that knows how many requests it is answering."""

    def __init__(self, app: Application, receive_timeout_seconds: int) -> None:
        self._app = app
        self._receive_timeout_seconds = receive_timeout_seconds
        self._requests: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return len(self._requests)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body = _ReadBeforeAnswer(receive, send, self._receive_timeout_seconds)
        request = asyncio.get_running_loop().create_task(self._app(scope, body.receive, body.send))
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        await request

    async def cancel(self) -> None:
        """End what still runs when all connections are closed: its clients have left."""
        for request in tuple(self._requests):
            request.cancel()
        if self._requests:
            await asyncio.wait(tuple(self._requests))


class _ReadBeforeAnswer:
    """The two channels of a request, of which the answer waits until the body has been read.

    An answer can be ready before that, where it is a refusal. The server would then close the
    connection on a client that still sends, and most clients report that instead of the answer.

    `seconds` is how long the body may let us wait in all, and one more for each SLOWEST_BYTES.
    """

    def __init__(self, receive: Receive, send: Send, seconds: float) -> None:
        self._receive = receive
        self._send = send
        self._seconds = seconds
        self._unread = True

    async def receive(self) -> Message:
        if not self._unread:
            return await self._receive()
        asked = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                message = await self._receive()
        except TimeoutError:
            self._unread = False
            raise RequestTooSlow(
                "the body of the request took too long to arrive; send it faster, or in several "
                "requests"
            ) from None
        self._seconds += len(message.get("body", b"")) / SLOWEST_BYTES - (time.monotonic() - asked)
        self._unread = bool(message.get("more_body"))
        return message

    async def send(self, message: Message) -> None:
        if self._unread:
            with suppress(TimeoutError, RequestTooSlow):
                async with asyncio.timeout(MAX_DISCARD_SECONDS):
                    await self._discard()
            self._unread = False
        await self._send(message)

    async def _discard(self) -> None:
        discarded = 0
        while self._unread and discarded < MAX_DISCARDED_BYTES:
            message = await self.receive()
            discarded += len(message.get("body", b""))


class _EmbeddedServer(Server):
    """granian in this process and event loop, on a socket that is already bound.

    Its own socket has SO_REUSEPORT, with which a second service on the port would silently take
    half of the connections. Its own lifespan turns an error into a log entry with a traceback.
    """

    def __init__(
        self, app: Application, listener: socket.socket, receive_timeout_seconds: int
    ) -> None:
        super().__init__(
            app,
            interface=Interfaces.ASGINL,
            http=HTTPModes.http1,
            http1_settings=HTTP1Settings(header_read_timeout=receive_timeout_seconds * 1000),
            websockets=False,
            backlog=MAX_CONNECTIONS,
            backpressure=MAX_CONNECTIONS,
            log_level=LogLevels.error,
            log_dictconfig=QUIET_GRANIAN,
        )
        self._listener = listener

    def _init_shared_socket(self) -> None:
        fd = self._listener.detach()
        backlog = (MAX_CONNECTIONS,) if sys.platform == "linux" else ()
        # What granian does when it hands a socket to a worker; its type stubs leave it out.
        self._shd = SocketHolder(fd, False, *backlog)  # type: ignore[assignment,call-arg]


def _behind(proxies: Networks, app: Application) -> Application:
    """The application, told by these proxies who their clients are."""
    if not proxies:
        return app
    wrapped: Application = wrap_asgi_with_proxy_headers(app, str(proxies))
    return wrapped


def _startup_error_in(group: ExceptionGroup[Exception]) -> StartupError | None:
    """What went wrong at the start: Litestar's lifespan wraps it, once for each of its layers."""
    found: ExceptionGroup[StartupError] | StartupError | None = group.subgroup(StartupError)
    while isinstance(found, ExceptionGroup):
        found = found.exceptions[0]
    return found


def _leave(status: int) -> None:
    logging.shutdown()
    os._exit(status)


def _log_ready(listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    logger.info("ready on http://%s:%d (documentation at /docs)", name, port)


def _cannot_listen(host: str, port: int, error: OSError | UnicodeError) -> InvalidSettings:
    reason = error.strerror if isinstance(error, OSError) else "not a name of a machine"
    return InvalidSettings(
        f"cannot listen on {host}:{port} ({reason}); stop what listens there, "
        "or choose another address with --host and --port"
    )
