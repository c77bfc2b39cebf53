"""Shorter embeddings: the beginnings of whole ones."""

import numpy as np

from service.embedding.onnx_model import Embeddings
from service.errors import InferenceError


def shorten(embeddings: Embeddings, dimensions: int) -> Embeddings:
    """Keep the first components of each embedding, at unit length.

    A Matryoshka model is trained so that the beginning of an embedding is one itself. It is shorter
    than one, and whoever compares embeddings takes them for unit vectors.

    Raises:
        InferenceError: a beginning is zero and has no direction.
    """
    if dimensions == embeddings.shape[1]:
        return embeddings
    beginnings = embeddings[:, :dimensions]  # (texts, dimensions)
    lengths = np.linalg.norm(beginnings, axis=1, keepdims=True)
    if not lengths.all():
        raise InferenceError(f"an embedding is zero in its first {dimensions} components")
    return np.ascontiguousarray(beginnings / lengths)
