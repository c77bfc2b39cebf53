"""A built graph against its references: sentence-transformers in float32, and known answers.

The graph runs through the service's own tokenizer and session, so that what is proven here is
what is served.
"""

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.corpus import Corpus, read_corpus, varied_texts
from export.errors import ParityError
from export.progress import Progress, silent
from service.embedding.manifest import KnownAnswers, Manifest, Parity, Precision
from service.embedding.onnx_model import Embeddings, Model
from service.embedding.prompts import prompt_for_input_type
from service.embedding.tokenization import Tokenizer

BATCH_INVARIANT_COSINE = 0.9999
_BATCH_TEXTS = 8
_SHORT_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Gate:
    """What a precision must reach to be shipped."""

    cosine_min: float
    cosine_mean: float
    top1_agreement: float

    def failure(self, parity: Parity) -> str | None:
        """The first figure that is too low; None if the gate is passed.

        A model that finds the right document for fewer than half of the queries, as one with random
        weights does, has no nearest document worth keeping: it is judged by its cosines alone.
        """
        figures = ["cosine_min", "cosine_mean"]
        if parity.reference_accuracy >= _RETRIEVES:
            figures.append("top1_agreement")
        for figure in figures:
            found, least = getattr(parity, figure), getattr(self, figure)
            if found < least:
                return f"{figure} {found:.5f} is below {least}"
        return None


_RETRIEVES = 0.5
_QUANTISED = Gate(cosine_min=0.98, cosine_mean=0.99, top1_agreement=0.98)
GATES: dict[Precision, Gate] = {
    # Agreement of the nearest document adds nothing here: it only differs where documents tie.
    "fp32": Gate(cosine_min=0.99999, cosine_mean=0.99999, top1_agreement=0.0),
    "int8": _QUANTISED,
    "int8-block": _QUANTISED,
    "fp16": Gate(cosine_min=0.9999, cosine_mean=0.9999, top1_agreement=0.98),
    # 8 bits of mantissa: to round the weights alone leaves 0.998 to 0.9999 (benchmarks/README.md).
    "bf16": Gate(cosine_min=0.99, cosine_mean=0.999, top1_agreement=0.98),
}


@dataclass(frozen=True, slots=True)
class Reference:
    """The corpus as the reference implementation embeds it."""

    name: str
    texts: tuple[str, ...]
    embeddings: Embeddings  # (texts, dimensions)
    queries: tuple[str, ...]
    documents: tuple[str, ...]
    nearest: npt.NDArray[np.int64]  # (queries,): the document that is nearest to each
    accuracy: float
    """The share of queries whose nearest document is the right one."""


def has_reference() -> bool:
    """Whether sentence-transformers is installed."""
    return importlib.util.find_spec("sentence_transformers") is not None


def reference(
    folder: Path, manifest: Manifest, tokenizer: Tokenizer, progress: Progress
) -> Reference:
    """Embed the corpus with sentence-transformers in float32, on a GPU where there is one."""
    import torch
    from sentence_transformers import SentenceTransformer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    model.max_seq_length = manifest.max_tokens
    corpus = read_corpus()
    texts = varied_texts(corpus, manifest.prompts, tokenizer)
    queries, documents = _retrieval_texts(corpus, manifest)

    def embed(texts: Sequence[str]) -> Embeddings:
        alone = [
            # Prompts are part of the texts already; the model's default must not be added.
            model.encode(texts[i], prompt="", normalize_embeddings=True)
            for i in progress(range(len(texts)), "reference")
        ]
        return np.asarray(alone, np.float32)

    embeddings = embed(texts)
    nearest = (embed(queries) @ embed(documents).T).argmax(1)
    right = [query.document for query in corpus.retrieval.queries]
    version = importlib.metadata.version("sentence-transformers")
    return Reference(
        f"sentence-transformers {version}, float32",
        tuple(texts),
        embeddings,
        queries,
        documents,
        nearest,
        float((nearest == right).mean()),
    )


