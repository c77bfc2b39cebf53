"""How fast, and how faithful, is it on a GPU, beside sentence-transformers on the same one?

    uv sync --no-group cpu --extra cuda --extra export --group bench
    uv run --no-sync python benchmarks/bench_cuda.py --save benchmarks/results/cuda-GPU.json

Without a bundle it makes that of the benchmark in build/: EmbeddingGemma's size, random weights,
each variant proven against sentence-transformers in float32 on the whole corpus. The engines take
turns at every shape, each loaded in a process of its own; then the service is asked over HTTP. A
rate of matrix products in bfloat16, measured in the same run, says how much of the GPU is used.
Goals stand beside what was found. With --check FILE it fails where one of our ratios to a peer is
more than 15 % below that of an earlier run, kept in FILE, or a parity is unknown.

`--device cpu --size tiny --no-http` rehearses it without a GPU, on the variants for the processor
(over HTTP not with this size, whose tokenizer has too few words).
"""

import argparse
import asyncio
import importlib.util
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tokenizers

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.bench_engine import (  # noqa: E402
    EngineProcess,
    measure,
    print_table,
    run_module,
)
from benchmarks.cuda_goals import LARGE, PREDECESSOR, utilisation, verdicts  # noqa: E402
from benchmarks.draw import draw_bars  # noqa: E402
from benchmarks.http_load import closed_loop, summarise  # noqa: E402
from benchmarks.http_turns import meet  # noqa: E402
from benchmarks.machine import save_report  # noqa: E402
from benchmarks.peer_servers import running, service  # noqa: E402
from benchmarks.ratios import OURS, fallen_ratios  # noqa: E402
from benchmarks.synthetic_texts import SyntheticTexts  # noqa: E402
from service.embedding.manifest import Manifest, Parity, read_manifest  # noqa: E402
from service.embedding.prompts import default_prompt  # noqa: E402

Device = Literal["cuda", "cpu"]

SHAPES = ("1x16", "32x32", "32x128", LARGE, "16x512", "8x2048")
PROVIDERS: dict[Device, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
HTTP_TEXTS, HTTP_TOKENS = 32, 32
HTTP_CLIENTS = 32


def prepared(device: Device, size: str) -> tuple[Path, Path]:
    """The benchmark's checkpoint, and its bundle for the device, made where they are missing."""
    name = "checkpoint" if size == "full" else f"checkpoint-{size}"
    checkpoint = ROOT / "build" / name
    bundle = ROOT / "build" / "models" / f"{device}-{size}"
    if not (checkpoint / "modules.json").is_file():
        run_module("tests.checkpoints", checkpoint, "--size", size)
    if not (bundle / "manifest.json").is_file():
        options = ("--models-dir", bundle.parent, "--name", bundle.name, "--target", device)
        rehearsed = () if device == "cuda" else ("--no-parity",)
        run_module("export", checkpoint, *options, *rehearsed)
    return checkpoint, bundle


def engine_folders(
    device: Device, manifest: Manifest, bundle: Path, checkpoint: Path
) -> dict[str, Path]:
    """Each variant for the device, and sentence-transformers with each kind of attention."""
    ours = [
        variant.precision
        for variant in manifest.variants
        if PROVIDERS[device] in variant.execution_providers
    ]
    peers = [f"sentence-transformers bf16 {device}"]
    if device == "cuda" and importlib.util.find_spec("flash_attn"):
        peers.append(f"sentence-transformers bf16 flash-attention {device}")
    return {f"{OURS} {precision}": bundle for precision in ours} | dict.fromkeys(peers, checkpoint)


def device_name(device: Device) -> str:
    """What a GPU calls itself."""
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else device


def matrix_rate(device: Device, size: int, seconds: float) -> float:
    """The best number of operations a second in a product of square matrices in bfloat16."""
    import torch

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(3):
        torch.mm(a, b)
    synchronize()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not best:
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize()
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def over_http(bundle: Path, manifest: Manifest, seconds: float) -> dict[int, dict[str, Any]]:
    """What the service answers clients that each send so many texts at a time, by their number."""
    prompt = default_prompt(manifest)
    tokenizer = tokenizers.Tokenizer.from_file(str(bundle / manifest.tokenizer.name))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = SyntheticTexts(tokenizer, prompt)
    found = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(service("service", bundle, Path(folder))) as url,
    ):
        server = meet("service", url, texts, prompt, ours=True)
        for count in (*PREDECESSOR, HTTP_TEXTS):
            # The predecessor's client waited for each answer.
            clients = 1 if count in PREDECESSOR else HTTP_CLIENTS
            requests = server.requests(texts, count, itertools.repeat(HTTP_TOKENS))
            turn = closed_loop(server.url, requests, clients=clients, seconds=seconds)
            found[count] = summarise([asyncio.run(turn)])
    return found


