"""The code path of a GPU, run on the processor: the same sessions, bindings, buffers and buckets.

What only a GPU has is not here: captured graphs, memory of its own, and the speed.
"""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest

from export.bundle import OUTPUT
from export.checkpoint import open_checkpoint
from export.fused import long_path_of, weights_path_of, write_fused
from export.progress import silent
from service.embedding.batching import TextQueue
from service.embedding.buckets import captured_buckets
from service.embedding.cuda_model import (
    SMALLEST_ROOM,
    CudaModel,
    memory_share,
    open_cuda_model,
)
from service.embedding.cuda_session import Device
from service.embedding.manifest import (
    MANIFEST_NAME,
    BundleFile,
    LongTexts,
    Manifest,
    Precision,
    read_manifest,
    sha256_of,
)
from service.embedding.onnx_model import Embeddings, OnnxModel, load_model
from service.embedding.tokenization import TokenIds, load_tokenizer
from service.embedding.warm_up import GPU_BATCH_TOKENS, plan_for
from service.errors import InferenceError, ModelLoadError
from tests.checkpoints import make_checkpoint
from tests.service_process import clean_environment

ON_CPU = Device("CPUExecutionProvider", "cpu")
WINDOW = 257


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EmbeddingGemma in float32, written for CUDA and for the processor."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint = make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")
    command = [sys.executable, "-m", "export", str(checkpoint), "--models-dir", str(folder.parent)]
    options = ["--precision", "fp32", "--no-parity"]
    subprocess.run([*command, *options], check=True, capture_output=True)
    manifest = read_manifest(folder)
    tokenizer = load_tokenizer(folder, manifest)
    graph = folder / "fp32-cuda.onnx"
    opened = open_checkpoint(str(checkpoint))
    precision: Precision = "fp32"
    above = write_fused(opened, precision, "cuda", graph, OUTPUT, tokenizer, silent)
    assert above == WINDOW
    variant = msgspec.structs.replace(
        manifest.variants[0],
        execution_providers=("CUDAExecutionProvider",),
        graph=described(graph),
        weights=described(weights_path_of(graph)),
        long_texts=LongTexts(above, described(long_path_of(graph))),
    )
    manifest = msgspec.structs.replace(manifest, variants=(variant, *manifest.variants))
    (folder / MANIFEST_NAME).write_bytes(msgspec.json.encode(manifest))
    return folder


def described(path: Path) -> BundleFile:
    return BundleFile(path.name, sha256_of(path), path.stat().st_size)


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


@pytest.fixture(scope="module")
def model(bundle: Path, manifest: Manifest) -> CudaModel:
    return open_cuda_model(bundle, manifest, manifest.variants[0], device=ON_CPU)


@pytest.fixture(scope="module")
def reference(bundle: Path, manifest: Manifest) -> OnnxModel:
    loaded = load_model(bundle, manifest)
    assert isinstance(loaded, OnnxModel)
    return loaded


def texts(*lengths: int, seed: int = 0) -> list[TokenIds]:
    rng = np.random.default_rng(seed)
    return [rng.integers(300, 2_000, length) for length in lengths]


def least_cosine(one: Embeddings, other: Embeddings) -> float:
    return float((one * other).sum(axis=1).min())


@pytest.mark.parametrize(
    "lengths",
    [
        (1,),
        (16, 17),
        (WINDOW - 1, WINDOW, WINDOW + 1),
        (5, 300, 20, 2_048, 63),
        (40,) * 33,
        (130,) * 17,
    ],
)
def test_padding_to_a_bucket_changes_no_embedding(
    model: CudaModel, reference: OnnxModel, lengths: tuple[int, ...]
) -> None:
    batch = texts(*lengths)
    found = model.run(batch)
    assert found.shape == (len(batch), 64)
    assert least_cosine(found, reference.run(batch)) >= 0.999999


def test_a_captured_shape_has_nothing_of_the_batch_before(
    model: CudaModel, reference: OnnxModel
) -> None:
    for seed in range(3):
        for count in (4, 3, 1):
            batch = texts(*range(10, 10 + count), seed=seed)
            assert least_cosine(model.run(batch), reference.run(batch)) >= 0.999999


