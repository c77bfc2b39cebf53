"""python -m service embed-files: writes the rows of a file, each with the embedding of its text.

They are embedded part by part, each part into a file of its own in a folder beside the output, and
joined at the end. Whoever gives an interrupted command again goes on with it: all it has to know is
which parts are there. The bits of a part's embeddings follow from its rows alone, so that the
result is that of a run which was not interrupted.
"""

import asyncio
import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from pathlib import Path

import msgspec
import numpy as np

from service.bulk.json_lines import JsonLines
from service.bulk.row_files import PART_ROWS, Columns, Part, RowFile, write_whole
from service.embedding.embedder import Embedder
from service.embedding.manifest import (
    MANIFEST_NAME,
    Manifest,
    Precision,
    read_manifest,
    sha256_of,
)
from service.embedding.opening import open_embedder
from service.embedding.prompts import (
    InputType,
    default_prompt,
    prompt_for_input_type,
    prompt_for_name,
)
from service.errors import (
    InferenceError,
    InvalidInput,
    InvalidSettings,
    UnsupportedDimensions,
    UnusableFile,
)
from service.opening import MODEL_NOT_SET
from service.progress import show_progress
from service.settings import Settings

logger = logging.getLogger(__name__)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """How a file is to be embedded."""

    field: str = "text"
    input_type: InputType | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    truncate: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what the output is. Parts are gone on with by the same job only."""

    input: str  # its path
    input_bytes: int
    input_modified: int  # nanoseconds since 1970
    field: str
    prompt: str
    dimensions: int
    truncate: bool
    model: str
    manifest_sha256: str
    precision: Precision | None
    part_rows: int = PART_ROWS


def embed_files(
    settings: Settings, input: Path, output: Path, wanted: Wanted, *, ray: str | None = None
) -> None:
    """Write the rows of a file into another one of its format, with their embeddings.

    `ray` is the address of a Ray cluster that computes them, or `local`.

    Raises:
        StartupError: a file, or what is wanted of it, or the model cannot be used.
    """
    with _refusing(output):
        if input.suffix != output.suffix:
            raise UnusableFile(f"expected two files of one format, got {input} and {output}")
        file = open_row_file(input)
        job = _job(settings, input, wanted)
        folder = output.resolve().with_name(f"{output.name}.parts")
        if _is_done(job, folder, output):
            shutil.rmtree(folder)
            return
        parts = file.parts()
        missing = [part for part in parts if not path_of(part, folder, job).exists()]
        rows = sum(part.rows for part in parts)
        there = rows - sum(part.rows for part in missing)
        if there:
            logger.info("going on with %s: %s of %s rows are there", folder, there, rows)
        if ray is None:
            embedding = _embed_here(settings, job, file, folder, missing)
        else:
            from service.bulk.on_ray import embed_on_ray

            embedding = embed_on_ray(ray, settings, job, folder, missing)
        with show_progress("rows", rows, done=there) as progress:
            for done in embedding:
                progress.update(done)
        whole = folder / output.name
        paths = [path_of(part, folder, job) for part in parts]
        nothing = Columns(np.empty((0, job.dimensions), np.float32), [] if job.truncate else None)
        write_whole(whole, lambda opened: file.join(paths, nothing, opened))
        whole.replace(output)
        shutil.rmtree(folder)
    print(f"{rows:,} rows are in {output}", file=sys.stderr)


def open_row_file(path: Path) -> RowFile:
    """The file at a path, of the format that its name says.

    Raises:
        UnusableFile: it is of no format that is read here, or not of that which its name says.
    """
    match path.suffix:
        case ".jsonl" | ".ndjson":
            return JsonLines(path)
        case ".parquet":
            try:
                from service.bulk.parquet import Parquet
            except ModuleNotFoundError:
                raise UnusableFile(
                    f"to read {path} takes pyarrow; install it with: uv sync --extra parquet"
                ) from None
            return Parquet(path)
        case _:
            raise UnusableFile(f"expected a file named *.jsonl, *.ndjson or *.parquet, got {path}")


def open_repeatable_embedder(settings: Settings) -> AbstractAsyncContextManager[Embedder]:
    """The embedder that the settings ask for, with room for a part at a time."""
    assert settings.model is not None
    return open_embedder(
        settings.model,
        precision=settings.precision,
        threads=settings.threads,
        workers=settings.workers,
        gpu_bytes=settings.gpu_bytes,
        max_batch_tokens=settings.max_batch_tokens,
        max_batch_texts=PART_ROWS,
        max_queued_tokens=sys.maxsize,
        repeatable=True,
    )


async def embed_part(job: Job, file: RowFile, part: Part, folder: Path, embedder: Embedder) -> None:
    """Write a part with its embeddings into the folder.

    Raises:
        UnusableFile: the text of a row cannot be embedded; the message names it.
    """
    rows, texts = await asyncio.to_thread(file.read, part, job.field)
    try:
        embedded = await embedder.embed(
            texts,
            prompt=job.prompt,
            dimensions=job.dimensions,
            truncate=job.truncate,
            priority="bulk",
        )
    except (InvalidInput, InferenceError) as error:
        if error.position is None:
            raise
        place = file.place_of(part.first_row + error.position)
        why = str(error).removeprefix(f"text {error.position} ")
        raise UnusableFile(f"{place}: the text {why}") from error
    cut = set(embedded.truncated)
    truncated = [index in cut for index in range(part.rows)] if job.truncate else None
    columns = Columns(embedded.embeddings, truncated)
    path = path_of(part, folder, job)
    await asyncio.to_thread(write_whole, path, lambda opened: file.write(rows, columns, opened))


def path_of(part: Part, folder: Path, job: Job) -> Path:
    """The file of a part that is done."""
    return folder / f"{part.number:08}{Path(job.input).suffix}"


def _embed_here(
    settings: Settings, job: Job, file: RowFile, folder: Path, parts: Sequence[Part]
) -> Iterator[int]:
    """Embed the parts one after the other; the rows of each that is done."""
    if not parts:
        return
    with asyncio.Runner() as runner:
        opened = AsyncExitStack()
        embedder = runner.run(opened.enter_async_context(open_repeatable_embedder(settings)))
        try:
            for part in parts:
                runner.run(embed_part(job, file, part, folder, embedder))
                yield part.rows
        finally:
            runner.run(opened.aclose())


def _job(settings: Settings, input: Path, wanted: Wanted) -> Job:
    if settings.model is None:
        raise InvalidSettings(MODEL_NOT_SET)
    manifest = read_manifest(settings.model)
    supported = (manifest.dimensions, *manifest.matryoshka_dimensions)
    if wanted.dimensions is not None and wanted.dimensions not in supported:
        raise UnsupportedDimensions(wanted.dimensions, supported=supported)
    found = input.stat()
    return Job(
        input=str(input.resolve()),
        input_bytes=found.st_size,
        input_modified=found.st_mtime_ns,
        field=wanted.field,
        prompt=_prompt(manifest, wanted),
        dimensions=wanted.dimensions or manifest.dimensions,
        truncate=wanted.truncate,
        model=manifest.name,
        manifest_sha256=sha256_of(settings.model / MANIFEST_NAME),
        precision=settings.precision,
    )


def _prompt(manifest: Manifest, wanted: Wanted) -> str:
    match wanted:
        case Wanted(prompt_name=None, input_type=None):
            return default_prompt(manifest)
        case Wanted(prompt_name=None, input_type=str(input_type)):
            return prompt_for_input_type(manifest, input_type)
        case Wanted(prompt_name=str(name), input_type=None):
            return prompt_for_name(manifest, name)
        case _:
            raise InvalidSettings("expected --prompt-name or --input-type, got both")


def _is_done(job: Job, folder: Path, output: Path) -> bool:
    """Whether nothing is left to do but to delete the folder; begins the job if it is a new one."""
    recorded = folder / "job.json"
    if recorded.exists():
        try:
            begun = msgspec.json.decode(recorded.read_bytes(), type=Job)
        except msgspec.DecodeError as error:
            raise UnusableFile(f"{recorded} is damaged ({error}); remove {folder}") from None
        if begun != job:
            different = [
                f"{name} was {getattr(begun, name)!r} and is {getattr(job, name)!r}"
                for name in Job.__struct_fields__
                if getattr(begun, name) != getattr(job, name)
            ]
            raise UnusableFile(
                f"{folder} has parts of another job: {'; '.join(different)}; give the command as "
                "it was, or remove the folder to begin anew"
            )
        return output.exists()
    if output.exists():
        raise UnusableFile(f"{output} is there already; remove it, or name another file")
    folder.mkdir(exist_ok=True)
    content = msgspec.json.encode(job)
    write_whole(recorded, lambda opened: opened.write(content))
    return False


@contextmanager
def _refusing(output: Path) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidSettings(str(error)) from error
    except InferenceError as error:
        raise UnusableFile(f"{output} is not finished: {error}") from error
    except OSError as error:
        raise UnusableFile(f"{error.filename or output}: {error.strerror or error}") from error
