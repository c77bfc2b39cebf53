from typing import Any

import pytest

from tests.clients.reference import embeddings_of, same

pytestmark = [pytest.mark.clients, pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]

DOCUMENTS = [f"document {number}" for number in range(30)]
LONG = "word " * 1_000


@pytest.fixture(params=["openai", "tei"])
def embedding(request: pytest.FixtureRequest, url: str) -> Any:
    """LlamaIndex' client of each of the two protocols."""
    if request.param == "openai":
        from llama_index.embeddings.openai_like import OpenAILikeEmbedding

        return OpenAILikeEmbedding("embeddinggemma-300m", api_base=f"{url}/v1", api_key="none")
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    return TextEmbeddingsInference("embeddinggemma-300m", base_url=url)


async def test_documents_are_embedded_in_their_order(embedding: Any, url: str) -> None:
    expected = embeddings_of(url, DOCUMENTS)
    assert same(embedding.get_text_embedding_batch(DOCUMENTS), expected)
    assert same(await embedding.aget_text_embedding_batch(DOCUMENTS), expected)


async def test_instructions_take_the_place_of_prompts(url: str) -> None:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    embedding = TextEmbeddingsInference(
        "embeddinggemma-300m",
        base_url=url,
        query_instruction="task: search result | query:",
        text_instruction="title: none | text:",
    )
    expected = embeddings_of(url, ["red planet"], prompt_name="query")
    assert same([embedding.get_query_embedding("red planet")], expected)
    assert same([await embedding.aget_query_embedding("red planet")], expected)
    assert same([embedding.get_text_embedding("red planet")], embeddings_of(url, ["red planet"]))


async def test_long_documents_are_cut_as_the_client_asks(url: str) -> None:
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    embedding = TextEmbeddingsInference("embeddinggemma-300m", base_url=url, truncate_text=True)
    assert same([embedding.get_text_embedding(LONG)], embeddings_of(url, ["word " * 248]))
