"""Errors to responses: which problem each is, and what is said of it."""

import logging
import math
from typing import Any

from litestar import HttpMethod, Request, Response
from litestar.enums import ParamType
from litestar.exceptions import HTTPException, InternalServerException
from litestar.openapi import ResponseSpec

from service.api.error_shapes import (
    BODIES,
    CohereError,
    Mem0Error,
    OpenAIError,
    Problem,
    ProblemDocument,
    TeiError,
    media_type_of,
    shape_of,
    write,
)
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
    MemoryLimitReached,
    MemoryNotFound,
    NotServed,
    Overloaded,
    RateLimited,
    RelationNotFound,
    RequestTooSlow,
    ServiceError,
    StoreUnavailable,
    TextTooLong,
    Unauthorized,
    UnknownModel,
    UnknownPrompt,
    UnsupportedDimensions,
)
from service.telemetry.running_request import note_problem

logger = logging.getLogger(__name__)

Specs = dict[int, ResponseSpec]

# No status was registered for it; nginx writes this one when nobody is left to answer.
CLIENT_CLOSED_REQUEST = 499


PROBLEMS: dict[type[ServiceError], Problem] = {
    InvalidInput: Problem("invalid_input", 422),
    EmptyInput: Problem("empty_input", 422),
    TextTooLong: Problem("text_too_long", 422),
    BatchTooLarge: Problem("batch_too_large", 422),
    UnsupportedDimensions: Problem("unsupported_dimensions", 422),
    UnknownPrompt: Problem("unknown_prompt", 422),
    UnknownModel: Problem("model_not_found", 404),
    InvalidFilter: Problem("invalid_filter", 422),
    IdempotencyKeyReused: Problem("idempotency_key_reused", 422),
    Unauthorized: Problem("invalid_api_key", 401),
    Forbidden: Problem("forbidden", 403),
    MemoryLimitReached: Problem("memory_limit_reached", 403),
    RateLimited: Problem("rate_limited", 429),
    MemoryNotFound: Problem("memory_not_found", 404),
    RelationNotFound: Problem("relation_not_found", 404),
    Conflict: Problem("conflict", 409),
    NotServed: Problem("not_served", 501),
    StoreUnavailable: Problem("store_unavailable", 503),
    Overloaded: Problem("overloaded", 429),
    RequestTooSlow: Problem("request_too_slow", 408),
    DeadlineExceeded: Problem("deadline_exceeded", 504),
    InferenceError: Problem("inference_failed", 500),
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


TOO_MUCH = (
    "The queue is full, or a limit of the API key is reached; `Retry-After` says when there should "
    "be room."
)

EMBEDDING_ERRORS = {
    400: "The request cannot be answered as it stands; the message says why.",
    404: "Another model is served here.",
    422: "The request is not valid; the message says why.",
    424: "The model failed; the log says why.",
    429: TOO_MUCH,
    500: "The model failed; the log says why.",
    504: "It was not done in the time that the request allows.",
}


def _specs(body: type[OpenAIError | TeiError | CohereError], *statuses: int) -> Specs:
    return {
        status: ResponseSpec(body, generate_examples=False, description=EMBEDDING_ERRORS[status])
        for status in statuses
    }


OPENAI_ERRORS = _specs(OpenAIError, 400, 404, 429, 500, 504)
TEI_ERRORS = _specs(TeiError, 400, 422, 424, 429, 504)
COHERE_ERRORS = _specs(CohereError, 400, 404, 429, 500, 504)


def problem_spec(description: str) -> ResponseSpec:
    """How a route documents that it answers with a problem."""
    return ResponseSpec(
        ProblemDocument,
        generate_examples=False,
        media_type="application/problem+json",
        description=description,
    )


def refusal_specs(path: str) -> Specs:
    """How a route at this path documents that not everyone may use it."""
    shape = shape_of(path)
    return {
        status: ResponseSpec(
            BODIES[shape],
            generate_examples=False,
            media_type=media_type_of(shape),
            description=description,
        )
        for status, description in {
            401: "There is no API key, or one that is not valid.",
            403: "The API key does not allow it; the message says what is missing.",
            429: TOO_MUCH,
        }.items()
    }


MEMORY_ERRORS = {
    400: problem_spec("The request cannot be read: not JSON, or a parameter of another type."),
    404: problem_spec("There is no such memory."),
    409: problem_spec("What is kept already stands against it; nothing was written."),
    422: problem_spec("The request is not valid; `detail` names the place. Nothing was written."),
    429: problem_spec(TOO_MUCH),
    503: problem_spec("The store does not answer; repeat the request after `Retry-After` seconds."),
}


MEM0_ERRORS = {
    status: ResponseSpec(Mem0Error, generate_examples=False, description=description)
    for status, description in {
        **{status: spec.description for status, spec in MEMORY_ERRORS.items()},
        501: "It needs something that there is not here; the message says what.",
    }.items()
}


def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """The response to any exception that reaches the edge."""
    match error:
        # The second is what Litestar raises where the client goes away while it sends.
        case (
            ClientDisconnected() | InternalServerException(detail="client disconnected prematurely")
        ):
            return Response(b"", status_code=CLIENT_CLOSED_REQUEST)
        case Overloaded() | RateLimited() | StoreUnavailable():
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
            # By its route, as in the line that each request has: a path can name users.
            route = request.scope.get("path_template")
            logger.error("%s %s failed", request.method, route, exc_info=error)
            problem = Problem("internal_error", 500)
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
    note_problem(problem.code)
    shape = shape_of(request.scope["path"])
    return write(shape, problem, detail, parameter=parameter, headers=headers)


def _row(error: ServiceError) -> Problem:
    return PROBLEMS[type(error)]


def _row_of_status(status: int) -> Problem:
    code = CODES.get(status, "bad_request")
    return Problem(code, status)


def _describe(request: Request[Any, Any, Any], error: HTTPException) -> str:
    path = request.scope["path"]
    match error.status_code:
        case 404:
            return f"there is no {path[:200]!r} here; /docs lists what there is"
        case 405:
            methods = (error.headers or {}).get("allow", "another method").split(", ")
            useful = [method for method in methods if method != HttpMethod.OPTIONS]
            return f"expected {', '.join(useful)}, got {request.method}"
        case 413:
            limit = request.route_handler.resolve_request_max_body_size()
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
