"""Statements and transactions on a Neo4j server that may go away and come back."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from neo4j import AsyncDriver, AsyncTransaction, Record

from service.errors import StoreUnavailable
from service.memory.neo4j_errors import DRIVER_ERRORS, can_be_repeated, translated_errors

Result = TypeVar("Result")

# What a caller waits at most for a server that is gone: repeating for so long, and the connection
# that is being made then.
REPEAT_SECONDS = 2.5
CONNECT_SECONDS = 2.0

# A statement that takes longer is waited for as long as the server answers others.
PATIENCE_SECONDS = 3.0

DRIVER_SETTINGS: dict[str, Any] = {
    "connection_timeout": CONNECT_SECONDS,
    "connection_write_timeout": 30.0,
    "connection_acquisition_timeout": 5.0,
    # Longer than a connection is likely to be cut off unnoticed by what lies in between.
    "liveness_check_timeout": 30.0,
    "max_transaction_retry_time": 0.0,
    "telemetry_disabled": True,
    "notifications_min_severity": "OFF",
    "user_agent": "ai-memory-service",
}


class Neo4jTransaction:
    """A transaction in which statements run one after the other."""

    def __init__(self, transaction: AsyncTransaction) -> None:
        self._transaction = transaction

    async def run(self, statement: str, **parameters: Any) -> list[Record]:
        """All rows of a statement."""
        result = await self._transaction.run(statement, parameters)
        return [record async for record in result]


Work = Callable[[Neo4jTransaction], Awaitable[Result]]


class Neo4jClient:
    """One database, through a driver that whoever made it closes.

    Every call raises StoreUnavailable when the server does not answer, within some five seconds,
    and works again when it does.
    """

    def __init__(self, driver: AsyncDriver, database: str) -> None:
        self._driver = driver
        self._database = database

    async def run(self, statement: str, **parameters: Any) -> list[Record]:
        """All rows of one statement, in a transaction of its own."""
        with translated_errors():
            return await self.run_untranslated(statement, **parameters)

    async def run_untranslated(self, statement: str, **parameters: Any) -> list[Record]:
        """As `run`, but with the driver's own errors."""

        async def attempt() -> list[Record]:
            # As for writing, so that in a cluster the leader answers, who knows every write.
            async with self._driver.session(database=self._database) as session:
                result = await session.run(statement, parameters)
                return [record async for record in result]

        return await self._answered(_repeated(attempt))

    async def write(self, work: Work[Result]) -> Result:
        """What the work gave whose transaction was committed; it may run several times.

        Work that ended in a commit whose answer was lost runs again, so it must know its own
        traces.
        """

        async def attempt() -> Result:
            async with (
                self._driver.session(database=self._database) as session,
                await session.begin_transaction() as transaction,
            ):
                result = await work(Neo4jTransaction(transaction))
                await transaction.commit()
                return result

        with translated_errors():
            return await self._answered(_repeated(attempt))

    async def _answered(self, call: Coroutine[Any, Any, Result]) -> Result:
        # A server that is cut off without a word leaves its connections waiting for ever.
        task = asyncio.create_task(call)
        try:
            while True:
                done, _ = await asyncio.wait({task}, timeout=PATIENCE_SECONDS)
                if done:
                    return task.result()
                await self._check_alive()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})

    async def _check_alive(self) -> None:
        try:
            async with (
                asyncio.timeout(CONNECT_SECONDS),
                self._driver.session(database=self._database) as session,
            ):
                await (await session.run("RETURN 1")).consume()
        except TimeoutError:
            raise StoreUnavailable("Neo4j does not answer") from None


async def _repeated(attempt: Callable[[], Awaitable[Result]]) -> Result:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REPEAT_SECONDS
    delay = 0.01
    while True:
        try:
            return await attempt()
        except DRIVER_ERRORS as error:
            if not can_be_repeated(error) or loop.time() + delay > deadline:
                raise
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(2 * delay, 0.5)
