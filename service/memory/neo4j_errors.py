"""Errors of the Neo4j driver, translated to the service's; no other file names them."""

from collections.abc import Iterator
from contextlib import contextmanager

from neo4j.exceptions import (
    AuthError,
    ClientError,
    ConstraintError,
    DriverError,
    IncompleteCommit,
    Neo4jError,
)

from service.errors import StoreLoadError, StoreUnavailable

DRIVER_ERRORS = (DriverError, Neo4jError, OSError)

# A node that another transaction deleted since this one matched it.
_ENTITY_NOT_FOUND = "Neo.ClientError.Statement.EntityNotFound"

# What two processes meet that make the same schema at the same time.
_SCHEMA_EXISTS = (
    "Neo.ClientError.Schema.EquivalentSchemaRuleAlreadyExists",
    "Neo.ClientError.Schema.IndexAlreadyExists",
    "Neo.ClientError.Schema.ConstraintAlreadyExists",
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """What the driver raises inside becomes StoreUnavailable."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise StoreUnavailable(f"Neo4j did not answer as expected: {_told(error)}") from error


@contextmanager
def translated_opening_errors(address: str) -> Iterator[None]:
    """What the driver raises while a store is opened becomes StoreLoadError."""
    try:
        yield
    except AuthError as error:
        raise StoreLoadError(
            f"Neo4j at {address} refused the login; check NEO4J_USERNAME and NEO4J_PASSWORD"
        ) from error
    except StoreUnavailable as error:
        raise StoreLoadError(f"Neo4j at {address} could not be reached: {error}") from error
    except (*DRIVER_ERRORS, ValueError) as error:  # ValueError: not a URI
        raise StoreLoadError(
            f"Neo4j at {address} could not be opened: {_told(error)}; check the store's URI, "
            "NEO4J_DATABASE and that the server runs"
        ) from error


def can_be_repeated(error: BaseException) -> bool:
    """Whether the same transaction, from its beginning, can succeed."""
    match error:
        case IncompleteCommit() | ConstraintError() | OSError():
            return True
        case ClientError(code=code) if code == _ENTITY_NOT_FOUND or code in _SCHEMA_EXISTS:
            return True
        case DriverError() | Neo4jError():
            return error.is_retryable()
        case _:
            return False


def _told(error: Exception) -> str:
    if isinstance(error, Neo4jError):
        return f"{error.code}: {error.message}"
    return f"{type(error).__name__}: {error}"
