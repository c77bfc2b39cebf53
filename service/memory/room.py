"""Holds the number of a tenant's memories below the limit of a key."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from service.embedding.embedder import Account
from service.errors import MemoryLimitReached
from service.memory.store import MemoryStore, Selection


class MemoryAccount(Account, Protocol):
    """Who pays for what is embedded, and may have so many memories."""

    @property
    def max_memories(self) -> int | None:
        """How many there may be, superseded ones included; None: as many as the store can hold."""


@asynccontextmanager
async def room_for(
    ids: Sequence[str],
    selection: Selection,
    store: MemoryStore,
    *,
    limit: int | None,
    arriving: Counter[str],
) -> AsyncIterator[None]:
    """While memories of these ids are written: holds that at most so many are selected.

    `arriving` counts for each tenant what is being written, in this process.

    Raises:
        MemoryLimitReached: the new ones of them would be too many.
    """
    if limit is None:
        yield
        return
    new = (await store.get(selection, ids)).count(None)
    # Counted before the store is asked, so that of two that come at once none is missed.
    arriving[selection.tenant] += new
    try:
        there = await store.count(selection)
        if new and there + arriving[selection.tenant] > limit:
            raise MemoryLimitReached(
                f"expected at most {limit:,} memories, got {new:,} more than the {there:,} that "
                "there are, superseded ones included; forget some, or ask whoever runs the service "
                "for a key that allows more"
            )
        yield
    finally:
        arriving[selection.tenant] -= new
