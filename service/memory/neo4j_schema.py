"""What a database must have to be a store: constraints, indexes, and the node that describes it.

(:Memory)-[:TAGGED]->(:Tag), -[:IN_CONTEXT]->(:Context), -[:OF_USER]->(:User),
         -[:IN_SESSION]->(:Session), -[:SUPERSEDES]->(:Memory), relations to (:Memory)
(:Tenant) is locked by whoever writes; (:Receipt); (:Store) describes the whole.
"""

import re
from typing import Any, NamedTuple

from service.errors import EmbeddingModelMismatch, StoreLoadError
from service.memory.neo4j_client import Neo4jClient
from service.memory.neo4j_filters import SEARCHABLE_FIELDS
from service.memory.store import EmbeddingModel

WORDS_INDEX = "memory_words"
EMBEDDING_INDEX = "memory_embedding"

# The first version with every procedure and form of statement that is used here.
OLDEST_VERSION = (5, 26)

# The first version with IN in the WHERE of SEARCH and with vector.quantization.type; values of
# type VECTOR came before.
SEARCH_VERSION = (2026, 6)

# The statements that make of a store of one version one of the next; the first makes it.
_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE CONSTRAINT memory_id IF NOT EXISTS "
        "FOR (m:Memory) REQUIRE (m.tenant, m.id) IS UNIQUE",
        *(
            f"CREATE CONSTRAINT {label.lower()}_name IF NOT EXISTS "
            f"FOR (n:{label}) REQUIRE (n.tenant, n.name) IS UNIQUE"
            for label in ("Tag", "Context", "User", "Session")
        ),
        "CREATE CONSTRAINT tenant_name IF NOT EXISTS FOR (t:Tenant) REQUIRE t.name IS UNIQUE",
        "CREATE CONSTRAINT receipt_key IF NOT EXISTS "
        "FOR (r:Receipt) REQUIRE (r.tenant, r.key) IS UNIQUE",
        "CREATE INDEX receipt_created_at IF NOT EXISTS FOR (r:Receipt) ON (r.created_at)",
        *(
            f"CREATE INDEX memory_{field} IF NOT EXISTS FOR (m:Memory) ON (m.tenant, m.{field})"
            for field in (
                "content_hash",
                "expires_at",
                "created_at",
                "context",
                "user_id",
                "agent_id",
                "session_id",
            )
        ),
        # The words are ready: separated by spaces, and to be found as they are.
        f"CREATE FULLTEXT INDEX {WORDS_INDEX} IF NOT EXISTS "
        "FOR (m:Memory) ON EACH [m.words, m.tenant_word] OPTIONS {indexConfig: {"
        "`fulltext.analyzer`: 'whitespace', `fulltext.eventually_consistent`: false}}",
    ),
)

_STORE_CONSTRAINT = "CREATE CONSTRAINT store_id IF NOT EXISTS FOR (s:Store) REQUIRE s.id IS UNIQUE"
_READ_STORE = "MATCH (s:Store {id: 'store'}) RETURN properties(s) AS store"
_MAKE_STORE = """
MERGE (s:Store {id: 'store'})
ON CREATE SET s.schema_version = 0, s.model_name = $name, s.model_digest = $digest,
              s.dimensions = $dimensions
RETURN properties(s) AS store
"""
_SET_VERSION = "MATCH (s:Store {id: 'store'}) SET s.schema_version = $version"


class Server(NamedTuple):
    """The version of a server, and what it can do."""

    version: str
    filters_in_index: bool
    """Its vector index can be asked for conditions."""
    vectors: bool
    """It takes and gives embeddings as such, where others do lists of numbers."""


async def find_server(client: Neo4jClient) -> Server:
    """What the server says of itself.

    Raises:
        StoreLoadError: it is too old.
    """
    rows = await client.run_untranslated("CALL dbms.components() YIELD name, versions")
    version = next(row["versions"][0] for row in rows if row["name"] == "Neo4j Kernel")
    numbers = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if numbers < OLDEST_VERSION:
        raise StoreLoadError(f"expected Neo4j 5.26 or newer, got {version}; use a newer server")
    recent = numbers >= SEARCH_VERSION
    return Server(version, filters_in_index=recent, vectors=recent)


