"""Transactions that write: one at a time for each tenant, and only into a store of our model.

Several services may write to one database. Whoever writes changes the tenant's node first, which
locks it until the end of the transaction.
"""

import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from neo4j import Record

from service.errors import StoreUnavailable
from service.memory.neo4j_client import Neo4jClient, Neo4jTransaction
from service.memory.neo4j_schema import is_same_model, next_model, recorded_model
from service.memory.store import EmbeddingModel

Result = TypeVar("Result")

# A tenant's node has the numbers of its last writes, and with that tells whether one was committed
# whose answer was lost. It is looked for within seconds.
_LOCK = """
MATCH (t:Tenant {name: $tenant})
SET t.locked = true
WITH t, $write IN t.writes AS is_committed
SET t.writes = [$write] + t.writes[..99]
WITH is_committed
MATCH (s:Store {id: 'store'})
RETURN is_committed, properties(s) AS store
"""

# The node of the store is locked too, so that none appears while re-embedding begins.
_MAKE_TENANT = """
MATCH (s:Store {id: 'store'})
SET s.locked = true
WITH s
MERGE (t:Tenant {name: $tenant})
ON CREATE SET t.writes = []
"""

_PING = """
MATCH (s:Store {id: 'store'})
SET s.locked = true
RETURN properties(s) AS store
"""


class TenantLocks:
    """Runs what writes, under its tenant's lock, in a store that must be of a model."""

    def __init__(self, client: Neo4jClient, model: EmbeddingModel) -> None:
        self._client = client
        self._model = model

    async def write(
        self, tenant: str, work: Callable[[Neo4jTransaction], Awaitable[Result]]
    ) -> Result:
        """What the work gave that was committed, once.

        Raises:
            StoreUnavailable: the store is not of our model any more.
        """
        number = random.getrandbits(62)
        results: list[Result] = []

        async def locked(transaction: Neo4jTransaction) -> Result:
            parameters = {"tenant": tenant, "write": number}
            rows = await transaction.run(_LOCK, **parameters)
            if not rows:
                await transaction.run(_MAKE_TENANT, tenant=tenant)
                rows = await transaction.run(_LOCK, **parameters)
            self._check(rows)
            if not rows[0]["is_committed"]:
                results[:] = [await work(transaction)]
            return results[0]

        return await self._client.write(locked)

    async def check_writable(self) -> None:
        """Return if the store can be written, and is of our model.

        Raises:
            StoreUnavailable: it is not.
        """

        async def ping(transaction: Neo4jTransaction) -> list[Record]:
            return await transaction.run(_PING)

        self._check(await self._client.write(ping))

    def _check(self, rows: list[Record]) -> None:
        if not rows:
            raise StoreUnavailable("there is no store in the database any more", retry_after=60)
        store: dict[str, Any] = rows[0]["store"]
        if next_model(store) is not None or not is_same_model(self._model, recorded_model(store)):
            raise StoreUnavailable(
                "the store's embeddings are being exchanged, or were, for those of another model; "
                "start the service again with that model",
                retry_after=60,
            )
