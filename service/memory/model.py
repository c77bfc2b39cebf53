"""What a memory is: the words that the use cases, the stores and HTTP share."""

import hashlib
import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

Embedding = npt.NDArray[np.float32]  # (dimensions,), of unit length

# As JSON has it, a text.
Time = Annotated[datetime, Meta(extra_json_schema={"format": "date-time"})]

SUPERSEDES = "SUPERSEDES"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """One remembered text. Times are in UTC, tags sorted and without repetitions."""

    id: str
    content: str
    title: str | None = None
    memory_type: str = "note"
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    importance: float = 0.5
    context: str | None = None
    user_id: str | None = None
    agent_id: str | None = None
    session_id: str | None = None
    created_at: Time
    updated_at: Time
    valid_from: Time
    valid_to: Time | None = None
    """When it was superseded; it is valid from `valid_from` up to, and not at, this time."""
    expires_at: Time | None = None
    """From this time on it is forgotten."""
    supersedes: str | None = None
    """The id of the memory that this one took the place of."""
    superseded_by: str | None = None
    version: int = 1
    """Raised by one at each change."""


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """A directed link between two memories; source, type and target are its identity."""

    source: str
    target: str
    relation_type: str
    weight: float = 1.0
    created_at: Time


class Record(msgspec.Struct, frozen=True):
    """A memory with its embedding, as it is kept."""

    memory: Memory
    embedding: Embedding  # (dimensions,)


class NewRelation(msgspec.Struct, frozen=True, kw_only=True):
    """A relation to be made from the memory that it is given with."""

    target: str
    relation_type: str
    weight: float = 1.0


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A memory to remember.

    Where `memory.supersedes` names another memory, that one is closed when this one begins.
    """

    memory: Memory
    embedding: Embedding  # (dimensions,)
    relations: tuple[NewRelation, ...] = ()
    own_id: bool = False
    """The client chose the id. It is found again by its id, not by its content."""
    replace: bool = False
    """Take the place of other content that is kept under this id."""


Outcome = Literal[
    "created",
    "replaced",  # other content under the client's own id
    "unchanged",  # the same content was there under the client's own id
    "duplicate",  # the same content was there in the same scope
    "conflict",  # other content is there under the client's own id
    "missing_target",  # a relation leads to a memory that is not there
    "missing_superseded",  # what it should supersede is not there
    "already_superseded",  # another memory supersedes it
]
WRITTEN: tuple[Outcome, ...] = ("created", "replaced")


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one draft.

    `memory` is the one that is there now: the draft's own, the same, the one in conflict, or the
    successor of what is superseded already. `missing` names what a refused draft refers to in vain.
    """

    outcome: Outcome
    memory: Memory | None = None
    missing: tuple[str, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """That a request with this idempotency key was carried out, and what came of it."""

    key: str
    fingerprint: str
    """Digest of the request; a key is good for one request only."""
    results: tuple[Remembered, ...]


class Deleted(msgspec.Struct, frozen=True):
    """How much was deleted, or would be."""

    memories: int
    relations: int


class Count(msgspec.Struct, frozen=True):
    """A tag or a context, and how many memories have it."""

    name: str
    memories: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant has in the store; `current` are the memories that are valid now."""

    memories: int
    current: int
    relations: int
    tags: int
    contexts: int
    users: int
    agents: int
    sessions: int


def content_hash(memory: Memory) -> str:
    """What two memories have in common that are the same content in the same scope."""
    scope = (memory.user_id, memory.agent_id, memory.session_id, memory.content)
    return hashlib.sha256(msgspec.json.encode(scope)).hexdigest()


def is_forgotten(memory: Memory, now: datetime) -> bool:
    """Whether a memory has expired."""
    return memory.expires_at is not None and memory.expires_at <= now


def in_place_of(there: Memory, memory: Memory) -> Memory:
    """The memory as it is kept when it takes the place of one with its id."""
    return msgspec.structs.replace(
        memory,
        created_at=there.created_at,
        valid_to=there.valid_to if there.superseded_by else memory.valid_to,
        supersedes=there.supersedes,
        superseded_by=there.superseded_by,
        version=there.version + 1,
    )


def changed_to(there: Memory, memory: Memory) -> Memory:
    """The memory as it is kept when a change puts its fields in the place of those it has."""
    return msgspec.structs.replace(
        in_place_of(there, memory),
        user_id=there.user_id,
        agent_id=there.agent_id,
        session_id=there.session_id,
        valid_from=there.valid_from,
        valid_to=there.valid_to,
    )


def relations_of(draft: Draft, now: datetime) -> list[Relation]:
    """The relations that are made with a draft."""
    return [
        Relation(
            source=draft.memory.id,
            target=new.target,
            relation_type=new.relation_type,
            weight=new.weight,
            created_at=now,
        )
        for new in draft.relations
    ]


def new_id(now: datetime) -> str:
    """A UUID of version 7 (RFC 9562): ids sort by the time they were made."""
    milliseconds = to_microseconds(now) // 1000
    value = (milliseconds & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 7 << 76  # version
    value = value & ~(0b11 << 62) | 0b10 << 62  # variant
    return str(uuid.UUID(int=value))


def to_microseconds(time: datetime) -> int:
    """Microseconds since 1970, which is how both stores keep a time."""
    return (time - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """The time in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


# What a store keeps for "never" where null would not be found by a comparison.
NEVER = to_microseconds(datetime.max.replace(tzinfo=UTC))
