"""Where does the time of the engine go, by kind of operator?

    uv run python benchmarks/profile_engine.py BUNDLE --save FILE.json

From ONNX Runtime's own profiler, on one thread: of each operator the least over the runs, since
what else the machine does only ever makes one slower.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_engine import DEFAULT_SHAPES  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from service.embedding.manifest import read_manifest  # noqa: E402

# What does not stand here, and not in the branches of attention, is the rest: token table, pooling.
KINDS = {
    "products": ("MatMulIntegerToFloat", "MatMulNBits", "MatMul", "FusedMatMul"),
    "quantising": ("Abs", "ReduceMax", "ReduceMin", "Max", "Div", "QuantizeLinear"),
    "attention": ("Attention", "RotaryEmbedding"),
    "norms": ("SimplifiedLayerNormalization", "Add"),
    "activations and scales": ("FastGelu", "Mul", "QuickGelu"),
}
KIND_OF = {operator: kind for kind, operators in KINDS.items() for operator in operators}
REST = "rest"


def profile(graph: Path, texts: int, tokens: int, runs: int) -> dict[str, float]:
    """Microseconds of one run by kind of operator; all of them are those of the optimised graph."""
    inside = {node.name for node in _nodes_of_branches(onnx.load(graph, load_external_data=False))}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False  # as the service has it
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        ids = np.random.default_rng(0).integers(300, 2000, (texts, tokens))
        for _ in range(runs):
            session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        events = json.loads(Path(session.end_profiling()).read_bytes())
    took: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            node = event["name"].removesuffix("_kernel_time")
            took[node, event["args"]["op_name"]].append(event["dur"])
    by_kind: Counter[str] = Counter(dict.fromkeys((*KINDS, REST), 0))
    for (node, operator), times in took.items():
        kind = "attention" if node in inside else KIND_OF.get(operator, REST)
        if operator != "If":  # what is in it counts itself
            by_kind[kind] += min(times)
    return dict(by_kind)


def _nodes_of_branches(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for node in model.graph.node:
        for attribute in node.attribute:
            yield from attribute.g.node


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--shapes", nargs="+", default=DEFAULT_SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    options = parser.parse_args()

    graph = options.bundle / read_manifest(options.bundle).variants[0].graph.name
    results = {}
    print("share of the time".ljust(24) + "".join(f"{shape:>8}" for shape in options.shapes))
    for shape in options.shapes:
        texts, tokens = map(int, shape.split("x"))
        by_kind = profile(graph, texts, tokens, options.runs)
        total = sum(by_kind.values())
        results[shape] = {kind: round(took / total, 3) for kind, took in by_kind.items()}
    for kind in (*KINDS, REST):
        shares = (f"{of_shape[kind]:>8.1%}" for of_shape in results.values())
        print(kind.ljust(24) + "".join(shares))
    if options.save:
        save_report(options.save, __doc__.splitlines()[0], results)


if __name__ == "__main__":
    main()
