"""Errors to responses: in OpenAI's shape under /v1, as RFC 9457 problem documents elsewhere."""

import logging
import math
from typing import Any, Literal, NamedTuple

import msgspec
from litestar import Request, Response
from litestar.enums import ParamType
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi import ResponseSpec

from service.errors import (
    BatchTooLarge,
    Conflict,
    DeadlineExceeded,
    EmptyInput,
    Forbidden,
    IdempotencyKeyReused,
    InferenceError,
    InvalidFilter,
    InvalidInput,
    MemoryNotFound,
    Overloaded,
    RelationNotFound,
    ServiceError,
    StoreUnavailable,
    TextTooLong,
    Unauthorized,
    UnknownModel,
    UnknownPrompt,
    UnsupportedDimensions,
)

logger = logging.getLogger(__name__)

OpenAIType = Literal["invalid_request_error", "rate_limit_error", "server_error"]

# No status was registered for it; nginx writes this one when nobody is left to answer.
CLIENT_CLOSED_REQUEST = 499


class Problem(NamedTuple):
    """How one class of errors is answered."""

    code: str
    status: int
    openai_status: int
    openai_type: OpenAIType


PROBLEMS: dict[type[ServiceError], Problem] = {
    InvalidInput: Problem("invalid_input", 422, 400, "invalid_request_error"),
    EmptyInput: Problem("empty_input", 422, 400, "invalid_request_error"),
    TextTooLong: Problem("text_too_long", 422, 400, "invalid_request_error"),
    BatchTooLarge: Problem("batch_too_large", 422, 400, "invalid_request_error"),
    UnsupportedDimensions: Problem("unsupported_dimensions", 422, 400, "invalid_request_error"),
    UnknownPrompt: Problem("unknown_prompt", 422, 400, "invalid_request_error"),
    UnknownModel: Problem("model_not_found", 404, 404, "invalid_request_error"),
    InvalidFilter: Problem("invalid_filter", 422, 400, "invalid_request_error"),
    IdempotencyKeyReused: Problem("idempotency_key_reused", 422, 400, "invalid_request_error"),
    Unauthorized: Problem("invalid_api_key", 401, 401, "invalid_request_error"),
    Forbidden: Problem("forbidden", 403, 403, "invalid_request_error"),
    MemoryNotFound: Problem("memory_not_found", 404, 404, "invalid_request_error"),
    RelationNotFound: Problem("relation_not_found", 404, 404, "invalid_request_error"),
    Conflict: Problem("conflict", 409, 409, "invalid_request_error"),
    StoreUnavailable: Problem("store_unavailable", 503, 503, "server_error"),
    Overloaded: Problem("overloaded", 429, 429, "rate_limit_error"),
    DeadlineExceeded: Problem("deadline_exceeded", 504, 504, "server_error"),
    InferenceError: Problem("inference_failed", 500, 500, "server_error"),
}


# Of the errors that Litestar raises; the standard library's names change between Python versions.
CODES = {
    404: "not_found",
    405: "method_not_allowed",
    413: "body_too_large",
    415: "unsupported_media_type",
}


class ClientDisconnected(Exception):
    """The client went away before its answer was ready."""


class OpenAIErrorBody(msgspec.Struct):
    """What went wrong, and with which field of the request."""

    message: str
    type: OpenAIType
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorBody


