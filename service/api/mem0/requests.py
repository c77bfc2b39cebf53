"""What clients of mem0 send, and the memories that it becomes."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.api.mem0.filters import (
    ACTOR_ID,
    APP_ID,
    ENTITY_FIELDS,
    ROLE,
    Ours,
    day_of,
    end_of,
    moment_of,
    our_filter,
)
from service.errors import InvalidFilter, InvalidInput, NotServed
from service.memory.new_memory import MAX_CONTENT, Metadata, Name, NewMemory
from service.memory.questions import Query
from service.memory.store import MAX_DRAFTS

EntityType = Literal["user", "agent", "app", "run"]

FIELD_OF: dict[EntityType, str] = {
    "user": "user_id",
    "agent": "agent_id",
    "app": "app_id",
    "run": "run_id",
}

# Has no effect: it says how mem0's platform is to work, not what is wanted of it.
Ignored = Annotated[Any, Meta(description="Has no effect here.")]
# Would have an effect, and is refused where it is given.
Refused = Annotated[Any, Meta(description="Cannot be done here.")]

PageNumber = Annotated[int, Meta(ge=1)]
PageSize = Annotated[int, Meta(ge=1, le=1_000)]
FirstDay = Annotated[str, Meta(description="Only what was created at this time or later.")]
LastDay = Annotated[str, Meta(description="Only what was created at this time or earlier.")]
Fields = Annotated[list[str], Meta(description="Leave out the other fields of memories.")]
Moment = Annotated[
    int | float | str | None,
    Meta(description="When it was said: seconds since 1970, or as ISO 8601 writes it."),
]
ExpiryDay = Annotated[
    str,
    Meta(description="The last day on which it is there.", extra_json_schema={"format": "date"}),
]
Filters = Annotated[
    dict[str, Any],
    Meta(
        description="Fields with values they must equal, or with operators: eq, ne, in, nin, gt, "
        "gte, lt, lte. Combine with AND, OR and NOT."
    ),
]
Part = Annotated[
    dict[str, Any],
    Meta(
        description="A text; pictures and files are refused.",
        extra_json_schema={
            "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            "required": ["type", "text"],
        },
    ),
]


# That there is no text is said by what remembers it.
Said = Annotated[
    str, Meta(extra_json_schema={"minLength": 1, "maxLength": MAX_CONTENT, "pattern": r"\S"})
]


class Message(msgspec.Struct, kw_only=True):
    """What was said, by whom."""

    role: str = "user"
    content: Said | list[Part] | None = None
    name: str | None = None


class _Scoped(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request with a body may have."""

    user_id: Name | None = None
    agent_id: Name | None = None
    app_id: Name | None = None
    run_id: Name | None = None
    filters: Filters | None = None
    org_id: Ignored = None
    project_id: Ignored = None
    version: Ignored = None
    output_format: Ignored = None
    enable_graph: Ignored = None


class AddRequest(_Scoped, kw_only=True, forbid_unknown_fields=True):
    """What to remember: a memory for each message, as it was said."""

    messages: Said | Message | Annotated[list[Message], Meta(max_length=MAX_DRAFTS)]
    metadata: Metadata | None = None
    timestamp: Moment = None
    expiration_date: ExpiryDay | None = None
    infer: Ignored = None
    async_mode: Ignored = None
    custom_categories: Refused = None
    custom_instructions: Refused = None
    agent_custom_instructions: Refused = None
    structured_data_schema: Refused = None
    includes: Refused = None
    excludes: Refused = None
    prompt: Refused = None
    memory_type: Refused = None


class _Selecting(_Scoped, kw_only=True, forbid_unknown_fields=True):
    """Which memories a request is about."""

    categories: list[str] | None = None
    metadata: Annotated[dict[str, Any], Meta(description="As `metadata` of filters.")] | None = None
    latest_only: Ignored = None
    show_expired: Refused = None

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: one cannot be said in it.
            NotServed: what has expired is asked for.
        """
        refuse_what_is_not_done(self)
        parts = [our_filter(scope_of(self)), our_filter(self.filters or {})]
        if self.categories:
            parts.append(our_filter({"categories": self.categories}))
        if self.metadata:
            parts.append(our_filter({"metadata": self.metadata}))
        return {"all": parts}


class SearchMemories(_Selecting, kw_only=True, forbid_unknown_fields=True):
    """What to look for."""

    query: Query
    top_k: PageSize | None = None
    limit: PageSize | None = None
    threshold: Annotated[float, Meta(ge=-1, le=1)] | None = None
    fields: Fields | None = None
    rerank: Ignored = None
    keyword_search: Ignored = None
    explain: Ignored = None
    reference_date: Refused = None


class ListMemories(_Selecting, kw_only=True, forbid_unknown_fields=True):
    """Which memories to list."""

    page: PageNumber = 1
    page_size: PageSize | None = None
    top_k: PageSize | None = None
    limit: PageSize | None = None
    start_date: FirstDay | None = None
    end_date: LastDay | None = None
    fields: Fields | None = None

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: one cannot be said in it.
            NotServed: what has expired is asked for.
        """
        return {"all": [super().filter(), created_between(self.start_date, self.end_date)]}


