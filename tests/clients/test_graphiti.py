import pytest
from openai import AsyncOpenAI

from tests.clients.reference import embeddings_of, same

FACTS = ["Ada prefers tea.", "Mars is red.", "Bob plays chess."]


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
async def test_graphiti_embeds_facts_alone_and_in_batches(url: str) -> None:
    from graphiti_core.embedder.openai import OpenAIEmbedder, OpenAIEmbedderConfig

    config = OpenAIEmbedderConfig(embedding_model="embeddinggemma-300m", embedding_dim=384)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        embedder = OpenAIEmbedder(config, client)
        alone = [await embedder.create([fact]) for fact in FACTS]
        together = await embedder.create_batch(FACTS)
    expected = embeddings_of(url, FACTS)
    assert same(alone, expected)
    assert same(together, expected)
