"""Which web pages may use the service from a browser: none, unless their origins are set."""

import re

from litestar.config.cors import CORSConfig

from service.errors import InvalidSettings

_ORIGIN = re.compile(r"https?://[^/\s]+")

# What clients send and read besides what browsers always let pass; a wildcard leaves out the key.
REQUEST_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "Last-Event-ID",
    "Mcp-Protocol-Version",
    "Mcp-Session-Id",
    "X-API-Key",
    "X-Request-Id",
    "X-Request-Timeout-Ms",
]
RESPONSE_HEADERS = [
    "Location",
    "Mcp-Session-Id",
    "Retry-After",
    "Server-Timing",
    "WWW-Authenticate",
    "X-Request-Id",
]


def cors_of(origins: str | None) -> CORSConfig | None:
    """What browsers are told, for origins with commas between them; None where there are none.

    Raises:
        InvalidSettings: one of them is not an origin.
    """
    if origins is None:
        return None
    allowed = [origin.strip() for origin in origins.split(",")]
    for origin in allowed:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise InvalidSettings(
                f"MEMORY_CORS_ORIGINS: expected origins such as https://app.example.com, or *, got "
                f"{origin!r}"
            )
    return CORSConfig(
        allow_origins=allowed, allow_headers=REQUEST_HEADERS, expose_headers=RESPONSE_HEADERS
    )
