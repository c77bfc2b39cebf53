"""OpenVINO as a peer of bench_engine.py, in an environment of its own: its packages exclude ours.

    uv venv build/peers/openvino --python 3.11
    uv pip install --python build/peers/openvino \
        "optimum-intel[nncf]==2.2.0" openvino==2026.4.1 "transformers<5" sentence-transformers

The python of that environment converts a checkpoint, or is the process of one engine:

    python -m benchmarks.openvino_engines convert CHECKPOINT FOLDER
    python -m benchmarks.openvino_engines NAME FOLDER THREADS
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.engines import Engine, Ids, serve_lines

# The file that `convert` writes for an engine, and the precision of what is not int8 in it.
OPENVINO_PEERS = {
    "openvino fp32": ("openvino_model.xml", "f32"),
    "openvino bf16": ("openvino_model.xml", "bf16"),
    "openvino int8": ("int8.xml", "f32"),
    "openvino int8 and bf16": ("int8.xml", "bf16"),
    "openvino static int8 and bf16": ("static-int8.xml", "bf16"),
}

# Activations that share a scale. OpenVINO's own choice is 32; that and 256 are up to 20 % slower.
_GROUP_SIZE = 128

_CALIBRATION_TEXTS, _CALIBRATION_TOKENS = 32, 64


@contextmanager
def open_engine(name: str, folder: Path, threads: int) -> Iterator[Engine]:
    """The engine of this name in OPENVINO_PEERS, over what `convert` left in `folder`.

    A text alone is computed by all threads together, several by one stream for each thread:
    either way is the faster one there.
    """
    import openvino

    file, precision = OPENVINO_PEERS[name]
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP_SIZE,
    }
    together, apart = (
        openvino.compile_model(
            folder / file, "CPU", {**options, "NUM_STREAMS": streams, "PERFORMANCE_HINT": hint}
        )
        for streams, hint in ((1, "LATENCY"), (threads, "THROUGHPUT"))
    )
    alone = [together.create_infer_request()]
    several = [apart.create_infer_request() for _ in range(threads)]

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        requests = alone if len(ids) < threads else several
        for request, part in zip(requests, np.array_split(ids, len(requests)), strict=True):
            feed = {"input_ids": part, "attention_mask": np.ones_like(part)}
            request.start_async(feed, share_inputs=True)
        for request in requests:
            request.wait()
        outputs = [request.get_tensor("sentence_embedding").data for request in requests]
        return np.concatenate(outputs)

    yield run


def convert(checkpoint: Path, folder: Path) -> None:
    """Write the graphs of all peers to `folder`, as optimum-intel and nncf make them."""
    import nncf
    import openvino
    from optimum.exporters.openvino import main_export

    main_export(
        str(checkpoint),
        output=folder,
        task="feature-extraction",
        library_name="sentence_transformers",
        local_files_only=True,
    )

    def read() -> Any:
        return openvino.Core().read_model(folder / "openvino_model.xml")

    texts = np.random.default_rng(0).integers(
        300, 2000, (_CALIBRATION_TEXTS, 1, _CALIBRATION_TOKENS)
    )
    dataset = nncf.Dataset(
        texts, lambda ids: {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    )
    graphs = {
        "int8.xml": nncf.compress_weights(read(), mode=nncf.CompressWeightsMode.INT8_ASYM),
        "static-int8.xml": nncf.quantize(
            read(),
            dataset,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=_CALIBRATION_TEXTS,
        ),
    }
    for file, graph in graphs.items():
        openvino.save_model(graph, folder / file, compress_to_fp16=False)


if __name__ == "__main__":
    if sys.argv[1] == "convert":
        convert(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        name, folder, threads = sys.argv[1:]
        serve_lines(open_engine(name, Path(folder), int(threads)))
