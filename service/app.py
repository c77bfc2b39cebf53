"""The composition root: opens what the service needs, and wires it to the routes."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from litestar import Litestar, get
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.response import Redirect

from service import __version__
from service.api.embeddings import create_embeddings
from service.api.health import info, live, ready
from service.api.models import describe_model, list_models
from service.api.problems import answer_error
from service.embedding.embedder import Embedder, open_embedder
from service.errors import InvalidSettings
from service.settings import Settings

# 2,048 texts of 2,048 tokens are about 16 MB of English; other scripts take twice that in UTF-8.
MAX_BODY_BYTES = 32 * 1024 * 1024


def create_app(settings: Settings) -> Litestar:
    """The service as an ASGI application; its lifespan holds everything that is open."""

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with open_embedder_of(settings) as app.state.embedder:
            yield

    def served_embedder() -> Embedder:
        embedder: Embedder = app.state.embedder
        return embedder

    app = Litestar(
        [create_embeddings, list_models, describe_model, live, ready, info, to_docs],
        lifespan=[lifespan],
        dependencies={"embedder": Provide(served_embedder, sync_to_thread=False)},
        exception_handlers={Exception: answer_error},
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=OpenAPIConfig(
            title="AI Memory Service",
            version=__version__,
            description="Embeds text with one model, for clients of OpenAI's API and others.",
            path="/docs",
            render_plugins=[SwaggerRenderPlugin(path="/"), JsonRenderPlugin()],
            use_handler_docstrings=True,
        ),
        logging_config=None,
    )
    return app


def open_embedder_of(settings: Settings) -> AbstractAsyncContextManager[Embedder]:
    """The embedder that the settings ask for.

    Raises:
        StartupError: no bundle is set, or, when it is entered, the bundle cannot be served.
    """
    if settings.model is None:
        raise InvalidSettings("MEMORY_MODEL is not set; expected the folder of a bundle")
    return open_embedder(
        settings.model,
        precision=settings.precision,
        threads=settings.threads,
        max_batch_texts=settings.max_batch_texts,
        max_batch_tokens=settings.max_batch_tokens,
        max_queued_tokens=settings.max_queued_tokens,
    )


@get("/", include_in_schema=False)
async def to_docs() -> Redirect:
    """The browsable description of the API."""
    return Redirect("/docs")
