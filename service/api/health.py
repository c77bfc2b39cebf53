"""Whether the service lives, embeds and remembers."""

from typing import Any, Literal

import msgspec
from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example

from service.api.error_shapes import Problem
from service.api.problems import answer, problem_spec
from service.errors import ServiceError
from service.memory.memories import Memories

NOT_READY = Problem("not_ready", 503)


class Live(msgspec.Struct):
    """The process answers."""

    live: Literal[True] = True


class Ready(msgspec.Struct):
    """The model embeds, and the store answers."""

    ready: Literal[True] = True


@get(
    "/health/live",
    summary="Is the process alive",
    tags=["health"],
    operation_id="live",
    responses={
        200: ResponseSpec(
            Live,
            generate_examples=False,
            description="It is.",
            examples=[Example(value={"live": True})],
        )
    },
)
async def live() -> Live:
    """Answers as long as the process does; restart the service when it does not."""
    return Live()


@get(
    "/health/ready",
    summary="Does the model embed, and the store answer",
    tags=["health"],
    operation_id="ready",
    responses={
        200: ResponseSpec(
            Ready,
            generate_examples=False,
            description="It does.",
            examples=[Example(value={"ready": True})],
        ),
        503: problem_spec("It does not; `detail` says why."),
    },
)
async def ready(
    request: Request[Any, Any, Any], memories: NamedDependency[Memories]
) -> Response[Ready] | Response[bytes]:
    """Asks the store, and embeds a short text, unless one has been embedded in the last seconds."""
    refusal = await _why_not_ready(request, memories)
    return refusal or Response(Ready())


@get(
    "/health",
    summary="The same, as clients of other embedding servers ask it",
    tags=["health"],
    operation_id="health",
    responses={
        200: ResponseSpec(None, generate_examples=False, description="It does; there is no body."),
        503: problem_spec("It does not; `detail` says why."),
    },
)
async def healthy(
    request: Request[Any, Any, Any], memories: NamedDependency[Memories]
) -> Response[bytes]:
    """What `/health/ready` looks at; 200 without a body, or 503, as text-embeddings-inference."""
    refusal = await _why_not_ready(request, memories)
    return refusal or Response(b"", media_type=MediaType.TEXT)


async def _why_not_ready(
    request: Request[Any, Any, Any], memories: Memories
) -> Response[bytes] | None:
    try:
        await memories.embedder.check()
        await memories.store.ping()
    except ServiceError as error:
        return answer(request, NOT_READY, str(error))
    return None
