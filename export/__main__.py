"""The command line: python -m export [SOURCE]."""

import argparse
import sys
from pathlib import Path

from export.bundle import Attempt, Compare, ladder, write_bundle
from export.checkpoint import STARTER, Checkpoint, open_checkpoint
from export.errors import ExportError
from export.parity import Reference, has_reference, reference
from export.progress import progress_bar
from service.embedding.manifest import Manifest, Relevance
from service.embedding.tokenization import Tokenizer
from service.errors import ServiceError

_DEFAULT_SOURCE = "google/embeddinggemma-300m"
_PRECISIONS = ("auto", "fp32", "int8", "int8-block", "fp16", "bf16")


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
    (variant,) = manifest.variants
    if manifest.relevance:
        _print_relevance(manifest.relevance)
    print(
        f"{bundle}: {manifest.source.id}, {variant.precision}, {manifest.dimensions} dimensions, "
        f"{variant.weights.bytes / 1e6:.0f} MB"
    )
    return 0


def _export(options: argparse.Namespace) -> tuple[Path, Manifest]:
    if options.precision in ("fp16", "bf16") or options.target != "cpu":
        raise ExportError(
            "this version writes fp32, int8 and int8-block for --target cpu; "
            "fp16, bf16 and --target cuda are not there yet"
        )
    checkpoint = open_checkpoint(options.source)
    available = ladder(checkpoint)
    chosen = available if options.precision == "auto" else (options.precision,)
    if not set(chosen) <= set(available):
        raise ExportError(
            f"--precision {options.precision} is not one of {', '.join(available)}, which "
            f"{checkpoint.architecture} with these modules can be written in"
        )
    bundle = Path(options.models_dir) / (options.name or checkpoint.name)
    print(f"{checkpoint.id} -> {bundle}", file=sys.stderr)
    manifest = write_bundle(
        checkpoint,
        bundle,
        chosen,
        compare=_compare(checkpoint, wanted=options.parity),
        progress=progress_bar,
        report=_print_attempt,
    )
    return bundle, manifest


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
    print(
        f"  {attempt.precision:<10} {attempt.bytes / 1e6:7.0f} MB  {figures}  "
        f"{attempt.failure or 'passed'}"
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
        help="auto takes the fastest that passes its parity gate (default: %(default)s)",
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