def print_parity(parities: Mapping[str, Parity | None]) -> None:
    """How near each variant is to the reference."""
    for precision, parity in parities.items():
        print(
            f"parity of {precision}: "
            + (
                f"cosine to {parity.reference} at least {parity.cosine_min:.5f}, mean "
                f"{parity.cosine_mean:.5f}, same nearest document {parity.top1_agreement:.3f} "
                f"({parity.texts} texts)"
                if parity
                else "not measured"
            )
        )


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    device: Device = options.device
    checkpoint, bundle = options.checkpoint, options.bundle
    if bundle is None or checkpoint is None:
        checkpoint, bundle = prepared(device, options.size)
    manifest = read_manifest(bundle)
    config = json.loads((checkpoint / "config.json").read_bytes())
    parities: dict[str, Parity | None] = {
        variant.precision: variant.parity
        for variant in manifest.variants
        if PROVIDERS[device] in variant.execution_providers
    }
    print_parity(parities)

    folders = engine_folders(device, manifest, bundle, checkpoint)
    engines = [EngineProcess(name, folder, options.threads) for name, folder in folders.items()]
    results = measure(engines, list(options.shapes), options.rounds, options.seconds)
    for engine in engines:
        engine.close()
    rate = matrix_rate(device, options.matrix, options.seconds)
    utilised = utilisation(results, LARGE, config, rate)
    http = over_http(bundle, manifest, options.seconds) if options.http else {}
    texts_per_second = http[HTTP_TEXTS]["texts_per_second"] if http else None
    reached = verdicts(results, utilised, texts_per_second)

    print_table(results)
    print(f"\nproducts in bfloat16: {rate / 1e12:,.2f} TFLOP/s")
    for count, before in PREDECESSOR.items() if http else ():
        now = http[count]["texts_per_second"]
        print(f"over HTTP, {count} texts a request: {now:,.1f} texts/s (predecessor: {before})")
    print(*reached, sep="\n")
    if options.save:
        report = {
            "device": device_name(device),
            "parity": {
                precision: parity and {name: getattr(parity, name) for name in _PARITY_FIGURES}
                for precision, parity in parities.items()
            },
            "engines": results,
            "matrix_operations_per_second": rate,
            f"utilisation at {LARGE}": utilised,
            "http": http,
            "predecessor_texts_per_second": PREDECESSOR,
            "goals": [str(verdict) for verdict in reached],
        }
        save_report(options.save, __doc__.splitlines()[0], report)
        draw_bars(results, "tokens_per_second", "tokens/s", options.save.with_suffix(".svg"))
    if not options.check:
        return 0
    earlier = json.loads(options.check.read_bytes())["results"]["engines"]
    failed = fallen_ratios(results, earlier)
    failed += [
        f"{precision}: its parity is unknown" for precision in parities if not parities[precision]
    ]
    print("\n".join(failed) or f"no ratio is more than 15 % below {options.check}")
    return 1 if failed else 0


_PARITY_FIGURES = Parity.__struct_fields__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="needs --checkpoint, too")
    parser.add_argument("--checkpoint", type=Path, help="that the bundle is made of")
    parser.add_argument("--device", choices=PROVIDERS, default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full")
    parser.add_argument("--shapes", nargs="+", default=SHAPES, metavar="TEXTSxTOKENS")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each engine at a shape")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of a turn")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--matrix", type=int, default=8_192, help="rows of the matrices multiplied")
    parser.add_argument("--no-http", dest="http", action="store_false")
    parser.add_argument("--check", type=Path, metavar="FILE.json", help="fail where it got worse")
    parser.add_argument("--save", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
