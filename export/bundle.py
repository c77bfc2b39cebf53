"""Writes models/<name>/: builds each precision, has it proven, keeps the first that passes."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.fused import is_fused, write_fused
from export.parity import GATES, Reference, check_known_answers, is_batch_invariant, measure
from export.progress import Progress
from export.relevance import measure_relevance
from export.traced import write_traced
from service.embedding.manifest import (
    FORMAT,
    MANIFEST_NAME,
    BundleFile,
    Manifest,
    Parity,
    Precision,
    Source,
    Variant,
    sha256_of,
)
from service.embedding.onnx_model import load_model
from service.embedding.tokenization import Tokenizer, load_tokenizer

OUTPUT = "sentence_embedding"

# From the fastest to the most faithful.
_FUSED_LADDER: tuple[Precision, ...] = ("int8", "int8-block", "fp32")
_TRACED_LADDER: tuple[Precision, ...] = ("fp32",)

Compare = Callable[[Manifest, Tokenizer], Reference]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one precision; `failure` is None for the one that passed."""

    precision: Precision
    bytes: int
    parity: Parity | None
    failure: str | None


def ladder(checkpoint: Checkpoint) -> tuple[Precision, ...]:
    """The precisions that this checkpoint can be written in, the fastest first."""
    return _FUSED_LADDER if is_fused(checkpoint) else _TRACED_LADDER


def write_bundle(
    checkpoint: Checkpoint,
    bundle: Path,
    precisions: Sequence[Precision],
    *,
    compare: Compare | None,
    progress: Progress,
    report: Callable[[Attempt], None],
) -> Manifest:
    """Write the first of `precisions` that passes its checks to the folder `bundle`.

    `compare` makes the reference that parity is measured against; without it only the known
    answers are checked. What was in `bundle` is replaced in one step at the end; on any error it
    stays as it was.

    Raises:
        ParityError: no precision passed.
        CheckpointError: the checkpoint is not what its configuration says.
    """
    with _replaced_folder(bundle) as folder:
        tokenizer_path = folder / "tokenizer.json"
        shutil.copyfile(checkpoint.tokenizer_path, tokenizer_path)
        manifest = _manifest(checkpoint, bundle.name, _file(tokenizer_path))
        tokenizer = load_tokenizer(folder, manifest)
        compared = compare(manifest, tokenizer) if compare else None
        failures = []
        for precision in precisions:
            variant = _build(checkpoint, folder, precision, tokenizer, progress)
            candidate = msgspec.structs.replace(manifest, variants=(variant,))
            attempt, proven = _prove(folder, candidate, tokenizer, compared, progress)
            report(attempt)
            if attempt.failure is None:
                encoded = msgspec.json.format(msgspec.json.encode(proven), indent=2)
                (folder / MANIFEST_NAME).write_bytes(encoded + b"\n")
                return proven
            failures.append(f"{precision}: {attempt.failure}")
            for file in (variant.graph, variant.weights):
                (folder / file.name).unlink()
        raise ParityError("no precision passed. " + ". ".join(failures))


def _build(
    checkpoint: Checkpoint,
    folder: Path,
    precision: Precision,
    tokenizer: Tokenizer,
    progress: Progress,
) -> Variant:
    graph_path = folder / f"{precision}.onnx"
    if is_fused(checkpoint):
        write_fused(checkpoint, precision, graph_path, OUTPUT, tokenizer, progress)
    else:
        write_traced(checkpoint, graph_path, OUTPUT)
    return Variant(
        precision=precision,
        execution_providers=("CPUExecutionProvider",),
        graph=_file(graph_path),
        weights=_file(graph_path.with_name(graph_path.name + ".data")),
        batch_invariant=False,
    )


def _prove(
    folder: Path,
    candidate: Manifest,
    tokenizer: Tokenizer,
    compared: Reference | None,
    progress: Progress,
) -> tuple[Attempt, Manifest]:
    """What became of a manifest's only variant, and the manifest with what was measured."""
    (variant,) = candidate.variants
    model = load_model(folder, candidate)
    parity = measure(compared, model, tokenizer, progress) if compared else None
    failure = GATES[variant.precision].failure(parity) if parity else None
    if failure is None and candidate.known_answers:
        try:
            check_known_answers(candidate, model, tokenizer)
        except ParityError as error:
            failure = str(error)
    attempt = Attempt(
        variant.precision, variant.graph.bytes + variant.weights.bytes, parity, failure
    )
    if failure is not None:
        return attempt, candidate
    proven = msgspec.structs.replace(
        variant, batch_invariant=is_batch_invariant(model, tokenizer), parity=parity
    )
    relevance = measure_relevance(candidate, model, tokenizer)
    return attempt, msgspec.structs.replace(candidate, variants=(proven,), relevance=relevance)


def _manifest(checkpoint: Checkpoint, name: str, tokenizer: BundleFile) -> Manifest:
    """The manifest of a checkpoint, with no variant yet."""
    recipe = checkpoint.recipe
    prompts = checkpoint.prompts

    def known_prompt(name: str | None) -> str | None:
        return name if name in prompts else None

    return Manifest(
        format=FORMAT,
        name=name,
        source=Source(
            recipe.id if recipe and checkpoint.is_published else checkpoint.id,
            checkpoint.revision,
            checkpoint.weights.sha256(),
        ),
        architecture=checkpoint.architecture,
        dimensions=checkpoint.dimensions,
        matryoshka_dimensions=recipe.matryoshka_dimensions if recipe else (checkpoint.dimensions,),
        max_tokens=checkpoint.max_tokens,
        pad_token_id=checkpoint.pad_token_id,
        output=OUTPUT,
        tokenizer=tokenizer,
        variants=(),
        prompts=prompts,
        query_prompt=known_prompt("query"),
        document_prompt=known_prompt("document"),
        default_prompt=known_prompt(recipe.default_prompt if recipe else None),
        known_answers=recipe.known_answers if recipe and checkpoint.is_published else None,
        notice=recipe.notice if recipe else None,
    )


def _file(path: Path) -> BundleFile:
    return BundleFile(path.name, sha256_of(path), path.stat().st_size)


@contextmanager
def _replaced_folder(target: Path) -> Iterator[Path]:
    """A new empty folder that takes the place of `target` if the block ends without an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as workspace:
        new, old = Path(workspace, "new"), Path(workspace, "old")
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except OSError:
            if old.exists():
                old.rename(target)
            raise
