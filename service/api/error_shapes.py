"""How an error is written: each protocol's clients parse a shape of their own."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import msgspec
from litestar import Response

from service.telemetry.running_request import running_request

Shape = Literal["problem", "openai", "tei", "cohere", "mem0"]

OpenAIType = Literal["invalid_request_error", "rate_limit_error", "server_error"]
TeiType = Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Empty"]


class Problem(NamedTuple):
    """What went wrong: a stable name for programs, and the status outside of the protocols."""

    code: str
    status: int


class ProblemDocument(msgspec.Struct):
    """An error as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str | msgspec.UnsetType = msgspec.UNSET
    """As the header `X-Request-ID` has it, and the log."""


class OpenAIErrorBody(msgspec.Struct):
    """What went wrong, and with which field of the request."""

    message: str
    type: OpenAIType
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorBody


class TeiError(msgspec.Struct):
    """An error as clients of text-embeddings-inference read it."""

    error: str
    error_type: TeiType


class Mem0Error(msgspec.Struct):
    """An error as mem0's clients read it."""

    detail: str
    code: str


class CohereError(msgspec.Struct):
    """An error as Cohere's clients read it."""

    message: str


BODIES: dict[Shape, type[msgspec.Struct]] = {
    "problem": ProblemDocument,
    "openai": OpenAIError,
    "tei": TeiError,
    "cohere": CohereError,
    "mem0": Mem0Error,
}


def shape_of(path: str) -> Shape:
    """The shape of errors under a path, whether or not there is a route."""
    match path.strip("/").split("/"):
        case ["v1", *_] | ["embeddings"]:
            return "openai"
        case ["" | "embed" | "embed_all" | "similarity" | "tokenize" | "decode"]:
            return "tei"
        case ["v2", "embed"]:
            return "cohere"
        case ["mem0", *_]:
            return "mem0"
        case _:
            return "problem"


def media_type_of(shape: Shape) -> str:
    """The media type of errors of this shape."""
    return "application/problem+json" if shape == "problem" else "application/json"


def write(
    shape: Shape,
    problem: Problem,
    detail: str,
    *,
    parameter: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    """The response that describes a problem; `parameter` is the field of the request at fault."""
    status, body = _WRITERS[shape](problem, detail, parameter)
    return Response(
        msgspec.json.encode(body),
        status_code=status,
        media_type=media_type_of(shape),
        headers=headers,
    )


def _problem(problem: Problem, detail: str, _: str | None) -> tuple[int, ProblemDocument]:
    request = running_request.get()
    return problem.status, ProblemDocument(
        type=f"urn:ai-memory-service:{problem.code}",
        title=problem.code.replace("_", " ").capitalize(),
        status=problem.status,
        detail=detail,
        code=problem.code,
        request_id=request.id if request else msgspec.UNSET,
    )


def _openai(problem: Problem, detail: str, parameter: str | None) -> tuple[int, OpenAIError]:
    type_: OpenAIType = "invalid_request_error"
    if problem.status == 429:
        type_ = "rate_limit_error"
    elif problem.status >= 500:
        type_ = "server_error"
    body = OpenAIErrorBody(detail, type_, parameter, problem.code)
    return 400 if problem.status == 422 else problem.status, OpenAIError(body)


def _tei(problem: Problem, detail: str, _: str | None) -> tuple[int, TeiError]:
    match problem:
        case Problem("empty_input"):
            return 400, TeiError(detail, "Empty")
        case Problem("inference_failed"):
            return 424, TeiError(detail, "Backend")
        case Problem(_, 429):
            return 429, TeiError(detail, "Overloaded")
        case Problem(_, 503):
            return 503, TeiError(detail, "Unhealthy")
        case Problem(_, status) if status >= 500:
            return status, TeiError(detail, "Backend")
        case Problem(_, status):
            return status, TeiError(detail, "Validation")


def _cohere(problem: Problem, detail: str, _: str | None) -> tuple[int, CohereError]:
    return 400 if problem.status == 422 else problem.status, CohereError(detail)


def _mem0(problem: Problem, detail: str, _: str | None) -> tuple[int, Mem0Error]:
    return problem.status, Mem0Error(detail, problem.code)


_WRITERS: dict[Shape, Callable[[Problem, str, str | None], tuple[int, Any]]] = {
    "problem": _problem,
    "openai": _openai,
    "tei": _tei,
    "cohere": _cohere,
    "mem0": _mem0,
}
