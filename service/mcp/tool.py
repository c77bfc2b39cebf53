"""What a tool is: a use case with a name, a schema of its arguments, and one of its answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec

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
    schemas, components = msgspec.json.schema_components([kind], ref_template="#/$defs/{name}")
    name = schemas[0]["$ref"].rpartition("/")[2]
    schema = components.pop(name) | ({"$defs": components} if components else {})
    portable: dict[str, Any] = _portable(schema)
    return portable


def structured(answer: msgspec.Struct) -> dict[str, Any]:
    """An answer as JSON has it, without fields that are null: agents pay for each by the token."""
    plain: dict[str, Any] = _without_nulls(msgspec.to_builtins(answer))
    return plain


def _portable(schema: Any) -> Any:
    # What Python writes \Z for the end of a text is a Z in JSON schema, whose $ is that end.
    match schema:
        case dict():
            return {
                key: value.replace(r"\Z", "$")
                if key == "pattern" and isinstance(value, str)
                else _portable(value)
                for key, value in schema.items()
            }
        case list():
            return [_portable(each) for each in schema]
        case _:
            return schema


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
