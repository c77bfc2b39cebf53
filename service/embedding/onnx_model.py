"""The ONNX Runtime sessions on the processor: token ids to embeddings. Loads a GPU's, too."""

import mmap
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.embedding.batching import Cores
from service.embedding.cores import usable_cores
from service.embedding.cuda_model import CudaModel, open_cuda_model
from service.embedding.manifest import Manifest, Precision, Variant, verify_file
from service.embedding.tokenization import TokenIds, pad
from service.errors import InferenceError, ModelLoadError
from service.heap import move_to_huge_pages

Embeddings = npt.NDArray[np.float32]

# The CPU kernels sum the 256 products of a query and a key in one go where there are at most 64
# keys, and in two halves where there are more. The last bit that differs flips a rounding in int8,
# so texts on either side of it are not padded together: each keeps its one embedding.
LENGTH_BORDER = 64

CPU_PROVIDER = "CPUExecutionProvider"

# The scores of one text of 512 tokens take some 15 MB in all steps of a layer's attention. An arena
# would keep the most that was ever taken at a time, and texts of more tokens are seldom.
_SCORES_TO_KEEP = 512 * 512

_LOG_ERRORS_ONLY = 3


class OnnxModel:
    """One variant of a bundle on the processor, loaded. Safe to run from several threads.

    On `one_core` each thread that runs it computes a batch of its own; None leaves that to the
    session on all cores.
    """

    def __init__(
        self,
        all_cores: onnxruntime.InferenceSession,
        one_core: onnxruntime.InferenceSession | None,
        manifest: Manifest,
        variant: Variant,
        *,
        threads: int,
        weights: mmap.mmap,
    ) -> None:
        self._all_cores = all_cores
        self._one_core = one_core or all_cores
        self._weights = weights  # the sessions read them, and do not keep them themselves
        self._output = manifest.output
        self._pad_token_id = manifest.pad_token_id
        self.variant = variant
        self.threads = threads
        self.execution_providers: tuple[str, ...] = tuple(all_cores.get_providers())

    def release_one_core(self) -> None:
        """Leave everything to the session on all cores, and free the other's memory."""
        self._one_core = self._all_cores

    def run(self, tokens: Sequence[TokenIds], cores: Cores = "all") -> Embeddings:
        """The embeddings of one batch at full size and unit length.  # (texts, dimensions)

        Raises:
            InferenceError: ONNX Runtime failed, or a component is not finite.
        """
        session = self._one_core if cores == "one" else self._all_cores
        lengths = np.array([len(ids) for ids in tokens])
        order, parts = [], []
        for group in (lengths <= LENGTH_BORDER, lengths > LENGTH_BORDER):
            if group.any():
                order.append(np.flatnonzero(group))
                parts.append(self._run(session, [tokens[index] for index in order[-1].tolist()]))
        embeddings = np.concatenate(parts)[np.argsort(np.concatenate(order))]
        if not np.isfinite(embeddings).all():
            raise InferenceError(f"inference gave non-finite values on {len(tokens)} texts")
        return embeddings

    def _run(self, session: onnxruntime.InferenceSession, tokens: Sequence[TokenIds]) -> Embeddings:
        input_ids, attention_mask = pad(tokens, self._pad_token_id)
        try:
            (embeddings,) = session.run(
                [self._output],
                {"input_ids": input_ids, "attention_mask": attention_mask},
                _run_options(*input_ids.shape),
            )
        except Exception as error:  # the runtime's exceptions share no other base
            raise InferenceError(f"inference failed on a batch of {len(tokens)} texts") from error
        return np.asarray(embeddings, np.float32)


Model = OnnxModel | CudaModel


