"""Evens out channels before they are quantised, without changing what the model computes.

Where a channel's activations are far larger than its neighbours', 8 bits of the row go to that
channel alone. A factor that is taken out of the activations and put into the weights that read
them leaves every product as it is; the architectures know between which weights it can move.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from export.graphs.graph import Array


def factors(
    peaks: npt.NDArray[np.float32], weight_peaks: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """What to divide each channel by, and to multiply the weights with that read it.

    The difficulty is shared evenly between activations and weights (SmoothQuant, arXiv 2211.10438,
    equation 4 with alpha 0.5). A channel that is never active, or never read, keeps its size.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shared = np.sqrt(peaks / weight_peaks)
    return np.where(np.isfinite(shared) & (shared > 0), shared, 1).astype(np.float32)


def input_peaks(weight: Array) -> npt.NDArray[np.float32]:
    """The largest weight that reads each input of a linear layer, stored [outputs, inputs]."""
    return np.asarray(np.abs(weight).max(0), np.float32)


def scaled(*, inputs: Array, outputs: Array | None = None) -> Callable[[Array], Array]:
    """Multiplies what a linear layer reads, and what it gives."""

    def change(weight: Array) -> Array:
        by_input = weight * inputs
        return by_input if outputs is None else by_input * outputs[:, None]

    return change


def divided_gain(divisor: Array) -> Callable[[Array], Array]:
    """Divides what a norm gives, whose gains are stored less one."""
    return lambda weight: (1 + weight) / divisor - 1


class ScaledWeights(Mapping[str, Array]):
    """The weights of a checkpoint, some of them changed when they are read."""

    def __init__(
        self, weights: Mapping[str, Array], changes: Mapping[str, Callable[[Array], Array]]
    ) -> None:
        self._weights = weights
        self._changes = changes

    def __getitem__(self, name: str) -> Array:
        weight = self._weights[name]
        return self._changes[name](weight) if name in self._changes else weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)
