"""Embeddings in fewer bits: one code for each component, or one bit."""

import numpy as np
import numpy.typing as npt

from service.embedding.onnx_model import Embeddings

# Where the codes end, in units of the component's root mean square, 1/sqrt(dimensions). A normal
# distribution reaches it twice in a billion components, and of the starter model's none comes
# nearer than 4.8; a cosine of an embedding with its codes is 0.9998 or more there.
CODE_RANGE = 6.0


def int8_codes(embeddings: Embeddings) -> npt.NDArray[np.int8]:
    """Each component on a scale that is the same for all texts: codes compare as embeddings do.

    One step is 6 / (127 * sqrt(dimensions)), and what is beyond the last is cut off.
    """
    steps = 127 * np.sqrt(embeddings.shape[1]) / CODE_RANGE
    codes: npt.NDArray[np.int8] = np.rint(embeddings * steps).clip(-128, 127).astype(np.int8)
    return codes


def uint8_codes(embeddings: Embeddings) -> npt.NDArray[np.uint8]:
    """The same codes as int8, from 0 to 255 with 128 for zero."""
    return (int8_codes(embeddings).astype(np.int16) + 128).astype(np.uint8)


def unsigned_bits(embeddings: Embeddings) -> npt.NDArray[np.uint8]:
    """Whether each component is positive, eight in a byte and the first in its highest bit."""
    return np.packbits(embeddings > 0, axis=1)


def signed_bits(embeddings: Embeddings) -> npt.NDArray[np.int8]:
    """The same bytes as unsigned, from -128 to 127: each is 128 less."""
    return (unsigned_bits(embeddings).astype(np.int16) - 128).astype(np.int8)
