"""Who may do what: the caller of a request, and the scope that its route needs."""

from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Any, Literal, get_args

import msgspec
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from litestar.types import Guard
from litestar.types import Scope as ASGIScope

from service.errors import Forbidden

Scope = Literal["embed", "read", "write", "admin"]

# What a route needs: one of the scopes, any key at all, or nothing.
Access = Scope | Literal["any key", "nothing"]

# The tenant of those who need no key.
DEFAULT_TENANT = "default"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose memories a request sees, and what it may do; there may be no key that says so."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None

    def require(self, scope: Scope) -> None:
        """Return if the caller has this scope.

        Raises:
            Forbidden: it has not.
        """
        if scope not in self.scopes:
            raise Forbidden(
                f"expected a key with the scope {scope}, got one with "
                f"{', '.join(sorted(self.scopes))}; ask whoever runs the service for another key"
            )


def guarded(routes: Mapping[Access, Iterable[BaseRouteHandler]]) -> Iterator[BaseRouteHandler]:
    """The routes, each of which refuses a caller that has not what it needs."""
    for access, handlers in routes.items():
        for given in handlers:
            handler = copy(given)
            handler.guards = _guards(access)
            yield handler


def caller_of(scope: ASGIScope) -> Caller:
    """Who sent the request of this ASGI scope, to a route that needs at least some key."""
    caller: Caller = scope["state"]["caller"]
    return caller


def tenant_of(caller: NamedDependency[Caller]) -> str:
    """The only tenant whose memories a request sees."""
    return caller.tenant


def _guards(access: Access) -> list[Guard]:
    if access == "nothing":
        return []

    def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        caller = Caller(tenant=DEFAULT_TENANT, scopes=frozenset(get_args(Scope)))
        connection.scope["state"]["caller"] = caller
        if access != "any key":
            caller.require(access)

    return [guard]
