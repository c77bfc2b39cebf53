"""The routes of text-embeddings-inference (TEI), as its clients call them."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from litestar import Request, post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg
from msgspec import Meta

from service.api.embedding_requests import (
    NOT_EMPTY,
    JsonAnswer,
    RequestTimeout,
    Text,
    TextOrTexts,
    as_numbers,
    texts_of,
    timeout_seconds,
    unless_disconnected,
    written,
)
from service.api.json_body import StrictJson
from service.api.problems import TEI_ERRORS
from service.embedding.embedder import EmbeddedTexts, Embedder
from service.embedding.manifest import Manifest
from service.embedding.prompts import (
    Prompts,
    prompt_for_name,
    prompt_for_task,
    unasked_prompts,
)
from service.embedding.tokenization import Side
from service.errors import EmptyInput, InvalidInput

# As TEI does since its version 1.9, where a request does not say.
AUTO_TRUNCATE = True

Inputs = str | Sequence[str | int | list[int]]
Direction = Literal["left", "right", "Left", "Right"]


class Choices(msgspec.Struct, kw_only=True):
    """How the texts are read. Other fields are ignored."""

    truncate: Annotated[
        bool | None,
        Meta(
            description="Whether texts over the model's limit are cut, or else refused. Not set: "
            "they are. `X-Truncated` says how many were."
        ),
    ] = None
    truncation_direction: Annotated[
        Direction | None,
        Meta(description="The side that is cut off, `left` or `right`; the prompt never is."),
    ] = None
    prompt_name: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(description="The prompt to embed behind, one of `prompts` in `/info`."),
    ] = None


class EmbedChoices(Choices, kw_only=True):
    """How the texts are read, and what becomes of them."""

    normalize: Annotated[
        bool | None,
        Meta(
            description="Only true: embeddings are of unit length.",
            extra_json_schema={"enum": [True, None]},
        ),
    ] = None
    dimensions: Annotated[
        int | None,
        Meta(description="Size of the embeddings, one of `supported_dimensions` in `/info`."),
    ] = None


class EmbedRequest(EmbedChoices, kw_only=True):
    """What to embed, and how."""

    inputs: Annotated[
        TextOrTexts,
        Meta(
            description="A text, or a list of texts. Token ids are refused: they are those of "
            "another tokenizer.",
        ),
    ]


class Sentences(msgspec.Struct):
    """A text, and those that it is compared with."""

    source_sentence: Text
    sentences: Annotated[list[Text], NOT_EMPTY]


class SimilarityRequest(msgspec.Struct, kw_only=True):
    """What to compare, and how the texts are read."""

    inputs: Sentences
    parameters: Choices | None = None


class TaskRequest(EmbedChoices, kw_only=True):
    """What to embed or to compare, by what `inputs` are."""

    inputs: TextOrTexts | Sentences
    parameters: Annotated[
        Choices | None, Meta(description="How texts that are compared are read.")
    ] = None


EMBED_EXAMPLE = Example(
    value={
        "inputs": ["Venus is Earth's twin.", "Mars is often called the Red Planet."],
        "truncate": True,
        "dimensions": 256,
    }
)
SIMILARITY_EXAMPLE = Example(
    value={
        "inputs": {
            "source_sentence": "Mars is often called the Red Planet.",
            "sentences": ["Which planet is red?", "Venus is Earth's twin."],
        }
    }
)
EMBEDDING_EXAMPLE = Example(value=[[0.0213, -0.0457, 0.0108]])
COMPARISON_EXAMPLE = Example(value=[0.7311, 0.2954])
EMBEDDED = ResponseSpec(
    list[list[float]],
    generate_examples=False,
    description="One embedding for each text, in order.",
    examples=[EMBEDDING_EXAMPLE],
)
COMPARED = ResponseSpec(
    list[float],
    generate_examples=False,
    description="The similarity of each sentence to the source, in order.",
    examples=[COMPARISON_EXAMPLE],
)
EMBEDDED_OR_COMPARED = ResponseSpec(
    list[list[float] | float],
    generate_examples=False,
    description="An embedding for each text, or a similarity for each sentence, in order.",
    examples=[EMBEDDING_EXAMPLE, COMPARISON_EXAMPLE],
)


@post(
    "/embed",
    dto=StrictJson[EmbedRequest],
    return_dto=None,
    status_code=200,
    summary="Embed texts",
    tags=["text-embeddings-inference"],
    operation_id="embed",
    responses={200: EMBEDDED, **TEI_ERRORS},
)
async def embed(
    request: Request[Any, Any, Any],
    data: Annotated[EmbedRequest, BodyKwarg(examples=[EMBED_EXAMPLE])],
    embedder: NamedDependency[Embedder],
    x_request_timeout_ms: RequestTimeout = None,
) -> JsonAnswer:
    """Embed one text or a list of texts, behind the model's default prompt unless one is named.

    Nothing is put in front of texts that all begin with one of the model's prompts already.

    The headers `X-Total-Time`, `X-Tokenization-Time`, `X-Queue-Time` and `X-Inference-Time` have
    milliseconds, `X-Compute-Tokens` and `X-Compute-Characters` what was read.
    """
    return await _embed(request, embedder, data.inputs, data, x_request_timeout_ms)


@post(
    "/similarity",
    dto=StrictJson[SimilarityRequest],
    return_dto=None,
    status_code=200,
    summary="Compare texts",
    tags=["text-embeddings-inference"],
    operation_id="similarity",
    responses={200: COMPARED, **TEI_ERRORS},
)
async def similarity(
    request: Request[Any, Any, Any],
    data: Annotated[SimilarityRequest, BodyKwarg(examples=[SIMILARITY_EXAMPLE])],
    embedder: NamedDependency[Embedder],
    x_request_timeout_ms: RequestTimeout = None,
) -> JsonAnswer:
    """The cosine of one text with each of the others.

    They are embedded behind the model's prompt for comparing sentences, if it has one and no other
    is named, or else its default.
    """
    choices = data.parameters or Choices()
    return await _compare(request, embedder, data.inputs, choices, x_request_timeout_ms)


@post(
    "/",
    dto=StrictJson[TaskRequest],
    return_dto=None,
    status_code=200,
    summary="Embed or compare texts",
    tags=["text-embeddings-inference"],
    operation_id="embedOrCompare",
    responses={200: EMBEDDED_OR_COMPARED, **TEI_ERRORS},
)
async def embed_or_compare(
    request: Request[Any, Any, Any],
    data: Annotated[TaskRequest, BodyKwarg(examples=[EMBED_EXAMPLE, SIMILARITY_EXAMPLE])],
    embedder: NamedDependency[Embedder],
    x_request_timeout_ms: RequestTimeout = None,
) -> JsonAnswer:
    """Answers as `/similarity` does where `inputs` has sentences, and else as `/embed`.

    For clients that know one address for all, as `InferenceClient` of huggingface_hub.
    """
    if isinstance(data.inputs, Sentences):
        choices = data.parameters or Choices()
        return await _compare(request, embedder, data.inputs, choices, x_request_timeout_ms)
    return await _embed(request, embedder, data.inputs, data, x_request_timeout_ms)


@post("/embed_all", status_code=200, include_in_schema=False)
async def embed_all() -> None:
    """Refuses, and says what there is instead."""
    raise InvalidInput(
        "the embeddings of single tokens are not served: the model's graph gives one embedding for "
        "each text; use /embed"
    )


async def _embed(
    request: Request[Any, Any, Any],
    embedder: Embedder,
    inputs: Inputs,
    choices: EmbedChoices,
    timeout_ms: int | None,
) -> JsonAnswer:
    started = time.perf_counter()
    if choices.normalize is False:
        raise InvalidInput(
            "expected normalize=true, got false: embeddings leave the model's graph at unit length "
            "and there are no others; leave the field out",
            parameter="normalize",
        )
    texts = texts_of(inputs, parameter="inputs")
    prompts = _prompts(embedder.manifest, choices, unnamed=unasked_prompts(embedder.manifest))
    work = embedder.embed(
        texts,
        prompt=prompts.prompt,
        own_prompts=prompts.own,
        dimensions=choices.dimensions,
        truncate=_truncate(choices),
        keep=_side_to_keep(choices),
        timeout_seconds=timeout_seconds(timeout_ms),
    )
    embedded = await unless_disconnected(request, work)
    body = await written(embedded, _rows)
    return JsonAnswer(body, _headers(embedder, texts, embedded, started))


async def _compare(
    request: Request[Any, Any, Any],
    embedder: Embedder,
    inputs: Sentences,
    choices: Choices,
    timeout_ms: int | None,
) -> JsonAnswer:
    started = time.perf_counter()
    if not inputs.sentences:
        raise EmptyInput("expected at least one sentence, got none", parameter="inputs")
    texts = [inputs.source_sentence, *inputs.sentences]
    unnamed = Prompts(prompt_for_task(embedder.manifest, "similarity"))
    prompts = _prompts(embedder.manifest, choices, unnamed=unnamed)
    work = embedder.embed(
        texts,
        prompt=prompts.prompt,
        truncate=_truncate(choices),
        keep=_side_to_keep(choices),
        timeout_seconds=timeout_seconds(timeout_ms),
    )
    embedded = await unless_disconnected(request, work)
    source, *_ = embedded.embeddings  # (dimensions,)
    (similarities,) = as_numbers((embedded.embeddings[1:] @ source).clip(-1, 1)[np.newaxis])
    body = msgspec.json.encode(similarities)
    return JsonAnswer(body, _headers(embedder, texts, embedded, started))


def _prompts(manifest: Manifest, choices: Choices, *, unnamed: Prompts) -> Prompts:
    if choices.prompt_name is None:
        return unnamed
    return Prompts(prompt_for_name(manifest, choices.prompt_name))


def _truncate(choices: Choices) -> bool:
    return AUTO_TRUNCATE if choices.truncate is None else choices.truncate


def _side_to_keep(choices: Choices) -> Side:
    return "end" if choices.truncation_direction in ("left", "Left") else "start"


def _rows(embedded: EmbeddedTexts) -> bytes:
    return msgspec.json.encode(as_numbers(embedded.embeddings))


def _headers(
    embedder: Embedder, texts: Sequence[str], embedded: EmbeddedTexts, started: float
) -> dict[str, str]:
    timings = embedded.timings
    total = time.perf_counter() - started
    provider, *_ = embedder.execution_providers
    return {
        "X-Compute-Type": "cpu" if provider == "CPUExecutionProvider" else "gpu",
        "X-Compute-Time": _milliseconds(total),
        "X-Compute-Characters": str(sum(map(len, texts))),
        "X-Compute-Tokens": str(sum(embedded.tokens)),
        "X-Total-Time": _milliseconds(total),
        "X-Tokenization-Time": _milliseconds(timings.tokenization),
        "X-Queue-Time": _milliseconds(timings.queue),
        "X-Inference-Time": _milliseconds(timings.inference),
        "X-Truncated": str(len(embedded.truncated)),
    }


def _milliseconds(seconds: float) -> str:
    # Whole ones, as TEI writes them: some clients parse integers.
    return str(round(seconds * 1000))
