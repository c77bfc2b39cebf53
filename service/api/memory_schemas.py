"""What the routes of memories have in common: parameters, answers and their examples."""

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar.params import HeaderParameter, QueryParameter

from service.api.json_body import decode
from service.errors import InvalidFilter, InvalidInput
from service.memory.filters import EVERYTHING, Filter, parse_filter
from service.memory.memories import RequestKey, fingerprint
from service.memory.new_memory import optional_in_utc

AsOf = Annotated[
    str | None,
    QueryParameter(
        format="date-time",
        description="As it stood at this time. It holds what was valid then; a memory is valid "
        "from `valid_from`, which is when it was remembered unless you set it.",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="A request with the same key and body is carried out once in 24 hours, and "
        "answered with what came of it, with the header `Idempotent-Replayed`.",
    ),
]
FilterQuery = Annotated[
    str | None,
    QueryParameter(
        name="filter",
        description="A filter, as JSON; see POST /memories/search.",
        schema_extra={"contentMediaType": "application/json"},
    ),
]

MEMORY_EXAMPLE = {
    "id": "019ab1c2-7d3e-7f00-9a4b-2f6c1d8e5a70",
    "content": "Ada prefers tea to coffee, without milk.",
    "title": None,
    "memory_type": "preference",
    "tags": ["drinks"],
    "metadata": {"source": "chat"},
    "importance": 0.7,
    "context": "home/kitchen",
    "user_id": "ada",
    "agent_id": None,
    "session_id": "2026-11-22-a",
    "created_at": "2026-11-22T18:00:00.000000Z",
    "updated_at": "2026-11-22T18:00:00.000000Z",
    "valid_from": "2026-11-22T18:00:00.000000Z",
    "valid_to": None,
    "expires_at": None,
    "supersedes": None,
    "superseded_by": None,
    "version": 1,
}
NEW_EXAMPLE = {
    "content": "Ada prefers tea to coffee, without milk.",
    "memory_type": "preference",
    "tags": ["drinks"],
    "context": "home/kitchen",
    "user_id": "ada",
    "session_id": "2026-11-22-a",
    "importance": 0.7,
    "metadata": {"source": "chat"},
}


class DeletedCounts(msgspec.Struct, kw_only=True):
    """How much was deleted, or, in a dry run, would be."""

    memories: int
    relations: int
    dry_run: bool = False


def filter_from_query(given: str | None) -> Filter:
    """The filter that a query parameter has as JSON.

    Raises:
        InvalidFilter: it is not one.
    """
    if given is None:
        return EVERYTHING
    try:
        return parse_filter(decode(given.encode(), dict[str, Any]))
    except InvalidFilter:
        raise
    except (InvalidInput, UnicodeEncodeError) as error:
        raise InvalidFilter(f"filter: {error}") from None


def time_from_query(given: str | None) -> datetime | None:
    """The time of the query parameter `as_of`, in UTC.

    Raises:
        InvalidInput: it is not one, or not within the years 1 to 9999 there.
    """
    try:
        time = msgspec.convert(given, datetime | None)
    except msgspec.ValidationError:
        raise InvalidInput(
            f"as_of: expected a time such as 2026-12-31T18:00:00Z, got {given!r:.100}",
            parameter="as_of",
        ) from None
    return optional_in_utc(time, "as_of")


def request_key(key: str | None, action: str, request: msgspec.Struct) -> RequestKey | None:
    """What tells this request from others, where it has an idempotency key."""
    return None if key is None else RequestKey(key, fingerprint(action, request))


def replay_header(replayed: bool) -> dict[str, str]:
    """The header that tells an earlier answer from a new one."""
    return {"Idempotent-Replayed": "true"} if replayed else {}
