"""Who may do what: the caller of a request, and what its route needs of a caller."""

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import copy
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from litestar.config.cors import CORSConfig
from litestar.datastructures import Headers
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from litestar.types import Scope as ASGIScope

from service.api.problems import refusal_specs
from service.api.rate_limits import Allowance, Allowances
from service.embedding.embedder import Embedder
from service.errors import Forbidden, Unauthorized
from service.keys import SCOPES, UNLIMITED, KeyFile, Scope
from service.memory.memories import Memories
from service.settings import DEFAULT_TENANT

# What a route needs: one of the scopes, any key at all, or nothing.
Access = Literal[Scope, "any key", "nothing"]

# How clients write the key: OpenAI's and most others, mem0's, and llama-index's for TEI.
_SCHEMES = ("bearer", "token", "")


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose memories a request sees, and what it may do; there may be no key that says so."""

    tenant: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    allowance: Allowance

    def require(self, scope: Scope) -> None:
        """Return if the caller has this scope.

        Raises:
            Forbidden: it has not.
        """
        if scope not in self.scopes:
            scopes = ", ".join(sorted(self.scopes))
            raise Forbidden(
                f"expected a key with the scope {scope}, got one with {scopes}; ask whoever runs "
                "the service for such a key"
            )

    def acting_for(self, tenant: str | None) -> str:
        """The tenant that is asked for, or the caller's own.

        Raises:
            Forbidden: it is another one's, and the caller has not the scope admin.
        """
        if tenant is not None and tenant != self.tenant:
            self.require("admin")
        return tenant or self.tenant

    @property
    def name(self) -> str:
        """Who it is, in the audit log."""
        return "anyone" if self.key_id is None else f"key {self.key_id}"


# What a request's key says of its caller.
Identify = Callable[[Headers], Caller]


def identify_without_keys(cors: CORSConfig | None) -> Identify:
    """Takes whoever is on this machine for one who may do everything, except for web pages.

    A page of elsewhere could otherwise write here by a form; and read here, too, when it has made
    a name of its own lead to this machine (DNS rebinding).
    """

    def identify(headers: Headers) -> Caller:
        urls = [f"//{headers.get('host', '')}"]
        origin = headers.get("origin")
        if origin is not None and not (cors and cors.is_origin_allowed(origin)):
            urls.append(origin)
        for url in urls:
            if not _is_this_machine(url):
                raise Forbidden(
                    "without API keys only http://localhost is served, and its pages, got "
                    f"{url.removeprefix('//')[:200]}; make a key with python -m service keys add"
                )
        return _ANYONE

    return identify


def identify_by_key(keys: KeyFile) -> Identify:
    """Finds callers by the keys that they send."""
    allowances = Allowances()

    def identify(headers: Headers) -> Caller:
        key = keys.find(_key_in(headers))
        if key is None:
            raise Unauthorized(
                "the API key is not valid: it is unknown, revoked or expired; ask whoever runs "
                "the service for another one"
            )
        return Caller(
            tenant=key.tenant,
            scopes=frozenset(key.scopes),
            key_id=key.id,
            allowance=allowances.of(key),
        )

    return identify


def guarded(routes: Mapping[Access, Iterable[BaseRouteHandler]]) -> Iterator[BaseRouteHandler]:
    """The routes, each with what it needs, for `admit` and for the OpenAPI document."""
    for access, handlers in routes.items():
        for given in handlers:
            handler = copy(given)
            handler.opt = {**given.opt, "access": access}
            if isinstance(handler, HTTPRouteHandler):
                if access == "nothing":
                    handler.security = [{}]
                else:
                    refusals = refusal_specs(min(handler.paths))
                    handler.responses = refusals | dict(handler.responses or {})
            yield handler


def admit(scope: ASGIScope) -> None:
    """Return if whoever sent the request of this ASGI scope has what its route needs.

    How a caller is identified is the application's state `identify`.

    Raises:
        Unauthorized: no valid key was sent.
        Forbidden: the key, or the machine that has none, may not do this.
        RateLimited: the key has used up its requests.
    """
    # Not as one of Litestar's guards: for each call of one it copies the handler.
    access: Access = scope["route_handler"].opt.get("access", "nothing")
    if access == "nothing":
        return
    identify: Identify = scope["litestar_app"].state.identify
    caller = scope["state"]["caller"] = identify(Headers.from_scope(scope))
    caller.allowance.take_request()
    if access != "any key":
        caller.require(access)


def caller_of(scope: ASGIScope) -> Caller:
    """Who sent the request of this ASGI scope, to a route that needs at least some key."""
    caller: Caller = scope["state"]["caller"]
    return caller


def memories_of(scope: ASGIScope) -> Memories:
    """The memories as the caller of this ASGI scope uses them: within the limits of its key."""
    memories: Memories = scope["litestar_app"].state.memories
    caller: Caller | None = scope["state"].get("caller")
    return memories if caller is None else memories.on_account(caller.allowance, by=caller.name)


def embedder_of(scope: ASGIScope) -> Embedder:
    """The embedder as the caller of this ASGI scope uses it: within the limits of its key."""
    memories: Memories = scope["litestar_app"].state.memories
    return memories.embedder.on_account(caller_of(scope).allowance)


def tenant_of(caller: NamedDependency[Caller]) -> str:
    """The only tenant whose memories a request sees."""
    return caller.tenant


@lru_cache(maxsize=16)  # few, since a header may be long
def _is_this_machine(url: str) -> bool:
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _key_in(headers: Headers) -> str:
    if authorization := headers.get("authorization"):
        scheme, _, key = authorization.rpartition(" ")
        if scheme.strip().lower() in _SCHEMES:
            return key
    if x_api_key := headers.get("x-api-key"):
        return x_api_key
    raise Unauthorized("expected an API key, got none; send it as Authorization: Bearer KEY")


_ANYONE = Caller(tenant=DEFAULT_TENANT, scopes=frozenset(SCOPES), allowance=Allowance(UNLIMITED))
