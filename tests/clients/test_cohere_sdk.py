import base64
from collections.abc import Iterator

import cohere
import httpx
import numpy as np
import pytest
from cohere.types import EmbedInput, TextEmbedContent

from tests.clients.reference import embeddings_of, same

MODEL = "embeddinggemma-300m"
TEXTS = ["red planet", "blue"]


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[cohere.ClientV2]:
    with httpx.Client() as http_client:
        yield cohere.ClientV2(api_key="none", base_url=url, httpx_client=http_client)


@pytest.mark.parametrize(
    ("input_type", "prompt_name"),
    [
        ("search_query", "query"),
        ("search_document", "document"),
        ("clustering", "Clustering"),
        ("classification", "document"),
    ],
)
def test_texts_are_embedded_for_their_purpose(
    client: cohere.ClientV2, url: str, input_type: str, prompt_name: str
) -> None:
    answer = client.embed(model=MODEL, input_type=input_type, texts=TEXTS)
    assert answer.texts == TEXTS
    assert answer.embeddings.float_
    assert same(answer.embeddings.float_, embeddings_of(url, TEXTS, prompt_name=prompt_name))
    assert answer.meta
    assert answer.meta.billed_units
    assert answer.meta.billed_units.input_tokens


def test_all_types_are_understood(client: cohere.ClientV2) -> None:
    found = client.embed(
        model=MODEL,
        input_type="search_document",
        inputs=[EmbedInput(content=[TextEmbedContent(text=text)]) for text in TEXTS],
        output_dimension=256,
        embedding_types=["float", "int8", "uint8", "binary", "ubinary", "base64"],
    ).embeddings
    floats = np.array(found.float_, np.float32)
    assert floats.shape == (2, 256)
    assert np.array(found.int8).shape == np.array(found.uint8).shape == (2, 256)
    bits = np.array(found.ubinary, np.uint8)
    assert (np.unpackbits(bits, axis=1) == (floats > 0)).all()
    assert (np.array(found.binary) == bits.astype(int) - 128).all()
    assert found.base64
    decoded = [np.frombuffer(base64.b64decode(text), "<f4").tolist() for text in found.base64]
    assert decoded == floats.tolist()


def test_what_was_cut_is_said(client: cohere.ClientV2) -> None:
    texts = ["short", "word " * 1_000]
    cut = client.embed(model=MODEL, input_type="search_document", texts=texts, truncate="START")
    assert cut.meta
    assert cut.meta.warnings == ["these texts were cut: 1"]


def test_refusals_are_of_the_class_for_them(client: cohere.ClientV2) -> None:
    with pytest.raises(cohere.BadRequestError) as long:
        client.embed(
            model=MODEL, input_type="search_query", texts=["word " * 1_000], truncate="NONE"
        )
    assert "text 0 has" in long.value.body["message"]
    with pytest.raises(cohere.NotFoundError) as unknown:
        client.embed(model="embed-v4.0", input_type="search_query", texts=TEXTS)
    assert MODEL in unknown.value.body["message"]
    with pytest.raises(cohere.BadRequestError):
        client.embed(model=MODEL, input_type="image", images=["data:image/png;base64,AAAA"])
