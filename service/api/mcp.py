"""/mcp: the Model Context Protocol over streamable HTTP."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from litestar import asgi
from litestar.types import ASGIApp, Receive, Scope, Send

from service.api.access import admit, caller_of, memories_of
from service.errors import NotServed
from service.mcp import NOT_INSTALLED
from service.mcp.tool import Access
from service.memory.memories import Memories


@asgi("/mcp", copy_scope=False)
async def serve_mcp(scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request over to the server of MCP."""
    admit(scope)
    server: ASGIApp | None = scope["litestar_app"].state.mcp
    if server is None:
        raise NotServed(NOT_INSTALLED)
    await server(scope, receive, send)


@asynccontextmanager
async def open_mcp(*, max_body_bytes: int) -> AsyncIterator[ASGIApp | None]:
    """The server of MCP; None where the SDK is not installed."""
    try:
        from service.mcp.http import open_http_server
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "mcp":
            raise
        yield None
        return
    async with open_http_server(_admit, max_body_bytes=max_body_bytes) as server:
        yield server  # type: ignore[misc]  # what Starlette calls an ASGI application


def _admit(scope: Scope, access: Access) -> tuple[Memories, str]:
    caller = caller_of(scope)
    caller.require(access)
    return memories_of(scope), caller.tenant