class UpdateMemory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a memory."""

    text: str | None = None
    metadata: Metadata | None = None
    timestamp: Moment = None
    expiration_date: ExpiryDay | UnsetType | None = UNSET


class BatchUpdate(UpdateMemory, kw_only=True, forbid_unknown_fields=True):
    """What to change of which memory."""

    memory_id: str


class BatchDelete(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which memory to delete."""

    memory_id: str


class BatchUpdates(msgspec.Struct, forbid_unknown_fields=True):
    """What to change."""

    memories: Annotated[list[BatchUpdate], Meta(min_length=1, max_length=1_000)]


class BatchDeletes(msgspec.Struct, forbid_unknown_fields=True):
    """What to delete."""

    memories: Annotated[list[BatchDelete], Meta(min_length=1, max_length=1_000)]


def new_memories(given: AddRequest) -> Iterator[NewMemory]:
    """A memory for each message that is not an instruction to the model.

    Raises:
        InvalidInput: a message or a field is not valid.
        NotServed: it would need a language model.
    """
    refuse_what_is_not_done(given)
    scope = scope_of(given)
    for name, value in (given.filters or {}).items():
        if name not in ENTITY_FIELDS or not isinstance(value, str):
            raise InvalidFilter(f"filters.{name}: expected one of {', '.join(ENTITY_FIELDS)}")
        scope[name] = value
    messages = given.messages if isinstance(given.messages, list) else [given.messages]
    for message in messages:
        if isinstance(message, str):
            message = Message(content=message)
        if message.role == "system":
            continue
        ours = {APP_ID: scope.get("app_id"), ROLE: message.role, ACTOR_ID: message.name}
        fields: dict[str, Any] = {
            "content": _text(message.content),
            "metadata": (given.metadata or {})
            | {key: value for key, value in ours.items() if value is not None},
            "user_id": scope.get("user_id"),
            "agent_id": scope.get("agent_id"),
            "session_id": scope.get("run_id"),
            "truncate": True,
        }
        if given.expiration_date is not None:
            fields["expires_at"] = end_of(day_of(given.expiration_date, "expiration_date"))
        if given.timestamp is not None:
            fields["valid_from"] = moment_of(given.timestamp, "timestamp")
        try:
            yield msgspec.convert(fields, NewMemory)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"messages: {error}", parameter="messages") from None


def scope_of(given: msgspec.Struct) -> dict[str, str]:
    """Whose memories: the ids that are given by themselves."""
    ids = {name: getattr(given, name) for name in ENTITY_FIELDS}
    return {name: id for name, id in ids.items() if id not in (None, UNSET)}


def created_between(first: str | UnsetType | None, last: str | UnsetType | None) -> Ours:
    """The filter of what was created in this time, as far as it is given."""
    given = {"gte": first, "lte": last}
    span = {operator: value for operator, value in given.items() if isinstance(value, str)}
    return our_filter({"created_at": span} if span else {})


def refuse_what_is_not_done(given: msgspec.Struct) -> None:
    """Return if nothing is asked for that cannot be done.

    Raises:
        NotServed: something is.
    """
    for name, reason in _REASONS.items():
        if getattr(given, name, None):
            raise NotServed(f"{name} cannot be done here: {reason}; leave it out")


_LANGUAGE_MODEL = "it needs a language model, and there is none"

_REASONS = {
    "custom_categories": _LANGUAGE_MODEL,
    "custom_instructions": _LANGUAGE_MODEL,
    "agent_custom_instructions": _LANGUAGE_MODEL,
    "structured_data_schema": _LANGUAGE_MODEL,
    "includes": _LANGUAGE_MODEL,
    "excludes": _LANGUAGE_MODEL,
    "prompt": _LANGUAGE_MODEL,
    "memory_type": _LANGUAGE_MODEL,
    "reference_date": _LANGUAGE_MODEL,
    "show_expired": "what has expired is deleted",
}


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, str):
        return content
    parts = content or []
    if not all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        raise InvalidInput(
            "messages: expected texts; pictures and files are not read here", parameter="messages"
        )
    return "\n".join(part["text"] for part in parts)
