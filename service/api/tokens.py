"""POST /tokenize and /decode, as text-embeddings-inference (TEI) has them."""

import asyncio
from itertools import accumulate
from typing import Annotated

import msgspec
from litestar import post
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import BodyKwarg
from msgspec import Meta

from service.api.embedding_requests import NOT_EMPTY, JsonAnswer
from service.api.json_body import StrictJson
from service.api.problems import TEI_ERRORS
from service.embedding.embedder import Embedder
from service.embedding.prompts import Prompts, prompt_for_name, unasked_prompts
from service.embedding.tokenization import Reading, Token
from service.errors import EmptyInput, InvalidInput

TokenId = Annotated[int, Meta(ge=0, lt=2**32)]


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """What to tokenize, and how. Other fields are ignored."""

    inputs: Annotated[
        str | Annotated[list[str], NOT_EMPTY], Meta(description="A text, or a list of texts.")
    ]
    add_special_tokens: Annotated[
        bool, Meta(description="Whether the tokens are there that the model reads around a text.")
    ] = True
    prompt_name: Annotated[
        Annotated[str, Meta(max_length=256)] | None,
        Meta(description="The prompt in front, one of `prompts` in `/info`. Not set: the default."),
    ] = None


class TextToken(msgspec.Struct):
    """A token, and from which byte of the prompt and text on and up to which it stands."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(msgspec.Struct, kw_only=True):
    """What to make texts of. Other fields are ignored."""

    ids: Annotated[
        list[TokenId | list[TokenId]],
        NOT_EMPTY,
        Meta(description="The tokens of a text, or a list of those of several."),
    ]
    skip_special_tokens: Annotated[
        bool,
        Meta(description="Whether the tokens that the model reads around a text are left out."),
    ] = True


@post(
    "/tokenize",
    dto=StrictJson[TokenizeRequest],
    return_dto=None,
    status_code=200,
    summary="Tokenize texts",
    tags=["text-embeddings-inference"],
    operation_id="tokenize",
    responses={
        200: ResponseSpec(
            list[list[TextToken]],
            generate_examples=False,
            description="The tokens of each text, in order.",
            examples=[
                Example(
                    value=[[{"id": 9259, "text": "Hello", "special": False, "start": 0, "stop": 5}]]
                )
            ],
        ),
        **TEI_ERRORS,
    },
)
async def tokenize(
    data: Annotated[TokenizeRequest, BodyKwarg(examples=[Example(value={"inputs": "Hello"})])],
    embedder: NamedDependency[Embedder],
) -> JsonAnswer:
    """The tokens that `/embed` reads of each text, at any length."""
    texts = [data.inputs] if isinstance(data.inputs, str) else data.inputs
    if not texts:
        raise EmptyInput("expected at least one text, got an empty list", parameter="inputs")
    prompts = (
        unasked_prompts(embedder.manifest)
        if data.prompt_name is None
        else Prompts(prompt_for_name(embedder.manifest, data.prompt_name))
    )
    reading = Reading(*prompts)
    prompted = ["".join(reading.split(text)) for text in texts]
    tokens = await embedder.tokenizer.split(prompted, add_special_tokens=data.add_special_tokens)
    body = await asyncio.to_thread(_write, prompted, tokens)
    return JsonAnswer(body)


@post(
    "/decode",
    dto=StrictJson[DecodeRequest],
    return_dto=None,
    status_code=200,
    summary="Make texts of tokens",
    tags=["text-embeddings-inference"],
    operation_id="decode",
    responses={
        200: ResponseSpec(
            list[str],
            generate_examples=False,
            description="The text of each list of tokens, in order.",
            examples=[Example(value=["Hello"])],
        ),
        **TEI_ERRORS,
    },
)
async def decode(
    data: Annotated[DecodeRequest, BodyKwarg(examples=[Example(value={"ids": [9259]})])],
    embedder: NamedDependency[Embedder],
) -> list[str]:
    """The texts that tokens of this model make."""
    return await embedder.tokenizer.decode(
        _token_lists(data.ids), skip_special_tokens=data.skip_special_tokens
    )


def _token_lists(given: list[int | list[int]]) -> list[list[int]]:
    lists = [ids for ids in given if isinstance(ids, list)]
    alone = [id for id in given if isinstance(id, int)]
    if not given:
        raise EmptyInput("expected at least one token, got none", parameter="ids")
    if lists and alone:
        raise InvalidInput("expected tokens, or lists of them, got both", parameter="ids")
    return lists or [alone]


def _write(texts: list[str], tokens: list[list[Token]]) -> bytes:
    return msgspec.json.encode(
        [
            [_text_token(token, bytes_before) for token in tokens_of_text]
            for tokens_of_text, bytes_before in zip(tokens, map(_bytes_before, texts), strict=True)
        ]
    )


def _bytes_before(text: str) -> list[int]:
    """How many bytes of UTF-8 there are in front of each character, and in all."""
    return list(accumulate((len(character.encode()) for character in text), initial=0))


def _text_token(token: Token, bytes_before: list[int]) -> TextToken:
    if token.span is None:
        return TextToken(token.id, token.content, special=True, start=None, stop=None)
    start, stop = (bytes_before[position] for position in token.span)
    return TextToken(token.id, token.content, special=False, start=start, stop=stop)
