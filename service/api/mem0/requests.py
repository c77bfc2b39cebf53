"""What clients of mem0 send, and the memories that it becomes."""

import ast
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.api.mem0.filters import (
    ACTOR_ID,
    ANY,
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
from service.memory.new_memory import Name, NewMemory

EntityType = Literal["user", "agent", "app", "run"]

FIELD_OF: dict[EntityType, str] = {
    "user": "user_id",
    "agent": "agent_id",
    "app": "app_id",
    "run": "run_id",
}

T = TypeVar("T")

# Has no effect: it says how mem0's platform is to work, not what is wanted of it.
Ignored = Annotated[Any, Meta(description="Has no effect here.")]
# Would have an effect, and is refused where it is given.
Refused = Annotated[Any, Meta(description="Cannot be done here.")]

PageSize = Annotated[int, Meta(ge=1, le=1_000)]


class Message(msgspec.Struct, kw_only=True):
    """What was said, by whom."""

    role: str = "user"
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None


class _Scoped(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every request may have."""

    user_id: Name | None = None
    agent_id: Name | None = None
    app_id: Name | None = None
    run_id: Name | None = None
    filters: dict[str, Any] | None = None
    org_id: Ignored = None
    project_id: Ignored = None
    version: Ignored = None
    output_format: Ignored = None
    enable_graph: Ignored = None

    @property
    def scope(self) -> dict[str, str]:
        """Whose memories: the ids that are given by themselves."""
        given = {name: getattr(self, name) for name in ENTITY_FIELDS}
        return {name: value for name, value in given.items() if value is not None}


class AddRequest(_Scoped, kw_only=True, forbid_unknown_fields=True):
    """What to remember: a memory for each message, as it was said."""

    messages: str | Message | list[Message]
    metadata: dict[str, Any] | None = None
    timestamp: Any = None
    expiration_date: str | None = None
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
    metadata: dict[str, Any] | None = None
    latest_only: Ignored = None
    show_expired: Refused = None

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: one cannot be said in it.
            NotServed: what has expired is asked for.
        """
        refuse_what_is_not_done(self)
        parts = [our_filter(self.scope), our_filter(self.filters or {})]
        if self.categories:
            parts.append(our_filter({"categories": self.categories}))
        if self.metadata:
            parts.append(our_filter({"metadata": self.metadata}))
        return {"all": parts}


class SearchMemories(_Selecting, kw_only=True, forbid_unknown_fields=True):
    """What to look for."""

    query: Annotated[str, Meta(min_length=1, max_length=65_536)]
    top_k: PageSize | None = None
    limit: PageSize | None = None
    threshold: Annotated[float, Meta(ge=-1, le=1)] | None = None
    fields: list[str] | None = None
    rerank: Ignored = None
    keyword_search: Ignored = None
    explain: Ignored = None
    reference_date: Refused = None


class ListMemories(_Selecting, kw_only=True, forbid_unknown_fields=True):
    """Which memories to list."""

    page: Annotated[int, Meta(ge=1)] = 1
    page_size: PageSize | None = None
    top_k: PageSize | None = None
    limit: PageSize | None = None
    start_date: str | None = None
    end_date: str | None = None
    fields: list[str] | None = None

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: one cannot be said in it.
            NotServed: what has expired is asked for.
        """
        span = {"gte": self.start_date, "lte": self.end_date}
        given = {operator: value for operator, value in span.items() if value is not None}
        dates = our_filter({"created_at": given} if given else {})
        return {"all": [super().filter(), dates]}


class UpdateMemory(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What to change of a memory."""

    text: str | None = None
    metadata: dict[str, Any] | None = None
    timestamp: Any = None
    expiration_date: str | UnsetType | None = UNSET


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
    scope = given.scope
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


def from_query(query: Mapping[str, Any], wanted: type[T]) -> T:
    """What a request says in its query.

    Raises:
        InvalidInput: a value is not valid, or a name is not known.
    """
    try:
        return msgspec.convert(dict(query), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"query: {error}") from None


def refuse_what_is_not_done(given: msgspec.Struct) -> None:
    """Return if nothing is asked for that cannot be done.

    Raises:
        NotServed: something is.
    """
    for name, reason in _REASONS.items():
        if getattr(given, name, None):
            raise NotServed(f"{name} cannot be done here: {reason}; leave it out")


def deletion_of(query: Mapping[str, Any]) -> Ours:
    """The filter of what a request to delete many memories names in its query.

    Raises:
        InvalidFilter: it names nothing, or something that is not known.
    """
    given = dict(query)
    filters = _decoded(given.pop("filters", "{}"))
    unknown = given.keys() - {*ENTITY_FIELDS, "org_id", "project_id"}
    scope = {name: value for name, value in given.items() if name in ENTITY_FIELDS}
    if unknown or not (scope or filters):
        raise InvalidFilter(
            f"expected {', '.join(ENTITY_FIELDS)} or filters that say what to delete"
            + (f", got {', '.join(sorted(unknown))[:200]}" if unknown else "")
        )
    if set(ENTITY_FIELDS) <= scope.keys() and set(scope.values()) == {ANY}:
        return {"all": []}  # all four together stand for everything
    return {"all": [our_filter(scope), our_filter(filters)]}


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


def _decoded(filters: str) -> dict[str, Any]:
    # The client puts a dict into the query as Python writes it.
    for decode in (msgspec.json.decode, ast.literal_eval):
        try:
            decoded = decode(filters)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(decoded, dict):
            return decoded
    raise InvalidFilter("filters: expected an object, as JSON")
