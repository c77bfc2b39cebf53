"""Tells what the model computes, batch by batch, to whoever wants to know."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from service.embedding.batching import Cores
from service.embedding.onnx_model import Embeddings
from service.embedding.scheduler import RunBatch
from service.embedding.tokenization import TokenIds


@dataclass(frozen=True, slots=True)
class ComputedBatch:
    """What the model has computed at once, and how long that took."""

    texts: int
    tokens: int
    padding: int
    """Tokens that are computed in vain, since the texts are not of one length."""
    seconds: float


# Called from inference threads: it has to be quick, and must not raise.
OnBatch = Callable[[ComputedBatch], None]


def observed(run: RunBatch, on_batch: OnBatch) -> RunBatch:
    """Runs a batch, and tells about it unless it fails."""

    def run_observed(texts: Sequence[TokenIds], cores: Cores) -> Embeddings:
        started = time.perf_counter()
        embeddings = run(texts, cores)
        seconds = time.perf_counter() - started
        lengths = list(map(len, texts))
        tokens = sum(lengths)
        on_batch(ComputedBatch(len(texts), tokens, len(texts) * max(lengths) - tokens, seconds))
        return embeddings

    return run_observed
