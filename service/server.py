"""Serves the application with uvicorn, in this process, until it is told to stop."""

import asyncio
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import uvicorn
import uvloop

from service.app import create_app
from service.errors import InvalidSettings, StartupError
from service.receiving import Application, BoundedProtocol, reading_before_answering
from service.settings import Settings

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Connections that may wait to be accepted, and that may be open; idle ones count. The next one's
# requests are answered 503.
MAX_CONNECTIONS = 8192

# Longer than proxies keep an idle connection, which is 60 s with nginx and with AWS: a connection
# that is closed just when a request is sent on it leaves that without an answer.
IDLE_SECONDS = 75


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
    """A socket on this address that no other process can share.

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
        server = _server_of(app, settings)
        stopping = asyncio.Event()
        for signum in STOP_SIGNALS:
            loop.add_signal_handler(signum, stopping.set)
        try:
            listener.listen(MAX_CONNECTIONS)
        except OSError as error:
            raise _cannot_listen(settings.host, settings.port, error) from error
        _log_ready(listener)
        return await _run(server, listener, stopping, settings.shutdown_grace_seconds)


async def _run(
    server: "_Server", listener: socket.socket, stopping: asyncio.Event, grace: int
) -> int:
    loop = asyncio.get_running_loop()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    asked = asyncio.create_task(stopping.wait())
    await asyncio.wait((serving, asked), return_when=asyncio.FIRST_COMPLETED)
    if serving.done():
        logger.error("the HTTP server ended by itself", exc_info=serving.exception())
        return 1
    logger.info("stopping; finishing %d requests, for at most %d s", server.running, grace)
    # A second Ctrl-C ends it at once, but a second later: `uv run` passes the first one on, too.
    loop.call_later(1, loop.add_signal_handler, signal.SIGINT, _leave, 1)
    server.should_exit = True
    await asyncio.wait((serving,), timeout=grace)
    if not serving.done():
        logger.error("%d requests did not finish in %d s", server.running, grace)
        _leave(1)  # a thread that computes cannot be interrupted
    logger.info("stopped")
    return 0


class _Server(uvicorn.Server):
    """uvicorn, but for its handling of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them to us."""
        yield

    @property
    def running(self) -> int:
        """How many requests are being answered."""
        return len(self.server_state.tasks)


def _server_of(app: Application, settings: Settings) -> _Server:
    seconds = settings.receive_timeout_seconds
    return _Server(
        uvicorn.Config(
            reading_before_answering(app, seconds),
            interface="asgi3",
            http=partial(BoundedProtocol, seconds),  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            workers=1,
            backlog=MAX_CONNECTIONS,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=IDLE_SECONDS,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=str(settings.trusted_proxies),
            server_header=False,
            log_config=None,
            access_log=False,
        )
    )


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
