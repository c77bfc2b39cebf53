"""Every error that the service raises on purpose.

ServiceError
├── InvalidInput
│   ├── EmptyInput
│   ├── TextTooLong
│   ├── BatchTooLarge
│   ├── UnsupportedDimensions
│   ├── UnknownPrompt
│   ├── UnknownModel
│   ├── InvalidFilter
│   └── IdempotencyKeyReused
├── Unauthorized
├── Forbidden
│   └── MemoryLimitReached
├── RateLimited
├── MemoryNotFound
├── RelationNotFound
├── NotServed
├── Conflict
├── Overloaded
├── RequestTooSlow
├── DeadlineExceeded
├── InferenceError
├── StoreUnavailable
└── StartupError
    ├── ModelLoadError
    ├── StoreLoadError
    │   └── StoreInUse
    ├── EmbeddingModelMismatch
    ├── UnusableFile
    └── InvalidSettings

A message says what was expected, what came, and what to do.
"""

from collections.abc import Sequence


class ServiceError(Exception):
    """Base of all errors that the service raises on purpose."""


class InvalidInput(ServiceError):
    """The request cannot be answered as it stands.

    `parameter` names the field at fault, and `position` the text, where it is one of several.
    """

    def __init__(
        self, message: str, *, parameter: str | None = None, position: int | None = None
    ) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.position = position


class EmptyInput(InvalidInput):
    """There is no text to embed."""


class TextTooLong(InvalidInput):
    """A text has more tokens than the model reads, and truncation was not asked for."""


class BatchTooLarge(InvalidInput):
    """One request holds more texts than the service takes at once."""


class UnsupportedDimensions(InvalidInput):
    """The model was not trained for embeddings of this size."""

    def __init__(self, dimensions: int, *, supported: Sequence[int]) -> None:
        sizes = ", ".join(map(str, supported))
        super().__init__(f"dimensions={dimensions} is not one of {sizes}", parameter="dimensions")


class UnknownPrompt(InvalidInput):
    """The model has no prompt of this name."""


class UnknownModel(InvalidInput):
    """The request asks for a model that is not the one served here."""


class InvalidFilter(InvalidInput):
    """A filter is not one; the message names the place in it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, parameter="filter")


class IdempotencyKeyReused(InvalidInput):
    """The idempotency key was used for another request."""


class Unauthorized(ServiceError):
    """The request has no API key, or one that is not valid."""


class Forbidden(ServiceError):
    """The API key does not allow what the request asks for."""


class MemoryLimitReached(Forbidden):
    """The API key allows no more memories than there are."""


class RateLimited(ServiceError):
    """The API key was used too much; the same request can succeed after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class MemoryNotFound(ServiceError):
    """There is no memory of this id, or none at the time that was asked for."""


class RelationNotFound(ServiceError):
    """There is no such relation."""


class NotServed(ServiceError):
    """What is asked for is known, and is not done here; the message says why."""


class Conflict(ServiceError):
    """What is kept already stands against the request, which changed nothing."""


class Overloaded(ServiceError):
    """The queue is full; the same request can succeed after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RequestTooSlow(ServiceError):
    """The body of a request took too long to arrive."""


class DeadlineExceeded(ServiceError):
    """The embeddings were not ready in the time that the request allows."""


class InferenceError(ServiceError):
    """ONNX Runtime failed on valid input; `position` is that of the text, where it is known."""

    def __init__(self, reason: str, *, position: int | None = None) -> None:
        super().__init__(reason if position is None else f"{reason} text {position}")
        self.reason = reason
        self.position = position


class StoreUnavailable(ServiceError):
    """The store does not answer; the same request can succeed after `retry_after` seconds."""

    def __init__(self, message: str, *, retry_after: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StartupError(ServiceError):
    """The service cannot start; never seen by a client."""


class ModelLoadError(StartupError):
    """A bundle is missing, damaged, or not for this machine."""


class StoreLoadError(StartupError):
    """A store is damaged, in use, of a newer version, or not what the settings say."""


class StoreInUse(StoreLoadError):
    """Another process has the store open."""


class EmbeddingModelMismatch(StartupError):
    """A store was filled with the embeddings of another model."""


class UnusableFile(StartupError):
    """A file that a command is given cannot be read, written, or gone on with."""


class InvalidSettings(StartupError):
    """A setting is unknown, malformed or contradicts another."""
