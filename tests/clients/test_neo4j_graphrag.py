from typing import Any

import pytest

from tests.clients.reference import embeddings_of, same
from tests.neo4j_server import connected, versions_to_test, wipe
from tests.stores import GetServer

pytestmark = [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]

FACTS = {
    "Mars": "Mars is often called the Red Planet.",
    "Venus": "Venus is Earth's twin.",
    "tea": "Green tea is brewed at eighty degrees.",
}


def embeddings(url: str, side: str) -> Any:
    from neo4j_graphrag.embeddings import OpenAIEmbeddings

    return OpenAIEmbeddings(f"embeddinggemma-300m-{side}", base_url=f"{url}/v1", api_key="none")


def test_a_query_is_embedded_behind_its_prompt(url: str) -> None:
    found = embeddings(url, "query").embed_query("red planet")
    assert same([found], embeddings_of(url, ["red planet"], prompt_name="query"))


@pytest.mark.parametrize("version", versions_to_test())
def test_what_is_near_is_found_in_neo4j(version: str, url: str, running_server: GetServer) -> None:
    from neo4j_graphrag.indexes import create_vector_index, upsert_vectors
    from neo4j_graphrag.retrievers import VectorRetriever
    from neo4j_graphrag.types import EntityType

    server = running_server(version)
    wipe(server)
    with connected(server) as driver:
        create_vector_index(
            driver,
            "facts",
            label="Fact",
            embedding_property="embedding",
            dimensions=384,
            similarity_fn="cosine",
        )
        rows, _, _ = driver.execute_query(
            "UNWIND $names AS name CREATE (fact:Fact {name: name}) RETURN elementId(fact) AS id",
            names=list(FACTS),
        )
        embedder = embeddings(url, "document")
        upsert_vectors(
            driver,
            ids=[row["id"] for row in rows],
            embedding_property="embedding",
            embeddings=[embedder.embed_query(text) for text in FACTS.values()],
            entity_type=EntityType.NODE,
        )
        driver.execute_query("CALL db.awaitIndexes(60)")
        retriever = VectorRetriever(
            driver, "facts", embeddings(url, "query"), return_properties=["name"]
        )
        found = retriever.search(query_text="Which planet is red?", top_k=2)
    wipe(server)
    assert [("Mars" in item.content, "tea" in item.content) for item in found.items] == [
        (True, False),
        (False, False),
    ]
