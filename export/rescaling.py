"""Keeps layers from overflowing in float16, without changing what the model computes.

Powers of two move between weights, so that nothing is rounded that was not before; the
architectures know between which ones they can.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from export.errors import ParityError
from export.graphs.graph import Array
from export.observation import Peaks, output_of

# float16 holds up to 65,504. What a layer computes is kept below a sixteenth of it on the texts
# that it is observed on, since other texts reach further.
LARGEST = 4_096


@dataclass(frozen=True, slots=True)
class Rescaled:
    """The weights of the same model, changed or not, and what has to be done about it."""

    weights: Mapping[str, Array]
    eps_factors: Mapping[str, float] = field(default_factory=dict)
    """The square of what the value that a norm reads is multiplied with, by the norm's name."""
    stream_factor: float = 1.0
    """What all that is added to the residual stream is to be multiplied with."""


def power_of_two(peaks: npt.NDArray[np.float32]) -> float:
    """What to multiply a value with so that it stays below LARGEST; 1 where it does anyway."""
    peak = float(np.max(peaks))
    return 1.0 if peak <= LARGEST else 2.0 ** -math.ceil(math.log2(peak / LARGEST))


def times(factor: float) -> Callable[[Array], Array]:
    """Multiplies all weights of a linear layer."""
    return lambda weight: weight * np.float32(factor)


def check_true_size(peaks: Peaks, name: str) -> None:
    """Return if the output of a product fits float16 as it is.

    Raises:
        ParityError: it does not.
    """
    peak = float(np.max(peaks[output_of(name)]))
    if peak > LARGEST:
        raise ParityError(
            f"{name} gives up to {peak:.3g} and cannot be made smaller, and float16 ends at "
            "65,504; take bf16"
        )
