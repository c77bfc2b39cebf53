"""mem0's memories: add, search, list, read, update and delete them."""

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post, put
from litestar.di import NamedDependency
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg, FromPath
from msgspec import UNSET

from service.api.json_body import StrictJson
from service.api.mem0 import versions
from service.api.mem0.answers import (
    EVENT_EXAMPLE,
    MEMORY_EXAMPLE,
    Done,
    Event,
    MemoriesPage,
    ShownMemories,
    ShownMemory,
    answers,
)
from service.api.mem0.queries import DeleteQuery, ListQuery, PageQuery, from_query, reading
from service.api.mem0.requests import (
    AddRequest,
    BatchDeletes,
    BatchUpdates,
    ListMemories,
    SearchMemories,
    UpdateMemory,
    new_memories,
)
from service.api.mem0.versions import shown
from service.memory.filters import parse_filter
from service.memory.memories import Memories
from service.memory.model import Memory
from service.memory.outcomes import refusal
from service.memory.questions import SearchRequest, answer_search
from service.memory.store import Order, Selection

DEFAULT_TOP_K = 10
DEFAULT_PAGE_SIZE = 100

ADD_EXAMPLE = {
    "messages": [
        {"role": "user", "content": "I drink tea."},
        {"role": "assistant", "content": "Tea, noted."},
    ],
    "user_id": "ada",
    "metadata": {"mood": "good"},
}
SEARCH_EXAMPLE = {"query": "What does Ada drink?", "filters": {"user_id": "ada"}, "top_k": 3}


