"""OPTIONS: which methods a path takes."""

from collections import defaultdict
from collections.abc import Iterable, Iterator

from litestar import HttpMethod, Response, route
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler


def answering_options(handlers: Iterable[BaseRouteHandler]) -> Iterator[HTTPRouteHandler]:
    """What answers OPTIONS on the paths of these handlers, and has to come before them.

    Litestar 2 by itself names the methods of one handler only, where a path has several
    (https://github.com/litestar-org/litestar/issues/4169).
    """
    methods: defaultdict[str, set[str]] = defaultdict(lambda: {HttpMethod.OPTIONS.value})
    for handler in handlers:
        if isinstance(handler, HTTPRouteHandler):
            for path in handler.paths:
                methods[path].update(handler.http_methods)
    for path, allowed in methods.items():
        yield _answering(path, ", ".join(sorted(allowed)))


def _answering(path: str, allow: str) -> HTTPRouteHandler:
    @route(path, http_method=[HttpMethod.OPTIONS], status_code=204, include_in_schema=False)
    async def answer() -> Response[None]:
        return Response(None, headers={"Allow": allow})

    return answer
