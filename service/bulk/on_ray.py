"""The parts of a file on a Ray cluster: Ray Data hands them out, and the machines share a disk."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

import service
from service.bulk.embed_files import Job, embed_part, open_repeatable_embedder, open_row_file
from service.bulk.row_files import Part
from service.embedding.cores import usable_cores
from service.errors import InvalidSettings, ServiceError, UnusableFile
from service.settings import Settings

try:
    import ray
    import ray.data
    import ray.exceptions
except ModuleNotFoundError:
    raise InvalidSettings("--ray takes Ray; install it with: uv sync --extra ray") from None


def embed_on_ray(
    address: str, settings: Settings, job: Job, folder: Path, parts: Sequence[Part]
) -> Iterator[int]:
    """Embed the parts on all machines of a cluster; the rows of each that is done.

    Each machine has as many embedders as it has room for, each on `settings.threads` cores, or on
    as many as the smallest machine has.

    Raises:
        StartupError: the cluster does not answer, or what one of its machines met.
    """
    if not parts:
        return
    try:
        ray.init(
            address,
            runtime_env={"py_modules": [str(Path(service.__file__).parent)]},
            log_to_driver=False,
        )
    except ConnectionError as error:
        raise InvalidSettings(f"--ray={address}: there is no cluster ({error})") from error
    try:
        cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        threads = settings.threads or min(filter(None, cores), default=usable_cores())
        assert settings.model is not None
        here = msgspec.structs.replace(settings, threads=threads, model=settings.model.resolve())
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [part._asdict() for part in parts]
        done = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _PartEmbedder,
            fn_constructor_args=(here, job, folder),
            batch_size=1,
            num_cpus=threads,
            compute=ray.data.ActorPoolStrategy(size=sum(count // threads for count in cores)),
        )
        for row in done.iter_rows():
            if row["error"]:
                raise UnusableFile(row["error"])
            yield row["rows"]
    except ray.exceptions.RayError as error:
        raise UnusableFile(f"the cluster did not finish {job.input}: {error}") from error
    finally:
        ray.shutdown()


class _PartEmbedder:
    """One embedder of the cluster, in a process of its own."""

    def __init__(self, settings: Settings, job: Job, folder: Path) -> None:
        self._job = job
        self._folder = folder
        self._file = open_row_file(Path(job.input))
        self._runner = asyncio.Runner()
        self._opened = AsyncExitStack()
        opening = self._opened.enter_async_context(open_repeatable_embedder(settings))
        self._embedder = self._runner.run(opening)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (part,) = (Part(*map(int, row)) for row in zip(*map(batch.get, Part._fields), strict=True))
        error = ""
        try:
            self._runner.run(embed_part(self._job, self._file, part, self._folder, self._embedder))
        except ServiceError as refusal:
            error = str(refusal)
        return {"rows": [part.rows], "error": [error]}