def load_model(
    bundle: Path,
    manifest: Manifest,
    *,
    precision: Precision | None = None,
    threads: int = 0,
    one_core: bool = False,
    gpu_bytes: int = 0,
) -> Model:
    """The first variant of the bundle that this machine can run, or the one of `precision`.

    `threads` is the number of threads a batch on all cores is computed with; 0 takes one for each
    core that the process may use. `one_core` loads a second session, whose batches are computed by
    the thread that runs them alone; with one thread it is the first one. What is for a GPU takes at
    most `gpu_bytes` of its memory, or what there is, and does not heed the others.

    Raises:
        ModelLoadError: no variant fits, or a file is missing, damaged or not the expected graph.
    """
    variant = choose_variant(manifest, available_execution_providers(), precision)
    if variant.execution_providers[0] != CPU_PROVIDER:
        return open_cuda_model(bundle, manifest, variant, gpu_bytes=gpu_bytes)
    graph = verify_file(bundle, variant.graph)
    weights = _map(verify_file(bundle, variant.weights))
    threads = threads or usable_cores()
    session = _open_session(graph, variant, threads, weights)
    outputs = [output.name for output in session.get_outputs()]
    inputs = {value.name for value in session.get_inputs()}
    if manifest.output not in outputs or inputs != {"input_ids", "attention_mask"}:
        raise ModelLoadError(
            f"{graph} should map input_ids and attention_mask to {manifest.output}, "
            f"but maps {', '.join(sorted(inputs))} to {', '.join(outputs)}"
        )
    second = None
    if one_core and threads > 1:
        second = _open_session(graph, variant, 1, weights)
    _drop_all_but_token_table(weights, variant)
    move_to_huge_pages()
    return OnnxModel(session, second, manifest, variant, threads=threads, weights=weights)


def available_execution_providers() -> tuple[str, ...]:
    """What this build of ONNX Runtime can compute with, the fastest first."""
    return tuple(onnxruntime.get_available_providers())


def choose_variant(
    manifest: Manifest, available: Sequence[str], precision: Precision | None
) -> Variant:
    """The first variant whose execution providers are available, of `precision` if it is given.

    Raises:
        ModelLoadError: there is none.
    """
    for variant in manifest.variants:
        if precision in (None, variant.precision) and set(variant.execution_providers) <= set(
            available
        ):
            return variant
    offered = "; ".join(
        f"{variant.precision} for {', '.join(variant.execution_providers)}"
        for variant in manifest.variants
    )
    wanted = f"a {precision} variant" if precision else "a variant"
    raise ModelLoadError(
        f"expected {wanted} of {manifest.name} for {', '.join(available)}; the bundle has {offered}"
    )


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # the latter where it is empty
        raise ModelLoadError(f"{path} cannot be mapped into memory: {error}") from error


def _open_session(
    graph: Path, variant: Variant, threads: int, weights: mmap.mmap
) -> onnxruntime.InferenceSession:
    options = _session_options(threads)
    # Sessions that open the file themselves map each tensor alone, the token table included, and
    # leave the copies that they make of the layers' weights scattered between the holes.
    options.add_external_initializers_from_files_in_memory(
        [variant.weights.name], [weights], [len(weights)]
    )
    options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
    try:
        session = onnxruntime.InferenceSession(
            graph, options, providers=list(variant.execution_providers)
        )
    except Exception as error:  # the runtime's exceptions share no other base
        raise ModelLoadError(f"ONNX Runtime cannot load {graph}: {error}") from error
    return session


def _drop_all_but_token_table(weights: mmap.mmap, variant: Variant) -> None:
    """Keep in memory what is read row by row; the sessions have copied the rest."""
    weights.madvise(mmap.MADV_DONTNEED)
    place = variant.token_table
    if place is None:
        return
    if place.offset + place.bytes > len(weights):
        raise ModelLoadError(
            f"{variant.weights.name} has {len(weights):,} bytes and does not hold the token table, "
            f"{place.bytes:,} bytes from {place.offset:,} on; write the bundle again with: "
            "python -m export"
        )
    # One byte of each page, so that what the process holds does not grow with the words it meets.
    memoryview(weights)[place.offset : place.offset + place.bytes : mmap.PAGESIZE].tobytes()


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = threads
    if _saturates():
        # Slower products of unsigned by unsigned bytes, which are exact on these processors.
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Threads that spin after a run take the cores from whoever writes the answer; threads that
    # sleep between two products of a run cost it 10 %. 20 microseconds bridge that gap.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    # Texts come in every length, and a memory pattern would be kept for each shape seen. The arena
    # stays on: without it a fifth of the time goes into pages that are handed back and taken anew.
    options.enable_mem_pattern = False
    return options


def _run_options(texts: int, tokens: int) -> onnxruntime.RunOptions | None:
    """What has the arena hand back what only long texts take: their scores grow with the square."""
    if texts * tokens * tokens <= _SCORES_TO_KEEP:
        return None
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def _saturates() -> bool:
    """Whether products of unsigned by signed bytes overflow here: on x86 without VNNI.

    Where the processor cannot be asked it is taken for one of them, since it only costs time.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return True
    return flags.isdisjoint({"avx512_vnni", "avx_vnni"})
