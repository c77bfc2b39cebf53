"""Exchanging all embeddings of a store for those of another model, place by place."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import EmbeddingModelMismatch, StoreUnavailable
from service.memory.neo4j_changes import batches, sent
from service.memory.neo4j_client import Neo4jClient, Neo4jTransaction
from service.memory.neo4j_errors import translated_errors
from service.memory.neo4j_schema import (
    Server,
    drop_embedding_index,
    is_same_model,
    next_model,
    open_embedding_index,
)
from service.memory.store import EmbeddingModel, checked_embeddings

# Whoever writes to a tenant now ends before, and sees after what the store is about.
_START = """
MATCH (s:Store {id: 'store'})
SET s.locked = true
WITH s
SET s.next_name = coalesce(s.next_name, $name),
    s.next_digest = coalesce(s.next_digest, $digest),
    s.next_dimensions = coalesce(s.next_dimensions, $dimensions)
WITH s
CALL (s) {
  MATCH (t:Tenant)
  WITH t ORDER BY t.name
  SET t.locked = true
}
RETURN properties(s) AS store
"""

_REPLACE = """
UNWIND $rows AS row
MATCH (m:Memory {tenant: $tenant, id: row.id})
CALL db.create.setNodeVectorProperty(m, 'embedding', row.embedding)
"""

_READ = "MATCH (s:Store {id: 'store'}) RETURN properties(s) AS store"
_SET_PLACE = """
MATCH (s:Store {id: 'store'})
SET s.place_tenant = $tenant, s.place_id = $id
"""

_FINISH = """
MATCH (s:Store {id: 'store'})
SET s.model_name = s.next_name, s.model_digest = s.next_digest, s.dimensions = s.next_dimensions
REMOVE s.next_name, s.next_digest, s.next_dimensions, s.place_tenant, s.place_id
"""


class ReEmbedding:
    """What the three calls of re-embedding do; see MemoryStore."""

    def __init__(self, client: Neo4jClient, server: Server) -> None:
        self._client = client
        self._server = server

    async def start(self, model: EmbeddingModel) -> tuple[str, str] | None:
        """Begin, or go on behind the place that is given."""

        async def work(transaction: Neo4jTransaction) -> dict[str, Any]:
            rows = await transaction.run(
                _START, name=model.name, digest=model.digest, dimensions=model.dimensions
            )
            store: dict[str, Any] = rows[0]["store"]
            coming = next_model(store)
            if coming is None or not is_same_model(coming, model):
                raise EmbeddingModelMismatch(
                    f"the store's embeddings are being exchanged for those of "
                    f"{coming.name if coming else 'none'}; finish that before"
                )
            return store

        store = await self._client.write(work)
        # No search is made meanwhile, and an index is made faster than it is kept up.
        with translated_errors():
            await drop_embedding_index(self._client)
        if "place_tenant" not in store:
            return None
        return store["place_tenant"], store["place_id"]

    async def replace(
        self, tenant: str, ids: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> None:
        """Write embeddings of the model to come, and the place: (ids, dimensions)."""
        coming = next_model(await self._store())
        if coming is None:
            raise StoreUnavailable("re-embedding has not begun, or is finished already")
        checked = checked_embeddings(embeddings, coming.dimensions)
        rows = [
            {"id": id, "embedding": sent(embedding, vectors=self._server.vectors)}
            for id, embedding in zip(ids, checked, strict=True)
        ]

        async def work(transaction: Neo4jTransaction) -> None:
            for some in batches(rows):
                await transaction.run(_REPLACE, tenant=tenant, rows=some)
            if ids:
                await transaction.run(_SET_PLACE, tenant=tenant, id=ids[-1])

        await self._client.write(work)

    async def finish(self) -> EmbeddingModel:
        """The store is one of the new model's, which is given."""
        coming = next_model(await self._store())
        if coming is None:
            raise StoreUnavailable("re-embedding has not begun, or is finished already")
        with translated_errors():
            await open_embedding_index(self._client, self._server, coming.dimensions)
            await self._client.run_untranslated(_FINISH)
        return coming

    async def _store(self) -> dict[str, Any]:
        rows = await self._client.run(_READ)
        store: dict[str, Any] = rows[0]["store"]
        return store
