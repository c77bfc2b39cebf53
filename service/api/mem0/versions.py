"""A memory of mem0 and its versions: an update there keeps its id, and supersedes here.

The first version has the memory's id; the others have that id in their metadata.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from service.api.mem0.answers import Event, ShownMemory
from service.api.mem0.filters import (
    ACTOR_ID,
    APP_ID,
    DAY,
    FIRST_ID,
    IN_METADATA,
    ROLE,
    day_of,
    end_of,
    moment_of,
)
from service.api.mem0.requests import UpdateMemory
from service.errors import InvalidInput, MemoryNotFound
from service.memory.filters import MetadataIn, TextIn
from service.memory.memories import Memories
from service.memory.model import Memory
from service.memory.new_memory import Changes, Successor
from service.memory.outcomes import refusal
from service.memory.store import Order


def first_id(memory: Memory) -> str:
    """The id that clients know a memory by."""
    return str(memory.metadata.get(FIRST_ID, memory.id))


async def shown(memories: Memories, tenant: str, found: Sequence[Memory]) -> list[ShownMemory]:
    """Memories as mem0 has them."""
    firsts = [first_id(memory) for memory in found]
    first_versions = await memories.store.get(memories.select(tenant, ever=True), firsts)
    return [
        _shown(memory, memory if first is None else first)
        for memory, first in zip(found, first_versions, strict=True)
    ]


async def versions_of(memories: Memories, tenant: str, id: str) -> list[Memory]:
    """The versions of a memory, oldest first.

    Raises:
        MemoryNotFound: there is none.
    """
    try:
        return await memories.history(tenant, id)
    except MemoryNotFound:
        # The first version may have expired before the others do.
        later = memories.select(tenant, MetadataIn(FIRST_ID, (id,)))
        page = await memories.page(later, order=Order(), after=None, limit=1)
        if not page.memories:
            raise
        return await memories.history(tenant, page.memories[0].id)


async def update(memories: Memories, tenant: str, id: str, given: UpdateMemory) -> Memory:
    """Give a memory another text, as a new version, or other metadata, or another day to expire on.

    Raises:
        MemoryNotFound: there is none.
        InvalidInput: a field is not valid.
        Conflict: others change it at the same time.
    """
    current = (await versions_of(memories, tenant, id))[-1]
    metadata = current.metadata
    if given.metadata is not None:
        kept = {key: metadata[key] for key in IN_METADATA if key in metadata}
        metadata = given.metadata | kept
    expires_at = current.expires_at
    if given.expiration_date is not UNSET:
        day = given.expiration_date
        expires_at = None if day is None else end_of(day_of(day, "expiration_date"))
    if given.text is None or given.text == current.content:
        changes = Changes(metadata=metadata, expires_at=expires_at)
        return await memories.change(tenant, current.id, changes)
    fields: dict[str, Any] = {
        "content": given.text,
        "metadata": metadata | {FIRST_ID: first_id(current)},
        "expires_at": expires_at,
        "truncate": True,
    }
    if given.timestamp is not None:
        fields["valid_from"] = moment_of(given.timestamp, "timestamp")
    try:
        successor = msgspec.convert(fields, Successor)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"text: {error}", parameter="text") from None
    result, _ = await memories.supersede(tenant, current.id, successor)
    if refused := refusal(result.remembered):
        raise refused
    assert result.remembered.memory is not None
    return result.remembered.memory


async def delete(memories: Memories, tenant: str, ids: Sequence[str]) -> None:
    """Delete memories with all their versions, at once.

    Raises:
        MemoryNotFound: one of them is not there; none was deleted.
    """
    versions = [version.id for id in ids for version in await versions_of(memories, tenant, id)]
    if versions:
        await memories.delete(tenant, TextIn("id", tuple(versions)))


async def events(memories: Memories, tenant: str, id: str) -> list[Event]:
    """What happened to a memory, oldest first.

    Raises:
        MemoryNotFound: there is none.
    """
    versions = await versions_of(memories, tenant, id)
    olds = (None, *versions)
    return [
        Event(
            id=version.id,
            memory_id=first_id(version),
            event="UPDATE" if old else "ADD",
            old_memory=old.content if old else None,
            new_memory=version.content,
            user_id=version.user_id,
            metadata=_their_metadata(version),
            created_at=version.valid_from,
            updated_at=version.updated_at,
        )
        for old, version in zip(olds, versions, strict=False)
    ]


def _shown(memory: Memory, first: Memory) -> ShownMemory:
    expires = memory.expires_at
    return ShownMemory(
        id=first_id(memory),
        memory=memory.content,
        hash=hashlib.md5(memory.content.encode(), usedforsecurity=False).hexdigest(),
        user_id=memory.user_id,
        agent_id=memory.agent_id,
        app_id=_text_in(memory, APP_ID),
        run_id=memory.session_id,
        role=_text_in(memory, ROLE),
        actor_id=_text_in(memory, ACTOR_ID),
        metadata=_their_metadata(memory),
        categories=list(memory.tags),
        created_at=first.valid_from,
        updated_at=memory.updated_at,
        expiration_date=None if expires is None else (expires - DAY).date(),
    )


def _text_in(memory: Memory, key: str) -> str | None:
    # Who keeps memories by other routes may have anything there.
    value = memory.metadata.get(key)
    return value if isinstance(value, str) else None


def _their_metadata(memory: Memory) -> dict[str, Any]:
    return {key: value for key, value in memory.metadata.items() if key not in IN_METADATA}
