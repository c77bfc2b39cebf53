"""The threads that read from a SQLite database, each with a connection of its own."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from service.errors import StoreUnavailable
from service.memory.sqlite_opening import connect_reader
from service.memory.sqlite_writer import translated_errors

THREADS = 4

T = TypeVar("T")


class Reader:
    """Reads without waiting for what is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(THREADS, "sqlite-reader")
        self._own = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """What the operation gives; all that it reads is of one state of the database.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._read, operation)

    async def close(self) -> None:
        """Finish what is being read, and nothing after it."""
        self._closed = True
        await asyncio.to_thread(self._threads.shutdown)
        for connection in self._connections:
            connection.close()

    def _read(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        with translated_errors():
            connection = self._connection()
            connection.execute("BEGIN")
            try:
                return operation(connection)
            finally:
                connection.execute("ROLLBACK")

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None:
            connection = self._own.connection = connect_reader(self._path)
            self._connections.append(connection)
        return connection
