"""What mem0's platform and its server have and this service has not, answered with the reason."""

from litestar import HttpMethod, route
from litestar.handlers import BaseRouteHandler

from service.errors import NotServed

METHODS = [HttpMethod.GET, HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE]

LANGUAGE_MODEL = "it needs a language model, and there is none here"

REASONS = {
    "/v1/exports": "there are no exports by schema; GET /export gives all memories",
    "/v1/exports/get": "there are no exports by schema; GET /export gives all memories",
    "/v1/summary": LANGUAGE_MODEL,
    "/v1/feedback": "nothing learns from feedback here",
    "/v1/events": "memories are there at once; there are no events to wait for",
    "/v1/event/{rest:path}": "memories are there at once; there are no events to wait for",
    "/v2/profiles/{rest:path}": LANGUAGE_MODEL,
    "/v2/entities/{kind:str}/{name:str}/profile": LANGUAGE_MODEL,
    "/api/v1/webhooks/{rest:path}": "there are no webhooks here",
    "/api/v1/orgs/{rest:path}": "there are no projects here; a key has one tenant",
    "/configure": "the settings are environment variables; service/README.md lists them",
    "/configure/providers": "the settings are environment variables; service/README.md lists them",
    "/generate-instructions": LANGUAGE_MODEL,
}


def _refusing(path: str, reason: str) -> BaseRouteHandler:
    @route(f"/mem0{path}", http_method=METHODS, include_in_schema=False)
    async def refuse() -> None:
        raise NotServed(reason)

    return refuse


NOT_SERVED = [_refusing(path, reason) for path, reason in REASONS.items()]
