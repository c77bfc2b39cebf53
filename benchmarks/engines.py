"""The engines that bench_engine.py compares, each behind one function: token ids to embeddings.

Run as a script it is the process of one engine: it loads it, says so, and answers each line
`TEXTS TOKENS SECONDS` with the seconds of every batch it ran.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
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
PRODUCTS = "int8 products alone"
_WARM_UP_RUNS = 2


@contextmanager
def open_engine(name: str, folder: Path, threads: int) -> Iterator[Engine]:
    """The engine called `name`, over the bundle, checkpoint or exported graph in `folder`."""
    if name.startswith("sentence-transformers"):
        yield _sentence_transformers(folder, threads, set(name.split()))
    elif name.startswith("optimum"):
        file = "model_int8.onnx" if name.endswith("int8") else "model.onnx"
        yield _onnx(folder / file, threads)
    elif name == PRODUCTS:
        with ThreadPoolExecutor(threads) as pool:
            yield _products(folder, threads, pool)
    else:
        with asyncio.Runner() as runner:
            yield from _bundle(folder, name.split()[-1], threads, runner)


def _bundle(folder: Path, precision: str, threads: int, runner: asyncio.Runner) -> Iterator[Engine]:
    """The texts of a batch as the service computes those of a request, tokenized already."""
    import msgspec

    from service.embedding.manifest import Precision, read_manifest
    from service.embedding.onnx_model import load_model
    from service.embedding.scheduler import open_scheduler
    from service.embedding.warm_up import plan_for

    model = load_model(
        folder,
        read_manifest(folder),
        precision=msgspec.convert(precision, Precision),
        threads=threads,
        one_core=True,
    )
    plan = plan_for(model, np.arange(300, 316))
    opening = open_scheduler(model.run, plan, max_queued_tokens=10**9)
    scheduler = runner.run(opening.__aenter__())

    # Runner.run would write out what it returns, to look its handler of signals up: 6 ms.
    embed = runner.get_loop().run_until_complete

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        return embed(scheduler.embed(list(ids), "interactive")).embeddings

    yield run
    runner.run(opening.__aexit__(None, None, None))


def _products(folder: Path, threads: int, pool: ThreadPoolExecutor) -> Engine:
    """Just the products of a bundle's int8 graph with its weights, one after the other."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    path = folder / "int8.onnx"
    whole = onnx.load(path, load_external_data=False)
    weights = {tensor.name: tensor for tensor in whole.graph.initializer}
    products = [
        node
        for node in whole.graph.node
        if node.op_type == "MatMulIntegerToFloat" and node.input[1] in weights
    ]
    nodes, widths = [], set()
    for node in products:
        width = weights[node.input[1]].dims[0]
        widths.add(width)
        nodes.append(
            helper.make_node(
                node.op_type, [f"codes_{width}", *node.input[1:]], node.output, domain=node.domain
            )
        )
        # Keeps the product from being left out, at next to no cost.
        nodes.append(helper.make_node("Gather", [node.output[0], "first"], [node.output[0] + "_"]))
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    used = {name for node in nodes for name in node.input if name in weights}
    graph = helper.make_graph(
        nodes,
        "products",
        [
            helper.make_tensor_value_info(f"codes_{width}", TensorProto.UINT8, ["rows", width])
            for width in widths
        ],
        [
            helper.make_tensor_value_info(node.output[0] + "_", TensorProto.FLOAT, None)
            for node in products
        ],
        [first, *(weights[name] for name in sorted(used))],
    )
    model = helper.make_model(graph, ir_version=whole.ir_version, opset_imports=whole.opset_import)
    file = path.with_name("products.onnx")  # beside the weights, which it only names
    onnx.save(model, file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    file.unlink()
    rng = np.random.default_rng(0)

    def run_rows(rows: int) -> None:
        session.run(None, {f"codes_{w}": rng.integers(0, 255, (rows, w), np.uint8) for w in widths})

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        rows = -(-ids.size // threads)
        list(pool.map(run_rows, [rows] * threads))
        return np.zeros((len(ids), 1), np.float32)

    return run


def _sentence_transformers(folder: Path, threads: int, options: set[str]) -> Engine:
    """On the processor unless one of the options is `cuda`; `bf16`, `flash-attention`."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    device = "cuda" if "cuda" in options else "cpu"
    dtype = torch.bfloat16 if "bf16" in options else torch.float32
    kwargs = {"dtype": dtype}
    if "flash-attention" in options:
        kwargs["attn_implementation"] = "flash_attention_2"
    model = SentenceTransformer(
        str(folder), device=device, local_files_only=True, model_kwargs=kwargs
    ).to(dtype)

    def run(ids: Ids) -> npt.NDArray[np.float32]:
        input_ids = torch.from_numpy(ids).to(device)
        features = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        with torch.inference_mode():
            embeddings = model(features)["sentence_embedding"].float().cpu().numpy()
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


def serve_lines(opening: AbstractContextManager[Engine]) -> None:
    """Open the engine and answer the lines on standard input until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    with opening as engine:
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
    serve_lines(open_engine(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
