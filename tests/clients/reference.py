"""What a client should get, asked for without one."""

from collections.abc import Sequence

import httpx
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


def embeddings_of(
    url: str, texts: Sequence[str], *, prompt_name: str = "document", dimensions: int = 384
) -> FloatArray:
    """The embeddings of these texts behind a prompt, from the service's own route."""
    body = {"input": list(texts), "prompt_name": prompt_name, "dimensions": dimensions}
    answer = httpx.post(f"{url}/v1/embeddings", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return np.array([item["embedding"] for item in answer.json()["data"]], np.float32)


def same(found: Sequence[Sequence[float]] | FloatArray, expected: FloatArray) -> bool:
    """Whether these are the same embeddings, but for the rounding of other batches."""
    rows = np.array(found, np.float32)
    return rows.shape == expected.shape and bool(((rows * expected).sum(axis=1) >= 0.9999).all())
