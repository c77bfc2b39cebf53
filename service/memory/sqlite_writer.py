"""The one thread that writes to a SQLite database, many calls in one transaction.

A commit waits for the disk, and meanwhile other calls arrive: they are the next transaction. Each
call has a savepoint, so that one that fails takes back only its own writes. What a transaction
changes in memory is published when it is written, and only then do its callers hear of it.
"""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from service.errors import ServiceError, StoreUnavailable
from service.memory.matrix import Effects, merge

logger = logging.getLogger(__name__)

# How many memories one transaction writes, beyond what a single call brings: so that nobody waits
# much longer than for a call of the largest size.
MAX_GROUP = 1_000

T = TypeVar("T")


class Transaction(NamedTuple):
    """What a call writes with, and where it leaves what it changes of the matrix."""

    connection: sqlite3.Connection
    change: int
    """The number of this transaction."""
    effects: Effects


Operation = Callable[[Transaction], T]


@contextmanager
def translated_errors() -> Iterator[None]:
    """SQLite's errors that are not about the statement as the service's own.

    Raises:
        StoreUnavailable: the disk is full or fails, or the file is damaged.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not _is_unavailable(error):
            raise
        raise StoreUnavailable(f"the database does not answer: {error}") from error


class Writer:
    """A queue of calls and the thread that carries them out."""

    def __init__(
        self, connection: sqlite3.Connection, publish: Callable[[int, Effects], None]
    ) -> None:
        self._connection = connection
        self._publish = publish
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name="sqlite-writer")
        # The rest is read and written under this condition, which says that something is waiting.
        self._changed = threading.Condition()
        self._waiting: deque[_Call] = deque()
        self.closed = ""
        """Why nothing more is written, if so."""

    def start(self) -> None:
        """Begin to write; `close` has to follow."""
        self._thread.start()

    async def write(self, operation: Operation[T], *, memories: int = 1) -> T:
        """What the operation gives, once what it wrote is durable and published.

        It writes about this many memories. A cancelled call is carried out whole or not at all.

        Raises:
            StoreUnavailable: the database does not answer; nothing was written.
        """
        call = _Call(operation, memories, self._loop.create_future())
        with self._changed:
            if self.closed:
                raise StoreUnavailable(self.closed)
            self._waiting.append(call)
            self._changed.notify()
        result: T = await call.answer
        return result

    async def close(self) -> None:
        """Carry out what is waiting, and nothing after it."""
        self._stop("the store is closed")
        await asyncio.to_thread(self._thread.join)

    def _stop(self, reason: str) -> None:
        with self._changed:
            self.closed = self.closed or reason
            self._changed.notify()

    def _work(self) -> None:
        while group := self._next_group():
            try:
                results = self._transact(group)
            except Exception as error:
                # The database may be ahead of what is published, so nothing can follow.
                logger.exception("writing has stopped")
                self._stop(f"writing has stopped, restart the service: {error!r}")
                group += self._waiting
                self._waiting.clear()
                results = [StoreUnavailable(self.closed) for _ in group]
            self._loop.call_soon_threadsafe(_answer, group, results)

    def _next_group(self) -> "list[_Call]":
        with self._changed:
            while True:
                group: list[_Call] = []
                memories = 0
                while self._waiting and (not group or memories < MAX_GROUP):
                    call = self._waiting.popleft()
                    if not call.answer.cancelled():
                        group.append(call)
                        memories += call.memories
                if group or self.closed:
                    return group
                self._changed.wait()

    def _transact(self, group: "Sequence[_Call]") -> list[Any]:
        connection = self._connection
        effects: Effects = {}
        try:
            connection.execute("BEGIN IMMEDIATE")
            (change,) = connection.execute(
                "UPDATE meta SET value = value + 1 WHERE name = 'change' RETURNING value"
            ).fetchone()
            results = [self._carry_out(call, change, effects) for call in group]
            connection.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            logger.error("a transaction of %d calls failed: %s", len(group), error)
            return [StoreUnavailable(f"the database does not answer: {error}") for _ in group]
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        self._publish(change, effects)
        return results

    def _carry_out(self, call: "_Call", change: int, effects: Effects) -> Any:
        connection = self._connection
        own_effects: Effects = {}
        connection.execute("SAVEPOINT call")
        try:
            result = call.operation(Transaction(connection, change, own_effects))
        except Exception as error:
            if isinstance(error, sqlite3.DatabaseError) and _is_unavailable(error):
                raise
            if not isinstance(error, ServiceError):
                logger.error("a call failed", exc_info=error)
            connection.execute("ROLLBACK TO call")
            result = error
        else:
            merge(effects, own_effects)
        connection.execute("RELEASE call")
        return result


class _Call(NamedTuple):
    operation: Operation[Any]
    memories: int
    answer: asyncio.Future[Any]


def _is_unavailable(error: sqlite3.DatabaseError) -> bool:
    # Of the class itself are damaged files; its other subclasses are mistakes in the statements.
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _answer(group: Sequence[_Call], results: Sequence[Any]) -> None:
    for call, result in zip(group, results, strict=True):
        if call.answer.done():  # cancelled meanwhile
            continue
        if isinstance(result, Exception):
            call.answer.set_exception(result)
        else:
            call.answer.set_result(result)
