"""What clients of mem0 get."""

from datetime import date
from typing import Any, Literal

import msgspec
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from msgspec import UNSET, UnsetType

from service.api.mem0.requests import EntityType
from service.api.problems import MEM0_ERRORS, Specs
from service.memory.model import Time

MEMORY_EXAMPLE: dict[str, Any] = {
    "id": "019ab1c2-7d3e-7f00-9a4b-2f6c1d8e5a70",
    "memory": "I drink tea.",
    "hash": "c6a3ec0e1ef7c3a1a77a2a7d9a5a1a0f",
    "user_id": "ada",
    "agent_id": None,
    "app_id": None,
    "run_id": None,
    "role": "user",
    "actor_id": None,
    "metadata": {"mood": "good"},
    "categories": [],
    "created_at": "2026-11-22T18:00:00.000000Z",
    "updated_at": "2026-11-22T18:00:00.000000Z",
    "expiration_date": None,
}
EVENT_EXAMPLE = {
    "id": "019ab1c2-7d3e-7f00-9a4b-2f6c1d8e5a70",
    "memory_id": "019ab1c2-7d3e-7f00-9a4b-2f6c1d8e5a70",
    "event": "ADD",
    "old_memory": None,
    "new_memory": "I drink tea.",
    "user_id": "ada",
    "metadata": {"mood": "good"},
    "created_at": "2026-11-22T18:00:00.000000Z",
    "updated_at": "2026-11-22T18:00:00.000000Z",
}
ENTITY_EXAMPLE = {
    "id": "ada",
    "name": "ada",
    "type": "user",
    "total_memories": 2,
    "created_at": "2026-11-22T18:00:00.000000Z",
    "updated_at": "2026-11-22T18:00:00.000000Z",
}


class ShownMemory(msgspec.Struct, kw_only=True):
    """A memory; where fields were chosen, only with these."""

    id: str
    memory: str | UnsetType = UNSET
    hash: str | UnsetType = UNSET
    user_id: str | UnsetType | None = UNSET
    agent_id: str | UnsetType | None = UNSET
    app_id: str | UnsetType | None = UNSET
    run_id: str | UnsetType | None = UNSET
    role: str | UnsetType | None = UNSET
    actor_id: str | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    categories: list[str] | UnsetType = UNSET
    created_at: Time | UnsetType = UNSET
    updated_at: Time | UnsetType = UNSET
    expiration_date: date | UnsetType | None = UNSET
    event: Literal["ADD", "NONE"] | UnsetType = UNSET
    """What adding did: `NONE` where it was there already."""
    score: float | UnsetType = UNSET
    """Of what was found: the cosine of its embedding and the query's."""


class ShownMemories(msgspec.Struct):
    """Memories, the newest or the best first."""

    results: list[ShownMemory]


class MemoriesPage(msgspec.Struct, kw_only=True):
    """Some memories, how many there are, and where the pages beside this one are."""

    count: int
    next: str | None
    previous: str | None
    results: list[ShownMemory]


class Event(msgspec.Struct, kw_only=True):
    """What happened to a memory."""

    id: str
    memory_id: str
    event: Literal["ADD", "UPDATE"]
    old_memory: str | None
    new_memory: str
    user_id: str | None
    metadata: dict[str, Any]
    created_at: Time
    updated_at: Time


class Entity(msgspec.Struct, kw_only=True):
    """A user, an agent, an app or a run, and how many memories are of it."""

    id: str
    name: str
    type: EntityType
    total_memories: int
    created_at: Time
    updated_at: Time


class Entities(msgspec.Struct, kw_only=True):
    """All entities, on one page."""

    count: int
    next: None = None
    previous: None = None
    results: list[Entity]


class Done(msgspec.Struct):
    """It was done."""

    message: str


class Pong(msgspec.Struct, kw_only=True):
    """The service is there; mem0's project is the tenant here."""

    status: Literal["ok"] = "ok"
    org_id: str
    project_id: str
    user_email: None = None


def answers(body: Any, description: str, example: Any) -> Specs:
    """How a route documents what it answers."""
    answer = ResponseSpec(
        body,
        generate_examples=False,
        description=description,
        examples=[Example(value=example)],
    )
    return {200: answer, **MEM0_ERRORS}
