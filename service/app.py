"""The composition root: opens what the service needs, and wires it to the routes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, get
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, SwaggerRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Server
from litestar.response import Redirect

from service import __version__
from service.api.access import (
    Access,
    admit,
    caller_of,
    embedder_of,
    guarded,
    identify_by_key,
    identify_without_keys,
    memories_of,
    tenant_of,
)
from service.api.allowed_methods import answering_options
from service.api.cohere import cohere_embed
from service.api.content_encoding import refuse_compressed
from service.api.cors import cors_of
from service.api.embeddings import create_embeddings
from service.api.health import healthy, live, ready
from service.api.info import info
from service.api.many_memories import delete_memories, list_memories, remember_batch
from service.api.mcp import open_mcp, serve_mcp
from service.api.mem0 import entities as mem0_entities
from service.api.mem0 import memories as mem0
from service.api.mem0.not_served import NOT_SERVED
from service.api.memories import (
    change_memory,
    forget,
    read_history,
    read_memory,
    remember,
    supersede,
)
from service.api.metrics import read_metrics
from service.api.models import describe_model, list_models
from service.api.observed_requests import ObservedRequests
from service.api.problems import answer_error
from service.api.relations import relate, related, unrelate
from service.api.root_path import behind_root_path
from service.api.scopes import (
    forget_session,
    forget_user,
    list_contexts,
    list_tags,
    read_stats,
)
from service.api.search import recall_context, search_memories
from service.api.struct_schemas import StructSchemas
from service.api.tei import embed, embed_all, embed_or_compare, similarity
from service.api.tokens import decode, tokenize
from service.api.transfer import export_memories, import_memories
from service.keys import open_key_file
from service.opening import open_memories
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.tracing import open_tracing

# 2,048 texts of 2,048 tokens are about 16 MB of English; other scripts take twice that in UTF-8.
MAX_BODY_BYTES = 32 * 1024 * 1024


async def check(request: Request[Any, Any, Any]) -> None:
    """Return if the service takes this request; its body has not been read yet."""
    admit(request.scope)
    refuse_compressed(request)


@get("/", include_in_schema=False)
async def to_docs() -> Redirect:
    """The browsable description of the API."""
    return Redirect("/docs")


API_KEY = SecurityScheme(
    type="http",
    scheme="bearer",
    description="An API key, where the service has any; the header X-API-Key is taken, too.",
)

# Each route by what its caller needs.
ROUTES: dict[Access, list[BaseRouteHandler]] = {
    "nothing": [to_docs, live, ready, healthy],
    "any key": [list_models, describe_model, info, serve_mcp, mem0_entities.ping, *NOT_SERVED],
    "embed": [
        create_embeddings,
        embed,
        embed_or_compare,
        similarity,
        tokenize,
        decode,
        embed_all,
        cohere_embed,
    ],
    "read": [
        list_memories,
        read_memory,
        read_history,
        search_memories,
        recall_context,
        related,
        list_tags,
        list_contexts,
        read_stats,
        export_memories,
        mem0.search_memories,
        mem0.list_memories,
        mem0.list_scope,
        mem0.read_memory,
        mem0.read_history,
        mem0_entities.list_entities,
    ],
    "write": [
        remember,
        remember_batch,
        change_memory,
        supersede,
        forget,
        delete_memories,
        forget_session,
        forget_user,
        relate,
        unrelate,
        import_memories,
        mem0.add,
        mem0.update_memory,
        mem0.update_batch,
        mem0.delete_memory,
        mem0.delete_memories,
        mem0.delete_batch,
        mem0_entities.delete_entity,
        mem0_entities.reset,
    ],
    "admin": [read_metrics],
}


def create_app(settings: Settings) -> Litestar:
    """The service as an ASGI application; its lifespan holds everything that is open."""
    metrics = Metrics()
    cors = cors_of(settings.cors_origins)

    @asynccontextmanager
    async def tracing(app: Litestar) -> AsyncIterator[None]:
        with open_tracing(settings.otel_exporter_otlp_endpoint) as observed.tracing:
            yield

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.identify = (
            identify_without_keys(cors)
            if settings.api_keys is None
            else identify_by_key(open_key_file(settings.api_keys))
        )
        async with (
            open_memories(settings, metrics) as app.state.memories,
            open_mcp(max_body_bytes=MAX_BODY_BYTES) as app.state.mcp,
        ):
            yield

    routes = list(guarded(ROUTES))
    app = Litestar(
        [*answering_options(routes), *routes],
        lifespan=[tracing, lifespan],
        dependencies={
            "embedder": Provide(embedder_of, sync_to_thread=False),
            "memories": Provide(memories_of, sync_to_thread=False),
            "metrics": Provide(lambda: metrics, sync_to_thread=False),
            "caller": Provide(caller_of, sync_to_thread=False),
            "tenant": Provide(tenant_of, sync_to_thread=False),
        },
        exception_handlers={Exception: answer_error},
        plugins=[StructSchemas()],
        cors_config=cors,
        before_request=check,
        request_max_body_size=MAX_BODY_BYTES,
        openapi_config=OpenAPIConfig(
            title="AI Memory Service",
            version=__version__,
            description="Embeds text with one model, and remembers it: by meaning, by words, by "
            "relations and by time.",
            path="/docs",
            servers=[Server(url=settings.root_path or "/")],
            render_plugins=[SwaggerRenderPlugin(path="/"), JsonRenderPlugin()],
            use_handler_docstrings=True,
            components=Components(security_schemes={"key": API_KEY}),
            security=None if settings.api_keys is None else [{"key": []}],
        ),
        logging_config=None,
    )
    observed = ObservedRequests(app.asgi_handler, metrics)
    app.asgi_handler = behind_root_path(settings.root_path, observed)
    return app
