"""Structs in the OpenAPI document."""

from typing import Any, get_type_hints

import msgspec
from litestar.openapi.spec import Schema
from litestar.plugins import OpenAPISchemaPlugin
from litestar.typing import FieldDefinition

from service.json_schema import schemas_of


class StructSchemas(OpenAPISchemaPlugin):
    """Describes a struct as msgspec reads it.

    Litestar by itself leaves out the constraints on what is in a list or may be null, and whether
    other fields are refused.
    """

    def is_plugin_supported_field(self, field_definition: FieldDefinition) -> bool:
        """Whether it is a struct. Generic ones are left to Litestar, which names them otherwise."""
        return not (
            field_definition.is_union or field_definition.is_generic
        ) and field_definition.is_subclass_of(msgspec.Struct)

    def to_openapi_schema(self, field_definition: FieldDefinition, schema_creator: Any) -> Schema:
        """What there is to say of a struct; those in its fields are described, too."""
        struct = field_definition.annotation
        hints = get_type_hints(struct, include_extras=True)
        schema: Schema = schema_creator.create_component_schema(
            field_definition,
            required=[],
            property_fields={
                name: FieldDefinition.from_annotation(hint) for name, hint in hints.items()
            },
        )
        described, *_ = schemas_of(struct, references="#/components/schemas/{name}").values()
        schema.description = described["description"]
        schema.properties = described["properties"]
        schema.required = described["required"]
        schema.additional_properties = described.get("additionalProperties")
        return schema
