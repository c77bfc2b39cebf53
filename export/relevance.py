"""From which similarity on a memory is relevant to a query: data in export/relevance.json.

Similarities of two models are not comparable, and a model's own have no natural zero. So the
cut-off is found for each model over queries, the memory that answers each, and the memories about
other subjects, which is all that a store has for a question about something never remembered.

The cut-off is the lowest one that refuses every memory about another subject for nine queries in
ten. Only the best of them counts: recall looks at the nearest of many, and one that passes is
enough for a context that should have been empty. It is a quantile of one sample, and so varies less
from one set of queries to another than the point of the best balanced accuracy.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from export.parity import embed
from service.embedding.manifest import Manifest, Relevance
from service.embedding.onnx_model import Model
from service.embedding.prompts import prompt_for_input_type
from service.embedding.tokenization import Tokenizer

REFUSED = 0.9  # share of queries about something else that find nothing
_DECIMALS = 3  # further ones depend on the processor
_BATCH_TEXTS = 8
_PATH = Path(__file__).with_suffix(".json")


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A query and the memory that answers it; memories of another subject do not."""

    subject: str
    query: str
    memory: str


def read_pairs() -> tuple[Pair, ...]:
    """The committed pairs."""
    return msgspec.json.decode(_PATH.read_bytes(), type=tuple[Pair, ...])


def measure_relevance(manifest: Manifest, model: Model, tokenizer: Tokenizer) -> Relevance:
    """The cut-off of a model, found through one of its graphs with the prompts of each side."""
    pairs = read_pairs()
    query, document = (prompt_for_input_type(manifest, side) for side in ("query", "document"))
    queries = embed(model, tokenizer, [query + pair.query for pair in pairs], _BATCH_TEXTS)
    memories = embed(model, tokenizer, [document + pair.memory for pair in pairs], _BATCH_TEXTS)
    return relevance_of(queries @ memories.T, [pair.subject for pair in pairs])


def relevance_of(
    similarities: npt.NDArray[np.float32],  # (pairs, pairs): of each query to each memory
    subjects: Sequence[str],
) -> Relevance:
    """The cut-off of these similarities; the subjects are at least two."""
    named = np.asarray(subjects)
    own = named[:, np.newaxis] == named
    relevant = similarities.diagonal()
    nearest_other = np.where(own, -np.inf, similarities).max(axis=1)
    ascending = np.sort(nearest_other)
    refused = math.ceil(REFUSED * len(ascending))
    between = ascending[refused - 1 : refused + 1].mean()
    cutoff = round(float(np.clip(between, -1, 1)), _DECIMALS)
    return Relevance(
        cutoff=cutoff,
        pairs=len(named),
        relevant_kept=float((relevant >= cutoff).mean()),
        irrelevant_refused=float((nearest_other < cutoff).mean()),
    )
