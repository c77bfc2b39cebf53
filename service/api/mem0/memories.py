"""mem0's memories: add, search, list, read, update and delete them."""

from typing import Any

from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from service.api.json_body import StrictJson
from service.api.mem0 import versions
from service.api.mem0.requests import (
    AddRequest,
    BatchDeletes,
    BatchUpdates,
    ListMemories,
    SearchMemories,
    UpdateMemory,
    deletion_of,
    from_query,
    new_memories,
)
from service.api.mem0.versions import shown
from service.memory.filters import parse_filter
from service.memory.memories import Memories
from service.memory.model import Memory
from service.memory.outcomes import refusal
from service.memory.questions import SearchRequest, answer_search
from service.memory.store import Order, Selection

Body = dict[str, Any]

DEFAULT_TOP_K = 10
DEFAULT_PAGE_SIZE = 100


@post(
    ["/mem0/v3/memories/add", "/mem0/v1/memories", "/mem0/memories"],
    dto=StrictJson[AddRequest],
    return_dto=None,
    status_code=200,
    include_in_schema=False,
)
async def add(
    data: JSONBody[AddRequest], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Body:
    """Keep what was said, each message as a memory of its own."""
    given = list(new_memories(data))
    kept, _ = await memories.remember(tenant, given)
    results = []
    for each in kept:
        if error := refusal(each.remembered):
            raise error
        memory = each.remembered.memory
        assert memory is not None
        event = "ADD" if each.remembered.outcome == "created" else "NONE"
        results.append((await shown(memories, tenant, [memory]))[0] | {"event": event})
    return {"results": results}


@post(
    [
        "/mem0/v3/memories/search",
        "/mem0/v2/memories/search",
        "/mem0/v1/memories/search",
        "/mem0/search",
    ],
    dto=StrictJson[SearchMemories],
    return_dto=None,
    status_code=200,
    include_in_schema=False,
)
async def search_memories(
    data: JSONBody[SearchMemories],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Body:
    """What answers a query best, by meaning and by words."""
    asked = SearchRequest(
        query=data.query,
        limit=data.top_k or data.limit or DEFAULT_TOP_K,
        filter=data.filter(),
        min_similarity=data.threshold,
    )
    found = (await answer_search(memories, tenant, asked)).results
    bodies = await shown(memories, tenant, [result.memory for result in found])
    results = [
        body | {"score": result.similarity} for body, result in zip(bodies, found, strict=True)
    ]
    return {"results": _only(results, data.fields)}


@post(
    ["/mem0/v3/memories", "/mem0/v2/memories"],
    status_code=200,
    dto=StrictJson[ListMemories],
    return_dto=None,
    include_in_schema=False,
)
async def list_memories(
    request: Request[Any, Any, Any],
    data: JSONBody[ListMemories],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Body:
    """A page of memories, newest first."""
    pages = from_query(dict(request.query_params), ListMemories)
    size = pages.page_size or data.page_size or DEFAULT_PAGE_SIZE
    number = max(pages.page, data.page)
    selection = memories.select(tenant, parse_filter(data.filter()))
    count = await memories.store.count(selection)
    found = await _page(memories, selection, number, size)

    def link(to: int) -> str:
        return str(request.url.with_replacements(query=f"page={to}&page_size={size}"))

    return {
        "count": count,
        "next": link(number + 1) if number * size < count else None,
        "previous": link(number - 1) if number > 1 else None,
        "results": _only(await shown(memories, tenant, found), data.fields),
    }


@get(["/mem0/v1/memories", "/mem0/memories"], include_in_schema=False)
async def list_scope(
    request: Request[Any, Any, Any],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Body:
    """The newest memories of a user, an agent, an app or a run."""
    asked = from_query(dict(request.query_params), ListMemories)
    selection = memories.select(tenant, parse_filter(asked.filter()))
    size = asked.page_size or asked.top_k or asked.limit or DEFAULT_PAGE_SIZE
    found = await _page(memories, selection, asked.page, size)
    return {"results": await shown(memories, tenant, found)}


@get(["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"], include_in_schema=False)
async def read_memory(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Body:
    """A memory as it is now."""
    current = (await versions.versions_of(memories, tenant, id))[-1]
    return (await shown(memories, tenant, [current]))[0]


@get(
    ["/mem0/v1/memories/{id:str}/history", "/mem0/memories/{id:str}/history"],
    include_in_schema=False,
)
async def read_history(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> list[Body]:
    """What happened to a memory, oldest first."""
    return await versions.events(memories, tenant, id)


@put(
    ["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"],
    dto=StrictJson[UpdateMemory],
    return_dto=None,
    include_in_schema=False,
)
async def update_memory(
    id: FromPath[str],
    data: JSONBody[UpdateMemory],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Body:
    """Give a memory another text, other metadata, or another day to expire on."""
    changed = await versions.update(memories, tenant, id, data)
    return (await shown(memories, tenant, [changed]))[0]


@delete(
    ["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"],
    status_code=200,
    include_in_schema=False,
)
async def delete_memory(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Body:
    """Delete a memory with what it said before."""
    await versions.delete(memories, tenant, [id])
    return {"message": "Memory deleted successfully!"}


@delete(["/mem0/v1/memories", "/mem0/memories"], status_code=200, include_in_schema=False)
async def delete_memories(
    request: Request[Any, Any, Any],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Body:
    """Delete all memories of what the query names; of nothing, nothing."""
    await memories.delete(tenant, parse_filter(deletion_of(dict(request.query_params))))
    return {"message": "Memories deleted successfully!"}


@put("/mem0/v1/batch", dto=StrictJson[BatchUpdates], return_dto=None, include_in_schema=False)
async def update_batch(
    data: JSONBody[BatchUpdates], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Body:
    """Change memories, one after the other, if all of them are there."""
    for each in data.memories:
        await versions.versions_of(memories, tenant, each.memory_id)
    for each in data.memories:
        await versions.update(memories, tenant, each.memory_id, each)
    return {"message": f"Successfully updated {len(data.memories)} memories"}


@delete(
    "/mem0/v1/batch",
    dto=StrictJson[BatchDeletes],
    return_dto=None,
    status_code=200,
    include_in_schema=False,
)
async def delete_batch(
    data: JSONBody[BatchDeletes], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Body:
    """Delete memories at once, if all of them are there."""
    await versions.delete(memories, tenant, [each.memory_id for each in data.memories])
    return {"message": f"Successfully deleted {len(data.memories)} memories"}


async def _page(memories: Memories, selection: Selection, number: int, size: int) -> list[Memory]:
    page = await memories.page(selection, order=Order(), after=None, limit=size)
    for _ in range(number - 1):
        if page.next is None:
            return []
        page = await memories.page(selection, order=Order(), after=page.next, limit=size)
    return page.memories


def _only(results: list[Body], fields: list[str] | None) -> list[Body]:
    if not fields:
        return results
    return [{name: body[name] for name in body if name in ("id", *fields)} for body in results]
