import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.reference import embeddings_of, same

LONG = "volcano " + "word " * 1_000


@pytest.fixture(params=["", "/embed"])
def client(request: pytest.FixtureRequest, url: str) -> InferenceClient:
    return InferenceClient(f"{url}{request.param}")


def test_texts_are_embedded_behind_the_named_prompt(client: InferenceClient, url: str) -> None:
    texts = ["red planet", "blue"]
    found = client.feature_extraction(texts, normalize=True, prompt_name="query")  # type: ignore[arg-type]
    assert same(found, embeddings_of(url, texts, prompt_name="query"))


def test_a_text_is_embedded_behind_the_default_prompt(client: InferenceClient, url: str) -> None:
    assert same(client.feature_extraction("red planet"), embeddings_of(url, ["red planet"]))


def test_a_long_text_is_cut_at_the_side_that_is_asked_for(
    client: InferenceClient, url: str
) -> None:
    right = client.feature_extraction(LONG, truncate=True, truncation_direction="Right")
    left = client.feature_extraction(LONG, truncate=True, truncation_direction="Left")
    assert np.dot(right[0], left[0]) < 0.999
    assert same(left, embeddings_of(url, ["word " * 248]))


def test_a_refusal_says_why(client: InferenceClient) -> None:
    with pytest.raises(HfHubHTTPError) as long:
        client.feature_extraction(LONG, truncate=False)
    assert "tokens; split it" in str(long.value) + long.value.response.text
    with pytest.raises(HfHubHTTPError) as unnormalized:
        client.feature_extraction("a", normalize=False)
    assert "normalize=true" in unnormalized.value.response.text
    assert unnormalized.value.response.status_code == 422


@pytest.mark.parametrize("path", ["", "/similarity"])
def test_sentences_are_compared_behind_the_prompt_for_that(url: str, path: str) -> None:
    client = InferenceClient(f"{url}{path}")
    sentences = ["Mars", "a kettle"]
    found = client.sentence_similarity("red planet", other_sentences=sentences)
    source, *others = embeddings_of(url, ["red planet", *sentences], prompt_name="STS")
    assert found == pytest.approx(np.array(others) @ source, abs=1e-3)
