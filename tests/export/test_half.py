"""16 bits for CUDA, computed in numpy as a GPU would: nothing here needs one."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file, save_file

from export.__main__ import main as export
from export.checkpoint import Checkpoint, open_checkpoint
from export.errors import ParityError
from export.fused import Target, long_path_of, write_fused
from export.graphs import gemma3
from export.graphs.blocks import Blocks, gain_of
from export.graphs.graph import Graph
from export.observation import output_of
from export.parity import cosine
from export.precision import ARITHMETIC, Float32
from export.progress import silent
from export.rescaling import LARGEST, Rescaled, power_of_two
from service.embedding.manifest import Precision, read_manifest
from service.embedding.onnx_model import Embeddings
from service.embedding.tokenization import Tokenizer
from tests.export.conftest import BundleOf
from tests.export.half_evaluation import evaluate

FLOAT16_MAX = 65_504.0
WINDOW = 257
MILLION = 1e6

# Weights, by a part of their name, and what makes layers and the residual stream so loud.
LOUDER = {
    "embed_tokens": 100,
    "self_attn.q_proj": 4_000,
    "self_attn.k_proj": 4_000,
    "self_attn.v_proj": 800,
    "self_attn.o_proj": 60,
    "mlp.up_proj": 2_000,
    "mlp.down_proj": 50,
}
LOUDER_NORMS = 300.0

EpsFactors = dict[str, float]
Evaluate = Callable[[Precision], tuple[Embeddings, float]]


def write_louder(source: Path, folder: Path, factors: dict[str, int], norms: float) -> Path:
    """A copy of a checkpoint with larger weights, and larger gains behind its layers."""
    shutil.copytree(source, folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        for part, factor in factors.items():
            if part in name:
                tensors[name] *= factor
        if "post_" in name:
            tensors[name] = ((1 + tensors[name]) * norms - 1).astype(np.float32)
    save_file(tensors, path)
    return folder


@pytest.fixture(scope="module")
def loud_checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "loud"
    return write_louder(tiny_checkpoint, folder, LOUDER, LOUDER_NORMS)


@pytest.fixture(scope="module")
def tokenizer(bundle_of: BundleOf) -> Tokenizer:
    return bundle_of("tiny", "fp32").tokenizer


def texts(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(300, 2_000, length) for length in lengths]


SHORT = texts(5, WINDOW)
LONG = texts(WINDOW + 40, 20)


@pytest.fixture(scope="module")
def loud(
    loud_checkpoint: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Evaluate:
    """Embeddings of short and long texts at a precision, and the largest number on the way."""
    folder = tmp_path_factory.mktemp("loud")
    checkpoint = open_checkpoint(str(loud_checkpoint))

    @cache
    def run(precision: Precision) -> tuple[Embeddings, float]:
        path = folder / f"{precision}.onnx"
        assert write(checkpoint, precision, path, tokenizer) == WINDOW
        short, largest_of_short = evaluate(path, SHORT)
        long, largest_of_long = evaluate(long_path_of(path), LONG)
        return np.concatenate([short, long]), max(largest_of_short, largest_of_long)

    return run


def write(
    checkpoint: Checkpoint,
    precision: Precision,
    path: Path,
    tokenizer: Tokenizer,
    target: Target = "cuda",
) -> int | None:
    return write_fused(checkpoint, precision, target, path, "embedding", tokenizer, silent)


def test_numpy_computes_what_onnx_runtime_does(
    tiny_checkpoint: Path, bundle_of: BundleOf, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "fp32.onnx"
    write(open_checkpoint(str(tiny_checkpoint)), "fp32", path, tokenizer)
    model = bundle_of("tiny", "fp32").model
    for graph, batch in ((path, SHORT), (long_path_of(path), LONG)):
        assert cosine(evaluate(graph, batch)[0], model.run(batch)).min() >= 0.999999


def test_float16_stays_finite_and_exact_where_float32_reaches_millions(loud: Evaluate) -> None:
    exact, largest = loud("fp32")
    found, _ = loud("fp16")
    assert largest >= MILLION
    assert np.isfinite(found).all()
    assert cosine(found, exact).min() >= 0.9999


def write_short(checkpoint: Checkpoint, path: Path, eps_factors: EpsFactors, stream: float) -> None:
    """The graph for short texts in float16, over weights as they are."""
    config = msgspec.convert(checkpoint.config, gemma3.Gemma3Config, strict=False)
    with path.with_suffix(".data").open("wb") as file:
        graph = Graph(file, path.with_suffix(".data").name, counted=True)
        half = ARITHMETIC["fp16"]
        blocks = Blocks(graph, half, checkpoint.weights, 2_048, False, eps_factors, stream)
        hidden = gemma3.build(blocks, config, range(config.num_hidden_layers))
        pooled = blocks.dense(
            blocks.mean_pool(hidden), [dense.weight for dense in checkpoint.dense]
        )
        graph.save(blocks.normalise(pooled), "embedding", 64, path)


def test_float16_cannot_even_be_written_there_without_rescaling(
    loud_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(str(loud_checkpoint))
    with pytest.raises(ParityError, match=r"norm\.gain has numbers up to .* which float16 cannot"):
        write_short(checkpoint, tmp_path / "plain.onnx", {}, 1.0)


def test_float16_overflows_there_when_only_the_residual_stream_is_rescaled(
    loud: Evaluate, loud_checkpoint: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(str(loud_checkpoint))
    stream = 2.0**-16
    norms = [name.removesuffix(".weight") for name in checkpoint.weights if "norm" in name]
    reads_stream = [name for name in norms if "post_" not in name and "self_attn" not in name]
    path = tmp_path / "plain.onnx"
    write_short(checkpoint, path, dict.fromkeys(reads_stream, stream**2), stream)
    found, largest = evaluate(path, SHORT)
    assert not np.isfinite(largest)
    assert not cosine(found, loud("fp32")[0][: len(SHORT)]).min() >= 0.9999


def test_bfloat16_needs_no_rescaling_and_is_less_exact(loud: Evaluate) -> None:
    found, largest = loud("bf16")
    off = 1 - cosine(found, loud("fp32")[0])
    assert np.isfinite(found).all()
    assert largest >= MILLION
    assert off.max() <= 0.001
    assert off.max() > (1 - cosine(loud("fp16")[0], loud("fp32")[0])).max()


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_ordinary_weights_are_near_float32(
    tiny_checkpoint: Path,
    bundle_of: BundleOf,
    tokenizer: Tokenizer,
    tmp_path: Path,
    precision: Precision,
) -> None:
    path = tmp_path / "half.onnx"
    write(open_checkpoint(str(tiny_checkpoint)), precision, path, tokenizer)
    exact = bundle_of("tiny", "fp32").model
    for graph, batch in ((path, SHORT), (long_path_of(path), LONG)):
        off = 1 - cosine(evaluate(graph, batch)[0], exact.run(batch))
        assert off.max() <= (1e-5 if precision == "fp16" else 1e-4)


@pytest.mark.parametrize("peak", [1e-9, 1.0, LARGEST, LARGEST + 1, 1e6, 3e38])
def test_a_factor_is_a_power_of_two_and_no_larger_than_needed(peak: float) -> None:
    factor = power_of_two(np.array([0.5, peak], np.float32))
    assert np.frexp(factor)[0] == 0.5
    assert peak * factor <= LARGEST
    assert factor == 1 or 2 * peak * factor > LARGEST


@pytest.mark.parametrize(
    ("factors", "complaint"),
    [
        ({"mlp.gate_proj": 100_000}, "mlp.gate_proj gives up to"),
        ({"mlp.gate_proj": 100_000, "mlp.up_proj": 2}, "take bf16"),
    ],
)
def test_what_float16_cannot_hold_is_left_out(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    factors: dict[str, int],
    complaint: str,
) -> None:
    checkpoint = write_louder(tiny_checkpoint, tmp_path / "gates", factors, 1.0)
    models = str(tmp_path / "models")
    arguments = [str(checkpoint), "--models-dir", models, "--name", "b", "--target", "cuda"]
    assert export([*arguments, "--no-parity"]) == 0
    assert complaint in capsys.readouterr().out
    manifest = read_manifest(tmp_path / "models" / "b")
    assert [variant.precision for variant in manifest.variants] == ["bf16"]
    assert not list((tmp_path / "models" / "b").glob("fp16*"))


def test_rescaling_changes_no_embedding_in_float32(
    tiny_checkpoint: Path, bundle_of: BundleOf, tmp_path: Path
) -> None:
    """With an eps so large that a norm whose eps was not rescaled would show it."""
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    config = msgspec.convert(checkpoint.config, gemma3.Gemma3Config, strict=False)
    config = msgspec.structs.replace(config, rms_norm_eps=0.5)
    peaks = {
        name: np.array([10 ** (4 + i % 3)], np.float32)
        for i, weight in enumerate(sorted(config.shapes()))
        if "_proj" in weight
        for name in (weight.removesuffix(".weight"), output_of(weight.removesuffix(".weight")))
    }
    peaks |= {output_of(name): np.ones(1, np.float32) for name in peaks if "gate_proj" in name}
    peaks |= {
        gain_of(weight.removesuffix(".weight")): np.array([1e5], np.float32)
        for weight in config.shapes()
        if weight.endswith("norm.weight")
    }
    rescaled = gemma3.rescaled(checkpoint.weights, config, peaks)
    assert len(set(rescaled.eps_factors.values())) > 2
    assert rescaled.stream_factor < 1

    def embed(name: str, model: Rescaled) -> Embeddings:
        with (tmp_path / f"{name}.data").open("wb") as file:
            graph = Graph(file, f"{name}.data")
            blocks = Blocks(
                graph,
                Float32(),
                model.weights,
                2_048,
                eps_factors=model.eps_factors,
                stream_factor=model.stream_factor,
            )
            hidden = gemma3.build(blocks, config, range(config.num_hidden_layers))
            graph.save(blocks.normalise(blocks.mean_pool(hidden)), "e", 64, tmp_path / name)
        session = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        ids = SHORT[0][None]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return np.asarray(session.run(["e"], feed)[0])

    plain = embed("plain", Rescaled(checkpoint.weights))
    assert cosine(embed("rescaled", rescaled), plain).min() >= 0.9999999
    without_eps = embed("without eps", replace(rescaled, eps_factors={}))
    assert cosine(without_eps, plain).min() < 0.999
    without_stream = embed("without stream", replace(rescaled, stream_factor=1.0))
    assert cosine(without_stream, plain).min() < 0.99999
