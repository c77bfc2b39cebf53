"""How long a request may take to arrive, and how much of one is kept that is not answered."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.app import MAX_BODY_BYTES
from service.errors import RequestTooSlow

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[..., Coroutine[Any, Any, None]]

# What is kept of a head, which is a request up to its body, while more of it is to come; and of the
# headers that may follow a chunked body.
MAX_HEAD_BYTES = 64 * 1024

# Requests that a client may send before the one that is answered; few clients send any.
MAX_WAITING_REQUESTS = 16

HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-length: 0\r\nconnection: close\r\n\r\n"
)

# How much of a refused request's body is read before the refusal is sent, and for how long.
MAX_DISCARDED_BYTES = 8 * MAX_BODY_BYTES
MAX_DISCARD_SECONDS = 10

# What a body brings in each second at least, once the seconds that it may take are used up.
SLOWEST_BYTES = 16 * 1024


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's side of a connection, which would wait for a head however slow and large it is.

    The first head may take `seconds` from the connection on, and each other from its first byte.
    """

    def __init__(self, seconds: float, **connection: Any) -> None:
        super().__init__(**connection)
        self._seconds = seconds
        self._deadline: float | None = None
        self._incomplete_bytes = 0
        self._unanswered: deque[RequestResponseCycle] = deque()

    def connection_made(  # type: ignore[override]
        self, transport: asyncio.Transport
    ) -> None:
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Take a piece of what is sent."""
        if self.timeout_keep_alive_task:
            self.timeout_keep_alive_task.cancel()
        self._incomplete_bytes += len(data)
        try:
            self._parse(memoryview(data))
        except HttpParserError:
            self.send_400_response("expected HTTP/1.1")
        if self.transport.is_closing():
            return
        if self._incomplete_bytes > MAX_HEAD_BYTES:
            self.transport.write(HEAD_TOO_LARGE)
            self.transport.close()
        elif not self._unanswered:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        """Answer a request, or let it wait for those that were sent before."""
        self._deadline = None
        self._incomplete_bytes = 0
        if self.parser.should_upgrade():
            return
        if len(self._unanswered) > MAX_WAITING_REQUESTS:
            raise HttpParserError("too many requests at once")
        super().on_headers_complete()
        self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Give a piece of its body to the request."""
        self._incomplete_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Tell the request that its body has come to its end."""
        self._incomplete_bytes = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, where this one was read to its end."""
        if self._unanswered.popleft().more_body:
            self.transport.close()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all requests; uvicorn itself tells the newest one, which may not have begun."""
        for cycle in self._unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        # uvicorn's timer is that of idle connections, which ends with the next byte.
        if self._deadline is None:
            self._deadline = self.loop.time() + self._seconds
        self.timeout_keep_alive_task = self.loop.call_at(
            self._deadline, self.timeout_keep_alive_handler
        )

    def _parse(self, data: memoryview) -> None:
        while data:
            try:
                self.parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                self._ask_without_upgrade()
                data = data[upgrade.args[0] :]

    def _ask_without_upgrade(self) -> None:
        """Parse a head again as if it did not ask for another protocol besides.

        Java's client asks for HTTP/2 in this way. The parser takes the body for that, and uvicorn
        would answer as if there were none.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise HttpParserError("this is not a proxy")
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))


def reading_before_answering(app: Application, seconds: float) -> Application:
    """The application, of which each answer waits until the body of its request has been read.

    An answer can be ready before that, where it is a refusal. The server would then close the
    connection on a client that still sends, and most clients report that instead of the answer.

    `seconds` is how long a body may let us wait in all, and one more for each SLOWEST_BYTES.
    """

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        body = _ReadBeforeAnswer(receive, send, seconds)
        await app(scope, body.receive, body.send)

    return answer


class _ReadBeforeAnswer:
    """The two channels of one request."""

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
