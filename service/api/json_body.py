"""Decodes a JSON body straight into its struct, strictly, and says what is wrong with it."""

import re
from typing import Any, TypeVar

import msgspec
import numpy as np
from litestar import Request
from litestar.dto import AbstractDTO, DTOConfig
from litestar.exceptions import HTTPException
from litestar.openapi.spec import Reference, Schema
from litestar.typing import FieldDefinition

from service.errors import InvalidInput

T = TypeVar("T")

# Twice the levels of the deepest filter and of the deepest metadata, with what is around them.
MAX_DEPTH = 64

# What a bracket adds to the depth, and the bytes that have nothing to do with it.
_STEPS = np.zeros(256, np.int8)
_STEPS[[*b"[{"]] = 1
_STEPS[[*b"]}"]] = -1
_CONTENT = bytes(set(range(256)) - set(b'[]{}"'))

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


def _depth(body: bytes) -> int:
    """How deep the lists and objects of a JSON document stand in one another.

    In a time and memory that depend on its length only; of what is not JSON it is some number.
    """
    # Without escapes what stands behind an odd number of quotation marks is in a string.
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    structure = np.frombuffer(unescaped.translate(None, _CONTENT), np.uint8)
    outside = np.add.accumulate(structure == ord('"'), dtype=np.uint8) & 1 == 0
    depths = np.add.accumulate(outside * _STEPS[structure], dtype=np.int32)
    return int(depths.max(initial=0))


def decode(body: bytes, wanted: type[T]) -> T:
    """A JSON document as a struct.

    Raises:
        InvalidInput: it is not JSON, or not of the shape that is expected.
    """
    few = body.count(b"[") + body.count(b"{") <= MAX_DEPTH
    if not few and _depth(body) > MAX_DEPTH:
        raise InvalidInput(f"expected JSON nested at most {MAX_DEPTH} levels deep")
    try:
        return msgspec.json.decode(body, type=wanted)
    except msgspec.ValidationError as error:
        field = _FIELD.search(str(error))
        raise InvalidInput(str(error), parameter=field and field[1]) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        hint = ""
        if _ESCAPED_SURROGATE.search(body):
            hint = r"; an escaped surrogate (\ud800 to \udfff) is valid only as half of a pair"
        raise InvalidInput(f"expected JSON: {error}{hint}") from None
