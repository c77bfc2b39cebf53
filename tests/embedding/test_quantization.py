import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.embedding.onnx_model import Embeddings
from service.embedding.quantization import int8_codes, signed_bits, uint8_codes, unsigned_bits


def embeddings(dimensions: int, texts: int = 20, seed: int = 0) -> Embeddings:
    """Directions without preference, at unit length."""
    rows = np.random.default_rng(seed).standard_normal((texts, dimensions))
    unit: Embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("dimensions", [768, 512, 256, 128])
def test_codes_have_the_direction_of_their_embedding(dimensions: int) -> None:
    given = embeddings(dimensions)
    codes = int8_codes(given).astype(np.float32)
    cosines = (codes * given).sum(axis=1) / np.linalg.norm(codes, axis=1)
    assert cosines.min() >= 0.9998


@given(st.integers(0, 1_000))
def test_products_of_codes_are_those_of_embeddings_on_one_scale(seed: int) -> None:
    given = embeddings(256, seed=seed)
    codes = int8_codes(given).astype(np.float32)
    step = 6 / (127 * 256**0.5)
    assert codes @ codes.T * step**2 == pytest.approx(given @ given.T, abs=0.01)


def test_components_beyond_the_range_are_cut_off() -> None:
    outlier = np.eye(2, 256, dtype=np.float32)
    assert int8_codes(outlier).max() == 127
    assert int8_codes(-outlier).min() == -128


@given(st.integers(0, 1_000))
def test_unsigned_codes_are_the_signed_ones_moved_by_128(seed: int) -> None:
    given = embeddings(128, seed=seed)
    moved = int8_codes(given).astype(int) + 128
    assert uint8_codes(given).tolist() == moved.tolist()


@given(st.integers(0, 1_000))
def test_bits_are_unpacked_as_cohere_shows(seed: int) -> None:
    given = embeddings(128, seed=seed)
    bits = unsigned_bits(given)
    assert bits.shape == (len(given), 16)
    assert (2 * np.unpackbits(bits, axis=-1).astype(int) - 1).tolist() == np.sign(given).tolist()
    assert signed_bits(given).tolist() == (bits.astype(int) - 128).tolist()
