"""The tools of memories: remember, recall, search, get, relate, supersede and forget."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from service.mcp.tool import Tool
from service.memory.memories import Kept, Memories
from service.memory.model import Deleted, Memory, Relation
from service.memory.new_memory import Id, NewMemory, RelateRequest, Successor, optional_in_utc
from service.memory.outcomes import RememberedMemory, refusal, remembered_memory
from service.memory.questions import (
    RecallRequest,
    SearchRequest,
    SearchResults,
    answer_recall,
    answer_search,
)
from service.memory.recall import Recalled


class GetRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which memory to read."""

    id: Annotated[str, Meta(description="The memory's id.")]
    as_of: Annotated[
        datetime | None, Meta(description="Read it as it stood at this time. Not set: as it is.")
    ] = None


class ForgetRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which memory to delete."""

    id: Annotated[str, Meta(description="The memory's id.")]


class SupersedeRequest(Successor, kw_only=True, forbid_unknown_fields=True):
    """What is true now, in the place of what was."""

    supersedes: Annotated[Id, Meta(description="The id of the memory that is not true any more.")]


async def _remember(memories: Memories, tenant: str, new: NewMemory) -> RememberedMemory:
    (kept,), _ = await memories.remember(tenant, [new])
    return _kept(kept)


async def _get(memories: Memories, tenant: str, asked: GetRequest) -> Memory:
    return await memories.get(tenant, asked.id, optional_in_utc(asked.as_of, "as_of"))


async def _relate(memories: Memories, tenant: str, new: RelateRequest) -> Relation:
    (relation,) = await memories.relate(tenant, [new])
    return relation


async def _supersede(memories: Memories, tenant: str, asked: SupersedeRequest) -> RememberedMemory:
    kept, _ = await memories.supersede(tenant, asked.supersedes, asked)
    return _kept(kept)


async def _forget(memories: Memories, tenant: str, asked: ForgetRequest) -> Deleted:
    return await memories.forget(tenant, asked.id)


def _kept(kept: Kept) -> RememberedMemory:
    if error := refusal(kept.remembered):
        raise error
    memory = remembered_memory(kept)
    assert memory is not None
    return memory


MEMORY_TOOLS = (
    Tool(
        name="remember",
        title="Remember",
        description="Keep something worth knowing later: a fact, a preference, a decision, what "
        "was done. Write it so that it can be understood by itself, one matter at a time. Exactly "
        "the same text is not kept twice: then the answer is the memory that is there.",
        asks=NewMemory,
        answers=RememberedMemory,
        run=_remember,
        access="write",
        idempotent=True,
    ),
    Tool(
        name="recall",
        title="Recall",
        description="What is remembered that matters for a question or a task, as one text to "
        "read, with the ids it comes from. Ask in plain words, before you answer or begin. The "
        "context is empty where nothing relevant is remembered.",
        asks=RecallRequest,
        answers=Recalled,
        run=answer_recall,
        access="read",
    ),
    Tool(
        name="search",
        title="Search memories",
        description="Memories by meaning and by words, best first, with everything that is known "
        "of each; with filters, as of a time, and with what relations lead to. Unlike recall it "
        "always answers with the nearest, relevant or not.",
        asks=SearchRequest,
        answers=SearchResults,
        run=answer_search,
        access="read",
    ),
    Tool(
        name="get",
        title="Read a memory",
        description="One memory by its id, superseded or not.",
        asks=GetRequest,
        answers=Memory,
        run=_get,
        access="read",
    ),
    Tool(
        name="relate",
        title="Relate two memories",
        description="Say that one memory has to do with another, and how: it SUPPORTS, "
        "CONTRADICTS, CAUSES or REFERS_TO it. Searches follow relations.",
        asks=RelateRequest,
        answers=Relation,
        run=_relate,
        access="write",
        idempotent=True,
    ),
    Tool(
        name="supersede",
        title="Supersede a memory",
        description="Keep what is true now in the place of a memory that is true no more. The old "
        "one stays as history and is not found any longer. What is not given is taken over from "
        "it.",
        asks=SupersedeRequest,
        answers=RememberedMemory,
        run=_supersede,
        access="write",
    ),
    Tool(
        name="forget",
        title="Forget a memory",
        description="Delete a memory and its relations for good. Where something has changed, "
        "supersede it instead.",
        asks=ForgetRequest,
        answers=Deleted,
        run=_forget,
        access="write",
        destructive=True,
    ),
)