async def open_schema(
    client: Neo4jClient, server: Server, model: EmbeddingModel | None, *, re_embedding: bool
) -> EmbeddingModel:
    """Make of the database a store of this version, and check that it is of the model.

    Gives the model whose embeddings fill it.

    Raises:
        StoreLoadError: there is no store and no model to make one for, or it is of a newer version.
        EmbeddingModelMismatch: it is of another model, or its embeddings are being exchanged.
    """
    store = await _described(client, model)
    version: int = store["schema_version"]
    if version > len(_MIGRATIONS):
        raise StoreLoadError(
            f"the store is of version {version}, and this service knows versions up to "
            f"{len(_MIGRATIONS)}; use a newer service"
        )
    recorded = recorded_model(store)
    if not re_embedding:
        _check_model(store, recorded, model)
    for number, statements in enumerate(_MIGRATIONS[version:], version + 1):
        for statement in statements:
            await client.run_untranslated(statement)
        await client.run_untranslated(_SET_VERSION, version=number)
    if next_model(store) is None:
        await open_embedding_index(client, server, recorded.dimensions)
    await client.run_untranslated("CALL db.awaitIndexes(600)")
    return recorded


async def open_embedding_index(client: Neo4jClient, server: Server, dimensions: int) -> None:
    """Have the vector index as this server can have it, and wait until it finds everything."""
    rows = await client.run_untranslated(
        "SHOW VECTOR INDEXES YIELD name, properties, options WHERE name = $name "
        "RETURN properties, options",
        name=EMBEDDING_INDEX,
    )
    fields = ["embedding", *(SEARCHABLE_FIELDS if server.filters_in_index else ())]
    for row in rows:
        size = row["options"]["indexConfig"]["vector.dimensions"]
        if row["properties"] != fields or size != dimensions:
            await drop_embedding_index(client)
    if server.filters_in_index:
        statement = "CYPHER 25 CREATE VECTOR INDEX {} IF NOT EXISTS FOR (m:Memory) ON m.embedding "
        statement += f"WITH [{', '.join(f'm.{field}' for field in SEARCHABLE_FIELDS)}] "
        quantization = "`vector.quantization.type`: 'none'"
    else:
        statement = "CREATE VECTOR INDEX {} IF NOT EXISTS FOR (m:Memory) ON (m.embedding) "
        quantization = "`vector.quantization.enabled`: false"
    # The default of quantization differs between versions, and so does what a search finds.
    options = (
        f"OPTIONS {{indexConfig: {{`vector.dimensions`: {dimensions}, "
        f"`vector.similarity_function`: 'cosine', {quantization}}}}}"
    )
    await client.run_untranslated(statement.format(EMBEDDING_INDEX) + options)
    await client.run_untranslated("CALL db.awaitIndex($name, 86400)", name=EMBEDDING_INDEX)


async def drop_embedding_index(client: Neo4jClient) -> None:
    """Let no embedding be indexed any more."""
    await client.run_untranslated(f"DROP INDEX {EMBEDDING_INDEX} IF EXISTS")


def recorded_model(store: dict[str, Any]) -> EmbeddingModel:
    """The model whose embeddings fill the store that has these properties."""
    return EmbeddingModel(store["model_name"], store["model_digest"], store["dimensions"])


def next_model(store: dict[str, Any]) -> EmbeddingModel | None:
    """The model whose embeddings take their place, if re-embedding has begun."""
    if "next_digest" not in store:
        return None
    return EmbeddingModel(store["next_name"], store["next_digest"], store["next_dimensions"])


def is_same_model(model: EmbeddingModel, other: EmbeddingModel) -> bool:
    """Whether embeddings of both can be compared, whatever the two are called."""
    return (model.digest, model.dimensions) == (other.digest, other.dimensions)


async def _described(client: Neo4jClient, model: EmbeddingModel | None) -> dict[str, Any]:
    rows = await client.run_untranslated(_READ_STORE)
    if not rows:
        if model is None:
            raise StoreLoadError("there is no store in this database; check NEO4J_DATABASE")
        await client.run_untranslated(_STORE_CONSTRAINT)
        rows = await client.run_untranslated(
            _MAKE_STORE, name=model.name, digest=model.digest, dimensions=model.dimensions
        )
    store: dict[str, Any] = rows[0]["store"]
    return store


def _check_model(
    store: dict[str, Any], recorded: EmbeddingModel, model: EmbeddingModel | None
) -> None:
    if (coming := next_model(store)) is not None:
        raise EmbeddingModelMismatch(
            f"the store's embeddings are being exchanged for those of {coming.name}; finish it "
            "with: python -m service re-embed"
        )
    if model is not None and not is_same_model(recorded, model):
        raise EmbeddingModelMismatch(
            f"the store is filled with embeddings of {recorded.name} ({recorded.dimensions} "
            f"dimensions, {recorded.digest[:12]}), and the service's model is {model.name} "
            f"({model.dimensions} dimensions, {model.digest[:12]}); use that model, or exchange "
            "the embeddings with: python -m service re-embed"
        )
