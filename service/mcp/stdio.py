"""python -m service mcp: the tools over the standard input and output of this process."""

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec
from mcp.server.stdio import stdio_server

from service.bundles import find_or_build_bundle
from service.errors import StartupError
from service.mcp.server import Context, create_server
from service.mcp.tool import Access
from service.settings import Settings

if TYPE_CHECKING:
    from service.memory.memories import Memories

logger = logging.getLogger(__name__)


def serve_stdio(settings: Settings, tenant: str) -> None:
    """Serve the memories of a tenant until the standard input is closed."""
    asyncio.run(_serve(settings, tenant))


async def _serve(settings: Settings, tenant: str) -> None:
    opening = _Opening(settings)
    opening.start()

    async def admit(context: Context, access: Access) -> "tuple[Memories, str]":
        return await opening.memories(), tenant

    server = create_server(admit)
    try:
        async with stdio_server() as (received, sent):
            await server.run(received, sent, server.create_initialization_options())
    finally:
        await opening.close()


class _Opening:
    """The model and the store, opened by a task of their own while clients are answered already."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._closing = asyncio.Event()
        self._opened: asyncio.Future[Memories] = asyncio.Future()
        self._holding: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to open them."""
        self._opened = asyncio.Future()
        self._holding = asyncio.create_task(self._hold_open())

    async def memories(self) -> "Memories":
        """The memories, as soon as they are open.

        Raises:
            StartupError: they cannot be opened; another process may have the store. The next call
                tries again.
        """
        if self._opened.done() and self._opened.exception():
            self.start()
        return await asyncio.shield(self._opened)

    async def close(self) -> None:
        """Close what is open, when what runs is done."""
        self._closing.set()
        if self._holding is not None:
            await self._holding

    async def _hold_open(self) -> None:
        try:
            settings = await asyncio.to_thread(_with_model, self._settings)
            from service.opening import open_memories

            async with open_memories(settings) as memories:
                self._opened.set_result(memories)
                await self._closing.wait()
        except StartupError as error:
            logger.error("%s", error)
            self._opened.set_exception(error)


def _with_model(settings: Settings) -> Settings:
    import service.opening  # noqa: F401  (takes a while, and would hold up the event loop)

    if settings.model is not None:
        return settings
    return msgspec.structs.replace(settings, model=find_or_build_bundle())
