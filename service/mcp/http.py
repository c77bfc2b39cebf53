"""The tools over streamable HTTP, as an ASGI application that the service hands requests to."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager

from service.mcp.server import Context, create_server
from service.mcp.tool import Access

if TYPE_CHECKING:
    from service.memory.memories import Memories

# Gives the memories and the tenant of the request of an ASGI scope; raises a ServiceError where its
# caller may not do what needs this access.
AdmitScope = Callable[[Any, Access], tuple["Memories", str]]


@asynccontextmanager
async def open_http_server(
    admit_scope: AdmitScope, *, max_body_bytes: int
) -> AsyncIterator[StreamableHTTPASGIApp]:
    """The application; each request stands by itself, so that any process can answer it."""

    async def admit(context: Context, access: Access) -> "tuple[Memories, str]":
        assert context.request is not None
        return admit_scope(context.request.scope, access)

    manager = StreamableHTTPSessionManager(
        create_server(admit),
        stateless=True,
        json_response=True,
        max_request_body_size=max_body_bytes,
    )
    async with manager.run():
        yield StreamableHTTPASGIApp(manager)
