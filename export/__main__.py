"""The command line: python -m export [SOURCE]."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.bundle import Attempt, Compare, Wanted, ladder, write_bundle
from export.checkpoint import STARTER, Checkpoint, open_checkpoint
from export.errors import ExportError
from export.fused import Target
from export.parity import Reference, has_reference, reference
from export.progress import progress_bar
from service.embedding.manifest import Manifest, Relevance
from service.embedding.runtime_package import runtime_package
from service.embedding.tokenization import Tokenizer
from service.errors import ServiceError

_DEFAULT_SOURCE = "google/embeddinggemma-300m"
_PRECISIONS = ("auto", "fp32", "int8", "int8-block", "fp16", "bf16")
# What is for a GPU stands first in a bundle: the service takes the first that it can run.
_TARGETS: dict[str, tuple[Target, ...]] = {
    "cpu": ("cpu",),
    "cuda": ("cuda",),
    "all": ("cuda", "cpu"),
}


def main(arguments: list[str] | None = None) -> int:
    """Write a bundle; the exit status."""
    options = _parser().parse_args(arguments)
    try:
        bundle, manifest = _export(options)
    except (ExportError, ServiceError) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        place = error.filename or options.models_dir
        print(f"export: {place}: {error.strerror}; nothing was changed", file=sys.stderr)
        return 1
    if manifest.relevance:
        _print_relevance(manifest.relevance)
    for variant in manifest.variants:
        print(
            f"{bundle}: {manifest.source.id}, {variant.precision} for "
            f"{', '.join(variant.execution_providers)}, {manifest.dimensions} dimensions, "
            f"{variant.weights.bytes / 1e6:.0f} MB"
        )
    return 0


def _export(options: argparse.Namespace) -> tuple[Path, Manifest]:
    runtime_package()  # or say that there are two
    checkpoint = open_checkpoint(options.source)
    wanted = _wanted(checkpoint, _TARGETS[options.target], options.precision)
    bundle = Path(options.models_dir) / (options.name or checkpoint.name)
    print(f"{checkpoint.id} -> {bundle}", file=sys.stderr)
    manifest = write_bundle(
        checkpoint,
        bundle,
        wanted,
        compare=_compare(checkpoint, wanted=options.parity),
        progress=progress_bar,
        report=_print_attempt,
    )
    return bundle, manifest


def _wanted(checkpoint: Checkpoint, targets: Sequence[Target], precision: str) -> Wanted:
    available = {target: ladder(checkpoint, target) for target in targets}
    wanted = {
        target: tuple(name for name in precisions if precision in ("auto", name))
        for target, precisions in available.items()
    }
    if precision != "auto":  # of one target at least, and then of that one alone
        wanted = {target: precisions for target, precisions in wanted.items() if precisions}
    if not wanted or not all(wanted.values()):
        offered = "; ".join(
            f"{', '.join(precisions) or 'nothing'} for {target}"
            for target, precisions in available.items()
        )
        raise ExportError(
            f"--precision {precision} is not one of those that {checkpoint.architecture} with "
            f"these modules can be written in: {offered}"
        )
    return wanted


def _compare(checkpoint: Checkpoint, *, wanted: bool) -> Compare | None:
    if not wanted:
        return None
    if not has_reference():
        print(
            "parity is not measured: sentence-transformers is not installed "
            "(uv sync --extra export); known answers are checked where there are some",
            file=sys.stderr,
        )
        return None

    def compare(manifest: Manifest, tokenizer: Tokenizer) -> Reference:
        return reference(checkpoint.folder, manifest, tokenizer, progress_bar)

    return compare


def _print_attempt(attempt: Attempt) -> None:
    parity = attempt.parity
    figures = (
        f"cosine min {parity.cosine_min:.5f} mean {parity.cosine_mean:.5f}, "
        f"top-1 agreement {parity.top1_agreement:.3f} (the reference is right in "
        f"{parity.reference_accuracy:.3f}), {parity.texts} texts"
        if parity
        else "parity not measured"
    )
    if not attempt.tried:
        figures = "not run, since there is no such execution provider here; its parity is null"
    print(
        f"  {attempt.precision:<10} {attempt.target:<4} {attempt.bytes / 1e6:7.0f} MB  {figures}  "
        f"{attempt.failure or ('passed' if attempt.tried else 'unproven')}"
    )


def _print_relevance(relevance: Relevance) -> None:
    print(
        f"  relevant from a similarity of {relevance.cutoff:.3f}: keeps "
        f"{relevance.relevant_kept:.1%} of {relevance.pairs} answers, refuses all other subjects "
        f"for {relevance.irrelevant_refused:.1%} of the queries"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Turn a sentence-transformers checkpoint into a bundle that the service runs.",
    )
    parser.add_argument(
        "source",
        nargs="?",
        default=_DEFAULT_SOURCE,
        metavar="SOURCE",
        help=f"a hub id, a folder, or {STARTER}: the small model for trying out "
        "(default: %(default)s)",
    )
    parser.add_argument("--name", help="the bundle's name (default: that of the model)")
    parser.add_argument(
        "--models-dir", default="models", help="where bundles are kept (default: %(default)s)"
    )
    parser.add_argument(
        "--precision",
        choices=_PRECISIONS,
        default="auto",
        help="auto takes the fastest that passes its parity gate, and all that do for cuda "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        choices=("cpu", "cuda", "all"),
        default="cpu",
        help="the execution providers to write variants for (default: %(default)s)",
    )
    parser.add_argument(
        "--no-parity",
        dest="parity",
        action="store_false",
        help="do not compare with sentence-transformers",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