@post(
    ["/mem0/v3/memories/add", "/mem0/v1/memories", "/mem0/memories"],
    dto=StrictJson[AddRequest],
    return_dto=None,
    status_code=200,
    summary="Add memories",
    tags=["mem0"],
    responses=answers(
        ShownMemories,
        "What became of each message.",
        {"results": [MEMORY_EXAMPLE | {"event": "ADD"}]},
    ),
)
async def add(
    data: Annotated[AddRequest, BodyKwarg(examples=[Example(value=ADD_EXAMPLE)])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> ShownMemories:
    """Keep what was said, each message as a memory of its own."""
    given = list(new_memories(data))
    kept, _ = await memories.remember(tenant, given)
    remembered = [each.remembered for each in kept]
    for one in remembered:
        if error := refusal(one):
            raise error
    results = await shown(memories, tenant, [one.memory for one in remembered if one.memory])
    for result, one in zip(results, remembered, strict=True):
        result.event = "ADD" if one.outcome == "created" else "NONE"
    return ShownMemories(results)


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
    summary="Search memories",
    tags=["mem0"],
    responses=answers(
        ShownMemories,
        "The best, each with its score.",
        {"results": [MEMORY_EXAMPLE | {"score": 0.618975}]},
    ),
)
async def search_memories(
    data: Annotated[SearchMemories, BodyKwarg(examples=[Example(value=SEARCH_EXAMPLE)])],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> ShownMemories:
    """What answers a query best, by meaning and by words."""
    asked = SearchRequest(
        query=data.query,
        limit=data.top_k or data.limit or DEFAULT_TOP_K,
        filter=data.filter(),
        min_similarity=data.threshold,
    )
    found = (await answer_search(memories, tenant, asked)).results
    results = await shown(memories, tenant, [hit.memory for hit in found])
    for result, hit in zip(results, found, strict=True):
        result.score = hit.similarity
    return ShownMemories(_only(results, data.fields))


@post(
    ["/mem0/v3/memories", "/mem0/v2/memories"],
    status_code=200,
    dto=StrictJson[ListMemories],
    return_dto=None,
    operation_class=reading(PageQuery),
    summary="List memories by filters",
    tags=["mem0"],
    responses=answers(
        MemoriesPage,
        "A page of memories.",
        {
            "count": 1,
            "next": None,
            "previous": None,
            "results": [MEMORY_EXAMPLE],
        },
    ),
)
async def list_memories(
    request: Request[Any, Any, Any],
    data: Annotated[
        ListMemories, BodyKwarg(examples=[Example(value={"filters": {"user_id": "ada"}})])
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> MemoriesPage:
    """A page of memories, newest first."""
    pages = from_query(request.query_params, PageQuery)
    size = pages.page_size or data.page_size or DEFAULT_PAGE_SIZE
    number = max(pages.page, data.page)
    selection = memories.select(tenant, parse_filter(data.filter()))
    count = await memories.store.count(selection)
    found = await _page(memories, selection, number, size)

    def link(to: int) -> str:
        return str(request.url.with_replacements(query=f"page={to}&page_size={size}"))

    return MemoriesPage(
        count=count,
        next=link(number + 1) if number * size < count else None,
        previous=link(number - 1) if number > 1 else None,
        results=_only(await shown(memories, tenant, found), data.fields),
    )


@get(
    ["/mem0/v1/memories", "/mem0/memories"],
    operation_class=reading(ListQuery),
    summary="List memories",
    tags=["mem0"],
    responses=answers(ShownMemories, "The memories.", {"results": [MEMORY_EXAMPLE]}),
)
async def list_scope(
    request: Request[Any, Any, Any],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> ShownMemories:
    """The newest memories of a user, an agent, an app or a run."""
    asked = from_query(request.query_params, ListQuery)
    selection = memories.select(tenant, parse_filter(asked.filter()))
    size = asked.page_size or asked.top_k or asked.limit or DEFAULT_PAGE_SIZE
    found = await _page(memories, selection, asked.page, size)
    return ShownMemories(await shown(memories, tenant, found))


@get(
    ["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"],
    summary="Read a memory",
    tags=["mem0"],
    responses=answers(ShownMemory, "The memory.", MEMORY_EXAMPLE),
)
async def read_memory(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> ShownMemory:
    """A memory as it is now."""
    current = (await versions.versions_of(memories, tenant, id))[-1]
    return (await shown(memories, tenant, [current]))[0]


@get(
    ["/mem0/v1/memories/{id:str}/history", "/mem0/memories/{id:str}/history"],
    summary="The history of a memory",
    tags=["mem0"],
    responses=answers(list[Event], "What happened, oldest first.", [EVENT_EXAMPLE]),
)
async def read_history(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> list[Event]:
    """What happened to a memory, oldest first."""
    return await versions.events(memories, tenant, id)


@put(
    ["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"],
    dto=StrictJson[UpdateMemory],
    return_dto=None,
    summary="Update a memory",
    tags=["mem0"],
    responses=answers(
        ShownMemory,
        "The memory as it is now.",
        MEMORY_EXAMPLE | {"memory": "I drink coffee now."},
    ),
)
async def update_memory(
    id: FromPath[str],
    data: Annotated[
        UpdateMemory, BodyKwarg(examples=[Example(value={"text": "I drink coffee now."})])
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> ShownMemory:
    """Give a memory another text, other metadata, or another day to expire on."""
    changed = await versions.update(memories, tenant, id, data)
    return (await shown(memories, tenant, [changed]))[0]


@delete(
    ["/mem0/v1/memories/{id:str}", "/mem0/memories/{id:str}"],
    status_code=200,
    summary="Delete a memory",
    tags=["mem0"],
    responses=answers(Done, "It is gone.", {"message": "Memory deleted successfully!"}),
)
async def delete_memory(
    id: FromPath[str], memories: NamedDependency[Memories], tenant: NamedDependency[str]
) -> Done:
    """Delete a memory with what it said before."""
    await versions.delete(memories, tenant, [id])
    return Done("Memory deleted successfully!")


@delete(
    ["/mem0/v1/memories", "/mem0/memories"],
    status_code=200,
    operation_class=reading(DeleteQuery),
    summary="Delete many memories",
    tags=["mem0"],
    responses=answers(Done, "They are gone.", {"message": "Memories deleted successfully!"}),
)
async def delete_memories(
    request: Request[Any, Any, Any],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Done:
    """Delete all memories of what the query names; of nothing, nothing."""
    asked = from_query(request.query_params, DeleteQuery)
    await memories.delete(tenant, parse_filter(asked.filter()))
    return Done("Memories deleted successfully!")


@put(
    "/mem0/v1/batch",
    dto=StrictJson[BatchUpdates],
    return_dto=None,
    summary="Update many memories",
    tags=["mem0"],
    responses=answers(Done, "They are changed.", {"message": "Successfully updated 1 memories"}),
)
async def update_batch(
    data: Annotated[
        BatchUpdates,
        BodyKwarg(
            examples=[
                Example(
                    value={
                        "memories": [
                            {"memory_id": MEMORY_EXAMPLE["id"], "text": "I drink coffee now."}
                        ]
                    }
                )
            ]
        ),
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Done:
    """Change memories, one after the other, if all of them are there."""
    for each in data.memories:
        await versions.versions_of(memories, tenant, each.memory_id)
    for each in data.memories:
        await versions.update(memories, tenant, each.memory_id, each)
    return Done(f"Successfully updated {len(data.memories)} memories")


@delete(
    "/mem0/v1/batch",
    dto=StrictJson[BatchDeletes],
    return_dto=None,
    status_code=200,
    summary="Delete some memories",
    tags=["mem0"],
    responses=answers(Done, "They are gone.", {"message": "Successfully deleted 1 memories"}),
)
async def delete_batch(
    data: Annotated[
        BatchDeletes,
        BodyKwarg(examples=[Example(value={"memories": [{"memory_id": MEMORY_EXAMPLE["id"]}]})]),
    ],
    memories: NamedDependency[Memories],
    tenant: NamedDependency[str],
) -> Done:
    """Delete memories at once, if all of them are there."""
    await versions.delete(memories, tenant, [each.memory_id for each in data.memories])
    return Done(f"Successfully deleted {len(data.memories)} memories")


async def _page(memories: Memories, selection: Selection, number: int, size: int) -> list[Memory]:
    page = await memories.page(selection, order=Order(), after=None, limit=size)
    for _ in range(number - 1):
        if page.next is None:
            return []
        page = await memories.page(selection, order=Order(), after=page.next, limit=size)
    return page.memories


def _only(results: list[ShownMemory], fields: list[str] | None) -> list[ShownMemory]:
    if not fields:
        return results
    others = dict.fromkeys({*ShownMemory.__struct_fields__} - {"id", *fields}, UNSET)
    return [msgspec.structs.replace(result, **others) for result in results]
