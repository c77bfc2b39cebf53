"""What a bundle says about itself: the one data file in which `export` and the service meet."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from service.errors import ModelLoadError

MANIFEST_NAME = "manifest.json"
FORMAT = 1  # raised when a reader of the old format would misread the new one

Precision = Literal["fp32", "int8", "int8-block", "fp16", "bf16"]


class BundleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle and what it must contain."""

    name: str
    sha256: str
    bytes: int


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The checkpoint that the bundle was built from; `sha256` is that of its weights."""

    id: str
    revision: str | None
    sha256: str


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agreement with the reference implementation, over `texts` texts alone and in batches.

    `top1_agreement` is the share of queries with the same nearest document, `reference_accuracy`
    the share of them that the reference itself finds the right document for.
    """

    reference: str
    texts: int
    cosine_min: float
    cosine_mean: float
    top1_agreement: float
    reference_accuracy: float


class LongTexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another graph over a variant's weights, for batches of more than `above` tokens a text."""

    above: int
    graph: BundleFile


class TokenTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the token table lies in a variant's weights, of which it is the most."""

    offset: int
    bytes: int


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of the bundle, with its weights beside it as ONNX external data."""

    precision: Precision
    execution_providers: tuple[str, ...]
    graph: BundleFile
    weights: BundleFile
    batch_invariant: bool
    parity: Parity | None = None
    long_texts: LongTexts | None = None
    """None where the one graph takes texts of any length."""
    token_table: TokenTable | None = None
    """None on a GPU, which has it in its own memory, and in bundles from before it was noted."""


class KnownAnswers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Similarities that the right model with the right prompts gives, known without a reference."""

    query: str
    documents: tuple[str, ...]
    similarities: tuple[float, ...]
    tolerance: float


class Relevance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From which similarity on a memory is relevant to a query, and how well that tells them apart.

    Found by `export` over `pairs` queries with the memory that answers each. `relevant_kept` is the
    share of those memories that are at least as near as `cutoff`, `irrelevant_refused` the share of
    queries that no memory about another subject is as near to.
    """

    cutoff: Annotated[float, msgspec.Meta(ge=-1, le=1)]
    pairs: int
    relevant_kept: float
    irrelevant_refused: float


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A bundle: the model, its limits, its prompts, and the graphs that compute it."""

    format: int
    name: str
    source: Source
    architecture: str
    dimensions: int
    matryoshka_dimensions: tuple[int, ...]
    max_tokens: int
    pad_token_id: int
    output: str
    tokenizer: BundleFile
    variants: tuple[Variant, ...]
    prompts: dict[str, str] = {}
    query_prompt: str | None = None
    document_prompt: str | None = None
    default_prompt: str | None = None
    known_answers: KnownAnswers | None = None
    relevance: Relevance | None = None
    """None in a bundle that was written before this was measured."""
    notice: str | None = None
    """What a user of this model should know, such as that it is for trying out only."""

    def __post_init__(self) -> None:
        for name in (self.query_prompt, self.document_prompt, self.default_prompt):
            if name is not None and name not in self.prompts:
                raise ValueError(f"{name!r} is not one of the prompts ({', '.join(self.prompts)})")


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of the bundle in this folder.

    Raises:
        ModelLoadError: there is no manifest, or it is not one that this version reads.
    """
    path = bundle / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelLoadError(
            f"expected a bundle in {bundle}, but {path} cannot be read ({error.strerror}); "
            "write one with: python -m export"
        ) from error
    try:
        found = msgspec.json.decode(content, type=_FormatOnly).format
        if found != FORMAT:
            raise ModelLoadError(
                f"{path} has format {found} and this version reads format {FORMAT}; "
                "write the bundle again with: python -m export"
            )
        return msgspec.json.decode(content, type=Manifest)
    except msgspec.MsgspecError as error:
        raise ModelLoadError(
            f"{path} is not a bundle's manifest: {error}; "
            "write the bundle again with: python -m export"
        ) from error


class _FormatOnly(msgspec.Struct):
    format: int


def verify_file(bundle: Path, file: BundleFile) -> Path:
    """The path of a file of the bundle, once its content is known to be the recorded one.

    Raises:
        ModelLoadError: it is missing, has another size, or another digest.
    """
    path = bundle / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise ModelLoadError(
                f"{path} has {size:,} bytes and its manifest says {file.bytes:,}; "
                "copy the bundle again or write it with: python -m export"
            )
        digest = sha256_of(path)
    except OSError as error:
        raise ModelLoadError(f"{path} cannot be read ({error.strerror})") from error
    if digest != file.sha256:
        raise ModelLoadError(
            f"{path} has sha256 {digest[:12]}… and its manifest says {file.sha256[:12]}…; "
            "copy the bundle again or write it with: python -m export"
        )
    return path


def sha256_of(path: Path) -> str:
    """The hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
