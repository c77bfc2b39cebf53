"""Makes EmbeddingGemma checkpoints with random weights, as sentence-transformers reads them.

They load like google/embeddinggemma-300m, which a test cannot download. As a command:

    python -m tests.checkpoints FOLDER [--size tiny|full] [--seed N]
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.checkpoint_tokenizer import BOS, EOS, MASK, PAD, UNK, train_tokenizer
from tests.checkpoint_weights import (
    FULL,
    TINY,
    FloatArray,
    Shape,
    dense_shapes,
    parameters,
    tensor,
    tensor_shapes,
)

__all__ = [
    "FULL",
    "MAX_TOKENS",
    "PROMPTS",
    "SLIDING_WINDOW",
    "TINY",
    "Shape",
    "config",
    "make_checkpoint",
    "parameters",
]

SIZES = {"tiny": TINY, "full": FULL}

MAX_TOKENS = 2_048

# As config.json has it. Attention reaches half of it to each side.
SLIDING_WINDOW = 512
FULL_ATTENTION_EVERY = 6

_SEARCH = "task: search result | query: "
_SIMILARITY = "task: sentence similarity | query: "
_CLASSIFICATION = "task: classification | query: "
_DOCUMENT = "title: none | text: "

# config_sentence_transformers.json of google/embeddinggemma-300m.
PROMPTS = {
    "query": _SEARCH,
    "document": _DOCUMENT,
    "BitextMining": _SEARCH,
    "Clustering": "task: clustering | query: ",
    "Classification": _CLASSIFICATION,
    "InstructionRetrieval": "task: code retrieval | query: ",
    "MultilabelClassification": _CLASSIFICATION,
    "PairClassification": _SIMILARITY,
    "Reranking": _SEARCH,
    "Retrieval": _SEARCH,
    "Retrieval-query": _SEARCH,
    "Retrieval-document": _DOCUMENT,
    "STS": _SIMILARITY,
    "Summarization": "task: summarization | query: ",
}

_MODULES = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")


def make_checkpoint(
    folder: Path, shape: Shape = TINY, *, seed: int = 0, progress: bool = False
) -> Path:
    """A new folder with a whole checkpoint: the same bytes for the same shape and seed.

    It appears under its name when it is complete.

    Raises:
        FileExistsError: there is something at `folder`.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; name a new folder, or delete it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as beside:
        unfinished = Path(beside) / folder.name
        with tqdm(
            total=parameters(shape),
            unit=" parameters",
            unit_scale=True,
            mininterval=0.5,
            disable=not progress,
        ) as bar:
            _write(unfinished, shape, seed, bar.update)
        unfinished.rename(folder)
    return folder


def config(shape: Shape) -> dict[str, Any]:
    """config.json of the transformer."""
    return {
        "_sliding_window_pattern": FULL_ATTENTION_EVERY,
        "architectures": ["Gemma3TextModel"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_logit_softcapping": None,
        "bos_token_id": 2,
        "dtype": "float32",
        "eos_token_id": 1,
        "final_logit_softcapping": None,
        "head_dim": shape.head_dim,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": shape.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_types": [
            "sliding_attention" if number % FULL_ATTENTION_EVERY else "full_attention"
            for number in range(1, shape.num_hidden_layers + 1)
        ],
        "max_position_embeddings": MAX_TOKENS,
        "model_type": "gemma3_text",
        "num_attention_heads": shape.num_attention_heads,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_key_value_heads": shape.num_key_value_heads,
        "pad_token_id": 0,
        "query_pre_attn_scalar": shape.head_dim,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": None,
        "rope_theta": 1_000_000.0,
        "sliding_window": SLIDING_WINDOW,
        "transformers_version": "4.57.0.dev0",
        "use_bidirectional_attention": True,
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }


def _write(folder: Path, shape: Shape, seed: int, progress: Callable[[int], object]) -> None:
    for name, content in _json_files(shape).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "4_Normalize").mkdir()
    train_tokenizer(shape.vocab_size, seed).save(str(folder / "tokenizer.json"))
    transformer = tensor_shapes(shape)
    _write_safetensors(
        folder / "model.safetensors",
        transformer,
        (block for name in transformer for block in tensor(shape, seed, name)),
        progress,
    )
    for module, size in dense_shapes(shape).items():
        _write_safetensors(
            folder / module / "model.safetensors",
            {"linear.weight": size},
            tensor(shape, seed, module),
            progress,
        )


def _json_files(shape: Shape) -> dict[str, Any]:
    dense = {
        f"{module}/config.json": {
            "in_features": columns,
            "out_features": rows,
            "bias": False,
            "activation_function": "torch.nn.modules.linear.Identity",
        }
        for module, (rows, columns) in dense_shapes(shape).items()
    }
    return {
        "config.json": config(shape),
        "modules.json": [
            {
                "idx": index,
                "name": str(index),
                "path": f"{index}_{module}" if index else "",
                "type": f"sentence_transformers.models.{module}",
            }
            for index, module in enumerate(_MODULES)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": False,
            "include_prompt": True,
        },
        **dense,
        "sentence_bert_config.json": {"max_seq_length": MAX_TOKENS, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "__version__": {
                "sentence_transformers": "5.1.0",
                "transformers": "4.57.0.dev0",
                "pytorch": "2.8.0",
            },
            "prompts": PROMPTS,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "tokenizer_config.json": {
            "add_bos_token": True,
            "add_eos_token": True,
            "bos_token": BOS,
            "clean_up_tokenization_spaces": False,
            "eos_token": EOS,
            "mask_token": MASK,
            "model_max_length": MAX_TOKENS,
            "pad_token": PAD,
            "padding_side": "right",
            "sp_model_kwargs": None,
            "spaces_between_special_tokens": False,
            "tokenizer_class": "GemmaTokenizer",
            "unk_token": UNK,
            "use_default_system_prompt": False,
        },
        "special_tokens_map.json": {
            f"{name}_token": {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
            }
            for name, token in (("bos", BOS), ("eos", EOS), ("pad", PAD), ("unk", UNK))
        },
    }


def _write_safetensors(
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    blocks: Iterable[FloatArray],
    progress: Callable[[int], object],
) -> None:
    """Streams the tensors, in the order of `shapes`: the library wants all in memory at once."""
    with path.open("wb") as file:
        file.write(_safetensors_header(shapes))
        for block in blocks:
            file.write(block.data)
            progress(block.size)


def _safetensors_header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """https://github.com/huggingface/safetensors#format"""
    tensors: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, size, (begin, end) in _extents(shapes):
        tensors[name] = {"dtype": "F32", "shape": list(size), "data_offsets": [begin, end]}
    header = json.dumps(tensors, separators=(",", ":")).encode()
    padded = header.ljust(math.ceil(len(header) / 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def _extents(
    shapes: dict[str, tuple[int, ...]],
) -> Iterator[tuple[str, tuple[int, ...], tuple[int, int]]]:
    begin = 0
    for name, size in shapes.items():
        end = begin + 4 * math.prod(size)
        yield name, size, (begin, end)
        begin = end


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Make a checkpoint with random weights.")
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--size", choices=SIZES, default="tiny", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    arguments = parser.parse_args()
    make_checkpoint(arguments.folder, SIZES[arguments.size], seed=arguments.seed, progress=True)


if __name__ == "__main__":
    main()
