"""The engines that bench_engine.py compares, each behind one function: token ids to embeddings.

Run as a script it is the process of one engine: it loads it, says so, and answers each line
`TEXTS TOKENS SECONDS` with the seconds of every batch it ran.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]  # (texts, tokens)
Engine = Callable[[Ids], npt.NDArray[np.float32]]

PEERS = (
    "sentence-transformers fp32",
    "sentence-transformers bf16",
    "optimum onnx fp32",
    "optimum onnx int8",
)
_WARM_UP_RUNS = 2


def open_engine(name: str, folder: Path, threads: int) -> Engine:
    """The engine called `name`, over the bundle, checkpoint or exported graph in `folder`."""
    if name.startswith("sentence-transformers"):
        return _sentence_transformers(folder, threads, bf16=name.endswith("bf16"))
    if name.startswith("optimum"):
        return _onnx(
            folder / ("model_int8.onnx" if name.endswith("int8") else "model.onnx"), threads
        )
    return _bundle(folder, threads)


def _bundle(folder: Path, threads: int) -> Engine:
    from service.embedding.manifest import read_manifest
    from service.embedding.onnx_model import load_model

    model = load_model(folder, read_manifest(folder), threads=threads)
    return lambda ids: model.run(list(ids))


def _sentence_transformers(folder: Path, threads: int, *, bf16: bool) -> Engine:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if bf16 else torch.float32
    model = SentenceTransformer(
        str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    ).to(dtype)

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        input_ids = torch.from_numpy(ids)
        features = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        with torch.inference_mode():
            embeddings = model(features)["sentence_embedding"].float().numpy()
        return np.asarray(embeddings, np.float32)

    return run


def _onnx(path: Path, threads: int) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        (embeddings,) = session.run(["sentence_embedding"], feed)
        return np.asarray(embeddings, np.float32)

    return run


def export_peers(checkpoint: Path, folder: Path) -> None:
    """optimum's export of the checkpoint, and its dynamic int8 quantisation, kept in `folder`."""
    if (folder / "model_int8.onnx").is_file():
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export

    folder.mkdir(parents=True, exist_ok=True)
    main_export(
        str(checkpoint),
        output=folder,
        task="sentence-similarity",
        library_name="sentence_transformers",
        do_validation=False,
        local_files_only=True,
    )
    quantize_dynamic(
        folder / "model.onnx",
        folder / "model_int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        use_external_data_format=True,
    )


def serve_lines(name: str, folder: Path, threads: int) -> None:
    """Answer the lines on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    engine = open_engine(name, folder, threads)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        texts, tokens, seconds = line.split()
        batch = np.random.default_rng(0).integers(300, 2000, (int(texts), int(tokens)))
        for _ in range(_WARM_UP_RUNS):
            engine(batch)
        took: list[float] = []
        end = time.perf_counter() + float(seconds)
        while not took or time.perf_counter() < end:
            start = time.perf_counter()
            engine(batch)
            took.append(time.perf_counter() - start)
        print(json.dumps(took), file=answers, flush=True)


if __name__ == "__main__":
    serve_lines(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