def measure(reference: Reference, model: Model, tokenizer: Tokenizer, progress: Progress) -> Parity:
    """The parity of a graph: each text of the corpus alone, and in padded batches of mixed length.

    `top1_agreement` is the share of queries whose nearest document is the reference's.
    """
    cosines = np.concatenate(
        [
            cosine(embed(model, tokenizer, reference.texts, size, progress), reference.embeddings)
            for size in (1, _BATCH_TEXTS)
        ]
    )
    queries, documents = (
        embed(model, tokenizer, texts, _BATCH_TEXTS, progress)
        for texts in (reference.queries, reference.documents)
    )
    agreement = ((queries @ documents.T).argmax(1) == reference.nearest).mean()
    return Parity(
        reference=reference.name,
        texts=len(reference.texts),
        cosine_min=float(cosines.min()),
        cosine_mean=float(cosines.mean()),
        top1_agreement=float(agreement),
        reference_accuracy=reference.accuracy,
    )


def check_known_answers(manifest: Manifest, model: Model, tokenizer: Tokenizer) -> float:
    """The largest distance from a known similarity.

    Raises:
        ParityError: it is larger than the tolerance.
    """
    known = manifest.known_answers
    if known is None:
        raise ValueError("this manifest has no known answers")
    found = similarities(known, manifest, model, tokenizer)
    off = float(np.abs(found - known.similarities).max())
    if off > known.tolerance:
        raise ParityError(
            f"the known similarities of {manifest.source.id} are "
            f"{_figures(known.similarities)} within {known.tolerance}, and the graph gives "
            f"{_figures(found)}: the weights are not the published ones, or damaged"
        )
    return off


def similarities(
    known: KnownAnswers, manifest: Manifest, model: Model, tokenizer: Tokenizer
) -> npt.NDArray[np.float32]:
    """The similarity of the query to each document, with their prompts.  # (documents,)"""
    query = prompt_for_input_type(manifest, "query") + known.query
    prompt = prompt_for_input_type(manifest, "document")
    documents = [prompt + text for text in known.documents]
    embeddings = embed(model, tokenizer, [query, *documents], 1)
    found: npt.NDArray[np.float32] = embeddings[1:] @ embeddings[0]
    return found


def is_batch_invariant(model: Model, tokenizer: Tokenizer) -> bool:
    """Whether short texts of the corpus keep their embedding in every batch."""
    corpus = read_corpus()
    texts = [sentence.text for sentence in corpus.sentences] + list(corpus.snippets)
    tokens = tokenizer.tokenize(texts, truncate=True)
    short = [text for text, ids in zip(texts, tokens, strict=True) if len(ids.ids) <= _SHORT_TOKENS]
    alone = embed(model, tokenizer, short, 1)
    batched = embed(model, tokenizer, short, _BATCH_TEXTS)
    return bool(cosine(alone, batched).min() >= BATCH_INVARIANT_COSINE)


def embed(
    model: Model,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    batch_texts: int,
    progress: Progress = silent,
) -> Embeddings:
    """Embeddings of texts in batches, in order; over-long ones cut.  # (texts, dimensions)"""
    tokens = [text.ids for text in tokenizer.tokenize(texts, truncate=True)]
    starts = range(0, len(tokens), batch_texts)
    name = model.variant.precision
    return np.concatenate(
        [model.run(tokens[start : start + batch_texts]) for start in progress(starts, name)]
    )


def cosine(a: Embeddings, b: Embeddings) -> npt.NDArray[np.float64]:
    """The cosine of each pair of rows."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a64, axis=1) * np.linalg.norm(b64, axis=1)
    return np.asarray((a64 * b64).sum(1) / norms)


def _retrieval_texts(corpus: Corpus, manifest: Manifest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    query, document = (prompt_for_input_type(manifest, side) for side in ("query", "document"))
    return (
        tuple(query + entry.text for entry in corpus.retrieval.queries),
        tuple(document + text for text in corpus.retrieval.documents),
    )


def _figures(values: Sequence[float] | npt.NDArray[np.float32]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
