"""What a tool is: a use case with a name, a schema of its arguments, and one of its answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from service.json_schema import schemas_of

if TYPE_CHECKING:
    from service.memory.memories import Memories

Access = Literal["read", "write"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool as agents see it, and what it does for a tenant."""

    name: str
    title: str
    description: str
    asks: type[msgspec.Struct]
    answers: type[msgspec.Struct]
    run: Callable[["Memories", str, Any], Awaitable[msgspec.Struct]]
    access: Access
    destructive: bool = False
    idempotent: bool = False
    text: Callable[[Any], Any] = lambda answer: answer
    """Of the answer, what clients see that do not read structured answers: a text, or JSON."""


@cache
def schema_of(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a struct, as an object that stands by itself."""
    (_, schema), *others = schemas_of(kind, references="#/$defs/{name}").items()
    return schema | ({"$defs": dict(others)} if others else {})


def structured(answer: msgspec.Struct) -> dict[str, Any]:
    """An answer as JSON has it, without fields that are null: agents pay for each by the token."""
    plain: dict[str, Any] = _without_nulls(msgspec.to_builtins(answer))
    return plain


def _without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {
                key: nested if key == "metadata" else _without_nulls(nested)
                for key, nested in value.items()
                if nested is not None
            }
        case list() | tuple():
            return [_without_nulls(each) for each in value]
        case _:
            return value
