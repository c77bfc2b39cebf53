"""Structs as JSON schemas, which other languages read, too."""

from typing import Any

import msgspec


def schemas_of(struct: type[msgspec.Struct], *, references: str) -> dict[str, dict[str, Any]]:
    """The schema of a struct, and after it those of the structs in it, by name.

    `references` is how they refer to one another, such as `#/$defs/{name}`.
    """
    (reference,), components = msgspec.json.schema_components([struct], ref_template=references)
    name = reference["$ref"].removeprefix(references.format(name=""))
    schemas: dict[str, dict[str, Any]] = _portable({name: components.pop(name)} | components)
    return schemas


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
