"""POST /v1/embeddings, as OpenAI defines it, with a choice of prompt and of truncation."""

from functools import partial
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg
from msgspec import Meta

from service.api.embedding_requests import (
    JsonAnswer,
    RequestTimeout,
    TextOrTexts,
    as_float32_bytes,
    as_numbers,
    texts_of,
    timeout_seconds,
    unless_disconnected,
    written,
)
from service.api.json_body import StrictJson
from service.api.models import side_of_model
from service.api.problems import OPENAI_ERRORS
from service.embedding.embedder import INTERACTIVE_TEXTS, EmbeddedTexts, Embedder
from service.embedding.manifest import Manifest
from service.embedding.prompts import (
    InputType,
    Prompts,
    prompt_for_input_type,
    prompt_for_name,
    unasked_prompts,
)
from service.errors import InvalidInput

T = TypeVar("T")

Name = Annotated[str, Meta(max_length=256)]


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """What to embed, and how. Other fields are ignored."""

    input: Annotated[
        TextOrTexts,
        Meta(
            description="A text, or a list of texts. Token ids are refused: they are those of "
            "another tokenizer.",
        ),
    ]
    model: Annotated[
        Name | None,
        Meta(
            description="The served model's name, alone or with the suffix `-query` or "
            "`-document`, which chooses the prompt. Not set: the served model."
        ),
    ] = None
    dimensions: Annotated[
        int | None,
        Meta(description="Size of the embeddings, one of `supported_dimensions` in `/info`."),
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"] | None,
        Meta(description="Lists of numbers, or base64 of little-endian 32-bit floats."),
    ] = None
    user: Annotated[str | None, Meta(description="Accepted and ignored.")] = None
    input_type: Annotated[
        InputType | None,
        Meta(description="The side of retrieval that the texts are on; chooses the prompt."),
    ] = None
    prompt_name: Annotated[
        Name | None,
        Meta(description="The prompt to embed behind, one of `prompts` in `/info`."),
    ] = None
    truncate: Annotated[
        bool | None,
        Meta(description="Cut texts that are over the model's limit instead of refusing them."),
    ] = None
    priority: Annotated[
        Literal["bulk"] | None,
        Meta(
            description="`bulk` lets other requests go first. Requests of more than "
            f"{INTERACTIVE_TEXTS} texts, or of more tokens than one text may have, do so anyway."
        ),
    ] = None


class EmbeddingObject(msgspec.Struct, Generic[T], kw_only=True):
    """The embedding of the text at `index`."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: T


class Usage(msgspec.Struct):
    """How many tokens the model read, prompts included."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, Generic[T], kw_only=True):
    """The embeddings, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject[T]]
    model: str
    usage: Usage
    truncated: list[int] | msgspec.UnsetType = msgspec.UNSET


REQUEST_EXAMPLES = [
    Example(
        summary="A query",
        value={
            "input": "Which planet is known as the Red Planet?",
            "input_type": "query",
            "dimensions": 256,
        },
    ),
    Example(
        summary="Documents, as a client of OpenAI sends them",
        value={
            "input": ["Venus is Earth's twin.", "Mars is often called the Red Planet."],
            "model": "embeddinggemma-300m-document",
            "encoding_format": "base64",
        },
    ),
]

RESPONSE_EXAMPLE = Example(
    value={
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.0213, -0.0457, 0.0108]}],
        "model": "embeddinggemma-300m",
        "usage": {"prompt_tokens": 18, "total_tokens": 18},
    },
)


@post(
    ["/v1/embeddings", "/embeddings"],
    dto=StrictJson[EmbeddingsRequest],
    return_dto=None,
    status_code=200,
    summary="Embed texts",
    tags=["embeddings"],
    operation_id=lambda _, __, path: "createEmbeddings" if "v1" in path else "createEmbeddingsAlso",
    responses={
        200: ResponseSpec(
            EmbeddingList[list[float] | str],
            generate_examples=False,
            description="One embedding for each text, in order.",
            examples=[RESPONSE_EXAMPLE],
        ),
        **OPENAI_ERRORS,
    },
)
async def create_embeddings(
    request: Request[Any, Any, Any],
    data: Annotated[EmbeddingsRequest, BodyKwarg(examples=REQUEST_EXAMPLES)],
    embedder: NamedDependency[Embedder],
    x_request_timeout_ms: RequestTimeout = None,
) -> JsonAnswer:
    """Embed one text or a list of texts.

    A text is embedded behind a prompt, which `input_type`, `prompt_name` or the suffix of `model`
    chooses; without any of them it is the model's default (see `/info`), unless the text begins
    with one of the model's prompts already. The answer names in `truncated` the texts that were
    cut, where `truncate` allowed it and any was, and in its header `Server-Timing` where the time
    went, in milliseconds, and how many tokens were read.
    """
    texts = texts_of(data.input, parameter="input")
    prompts = choose_prompts(embedder.manifest, data)
    embedded = await unless_disconnected(
        request,
        embedder.embed(
            texts,
            prompt=prompts.prompt,
            own_prompts=prompts.own,
            dimensions=data.dimensions,
            truncate=bool(data.truncate),
            priority=data.priority,
            timeout_seconds=timeout_seconds(x_request_timeout_ms),
        ),
    )
    model = data.model or embedder.manifest.name
    write = partial(encode, model=model, encoding_format=data.encoding_format or "float")
    return JsonAnswer(await written(embedded, write))


def choose_prompts(manifest: Manifest, request: EmbeddingsRequest) -> Prompts:
    """The prompt that a request asks for in one of three ways, or else what unasked texts get.

    Raises:
        UnknownModel: another model is asked for.
        UnknownPrompt: the model has no prompt of this name.
        InvalidInput: two of the ways ask for different prompts.
    """
    asked = {}
    if request.model is not None and (side := side_of_model(manifest, request.model)):
        asked[f"model={request.model}"] = prompt_for_input_type(manifest, side)
    if request.input_type is not None:
        prompt = prompt_for_input_type(manifest, request.input_type)
        asked[f"input_type={request.input_type}"] = prompt
    if request.prompt_name is not None:
        prompt = prompt_for_name(manifest, request.prompt_name)
        asked[f"prompt_name={request.prompt_name}"] = prompt
    if len(set(asked.values())) > 1:
        raise InvalidInput(
            f"{' and '.join(asked)} ask for different prompts; send one of them",
            parameter="prompt_name" if request.prompt_name is not None else "input_type",
        )
    return next(map(Prompts, asked.values()), unasked_prompts(manifest))


def encode(
    embedded: EmbeddedTexts, *, model: str, encoding_format: Literal["float", "base64"]
) -> bytes:
    """The response as JSON."""
    tokens = sum(embedded.tokens)
    write = as_numbers if encoding_format == "float" else as_float32_bytes
    return msgspec.json.encode(
        EmbeddingList(
            data=[
                EmbeddingObject(index=index, embedding=row)
                for index, row in enumerate(write(embedded.embeddings))
            ],
            model=model,
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
            truncated=list(embedded.truncated) or msgspec.UNSET,
        )
    )
