import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest

from service.embedding.cores import usable_cores
from service.embedding.manifest import Manifest, Variant, read_manifest, sha256_of
from service.embedding.onnx_model import (
    OnnxModel,
    available_execution_providers,
    choose_variant,
    load_model,
)
from service.embedding.tokenization import TokenIds, load_tokenizer
from service.errors import InferenceError, ModelLoadError
from tests.service_process import clean_environment

TEXTS = ("one", "two words", "a text of six words here", "ten " * 10, "and a long one " * 20)


@pytest.fixture(scope="module")
def manifest(starter_bundle: Path) -> Manifest:
    return read_manifest(starter_bundle)


@pytest.fixture(scope="module")
def model(starter_bundle: Path, manifest: Manifest) -> OnnxModel:
    loaded = load_model(starter_bundle, manifest)
    assert isinstance(loaded, OnnxModel)
    return loaded


@pytest.fixture(scope="module")
def tokens(starter_bundle: Path, manifest: Manifest) -> list[TokenIds]:
    tokenized = load_tokenizer(starter_bundle, manifest).tokenize(TEXTS, truncate=False)
    return [text.ids for text in tokenized]


def test_embeddings_are_float32_of_unit_length(model: OnnxModel, tokens: list[TokenIds]) -> None:
    embeddings = model.run(tokens)
    assert embeddings.shape == (len(TEXTS), 384)
    assert embeddings.dtype == np.float32
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)


def test_an_embedding_does_not_depend_on_its_batch(
    model: OnnxModel, tokens: list[TokenIds]
) -> None:
    together = model.run(tokens)
    alone = np.concatenate([model.run([ids]) for ids in tokens])
    assert (together * alone).sum(axis=1).min() >= 0.9999


def test_one_core_gives_the_same_embeddings_to_several_threads(
    starter_bundle: Path, manifest: Manifest, model: OnnxModel, tokens: list[TokenIds]
) -> None:
    both = load_model(starter_bundle, manifest, threads=2, one_core=True)
    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(both.run, [tokens] * 9, ["one"] * 9))
    for embeddings in results:
        assert (embeddings * model.run(tokens)).sum(axis=1).min() >= 0.9999


def test_sessions_share_one_mapping_of_the_weights_and_keep_only_the_token_table_there(
    starter_bundle: Path, manifest: Manifest, tokens: list[TokenIds]
) -> None:
    (variant,) = manifest.variants
    table = variant.token_table
    assert table is not None
    before = mapped(starter_bundle / variant.weights.name)
    model = load_model(starter_bundle, manifest, threads=2, one_core=True)
    after = mapped(starter_bundle / variant.weights.name)
    (resident,) = (after[address] for address in after.keys() - before.keys())
    # The kernel brings in what lies around it, too.
    assert table.bytes <= resident < table.bytes + (variant.weights.bytes - table.bytes) / 2
    assert isinstance(model, OnnxModel)
    assert model.run(tokens, "one") == pytest.approx(model.run(tokens, "all"), abs=1e-5)


def mapped(path: Path) -> dict[str, int]:
    """How many bytes of the file this process holds, by the addresses of each mapping of it."""
    mappings = psutil.Process().memory_maps(grouped=False)
    return {mapping.addr: mapping.rss for mapping in mappings if mapping.path == str(path)}


def test_without_a_token_table_in_the_manifest_the_embeddings_are_the_same(
    starter_bundle: Path, manifest: Manifest, model: OnnxModel, tokens: list[TokenIds]
) -> None:
    changed = msgspec.structs.replace(manifest.variants[0], token_table=None)
    without = load_model(starter_bundle, msgspec.structs.replace(manifest, variants=(changed,)))
    assert np.array_equal(without.run(tokens), model.run(tokens))


def test_a_token_table_beyond_the_weights_is_refused(
    starter_bundle: Path, manifest: Manifest
) -> None:
    (variant,) = manifest.variants
    assert variant.token_table is not None
    place = msgspec.structs.replace(variant.token_table, offset=variant.weights.bytes)
    changed = msgspec.structs.replace(variant, token_table=place)
    with pytest.raises(ModelLoadError, match="does not hold the token table"):
        load_model(starter_bundle, msgspec.structs.replace(manifest, variants=(changed,)))


