"""Refuses bodies that are compressed: how large they become is known only afterwards."""

from typing import Any

from litestar import Request
from litestar.exceptions import HTTPException


def refuse_compressed(request: Request[Any, Any, Any]) -> None:
    """Return if the body is sent as it is.

    Raises:
        HTTPException: it is not.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise HTTPException(
            f"expected a body without Content-Encoding, got {encoding[:100]}; send it uncompressed",
            status_code=415,
        )
