"""POST /v2/embed, as Cohere defines it."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import uuid4

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg
from msgspec import Meta, Raw

from service.api.embedding_requests import (
    NOT_EMPTY,
    JsonAnswer,
    RequestTimeout,
    Text,
    as_float32_bytes,
    as_numbers,
    timeout_seconds,
    unless_disconnected,
    written,
)
from service.api.json_body import StrictJson
from service.api.models import side_of_model
from service.api.problems import COHERE_ERRORS
from service.embedding.embedder import EmbeddedTexts, Embedder
from service.embedding.manifest import Manifest
from service.embedding.onnx_model import Embeddings
from service.embedding.prompts import prompt_for_input_type, prompt_for_task
from service.embedding.quantization import int8_codes, signed_bits, uint8_codes, unsigned_bits
from service.errors import InvalidInput

T = TypeVar("T")

CohereInputType = Literal[
    "search_query", "search_document", "classification", "clustering", "image"
]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_WRITE: dict[EmbeddingType, Callable[[Embeddings], Sequence[Raw | bytes]]] = {
    "float": as_numbers,
    "int8": lambda embeddings: as_numbers(int8_codes(embeddings)),
    "uint8": lambda embeddings: as_numbers(uint8_codes(embeddings)),
    "binary": lambda embeddings: as_numbers(signed_bits(embeddings)),
    "ubinary": lambda embeddings: as_numbers(unsigned_bits(embeddings)),
    "base64": as_float32_bytes,
}


class ImageUrl(msgspec.Struct, tag_field="type", tag="image_url"):
    """An image, which is refused."""

    image_url: Any = None


class TextContent(msgspec.Struct, tag_field="type", tag="text"):
    """A text."""

    text: str


class Content(msgspec.Struct):
    """The parts of one input; those of text are put together, line by line."""

    content: list[TextContent | ImageUrl]


class EmbedRequest(msgspec.Struct, kw_only=True):
    """What to embed, and how. Other fields are ignored."""

    model: Annotated[str, Meta(max_length=256, description="The served model's name.")]
    input_type: Annotated[
        CohereInputType,
        Meta(
            description="What the embeddings are for; chooses the prompt: those of the two sides "
            "of search, and those for classification and clustering, if the model has them, or "
            "else its default."
        ),
    ]
    texts: Annotated[list[Text], NOT_EMPTY] | None = None
    inputs: Annotated[
        Annotated[list[Content], NOT_EMPTY] | None, Meta(description="In place of `texts`.")
    ] = None
    images: Annotated[
        Annotated[list[Any], Meta(extra_json_schema={"maxItems": 0})] | None,
        Meta(description="Refused."),
    ] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Tokens of a text that are read, if fewer than the model's limit."),
    ] = None
    output_dimension: Annotated[
        int | None,
        Meta(description="Size of the embeddings, one of `supported_dimensions` in `/info`."),
    ] = None
    embedding_types: Annotated[
        list[EmbeddingType] | None, Meta(description="One or more. Not set: `float`.")
    ] = None
    truncate: Annotated[
        Literal["NONE", "START", "END"] | None,
        Meta(
            description="What is cut off a text that is too long, or `NONE` to refuse it. Not set: "
            "`END`. `meta.warnings` names the texts that were cut."
        ),
    ] = None
    priority: Annotated[
        Annotated[int, Meta(ge=0, le=999)] | None,
        Meta(description="Any but 0 lets other requests go first."),
    ] = None


class ApiVersion(msgspec.Struct):
    """The version of Cohere's API."""

    version: Literal["2"] = "2"


class BilledUnits(msgspec.Struct):
    """How many tokens the model read, prompts included."""

    input_tokens: int


class ApiMeta(msgspec.Struct, kw_only=True):
    """What else there is to say."""

    api_version: ApiVersion
    billed_units: BilledUnits
    warnings: list[str] | msgspec.UnsetType = msgspec.UNSET


class EmbedResponse(msgspec.Struct, Generic[T], kw_only=True):
    """The embeddings by their types, each in the order of the texts."""

    response_type: Literal["embeddings_by_type"] = "embeddings_by_type"
    id: str
    texts: Sequence[str]
    embeddings: dict[EmbeddingType, Sequence[T]]
    meta: ApiMeta