class ProblemDocument(msgspec.Struct):
    """An error as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    code: str


OPENAI_ERRORS = {
    400: ResponseSpec(
        OpenAIError,
        generate_examples=False,
        description="The request cannot be answered as it stands; `message` says why.",
    ),
    404: ResponseSpec(
        OpenAIError, generate_examples=False, description="Another model is served here."
    ),
    429: ResponseSpec(
        OpenAIError,
        generate_examples=False,
        description="The queue is full; `Retry-After` says when there should be room.",
    ),
    500: ResponseSpec(
        OpenAIError, generate_examples=False, description="The model failed; the log says why."
    ),
    504: ResponseSpec(
        OpenAIError,
        generate_examples=False,
        description="It was not done in the time that the request allows.",
    ),
}


def problem_spec(description: str) -> ResponseSpec:
    """How a route documents that it answers with a problem."""
    return ResponseSpec(
        ProblemDocument,
        generate_examples=False,
        media_type="application/problem+json",
        description=description,
    )


MEMORY_ERRORS = {
    404: problem_spec("There is no such memory."),
    409: problem_spec("What is kept already stands against it; nothing was written."),
    422: problem_spec("The request is not valid; `detail` names the place. Nothing was written."),
    429: problem_spec("The queue is full; `Retry-After` says when there should be room."),
    503: problem_spec("The store does not answer; repeat the request after `Retry-After` seconds."),
}


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The response to any exception that reaches the edge."""
    match error:
        # The second is what Litestar raises where the client goes away while it sends.
        case (
            ClientDisconnected() | InternalServerException(detail="client disconnected prematurely")
        ):
            return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
        case Overloaded() | StoreUnavailable():
            seconds = max(1, math.ceil(error.retry_after))
            return answer(request, _row(error), str(error), headers={"Retry-After": str(seconds)})
        case Unauthorized():
            return answer(request, _row(error), str(error), headers={"WWW-Authenticate": "Bearer"})
        case InvalidInput():
            return answer(request, _row(error), str(error), parameter=error.parameter)
        case ServiceError() if type(error) in PROBLEMS:
            return answer(request, _row(error), str(error))
        case HTTPException() if error.status_code < 500:
            problem = _row_of_status(error.status_code)
            detail = _describe(request, error)
            return answer(request, problem, detail, headers=error.headers)
        case _:
            logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
            problem = Problem("internal_error", 500, 500, "server_error")
            return answer(request, problem, "the service failed; its log says why")


def answer(
    request: Request[Any, Any, Any],
    problem: Problem,
    detail: str,
    *,
    parameter: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[bytes]:
    """The response that describes a problem, in the shape that clients of this route parse."""
    if request.scope["path"].startswith("/v1/"):
        body = OpenAIErrorBody(detail, problem.openai_type, parameter, problem.code)
        return Response(
            msgspec.json.encode(OpenAIError(body)),
            status_code=problem.openai_status,
            media_type="application/json",
            headers=headers,
        )
    document = ProblemDocument(
        type=f"urn:ai-memory-service:{problem.code}",
        title=problem.code.replace("_", " ").capitalize(),
        status=problem.status,
        detail=detail,
        code=problem.code,
    )
    return Response(
        msgspec.json.encode(document),
        status_code=problem.status,
        media_type="application/problem+json",
        headers=headers,
    )


def _row(error: ServiceError) -> Problem:
    return PROBLEMS[type(error)]


def _row_of_status(status: int) -> Problem:
    code = CODES.get(status, "bad_request")
    return Problem(code, status, status, "invalid_request_error")


def _describe(request: Request[Any, Any, Any], error: HTTPException) -> str:
    path = request.scope["path"]
    match error.status_code:
        case 404:
            return f"there is no {path[:200]!r} here; /docs lists what there is"
        case 405:
            allowed = (error.headers or {}).get("allow", "another method")
            return f"expected {allowed}, got {request.method}"
        case 413:
            limit = request.app.request_max_body_size
            return f"expected a body of at most {limit:,} bytes; send it in several requests"
        case 400 if isinstance(error.extra, list):
            return "; ".join(_describe_field(**field) for field in error.extra)
        case _:
            return error.detail


def _describe_field(message: str, key: str = "", source: str = "") -> str:
    if source == "body":
        return "expected a JSON body, got an empty one"
    if source == ParamType.HEADER:
        return f"header {key.replace('_', '-')}: {message}"
    return f"{source.value if isinstance(source, ParamType) else source} {key}: {message}"
