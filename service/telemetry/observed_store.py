"""A store that tells how long each operation takes and which fail."""

import inspect
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

from service.errors import ServiceError, StoreUnavailable
from service.memory.store import MemoryStore

OPERATIONS = tuple(
    name
    for name, _ in inspect.getmembers(MemoryStore, inspect.iscoroutinefunction)
    if not name.startswith("_")
)

# Called with an operation that has ended, its seconds, and whether it failed; it must not raise.
OnStoreCall = Callable[[str, float, bool], None]


def observed_store(store: MemoryStore, on_call: OnStoreCall) -> MemoryStore:
    """The same store. What it refuses for a reason of the request's is not a failure."""
    calls = {name: _observed(name, getattr(store, name), on_call) for name in OPERATIONS}
    return cast(MemoryStore, SimpleNamespace(**calls))


def _observed(
    operation: str, call: Callable[..., Awaitable[Any]], on_call: OnStoreCall
) -> Callable[..., Awaitable[Any]]:
    async def observed(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        failed = False
        try:
            return await call(*given, **named)
        except Exception as error:
            failed = isinstance(error, StoreUnavailable) or not isinstance(error, ServiceError)
            raise
        finally:
            on_call(operation, time.perf_counter() - started, failed)

    return observed
