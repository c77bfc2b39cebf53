"""Which of ONNX Runtime's two packages is installed: they write the same files, so only one can be.

Nothing in here imports it.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import distributions
from pathlib import Path

from service.errors import ModelLoadError

CPU, CUDA = "onnxruntime", "onnxruntime-gpu"

INSTALL = (
    "for the processor: uv sync --no-default-groups --group cpu, or pip install --require-hashes "
    "-r requirements.txt; for an NVIDIA GPU: uv sync --no-default-groups --extra cuda, or pip "
    "install --require-hashes -r requirements-cuda.txt"
)


def runtime_package(path: Sequence[str] | None = None) -> str:
    """The name of the installed one; `path` is where Python looks for packages.

    Raises:
        ModelLoadError: there is none, or both are, or one was taken away from under the other.
    """
    places = list(sys.path if path is None else path)
    found = {
        name: distribution
        for name in (CPU, CUDA)
        for distribution in distributions(name=name, path=places)
    }
    if len(found) == 2:
        raise ModelLoadError(
            f"{CPU} and {CUDA} are installed together, and overwrite each other's files; remove "
            f"both (pip uninstall --yes {CPU} {CUDA}) and install one. {INSTALL}"
        )
    for name, distribution in found.items():
        if not Path(str(distribution.locate_file("onnxruntime/__init__.py"))).is_file():
            raise ModelLoadError(
                f"{name} is installed, but its files are gone, as when the other package of ONNX "
                f"Runtime was removed: pip uninstall --yes {name}, and install it again. {INSTALL}"
            )
        return name
    raise ModelLoadError(f"ONNX Runtime is not installed. {INSTALL}")
