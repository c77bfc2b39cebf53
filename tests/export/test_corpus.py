import numpy as np
import pytest

from export.corpus import LENGTHS, read_corpus, varied_texts
from tests.export.conftest import BundleOf


def test_the_corpus_covers_what_parity_promises() -> None:
    corpus = read_corpus()
    assert len({sentence.language for sentence in corpus.sentences}) >= 20
    assert len(corpus.retrieval.documents) == 200
    assert len(corpus.retrieval.queries) == 60
    assert all(0 <= query.document < 200 for query in corpus.retrieval.queries)


@pytest.mark.parametrize("model", ["tiny", "starter"])
def test_texts_of_every_length_and_prompt_are_compared(bundle_of: BundleOf, model: str) -> None:
    bundle = bundle_of(model, "fp32")
    prompts = bundle.manifest.prompts
    texts = varied_texts(read_corpus(), prompts, bundle.tokenizer)
    counts = np.array([bundle.tokenizer.count(text) for text in texts])
    limit = bundle.tokenizer.max_tokens
    special = bundle.tokenizer.count("")
    assert {n for n in LENGTHS if special < n <= limit} <= set(counts)
    assert counts.max() > limit
    assert "" in texts
    assert all(any(text.startswith(prompt) for text in texts) for prompt in prompts.values())
