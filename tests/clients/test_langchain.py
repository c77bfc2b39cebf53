from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
import tiktoken
import tiktoken.registry
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr

from tests.clients.reference import embeddings_of, same

DOCUMENTS = [f"document {number}" for number in range(30)]


@pytest.fixture
def byte_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's tokenizer, which would be downloaded, replaced by one whose tokens are bytes."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    encoding = tiktoken.Encoding("bytes", pat_str=".+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "cl100k_base", encoding)


@pytest.fixture
def http_client() -> Iterator[httpx.Client]:
    with httpx.Client() as client:
        yield client


def embeddings(url: str, http_client: httpx.Client, **arguments: Any) -> OpenAIEmbeddings:
    return OpenAIEmbeddings(
        base_url=f"{url}/v1",
        api_key=SecretStr("none"),
        model="embeddinggemma-300m",
        http_client=http_client,
        max_retries=0,
        **arguments,
    )


def test_documents_are_embedded_in_their_order(url: str, http_client: httpx.Client) -> None:
    client = embeddings(url, http_client, check_embedding_ctx_length=False, chunk_size=8)
    assert same(client.embed_documents(DOCUMENTS), embeddings_of(url, DOCUMENTS))


def test_embeddings_may_be_shorter(url: str, http_client: httpx.Client) -> None:
    client = embeddings(url, http_client, check_embedding_ctx_length=False, dimensions=128)
    assert same(client.embed_documents(DOCUMENTS), embeddings_of(url, DOCUMENTS, dimensions=128))


@pytest.mark.usefixtures("byte_tokens")
def test_token_ids_are_refused_with_what_to_set(url: str, http_client: httpx.Client) -> None:
    client = embeddings(url, http_client)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embed_documents(DOCUMENTS)
