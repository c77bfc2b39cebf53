"""The tools over streamable HTTP, as an ASGI application that the service hands requests to."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from service.mcp.server import Context, create_server
from service.mcp.tool import Access

if TYPE_CHECKING:
    from service.memory.memories import Memories

# What a browser on this machine calls this machine. A page that calls it otherwise has made a name
# of its own lead here (DNS rebinding), and could use what needs no key.
LOOPBACK = ("127.0.0.1:*", "localhost:*", "[::1]:*")

# Gives the memories and the tenant of the request of an ASGI scope; raises a ServiceError where its
# caller may not do what needs this access.
AdmitScope = Callable[[Any, Access], tuple["Memories", str]]


@asynccontextmanager
async def open_http_server(
    admit_scope: AdmitScope, *, loopback_only: bool, max_body_bytes: int
) -> AsyncIterator[StreamableHTTPASGIApp]:
    """The application; each request stands by itself, so that any process can answer it.

    `loopback_only` refuses requests that call this machine by another name.
    """

    async def admit(context: Context, access: Access) -> "tuple[Memories, str]":
        assert context.request is not None
        return admit_scope(context.request.scope, access)

    manager = StreamableHTTPSessionManager(
        create_server(admit),
        stateless=True,
        json_response=True,
        security_settings=TransportSecuritySettings(
            enable_dns_rebinding_protection=loopback_only,
            allowed_hosts=list(LOOPBACK),
            allowed_origins=[f"http://{host}" for host in LOOPBACK],
        ),
        max_request_body_size=max_body_bytes,
    )
    async with manager.run():
        yield StreamableHTTPASGIApp(manager)
