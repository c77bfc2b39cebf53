"""What a client may say of a memory, checked: new ones and changes."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.errors import InvalidInput
from service.memory.filters import TIME_FIELDS
from service.memory.model import SUPERSEDES, Memory, NewRelation, Time

MAX_CONTENT = 65_536
MAX_METADATA_BYTES = 16_384
MAX_METADATA_DEPTH = 8
MAX_TAGS = 64

_NO_CONTROL = r"^[^\x00-\x1f\x7f]+\Z"

Id = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._:@-]{0,127}\Z",
        description="Up to 128 letters, digits and . _ : @ -, beginning with a letter, digit or _.",
    ),
]
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_CONTROL)]
Tag = Annotated[str, Meta(min_length=1, max_length=128, pattern=_NO_CONTROL)]
Content = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_CONTENT, pattern=r"\S", description="The text."),
]
Title = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        pattern=_NO_CONTROL,
        description="Embedded and searched together with the content.",
    ),
]
MemoryType = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=_NO_CONTROL,
        description="What kind of memory it is, in your own words, such as `preference`.",
    ),
]
Tags = Annotated[list[Tag], Meta(max_length=MAX_TAGS)]
Metadata = Annotated[
    dict[str, Any],
    Meta(description="Any JSON object; filters reach its scalars as `metadata.<key>`."),
]
Importance = Annotated[float, Meta(ge=0, le=1)]
Context = Annotated[
    str,
    Meta(
        pattern=r"^[^/\x00-\x1f\x7f]+(/[^/\x00-\x1f\x7f]+)*\Z",
        max_length=512,
        description="Where it belongs, as a path such as `work/projects/apollo`.",
    ),
]
RelationType = Annotated[
    str,
    Meta(
        pattern=r"^[A-Z][A-Z0-9_]{0,63}\Z",
        description="RELATED_TO, SUPPORTS, CONTRADICTS, CAUSES, REFERS_TO, or your own in the same "
        "form: capitals, digits and _.",
    ),
]
Weight = Annotated[float, Meta(ge=0, le=1, description="How strong the relation is.")]


class GivenRelation(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A relation from the memory that it is given with, to one that is there."""

    target: Id
    relation_type: RelationType = "RELATED_TO"
    weight: Weight = 1.0


class RelateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A relation to make between two memories that are there."""

    source: Id
    target: Id
    relation_type: RelationType = "RELATED_TO"
    weight: Weight = 1.0


class NewMemory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A text to remember."""

    content: Content
    memory_type: MemoryType = "note"
    tags: Tags = []
    metadata: Metadata = {}
    importance: Importance = 0.5
    context: Context | None = None
    user_id: Name | None = None
    agent_id: Name | None = None
    session_id: Name | None = None
    title: Title | None = None
    id: Annotated[
        Id | None,
        Meta(description="Your own id; sending the same memory again changes nothing then."),
    ] = None
    valid_from: Annotated[
        Time | None, Meta(description="Since when it holds. Not set: since it is remembered.")
    ] = None
    expires_at: Annotated[Time | None, Meta(description="When it is to be forgotten.")] = None
    relations: Annotated[list[GivenRelation], Meta(max_length=64)] = []
    on_conflict: Annotated[
        Literal["refuse", "replace"],
        Meta(description="What to do where other content is kept under your own id."),
    ] = "refuse"
    truncate: Annotated[
        bool,
        Meta(
            description="Embed the beginning of a content that is over the model's limit instead "
            "of refusing it; it is kept, and found by its words, as a whole."
        ),
    ] = False


_SAID_BY_CLIENTS = set(NewMemory.__struct_fields__) & set(Memory.__struct_fields__)