REQUEST_EXAMPLES = [
    Example(
        summary="A query",
        value={
            "model": "embeddinggemma-300m",
            "input_type": "search_query",
            "texts": ["Which planet is known as the Red Planet?"],
            "output_dimension": 256,
        },
    ),
    Example(
        summary="Documents, in one byte a component",
        value={
            "model": "embeddinggemma-300m",
            "input_type": "search_document",
            "texts": ["Venus is Earth's twin.", "Mars is often called the Red Planet."],
            "embedding_types": ["int8"],
        },
    ),
]

RESPONSE_EXAMPLE = Example(
    value={
        "response_type": "embeddings_by_type",
        "id": "0b0e0d2c-8c0c-4b0e-9a50-2b6f1f6d7f0e",
        "texts": ["Mars is often called the Red Planet."],
        "embeddings": {"float": [[0.0213, -0.0457, 0.0108]]},
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 18}},
    },
)


@post(
    "/v2/embed",
    dto=StrictJson[EmbedRequest],
    return_dto=None,
    status_code=200,
    summary="Embed texts, as Cohere does",
    tags=["cohere"],
    operation_id="cohereEmbed",
    responses={
        200: ResponseSpec(
            EmbedResponse[list[float] | str],
            generate_examples=False,
            description="One embedding of each type for each text, in order.",
            examples=[RESPONSE_EXAMPLE],
        ),
        **COHERE_ERRORS,
    },
)
async def cohere_embed(
    request: Request[Any, Any, Any],
    data: Annotated[EmbedRequest, BodyKwarg(examples=REQUEST_EXAMPLES)],
    embedder: NamedDependency[Embedder],
    x_request_timeout_ms: RequestTimeout = None,
) -> JsonAnswer:
    """Embed texts for a purpose, in one or more number types.

    `int8` and `uint8` are components on one scale for all texts, `binary` and `ubinary` their
    signs, eight in a byte, and `base64` little-endian 32-bit floats.
    """
    texts = _texts(data)
    embedded = await unless_disconnected(
        request,
        embedder.embed(
            texts,
            prompt=_prompt(embedder.manifest, data),
            dimensions=data.output_dimension,
            truncate=data.truncate != "NONE",
            keep="end" if data.truncate == "START" else "start",
            max_tokens=data.max_tokens,
            priority="bulk" if data.priority else None,
            timeout_seconds=timeout_seconds(x_request_timeout_ms),
        ),
    )
    write = partial(_write, texts=texts, types=data.embedding_types or ["float"])
    return JsonAnswer(await written(embedded, write))


def _texts(request: EmbedRequest) -> list[str]:
    if request.images:
        raise _no_images()
    if (request.texts is None) == (request.inputs is None):
        raise InvalidInput("expected either texts or inputs", parameter="texts")
    if request.texts is not None:
        return request.texts
    return [_text(given) for given in request.inputs or []]


def _text(given: Content) -> str:
    lines = [part.text for part in given.content if isinstance(part, TextContent)]
    if len(lines) < len(given.content):
        raise _no_images()
    return "\n".join(lines)


def _no_images() -> InvalidInput:
    return InvalidInput("expected texts, got an image: the model reads text only")


def _prompt(manifest: Manifest, request: EmbedRequest) -> str:
    prompt = _prompt_for(manifest, request.input_type)
    side = side_of_model(manifest, request.model)
    if side is not None and prompt_for_input_type(manifest, side) != prompt:
        raise InvalidInput(
            f"model={request.model} and input_type={request.input_type} ask for different prompts; "
            f"send model={manifest.name}"
        )
    return prompt


def _prompt_for(manifest: Manifest, input_type: CohereInputType) -> str:
    match input_type:
        case "search_query":
            return prompt_for_input_type(manifest, "query")
        case "search_document":
            return prompt_for_input_type(manifest, "document")
        case "classification" | "clustering":
            return prompt_for_task(manifest, input_type)
        case "image":
            raise _no_images()


def _write(
    embedded: EmbeddedTexts, *, texts: Sequence[str], types: Sequence[EmbeddingType]
) -> bytes:
    cut = ", ".join(map(str, embedded.truncated))
    return msgspec.json.encode(
        EmbedResponse(
            id=str(uuid4()),
            texts=texts,
            embeddings={name: _WRITE[name](embedded.embeddings) for name in types},
            meta=ApiMeta(
                api_version=ApiVersion(),
                billed_units=BilledUnits(sum(embedded.tokens)),
                warnings=[f"these texts were cut: {cut}"] if cut else msgspec.UNSET,
            ),
        )
    )
