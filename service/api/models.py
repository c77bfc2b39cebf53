"""GET /v1/models, as OpenAI defines it: the names by which the served model goes."""

from typing import Literal

import msgspec
from litestar import get
from litestar.di import NamedDependency
from litestar.openapi import ResponseSpec
from litestar.openapi.spec import Example
from litestar.params import FromPath

from service.api.problems import OPENAI_ERRORS
from service.embedding.embedder import Embedder
from service.embedding.manifest import Manifest
from service.embedding.prompts import InputType
from service.errors import UnknownModel


class ModelObject(msgspec.Struct, kw_only=True):
    """A name of the served model, and since when it is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(msgspec.Struct, kw_only=True):
    """All names of the served model."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


EXAMPLE = {
    "id": "embeddinggemma-300m-query",
    "object": "model",
    "created": 1767225600,
    "owned_by": "google/embeddinggemma-300m",
}


@get(
    "/v1/models",
    summary="List the names of the served model",
    tags=["models"],
    operation_id="listModels",
    responses={
        200: ResponseSpec(
            ModelList,
            generate_examples=False,
            description="The names by which the served model goes.",
            examples=[Example(value={"object": "list", "data": [EXAMPLE]})],
        )
    },
)
async def list_models(embedder: NamedDependency[Embedder]) -> ModelList:
    """The served model under its own name, and with the suffixes that choose a prompt."""
    return ModelList(data=[_describe(embedder, name) for name in _sides(embedder.manifest)])


@get(
    "/v1/models/{model:str}",
    summary="Describe one name of the served model",
    tags=["models"],
    operation_id="describeModel",
    responses={
        200: ResponseSpec(
            ModelObject,
            generate_examples=False,
            description="The model of this name.",
            examples=[Example(value=EXAMPLE)],
        ),
        400: OPENAI_ERRORS[400],
        404: OPENAI_ERRORS[404],
    },
)
async def describe_model(model: FromPath[str], embedder: NamedDependency[Embedder]) -> ModelObject:
    """The model of this name, if it is the one that is served."""
    side_of_model(embedder.manifest, model)
    return _describe(embedder, model)


def side_of_model(manifest: Manifest, model: str) -> InputType | None:
    """The side of retrieval that a model's name chooses; none where it has no suffix.

    Raises:
        UnknownModel: it is not a name of this model.
    """
    sides = _sides(manifest)
    if model not in sides:
        raise UnknownModel(
            f"model={model[:256]!r} is not served here; expected one of {', '.join(sides)}",
            parameter="model",
        )
    return sides[model]


def _sides(manifest: Manifest) -> dict[str, InputType | None]:
    name = manifest.name
    return {name: None, f"{name}-query": "query", f"{name}-document": "document"}


def _describe(embedder: Embedder, name: str) -> ModelObject:
    return ModelObject(id=name, created=embedder.loaded_at, owned_by=embedder.manifest.source.id)
