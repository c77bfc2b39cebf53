"""What clients of mem0 say in the query of a URL, read and documented as structs."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, cast

import msgspec
from litestar.openapi.spec import Operation, Parameter, Schema
from msgspec import UNSET, Meta, UnsetType

from service.api.mem0.filters import ANY, ENTITY_FIELDS, Ours, our_filter
from service.api.mem0.requests import (
    FirstDay,
    LastDay,
    PageNumber,
    PageSize,
    created_between,
    refuse_what_is_not_done,
    scope_of,
)
from service.errors import InvalidFilter, InvalidInput
from service.json_schema import schemas_of
from service.memory.new_memory import Name

T = TypeVar("T", bound=msgspec.Struct)

IgnoredText = Annotated[str, Meta(description="Has no effect here.")] | UnsetType


class PageQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Which page of a list; it stands in the query, where the body says of what."""

    page: PageNumber = 1
    page_size: PageSize | UnsetType = UNSET
    org_id: IgnoredText = UNSET
    project_id: IgnoredText = UNSET


class ScopeQuery(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whose memories, as a query names them."""

    user_id: Name | UnsetType = UNSET
    agent_id: Name | UnsetType = UNSET
    app_id: Name | UnsetType = UNSET
    run_id: Name | UnsetType = UNSET
    org_id: IgnoredText = UNSET
    project_id: IgnoredText = UNSET


class ListQuery(ScopeQuery, kw_only=True, forbid_unknown_fields=True):
    """Which memories to list."""

    page: PageNumber = 1
    page_size: PageSize | UnsetType = UNSET
    top_k: PageSize | UnsetType = UNSET
    limit: PageSize | UnsetType = UNSET
    start_date: FirstDay | UnsetType = UNSET
    end_date: LastDay | UnsetType = UNSET
    version: IgnoredText = UNSET
    output_format: IgnoredText = UNSET
    enable_graph: IgnoredText = UNSET
    latest_only: IgnoredText = UNSET
    show_expired: Annotated[bool, Meta(description="True cannot be done here.")] = False

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: one cannot be said in it.
            NotServed: what has expired is asked for.
        """
        refuse_what_is_not_done(self)
        dates = created_between(self.start_date, self.end_date)
        return {"all": [our_filter(scope_of(self)), dates]}


class DeleteQuery(ScopeQuery, kw_only=True, forbid_unknown_fields=True):
    """Which memories to delete: at least one of the ids, or filters."""

    filters: Annotated[str, Meta(description="As JSON.")] | UnsetType = UNSET

    def filter(self) -> Ours:
        """All conditions in our language.

        Raises:
            InvalidFilter: there are none, or one cannot be said in it.
        """
        scope = scope_of(self)
        filters = {} if self.filters is UNSET else _decoded(self.filters)
        if not (scope or filters):
            raise InvalidFilter(
                f"expected {', '.join(ENTITY_FIELDS)} or filters that say what to delete"
            )
        if not filters and scope == dict.fromkeys(ENTITY_FIELDS, ANY):
            return {"all": []}  # all four together stand for everything
        return {"all": [our_filter(scope), our_filter(filters)]}


def from_query(query: Mapping[str, Any], wanted: type[T]) -> T:
    """What a request says in its query.

    Raises:
        InvalidInput: a value is not valid, or a name is not known.
    """
    try:
        return msgspec.convert(dict(query), wanted, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"query: {error}") from None


def reading(query: type[msgspec.Struct]) -> type[Operation]:
    """A documented operation that reads these fields from the query."""

    @dataclass
    class ReadingOperation(Operation):
        def __post_init__(self) -> None:
            described, *_ = schemas_of(query, references="{name}").values()
            fields = [
                # A schema may as well be what it is written as.
                Parameter(name, "query", cast("Schema", field), field.get("description"))
                for name, field in described["properties"].items()
            ]
            self.parameters = [*(self.parameters or []), *fields]

    return ReadingOperation


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
