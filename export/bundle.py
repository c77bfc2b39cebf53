"""Writes models/<name>/: builds each precision, has it proven, keeps the first that passes."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from export.checkpoint import Checkpoint
from export.errors import ParityError
from export.fused import Target, fused_ladder, is_fused, long_path_of, weights_path_of, write_fused
from export.parity import GATES, Reference, check_known_answers, is_batch_invariant, measure
from export.progress import Progress
from export.relevance import measure_relevance
from export.token_table import find_token_table
from export.traced import write_traced
from service.embedding.manifest import (
    FORMAT,
    MANIFEST_NAME,
    BundleFile,
    LongTexts,
    Manifest,
    Parity,
    Precision,
    Source,
    Variant,
    sha256_of,
)
from service.embedding.onnx_model import available_execution_providers, load_model
from service.embedding.tokenization import Tokenizer, load_tokenizer

OUTPUT = "sentence_embedding"

_PROVIDERS: dict[Target, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

Compare = Callable[[Manifest, Tokenizer], Reference]


# What to write for each target, in the order in which the service is to try them.
Wanted = dict[Target, tuple[Precision, ...]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one precision; `failure` is None for one that passed.

    `tried` is whether this machine could run it: where it could not, nothing is known about it.
    """

    precision: Precision
    target: Target
    bytes: int
    parity: Parity | None
    failure: str | None
    tried: bool = True


def ladder(checkpoint: Checkpoint, target: Target) -> tuple[Precision, ...]:
    """The precisions that this checkpoint can be written in for a target, the preferred first."""
    if is_fused(checkpoint):
        return fused_ladder(checkpoint.architecture, target)
    return ("fp32",) if target == "cpu" else ()


def write_bundle(
    checkpoint: Checkpoint,
    bundle: Path,
    wanted: Wanted,
    *,
    compare: Compare | None,
    progress: Progress,
    report: Callable[[Attempt], None],
) -> Manifest:
    """Write what passes its checks to the folder `bundle`: for the processor the first that does.

    `compare` makes the reference that parity is measured against; without it only the known
    answers are checked. What is for CUDA and cannot run here is written as it is, and its parity is
    null. What was in `bundle` is replaced in one step at the end; on any error it stays as it was.

    Raises:
        ParityError: no precision passed for one of the targets.
        CheckpointError: the checkpoint is not what its configuration says.
    """
    with _replaced_folder(bundle) as folder:
        tokenizer_path = folder / "tokenizer.json"
        shutil.copyfile(checkpoint.tokenizer_path, tokenizer_path)
        manifest = _manifest(checkpoint, bundle.name, _file(tokenizer_path))
        tokenizer = load_tokenizer(folder, manifest)
        compared = compare(manifest, tokenizer) if compare else None
        for target, precisions in wanted.items():
            failures = []
            kept: list[Variant] = []
            for precision in precisions:
                attempt, proven = _attempt(
                    checkpoint, folder, manifest, target, precision, tokenizer, compared, progress
                )
                report(attempt)
                if proven is None:
                    failures.append(f"{precision}: {attempt.failure}")
                    continue
                kept += proven.variants
                manifest = msgspec.structs.replace(
                    manifest, relevance=manifest.relevance or proven.relevance
                )
                if target == "cpu":
                    break
            if not kept:
                raise ParityError(f"no precision passed for {target}. " + ". ".join(failures))
            manifest = msgspec.structs.replace(manifest, variants=(*manifest.variants, *kept))
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
        (folder / MANIFEST_NAME).write_bytes(encoded + b"\n")
        return manifest


def _attempt(
    checkpoint: Checkpoint,
    folder: Path,
    manifest: Manifest,
    target: Target,
    precision: Precision,
    tokenizer: Tokenizer,
    compared: Reference | None,
    progress: Progress,
) -> tuple[Attempt, Manifest | None]:
    """What became of one precision, and the manifest of it alone; without one, its files are gone.

    Raises:
        CheckpointError: the checkpoint is not what its configuration says.
    """
    graph_path = folder / f"{precision}{'-cuda' if target == 'cuda' else ''}.onnx"
    try:
        variant = _build(checkpoint, graph_path, target, precision, tokenizer, progress)
        candidate = msgspec.structs.replace(manifest, variants=(variant,))
        attempt, proven = _prove(folder, candidate, target, tokenizer, compared, progress)
    except ParityError as error:
        attempt, proven = Attempt(precision, target, 0, None, str(error)), None
    if proven is None:
        for path in (graph_path, long_path_of(graph_path), weights_path_of(graph_path)):
            path.unlink(missing_ok=True)
    return attempt, proven


def _build(
    checkpoint: Checkpoint,
    graph_path: Path,
    target: Target,
    precision: Precision,
    tokenizer: Tokenizer,
    progress: Progress,
) -> Variant:
    window = None
    if is_fused(checkpoint):
        window = write_fused(checkpoint, precision, target, graph_path, OUTPUT, tokenizer, progress)
    else:
        write_traced(checkpoint, graph_path, OUTPUT)
    return Variant(
        precision=precision,
        execution_providers=(_PROVIDERS[target],),
        graph=_file(graph_path),
        weights=_file(weights_path_of(graph_path)),
        batch_invariant=False,
        long_texts=LongTexts(window, _file(long_path_of(graph_path))) if window else None,
        # A GPU has it in its own memory.
        token_table=find_token_table(graph_path) if target == "cpu" else None,
    )


def _prove(
    folder: Path,
    candidate: Manifest,
    target: Target,
    tokenizer: Tokenizer,
    compared: Reference | None,
    progress: Progress,
) -> tuple[Attempt, Manifest | None]:
    """What became of a manifest's only variant, and the manifest with what was measured."""
    (variant,) = candidate.variants
    size = variant.graph.bytes + variant.weights.bytes
    if not set(variant.execution_providers) <= set(available_execution_providers()):
        return Attempt(variant.precision, target, size, None, None, tried=False), candidate
    model = load_model(folder, candidate)
    parity = measure(compared, model, tokenizer, progress) if compared else None
    failure = GATES[variant.precision].failure(parity) if parity else None
    if failure is None and candidate.known_answers:
        try:
            check_known_answers(candidate, model, tokenizer)
        except ParityError as error:
            failure = str(error)
    attempt = Attempt(variant.precision, target, size, parity, failure)
    if failure is not None:
        return attempt, None
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
