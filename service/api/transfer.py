"""GET /export and POST /import: a tenant's memories as JSON lines."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import IO, Annotated, Any

import msgspec
from litestar import Request, get, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import QueryParameter
from litestar.response import Stream

from service.api.access import Caller
from service.api.problems import MEMORY_ERRORS, PROBLEMS
from service.audit import audit
from service.errors import RateLimited, ServiceError, StoreUnavailable
from service.memory.knowledge_graph_file import as_dump
from service.memory.memories import Memories
from service.memory.model import Embedding, Memory
from service.memory.transfer import Progress, dump_header, dump_tenant, lines_of, load
from service.telemetry.running_request import note_problem

JSON_LINES = "application/x-ndjson"

CHUNK_BYTES = 1 << 20

# Some two million memories with their embeddings; more are for python -m service load.
MAX_IMPORT_BYTES = 16 << 30

OfTenant = Annotated[
    str | None,
    QueryParameter(
        name="tenant",
        description="Another tenant than that of the key, which then needs the scope admin, too.",
    ),
]

PROGRESS_EXAMPLE = {
    "lines": 1_203,
    "created": 1_170,
    "replaced": 0,
    "unchanged": 0,
    "kept": 0,
    "embedded": 0,
    "relations": 32,
    "dropped": 0,
    "done": True,
    "error": None,
}


class ImportFailure(msgspec.Struct):
    """Why an import ended early; the lines before were written, and can be sent again."""

    code: str
    detail: str


class ImportProgress(Progress, kw_only=True):
    """How far the import has come; the last line is `done`, or has an error."""

    done: bool = False
    error: ImportFailure | None = None


@get(
    "/export",
    summary="Export everything",
    tags=["transfer"],
    operation_id="export",
    media_type=JSON_LINES,
    responses={
        200: ResponseSpec(
            bytes,
            generate_examples=False,
            media_type=JSON_LINES,
            description="A header, then a line for each memory and each relation.",
            examples=[
                Example(
                    value='{"type":"memory","id":"tea","content":"Ada prefers tea to coffee."}\n'
                )
            ],
        ),
        **MEMORY_ERRORS,
    },
)
async def export_memories(
    memories: NamedDependency[Memories],
    caller: NamedDependency[Caller],
    of_tenant: OfTenant = None,
    embeddings: Annotated[
        bool, QueryParameter(description="With the embeddings, as base64 of little-endian floats.")
    ] = False,
) -> Stream:
    """All memories, history included, and their relations, as JSON lines for POST /import."""
    tenant = caller.acting_for(of_tenant)
    now = memories.clock()
    header = await dump_header(memories.store, now=now)

    async def lines() -> AsyncIterator[bytes]:
        yield header
        async for piece, _ in dump_tenant(memories.store, tenant, now=now, embeddings=embeddings):
            yield piece

    return Stream(lines(), media_type=JSON_LINES)


@post(
    "/import",
    status_code=200,
    summary="Import what was exported",
    tags=["transfer"],
    operation_id="import",
    media_type=JSON_LINES,
    request_max_body_size=MAX_IMPORT_BYTES,
    responses={
        200: ResponseSpec(
            ImportProgress,
            generate_examples=False,
            media_type=JSON_LINES,
            description="A line now and then, and one at the end.",
            examples=[Example(value=PROGRESS_EXAMPLE)],
        ),
        **MEMORY_ERRORS,
    },
)
async def import_memories(
    request: Request[Any, Any, Any],
    memories: NamedDependency[Memories],
    caller: NamedDependency[Caller],
    of_tenant: OfTenant = None,
) -> Stream:
    """Write the lines of an export. To go on after an interruption, send them all again.

    Embeddings are taken over where they are of the served model, and are made anew otherwise. The
    file of MCP's reference memory server (memory.json) can be sent as it is, too.
    """
    tenant = caller.acting_for(of_tenant)
    # Few clients read an answer while they still send, so that the body has to wait somewhere.
    try:
        with ExitStack() as unless_complete:
            body = await asyncio.to_thread(tempfile.TemporaryFile)
            unless_complete.callback(body.close)
            async for chunk in request.stream():
                await asyncio.to_thread(body.write, chunk)
            body.seek(0)
            unless_complete.pop_all()
    except OSError as error:
        raise StoreUnavailable(
            f"the import cannot be kept while it arrives ({error.strerror}); send it in parts, or "
            "use python -m service load"
        ) from error
    return Stream(_load(memories, caller, tenant, body), media_type=JSON_LINES)


async def _load(
    memories: Memories, caller: Caller, tenant: str, body: IO[bytes]
) -> AsyncIterator[bytes]:
    latest = Progress()
    with body:
        progress = load(
            memories.store,
            as_dump(lines_of(_chunks(body)), at=memories.clock()),
            tenant=tenant,
            embed=partial(_embed_in_time, memories),
            room=memories.room,
        )
        try:
            async for latest in progress:
                yield _line(latest)
        except ServiceError as error:
            problem = PROBLEMS[type(error)]
            note_problem(problem.code)
            yield _line(latest, error=ImportFailure(problem.code, str(error)))
        else:
            yield _line(latest, done=True)
        finally:
            written = latest.created + latest.replaced
            audit("import", by=caller.name, tenant=tenant, what="memories", count=written)


async def _embed_in_time(memories: Memories, found: Sequence[Memory]) -> Sequence[Embedding]:
    # Who sent all at once did not say when it has to be there.
    while True:
        try:
            return await memories.embed_for_load(found)
        except RateLimited as error:
            await asyncio.sleep(error.retry_after)


async def _chunks(body: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(body.read, CHUNK_BYTES):
        yield chunk


def _line(progress: Progress, **ending: Any) -> bytes:
    fields = msgspec.structs.asdict(progress)
    return msgspec.json.encode(ImportProgress(**fields, **ending)) + b"\n"
