"""The sessions on a GPU: token ids to embeddings, with everything between them on the device.

One thread runs them, since a captured graph belongs to the thread that captured it. Those who call
pad the next batch and read the last one meanwhile.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from service.embedding.batching import Cores
from service.embedding.buckets import STEP, Bucket, bucket_for, captured_buckets
from service.embedding.cuda_session import (
    CUDA,
    CudaSession,
    Device,
    captured_log,
    first_line,
    open_cuda_session,
)
from service.embedding.manifest import Manifest, Variant, verify_file
from service.embedding.tokenization import TokenIds
from service.errors import InferenceError, ModelLoadError

Array = npt.NDArray[Any]

# A batch that is computed, and one that is prepared or read meanwhile.
BATCHES_IN_FLIGHT = 2

# Weights take no more than they have in their file; activations of the smallest batch, this much:
# the scores of a text of 2,048 tokens alone are 75 MB.
SMALLEST_ROOM = 192 * 1024 * 1024

# As attention.cc of ONNX Runtime 1.31 says which kernel it chose.
_KERNEL = re.compile(r"Attention: using ((?:unified )?[\w ]+?)(?: path)? \(")


class CudaModel:
    """One variant of a bundle, loaded onto a GPU. Safe to run from several threads."""

    threads = 1  # of the processor

    def __init__(
        self, sessions: Sequence[CudaSession], manifest: Manifest, variant: Variant
    ) -> None:
        self._sessions = sessions
        self._pad_token_id = manifest.pad_token_id
        self._device_thread = ThreadPoolExecutor(1, "gpu")
        self.variant = variant
        self.execution_providers = sessions[0].execution_providers

    @property
    def borders(self) -> tuple[int, ...]:
        """The lengths at which another graph takes over; each belongs to the shorter texts."""
        return tuple(session.longest for session in self._sessions[:-1])

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes each execution provider computes."""
        counted: Counter[str] = Counter()
        for session in self._sessions:
            counted.update(session.nodes)
        return dict(counted)

    def run(self, tokens: Sequence[TokenIds], cores: Cores = "all") -> npt.NDArray[np.float32]:
        """The embeddings of one batch at full size and unit length.  # (texts, dimensions)

        Raises:
            InferenceError: ONNX Runtime failed, such as for want of memory, or a component is not
                finite.
        """
        order, parts = [], []
        lengths = np.array([len(ids) for ids in tokens])
        for session in self._sessions:
            chosen = np.flatnonzero((session.above < lengths) & (lengths <= session.longest))
            if len(chosen):
                order.append(chosen)
                parts.append(self._run(session, [tokens[index] for index in chosen.tolist()]))
        embeddings = np.concatenate(parts)[np.argsort(np.concatenate(order))]
        if not np.isfinite(embeddings).all():
            raise InferenceError(f"inference gave non-finite values on {len(tokens)} texts")
        return embeddings

    def capture(self) -> int:
        """Capture all graphs now, so that no request waits for it; how many there are.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        captured = 0
        for session in self._sessions:
            for bucket in captured_buckets(longest=session.longest, above=session.above):
                ids = np.full(session.above + 1, self._pad_token_id)
                self._compute(session, [ids], bucket)
                captured += 1
        return captured

    def attention_kernels(self) -> list[str]:
        """Which kernels attention really ran on, for short texts and then for long ones."""
        found = []
        for session in self._sessions:
            ids = np.full(session.above + 1, self._pad_token_id)
            bucket = Bucket(1, -(-len(ids) // STEP) * STEP, None)
            with captured_log() as log:
                self._compute(session, [ids], bucket)
                log.seek(0)
                text = log.read().decode(errors="replace")
            names = sorted(set(_KERNEL.findall(text)))
            found.append(" and ".join(names) or "unknown")
        return found

    def _run(self, session: CudaSession, tokens: Sequence[TokenIds]) -> Array:
        longest = max(map(len, tokens))
        bucket = bucket_for(len(tokens), longest, longest=session.longest, above=session.above)
        return self._compute(session, tokens, bucket)

    def _compute(self, session: CudaSession, tokens: Sequence[TokenIds], bucket: Bucket) -> Array:
        input_ids, token_counts = pad_to(bucket, tokens, self._pad_token_id)
        compute = partial(session.compute, bucket, input_ids, token_counts)
        try:
            embeddings: Array = self._device_thread.submit(compute).result()
        except Exception as error:  # the runtime's exceptions share no other base
            raise InferenceError(
                f"inference failed on a batch of {len(tokens)} texts of up to {bucket.tokens} "
                f"tokens: {first_line(error)}"
            ) from error
        return embeddings[: len(tokens)]


def open_cuda_model(
    bundle: Path, manifest: Manifest, variant: Variant, *, gpu_bytes: int = 0, device: Device = CUDA
) -> CudaModel:
    """The variant, loaded onto the device; `gpu_bytes` bounds what it takes there, 0 does not.

    Raises:
        ModelLoadError: a file is missing, damaged or not the expected graph, the device cannot be
            used, a node of a graph would not run on it, or the memory is too little.
    """
    files = [variant.graph]
    borders = [0, manifest.max_tokens]
    if variant.long_texts:
        files.append(variant.long_texts.graph)
        borders.insert(1, variant.long_texts.above)
    share = memory_share(gpu_bytes, weights=variant.weights.bytes, sessions=len(files))
    verify_file(bundle, variant.weights)
    sessions = [
        open_cuda_session(
            verify_file(bundle, file),
            manifest,
            variant.precision,
            above=above,
            longest=longest,
            gpu_bytes=share,
            device=device,
        )
        for file, (above, longest) in zip(files, itertools.pairwise(borders), strict=True)
    ]
    return CudaModel(sessions, manifest, variant)


def memory_share(gpu_bytes: int, *, weights: int, sessions: int) -> int:
    """What each session may take, as each has weights and activations of its own; 0 is no limit.

    Raises:
        ModelLoadError: it is too little for a batch.
    """
    share = gpu_bytes // sessions
    needed = weights + SMALLEST_ROOM
    if gpu_bytes and share < needed:
        raise ModelLoadError(
            f"MEMORY_GPU_BYTES={gpu_bytes} is too little: expected at least {sessions * needed}, "
            f"for {sessions} sessions with {weights} bytes of weights and room to compute"
        )
    return share


def pad_to(bucket: Bucket, tokens: Sequence[TokenIds], pad_token_id: int) -> tuple[Array, Array]:
    """The input_ids and token_counts of a batch, with texts of one token where it has none."""
    input_ids = np.full((bucket.texts, bucket.tokens), pad_token_id, np.int32)
    token_counts = np.ones(bucket.texts, np.int64)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
        token_counts[row] = len(ids)
    return input_ids, token_counts