def test_several_threads_may_run_it(model: CudaModel, reference: OnnxModel) -> None:
    batches = [texts(*range(5, 9 + seed), seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(model.run, batches))
    for batch, found in zip(batches, results, strict=True):
        assert least_cosine(found, reference.run(batch)) >= 0.999999


def test_every_shape_is_captured_once(model: CudaModel) -> None:
    short, long = captured_buckets(longest=WINDOW), captured_buckets(longest=2_048, above=WINDOW)
    assert model.capture() == len(short) + len(long)
    assert model.capture() == len(short) + len(long)


def test_texts_on_either_side_of_the_window_are_planned_apart(
    model: CudaModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        plan = plan_for(model, texts(4)[0])
    assert plan.borders == (WINDOW,)
    assert plan.max_batch_tokens == GPU_BATCH_TOKENS
    assert plan.workers == 2
    (said,) = caplog.messages
    assert "attention by" in said
    assert "shapes captured" in said
    given = plan_for(model, texts(4)[0], workers=1, max_batch_tokens=99, measured=False)
    assert (given.workers, given.max_batch_tokens) == (1, 99)


def test_an_idle_gpu_gets_all_that_waits_in_one_batch(model: CudaModel) -> None:
    queue: TextQueue[int] = TextQueue(plan_for(model, texts(4)[0], measured=False))
    for number in range(32):
        queue.put(number, 32, "bulk")
    batch = queue.take(0)
    assert batch is not None
    assert len(batch.texts) == 32
    for number in range(32, 40):
        queue.put(number, 32, "bulk")
    next_batch = queue.take(1)
    assert next_batch is not None
    assert len(next_batch.texts) == 8


def test_all_nodes_are_counted_by_where_they_run(model: CudaModel) -> None:
    assert set(model.nodes) == {"CPUExecutionProvider"}
    assert model.nodes["CPUExecutionProvider"] > 200


def test_a_batch_that_fails_harms_no_other(model: CudaModel, reference: OnnxModel) -> None:
    with pytest.raises(InferenceError, match="failed on a batch of 1 texts of up to 16 tokens"):
        model.run([np.array([10**6])])
    batch = texts(3, 4)
    assert least_cosine(model.run(batch), reference.run(batch)) >= 0.999999


def test_a_machine_without_cuda_says_so(bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(ModelLoadError, match="nvidia-smi should list a GPU"):
        open_cuda_model(bundle, manifest, manifest.variants[0])


def test_a_graph_with_other_inputs_is_refused(bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(ModelLoadError, match="should map input_ids and token_counts"):
        open_cuda_model(bundle, manifest, manifest.variants[1], device=ON_CPU)


def test_a_damaged_graph_for_long_texts_is_refused(bundle: Path, manifest: Manifest) -> None:
    variant = manifest.variants[0]
    assert variant.long_texts
    damaged = msgspec.structs.replace(variant.long_texts.graph, sha256="0" * 64)
    variant = msgspec.structs.replace(variant, long_texts=LongTexts(WINDOW, damaged))
    with pytest.raises(ModelLoadError, match="sha256"):
        open_cuda_model(bundle, manifest, variant, device=ON_CPU)


def test_memory_is_shared_between_sessions_that_each_keep_the_weights() -> None:
    assert memory_share(0, weights=10, sessions=2) == 0
    assert memory_share(10**9, weights=10**8, sessions=2) == 5 * 10**8
    enough = 2 * (10**9 + SMALLEST_ROOM)
    assert memory_share(enough, weights=10**9, sessions=2) == enough // 2
    with pytest.raises(ModelLoadError, match=f"expected at least {enough}"):
        memory_share(enough - 2, weights=10**9, sessions=2)


def test_too_little_memory_is_refused_at_load(bundle: Path, manifest: Manifest) -> None:
    with pytest.raises(ModelLoadError, match="MEMORY_GPU_BYTES=1000 is too little"):
        open_cuda_model(bundle, manifest, manifest.variants[0], gpu_bytes=1_000, device=ON_CPU)


OUT_OF_MEMORY = """
import asyncio, pathlib, resource, sys
import numpy as np
from service.embedding.batching import Cost, Plan
from service.embedding.cuda_model import open_cuda_model
from service.embedding.cuda_session import Device
from service.embedding.manifest import read_manifest
from service.embedding.scheduler import open_scheduler

bundle = pathlib.Path(sys.argv[1])
manifest = read_manifest(bundle)
device = Device("CPUExecutionProvider", "cpu")
model = open_cuda_model(bundle, manifest, manifest.variants[0], device=device)
texts = [np.concatenate([[300 + n], np.arange(300, 2_299) % 1_500 + 300]) for n in range(8)]
alone = np.concatenate([model.run([text]) for text in texts[:2]])
cost = Cost(1.0, 0.0001)


async def embed():
    plan = Plan(1, 10**6, cost, cost, model.borders)
    async with open_scheduler(model.run, plan, max_queued_tokens=10**6) as scheduler:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 330 * 1024 * 1024
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        found = (await scheduler.embed(texts, "bulk")).embeddings
        assert (found[:2] * alone).sum(axis=1).min() > 0.9999
        assert scheduler.seconds_since_success() < 60


asyncio.run(embed())
print("all embedded")
"""


@pytest.mark.slow
def test_a_batch_without_room_is_split_until_it_has(bundle: Path) -> None:
    """8 texts of 2,000 tokens have scores of 384 MB, more than may be allocated."""
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(bundle)],
        env=clean_environment() | {"MALLOC_ARENA_MAX": "1"},  # no room that only threads reserve
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all embedded\n", done.stderr
    assert "a batch of 8 texts failed" in done.stderr
    assert "allocate memory" in done.stderr