class Changeable(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What stays as it was where it is not given."""

    memory_type: MemoryType | UnsetType = UNSET
    tags: Tags | UnsetType = UNSET
    metadata: Metadata | UnsetType = UNSET
    importance: Importance | UnsetType = UNSET
    context: Context | UnsetType | None = UNSET
    title: Title | UnsetType | None = UNSET
    expires_at: Time | UnsetType | None = UNSET
    truncate: bool = False


class Successor(Changeable, kw_only=True, forbid_unknown_fields=True):
    """What takes the place of a memory; what is not given stays as it was there."""

    content: Content
    id: Id | None = None
    valid_from: Time | None = None
    relations: Annotated[list[GivenRelation], Meta(max_length=64)] = []


class Changes(Changeable, kw_only=True, forbid_unknown_fields=True):
    """What to change of a memory: null clears a field, and what is not given stays.

    Lists and objects are replaced as a whole.
    """

    content: Content | UnsetType = UNSET


def begin_memory(given: NewMemory, *, id: str, now: datetime) -> Memory:
    """The memory that a client describes, as it begins.

    Raises:
        InvalidInput: a field is not valid, or contradicts another.
    """
    memory = Memory(
        id=given.id or id,
        content=given.content,
        title=given.title,
        memory_type=given.memory_type,
        tags=tuple(sorted(set(given.tags))),
        metadata=_checked_metadata(given.metadata),
        importance=given.importance,
        context=given.context,
        user_id=given.user_id,
        agent_id=given.agent_id,
        session_id=given.session_id,
        created_at=now,
        updated_at=now,
        valid_from=now if given.valid_from is None else in_utc(given.valid_from, "valid_from"),
        expires_at=optional_in_utc(given.expires_at, "expires_at"),
    )
    _check_expiry(memory, now)
    return memory


def succeed_memory(old: Memory, given: Successor, *, id: str, now: datetime) -> Memory:
    """The memory that takes the place of an old one.

    Raises:
        InvalidInput: a field is not valid, or it would begin before the old one.
    """
    fields = _given_fields(given, Successor)
    expires_at = fields.pop("expires_at", None)
    memory = msgspec.structs.replace(
        old,
        **fields,
        id=given.id or id,
        created_at=now,
        updated_at=now,
        valid_from=now if given.valid_from is None else in_utc(given.valid_from, "valid_from"),
        valid_to=None,
        expires_at=expires_at,
        supersedes=old.id,
        superseded_by=None,
        version=1,
    )
    if memory.valid_from < old.valid_from:
        raise InvalidInput(
            f"expected valid_from to be at or after that of the memory it supersedes "
            f"({old.valid_from.isoformat()}), got {memory.valid_from.isoformat()}",
            parameter="valid_from",
        )
    _check_expiry(memory, now)
    return memory


def change_memory(old: Memory, given: Changes, *, now: datetime) -> Memory:
    """The memory as it will be.

    Raises:
        InvalidInput: a field is not valid.
    """
    memory = msgspec.structs.replace(old, **_given_fields(given, Changes), updated_at=now)
    if given.expires_at is not UNSET:
        _check_expiry(memory, now)
    return memory


def checked_memory(memory: Memory) -> Memory:
    """A memory that comes from elsewhere, held to what clients are held to.

    Raises:
        InvalidInput: a field is not valid.
    """
    said = {name: getattr(memory, name) for name in _SAID_BY_CLIENTS}
    try:
        msgspec.convert(said, NewMemory)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"memory {memory.id[:128]!r}: {error}") from None
    times = {name: optional_in_utc(getattr(memory, name), name) for name in TIME_FIELDS}
    return msgspec.structs.replace(
        memory,
        **times,
        tags=tuple(sorted(set(memory.tags))),
        metadata=_checked_metadata(memory.metadata),
    )


def new_relations(given: list[GivenRelation], source: str) -> tuple[NewRelation, ...]:
    """The relations that are given with a memory.

    Raises:
        InvalidInput: one leads to the memory itself, or is given twice.
    """
    relations = tuple(
        NewRelation(
            target=relation.target, relation_type=relation.relation_type, weight=relation.weight
        )
        for relation in given
    )
    for relation in relations:
        check_relation(source, relation.target, relation.relation_type)
    if len({(relation.target, relation.relation_type) for relation in relations}) < len(relations):
        raise InvalidInput(
            "expected different relations, got one target and relation_type twice",
            parameter="relations",
        )
    return relations


def check_relation(source: str, target: str, relation_type: str) -> None:
    """Return if a client may make such a relation.

    Raises:
        InvalidInput: it leads from a memory to itself, or is what superseding makes.
    """
    if source == target:
        raise InvalidInput(
            f"expected a relation to another memory, got one from {source!r} to itself",
            parameter="target",
        )
    if relation_type == SUPERSEDES:
        raise InvalidInput(
            "SUPERSEDES is made by POST /memories/{id}/supersede, which closes the old memory",
            parameter="relation_type",
        )


def optional_in_utc(time: datetime | None, parameter: str) -> datetime | None:
    """The same moment in UTC, if there is one.

    Raises:
        InvalidInput: it is not within the years 1 to 9999 there.
    """
    return None if time is None else in_utc(time, parameter)


def in_utc(time: datetime, parameter: str) -> datetime:
    """The same moment in UTC; a time without a zone is one in UTC.

    Raises:
        InvalidInput: it is not within the years 1 to 9999 there.
    """
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError:
        raise InvalidInput(
            f"expected a time within the years 1 to 9999, got {time.isoformat()}",
            parameter=parameter,
        ) from None


def _given_fields(
    given: Successor | Changes, kind: type[Successor] | type[Changes]
) -> dict[str, Any]:
    names = set(kind.__struct_fields__) & set(Memory.__struct_fields__) - {"id", "valid_from"}
    fields = {name: value for name in names if (value := getattr(given, name)) is not UNSET}
    if "tags" in fields:
        fields["tags"] = tuple(sorted(set(fields["tags"])))
    if "metadata" in fields:
        _checked_metadata(fields["metadata"])
    if "expires_at" in fields:
        fields["expires_at"] = optional_in_utc(fields["expires_at"], "expires_at")
    return fields


def _check_expiry(memory: Memory, now: datetime) -> None:
    if memory.expires_at is not None and memory.expires_at <= max(now, memory.valid_from):
        raise InvalidInput(
            f"expected expires_at in the future and after valid_from, got "
            f"{memory.expires_at.isoformat()}",
            parameter="expires_at",
        )


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    _check_value(metadata, 1)
    size = len(msgspec.json.encode(metadata))
    if size > MAX_METADATA_BYTES:
        raise InvalidInput(
            f"expected metadata of at most {MAX_METADATA_BYTES:,} bytes as JSON, got {size:,}",
            parameter="metadata",
        )
    return metadata


def _check_value(value: Any, depth: int) -> None:
    if depth > MAX_METADATA_DEPTH:
        raise InvalidInput(
            f"expected metadata of at most {MAX_METADATA_DEPTH} levels", parameter="metadata"
        )
    match value:
        case dict():
            for nested in value.values():
                _check_value(nested, depth + 1)
        case list():
            for nested in value:
                _check_value(nested, depth + 1)
        case int() if not -(2**63) <= value < 2**63:
            raise InvalidInput(
                "expected whole numbers of 64 bits in metadata; send larger ones as strings",
                parameter="metadata",
            )
