"""Decodes a JSON body straight into its struct, strictly, and says what is wrong with it."""

import re
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.dto import AbstractDTO, DTOConfig
from litestar.exceptions import HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from service.errors import InvalidInput

T = TypeVar("T")

_FIELD = re.compile(r"at `\$\.(\w+)")
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class StrictJson(AbstractDTO[T]):
    """Makes a handler's `data` from the body: `@post(dto=StrictJson[EmbeddingsRequest])`.

    Litestar's own way decodes twice, and converts on the way: "256" passes for a number.
    """

    config = DTOConfig()

    def decode_bytes(self, value: bytes) -> Any:
        """The body as a struct.

        Raises:
            InvalidInput: it is not JSON, or not of the shape that is expected.
        """
        request = self.asgi_connection
        assert isinstance(request, Request)
        media_type, _ = request.content_type
        if media_type and not re.fullmatch(r"application/([\w.-]+\+)?json", media_type):
            raise HTTPException(
                f"expected a body of Content-Type application/json, got {media_type[:100]}",
                status_code=415,
            )
        return decode(value, self.model_type)

    @classmethod
    def create_for_field_definition(cls, *_: Any, **__: Any) -> None:
        """Nothing: a struct needs no model generated for it."""

    @classmethod
    def create_openapi_schema(
        cls, field_definition: FieldDefinition, handler_id: str, schema_creator: Any
    ) -> Reference | Schema:
        """The schema of the struct itself."""
        schema: Reference | Schema = schema_creator.for_field_definition(field_definition)
        return schema


def decode(body: bytes, wanted: type[T]) -> T:
    """A JSON document as a struct.

    Raises:
        InvalidInput: it is not JSON, or not of the shape that is expected.
    """
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        raise InvalidInput(str(error), parameter=field and field[1]) from None
    except RecursionError:
        raise InvalidInput("expected JSON, got one that is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = ""
        if _ESCAPED_SURROGATE.search(body):
            hint = r"; an escaped surrogate (\ud800 to \udfff) is valid only as half of a pair"
        raise InvalidInput(f"expected JSON: {error}{hint}") from None