def test_weights_without_content_are_refused(
    starter_bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    bundle = shutil.copytree(starter_bundle, tmp_path / "empty")
    (variant,) = manifest.variants
    path = bundle / variant.weights.name
    path.write_bytes(b"")
    empty = msgspec.structs.replace(variant.weights, sha256=sha256_of(path), bytes=0)
    changed = msgspec.structs.replace(variant, weights=empty)
    with pytest.raises(ModelLoadError, match="cannot be mapped into memory"):
        load_model(bundle, msgspec.structs.replace(manifest, variants=(changed,)))


def test_without_a_session_of_its_own_one_core_is_left_to_all(
    starter_bundle: Path, manifest: Manifest, tokens: list[TokenIds]
) -> None:
    both = load_model(starter_bundle, manifest, threads=2, one_core=True)
    assert isinstance(both, OnnxModel)
    both.release_one_core()
    for model in (both, load_model(starter_bundle, manifest, threads=1, one_core=True)):
        assert model.run(tokens, "one") == pytest.approx(model.run(tokens, "all"), abs=1e-5)


def test_threads_are_those_of_the_cores_unless_given(
    starter_bundle: Path, manifest: Manifest, model: OnnxModel
) -> None:
    assert model.threads == usable_cores()
    assert load_model(starter_bundle, manifest, threads=3).threads == 3


def test_ids_outside_the_vocabulary_are_an_inference_error(model: OnnxModel) -> None:
    with pytest.raises(InferenceError, match="failed on a batch of 1 texts"):
        model.run([np.array([10**6])])


def test_the_loaded_variant_is_known(model: OnnxModel, manifest: Manifest) -> None:
    assert model.variant == manifest.variants[0]
    assert model.execution_providers == ("CPUExecutionProvider",)


def variant(manifest: Manifest, precision: str, provider: str) -> Variant:
    return msgspec.structs.replace(
        manifest.variants[0], precision=precision, execution_providers=(provider,)
    )


def test_the_first_variant_for_this_machine_is_chosen(manifest: Manifest) -> None:
    gpu = variant(manifest, "fp16", "CUDAExecutionProvider")
    cpu = variant(manifest, "int8", "CPUExecutionProvider")
    full = variant(manifest, "fp32", "CPUExecutionProvider")
    offered = msgspec.structs.replace(manifest, variants=(gpu, cpu, full))
    with_gpu = ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert choose_variant(offered, with_gpu, None) == gpu
    assert choose_variant(offered, ("CPUExecutionProvider",), None) == cpu
    assert choose_variant(offered, with_gpu, "fp32") == full
    with pytest.raises(ModelLoadError, match=r"a bf16 variant .* the bundle has fp16 for CUDA"):
        choose_variant(offered, with_gpu, "bf16")


def test_this_machine_can_compute_on_its_processor() -> None:
    assert "CPUExecutionProvider" in available_execution_providers()


def test_a_damaged_graph_is_refused(starter_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(starter_bundle, tmp_path / "damaged")
    manifest = read_manifest(bundle)
    (bundle / manifest.variants[0].graph.name).write_bytes(b"no graph")
    with pytest.raises(ModelLoadError, match="bytes and its manifest says"):
        load_model(bundle, manifest)


def test_a_file_that_is_no_graph_is_refused(starter_bundle: Path, manifest: Manifest) -> None:
    no_graph = msgspec.structs.replace(manifest.variants[0], graph=manifest.tokenizer)
    with pytest.raises(ModelLoadError, match="ONNX Runtime cannot load"):
        load_model(starter_bundle, msgspec.structs.replace(manifest, variants=(no_graph,)))


def test_a_graph_without_the_named_output_is_refused(
    starter_bundle: Path, manifest: Manifest
) -> None:
    with pytest.raises(ModelLoadError, match="should map input_ids and attention_mask to vectors"):
        load_model(starter_bundle, msgspec.structs.replace(manifest, output="vectors"))


@pytest.mark.parametrize(
    "module",
    ["service.embedding.onnx_model", "service.embedding.cuda_session", "export.observation"],
)
def test_onnx_runtime_does_not_report_what_it_runs(module: str, tmp_path: Path) -> None:
    """Where it does, it leaves an id of the machine and what is still to be sent."""
    environment = clean_environment() | {"HOME": str(tmp_path)}
    for suppressing in ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(suppressing, None)
    script = f"import {module} as user; user.onnxruntime.get_available_providers()"
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert os.listdir(tmp_path) == []
