"""What is known about a published model before its checkpoint is read: data in export/recipes/."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from export.errors import RecipeMismatch
from service.embedding.manifest import KnownAnswers

_RECIPES = Path(__file__).parent / "recipes"


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One published model: how to recognise it, what its files must say, and what it answers."""

    name: str
    id: str
    recognised_by: tuple[str, ...]
    """The fields of config.json that say a local folder holds this model or a fine-tune of it."""
    config: dict[str, Any]
    matryoshka_dimensions: tuple[int, ...]
    weights_sha256: str
    tokenizer_sha256: str
    known_answers: KnownAnswers
    revision: str | None = None
    prompts: dict[str, str] = {}
    query_prompt: str | None = None
    document_prompt: str | None = None
    default_prompt: str | None = None
    notice: str | None = None


def recipe_named(name: str) -> Recipe:
    """The recipe of this name, which must exist."""
    return msgspec.json.decode((_RECIPES / f"{name}.json").read_bytes(), type=Recipe)


def find_recipe(source_id: str, config: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a hub id, or of the model that this config.json looks like."""
    recipes = [recipe_named(path.stem) for path in sorted(_RECIPES.glob("*.json"))]
    for recipe in recipes:
        if recipe.id == source_id:
            return recipe
    for recipe in recipes:
        if all(config.get(key) == recipe.config[key] for key in recipe.recognised_by):
            return recipe
    return None


def check_config(recipe: Recipe, config: Mapping[str, Any]) -> None:
    """Refuse a config.json that contradicts the recipe.

    Raises:
        RecipeMismatch: a field has another value than the published model's.
    """
    for key, expected in recipe.config.items():
        found = config.get(key)
        if found == expected:
            continue
        advice = "take the published file, or correct this field"
        if key == "sliding_window":
            advice = (
                "transformers up to 4.57.6 halves it each time a model is saved, so set it back "
                f"to {expected} in config.json"
            )
        raise RecipeMismatch(
            f"config.json says {key}={found!r} and {recipe.id} has {expected!r}: {advice}"
        )
