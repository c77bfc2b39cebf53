import json
from pathlib import Path

import pytest

from export.checkpoint import open_checkpoint
from export.errors import RecipeMismatch
from export.recipe import check_config, find_recipe, recipe_named
from tests.checkpoints import FULL, config


def test_embeddinggemma_is_recognised_by_its_shape() -> None:
    recipe = find_recipe("a-fine-tune", config(FULL))
    assert recipe is not None
    assert recipe.id == "google/embeddinggemma-300m"
    check_config(recipe, config(FULL))


def test_another_shape_is_nobody_known() -> None:
    assert find_recipe("another", config(FULL) | {"hidden_size": 512}) is None


@pytest.mark.parametrize("halved", [257, 129])
def test_a_halved_window_is_refused(own_checkpoint: Path, halved: int) -> None:
    """transformers up to 4.57.6 writes 257 for 512, and 129 the time after."""
    changed = json.dumps(config(FULL) | {"sliding_window": halved})
    (own_checkpoint / "config.json").write_text(changed)
    with pytest.raises(RecipeMismatch, match=f"sliding_window={halved} .* has 512: .* set it back"):
        open_checkpoint(str(own_checkpoint))


@pytest.mark.parametrize("name", ["embeddinggemma-300m", "all-minilm-l6-v2"])
def test_a_recipe_agrees_with_itself(name: str) -> None:
    recipe = recipe_named(name)
    known = recipe.known_answers
    assert recipe.name == name
    assert len(known.documents) == len(known.similarities)
    assert set(recipe.recognised_by) <= set(recipe.config)
    assert recipe.matryoshka_dimensions == tuple(sorted(recipe.matryoshka_dimensions, reverse=True))
