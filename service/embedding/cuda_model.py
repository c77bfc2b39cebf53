"""The sessions on a GPU: token ids to embeddings, with everything between them on the device.

One thread runs them, since a captured graph belongs to the thread that captured it. Those who call
pad the next batch and read the last one meanwhile.
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.embedding.batching import Cores
from service.embedding.buckets import Bucket, bucket_for, captured_buckets
from service.embedding.manifest import Manifest, Variant, verify_file
from service.embedding.tokenization import TokenIds
from service.errors import InferenceError, ModelLoadError

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

# A batch that is computed, and one that is prepared or read meanwhile.
BATCHES_IN_FLIGHT = 2

INPUTS = ("input_ids", "token_counts")

# Weights take no more than they have in their file; activations of the smallest batch, this much.
SMALLEST_ROOM = 64 * 1024 * 1024

_NOT_CAPTURED = "-1"
_LOG_VERBOSE, _LOG_WARNINGS, _LOG_ERRORS_ONLY = 0, 2, 3
_KERNEL = re.compile(r"Attention: using ((?:unified )?[\w ]+?)(?: path)? \(")


@dataclass(frozen=True, slots=True)
class Device:
    """Where the sessions compute, by the names that ONNX Runtime has for it."""

    provider: str
    kind: str

    @property
    def captures(self) -> bool:
        """Whether batches can be captured as CUDA graphs."""
        return self.kind == "cuda"


CUDA = Device("CUDAExecutionProvider", "cuda")


class CudaModel:
    """One variant of a bundle, loaded onto a GPU. Safe to run from several threads."""

    threads = 1  # of the processor

    def __init__(
        self, graphs: "Sequence[_Graph]", manifest: Manifest, variant: Variant, device: Device
    ) -> None:
        self._graphs = graphs
        self._pad_token_id = manifest.pad_token_id
        self._device_thread = ThreadPoolExecutor(1, "gpu")
        self.variant = variant
        self.device = device
        self.execution_providers: tuple[str, ...] = tuple(graphs[0].session.get_providers())

    @property
    def borders(self) -> tuple[int, ...]:
        """The lengths at which another graph takes over; each belongs to the shorter texts."""
        return tuple(graph.longest for graph in self._graphs[:-1])

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes each execution provider computes."""
        counted: dict[str, int] = {}
        for graph in self._graphs:
            for part in graph.session.get_provider_graph_assignment_info():
                counted[part.ep_name] = counted.get(part.ep_name, 0) + len(part.get_nodes())
        return counted

    def release_one_core(self) -> None:
        """Nothing, since there is no session for one core."""

    def run(self, tokens: Sequence[TokenIds], cores: Cores = "all") -> npt.NDArray[np.float32]:
        """The embeddings of one batch at full size and unit length.  # (texts, dimensions)

        Raises:
            InferenceError: ONNX Runtime failed, such as for want of memory, or a component is not
                finite.
        """
        order, parts = [], []
        lengths = np.array([len(ids) for ids in tokens])
        for graph in self._graphs:
            chosen = np.flatnonzero((graph.above < lengths) & (lengths <= graph.longest))
            if len(chosen):
                order.append(chosen)
                parts.append(self._run(graph, [tokens[index] for index in chosen.tolist()]))
        embeddings = np.concatenate(parts)[np.argsort(np.concatenate(order))]
        if not np.isfinite(embeddings).all():
            raise InferenceError(f"inference gave non-finite values on {len(tokens)} texts")
        return embeddings

    def capture(self) -> int:
        """Capture all graphs now, so that no request waits for it; how many there are.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        captured = 0
        for graph in self._graphs:
            for bucket in captured_buckets(longest=graph.longest, above=graph.above):
                ids = np.full(max(1, graph.above + 1), self._pad_token_id)
                self._compute(graph, [ids], bucket)
                captured += 1
        return captured

    def attention_kernels(self) -> list[str]:
        """Which kernels attention really ran on, for short texts and then for long ones."""
        found = []
        for graph in self._graphs:
            ids = np.full(graph.above + 1, self._pad_token_id)
            bucket = Bucket(1, -(-len(ids) // 8) * 8, None)
            with _captured_log() as log:
                self._compute(graph, [ids], bucket)
                log.seek(0)
                text = log.read().decode(errors="replace")
            names = sorted(set(_KERNEL.findall(text)))
            found.append(" and ".join(names) or "unknown")
        return found

    def _run(self, graph: "_Graph", tokens: Sequence[TokenIds]) -> Array:
        longest = max(map(len, tokens))
        bucket = bucket_for(len(tokens), longest, longest=graph.longest, above=graph.above)
        return self._compute(graph, tokens, bucket)

    def _compute(self, graph: "_Graph", tokens: Sequence[TokenIds], bucket: Bucket) -> Array:
        input_ids, token_counts = pad_to(bucket, tokens, self._pad_token_id)
        compute = partial(graph.compute, bucket, input_ids, token_counts)
        try:
            embeddings: Array = self._device_thread.submit(compute).result()
        except Exception as error:  # the runtime's exceptions share no other base
            raise InferenceError(
                f"inference failed on a batch of {len(tokens)} texts of up to {bucket.tokens} "
                f"tokens: {_first_line(error)}"
            ) from error
        return embeddings[: len(tokens)]


def open_cuda_model(
    bundle: Path, manifest: Manifest, variant: Variant, *, gpu_bytes: int = 0, device: Device = CUDA
) -> CudaModel:
    """The variant, loaded onto the device; `gpu_bytes` bounds what it takes there, 0 does not.

    Raises:
        ModelLoadError: a file is missing, damaged or not the expected graph, the device cannot be
            used, a node of a graph would not run on it, or the memory is too little.
    """
    files = [variant.graph]
    borders = [0, manifest.max_tokens]
    if variant.long_texts:
        files.append(variant.long_texts.graph)
        borders.insert(1, variant.long_texts.above)
    share = memory_share(gpu_bytes, weights=variant.weights.bytes, sessions=len(files))
    verify_file(bundle, variant.weights)
    graphs = []
    for index, file in enumerate(files):
        session = _open_session(verify_file(bundle, file), manifest, share, device)
        above, longest = borders[index : index + 2]
        graphs.append(_Graph(session, manifest.output, manifest.dimensions, device, above, longest))
    return CudaModel(graphs, manifest, variant, device)


def memory_share(gpu_bytes: int, *, weights: int, sessions: int) -> int:
    """What each session may take, as each has weights and activations of its own; 0 is no limit.

    Raises:
        ModelLoadError: it is too little for a batch.
    """
    share = gpu_bytes // sessions
    needed = weights + SMALLEST_ROOM
    if gpu_bytes and share < needed:
        raise ModelLoadError(
            f"MEMORY_GPU_BYTES={gpu_bytes} is too little: expected at least {sessions * needed}, "
            f"for {sessions} sessions with {weights} bytes of weights and room to compute"
        )
    return share


def pad_to(bucket: Bucket, tokens: Sequence[TokenIds], pad_token_id: int) -> tuple[Array, Array]:
    """The input_ids and token_counts of a batch, with texts of one token where it has none."""
    input_ids = np.full((bucket.texts, bucket.tokens), pad_token_id, np.int32)
    token_counts = np.ones(bucket.texts, np.int64)
    for row, ids in enumerate(tokens):
        input_ids[row, : len(ids)] = ids
        token_counts[row] = len(ids)
    return input_ids, token_counts


@dataclass(slots=True)
class _Graph:
    """A session, and the buffers of what it has captured; used by one thread alone.

    It takes texts of more than `above` tokens, and of up to `longest`.
    """

    session: onnxruntime.InferenceSession
    output: str
    dimensions: int
    device: Device
    above: int
    longest: int
    buffers: "dict[int, _Buffers]" = field(default_factory=dict)

    def compute(self, bucket: Bucket, input_ids: Array, token_counts: Array) -> Array:
        """The embeddings of a padded batch.  # (texts, dimensions)"""
        if bucket.graph_id is None:
            return self._compute_once(input_ids, token_counts)
        if bucket.graph_id not in self.buffers:
            self.buffers[bucket.graph_id] = _Buffers.allocate(self, bucket)
        buffers = self.buffers[bucket.graph_id]
        buffers.write(input_ids, token_counts)
        self.session.run_with_iobinding(buffers.binding, self._options(str(bucket.graph_id)))
        return buffers.read()

    def _compute_once(self, input_ids: Array, token_counts: Array) -> Array:
        binding = self.session.io_binding()
        for name, values in zip(INPUTS, (input_ids, token_counts), strict=True):
            binding.bind_cpu_input(name, values)
        binding.bind_output(self.output, self.device.kind)
        self.session.run_with_iobinding(binding, self._options(_NOT_CAPTURED))
        (embeddings,) = binding.copy_outputs_to_cpu()
        return np.asarray(embeddings, np.float32)

    def _options(self, graph_id: str) -> onnxruntime.RunOptions:
        options = onnxruntime.RunOptions()
        if self.device.captures:
            options.add_run_config_entry("gpu_graph_id", graph_id)
        return options


@dataclass(slots=True)
class _Buffers:
    """What a captured graph reads and writes, on the device and, to copy it, beside it."""

    binding: onnxruntime.IOBinding
    on_device: tuple[onnxruntime.OrtValue, ...]
    on_host: tuple[onnxruntime.OrtValue, ...]

    @classmethod
    def allocate(cls, graph: _Graph, bucket: Bucket) -> "_Buffers":
        shapes = (
            (INPUTS[0], [bucket.texts, bucket.tokens], np.int32),
            (INPUTS[1], [bucket.texts], np.int64),
            (graph.output, [bucket.texts, graph.dimensions], np.float32),
        )
        binding = graph.session.io_binding()
        on_device, on_host = [], []
        for name, shape, dtype in shapes:
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                shape, dtype, graph.device.kind, 0
            )
            bind = binding.bind_ortvalue_input if name in INPUTS else binding.bind_ortvalue_output
            bind(name, value)
            on_device.append(value)
            on_host.append(_host_value(shape, dtype, graph.device))
        return cls(binding, tuple(on_device), tuple(on_host))

    def write(self, *inputs: Array) -> None:
        for values, host, device in zip(inputs, self.on_host, self.on_device, strict=False):
            host.numpy()[:] = values
            device.update_inplace(host)

    def read(self) -> Array:
        self.on_host[-1].update_inplace(self.on_device[-1])
        return np.array(self.on_host[-1].numpy(), np.float32)


def _host_value(shape: list[int], dtype: npt.DTypeLike, device: Device) -> onnxruntime.OrtValue:
    """Memory that the device reads and writes by itself, where ONNX Runtime gives such out."""
    for found in onnxruntime.get_ep_devices():
        if found.ep_name == device.provider:
            memory = found.memory_info(onnxruntime.OrtDeviceMemoryType.HOST_ACCESSIBLE)
            if memory is not None:
                return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    shape, dtype, memory_info=memory
                )
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype)


def _open_session(
    graph: Path, manifest: Manifest, gpu_bytes: int, device: Device
) -> onnxruntime.InferenceSession:
    if device.captures:
        onnxruntime.preload_dlls()  # the libraries of CUDA that are installed as packages
    try:
        session = onnxruntime.InferenceSession(
            graph,
            _session_options(device),
            providers=[(device.provider, _provider_options(gpu_bytes, device))],
        )
    except Exception as error:  # the runtime's exceptions share no other base
        raise ModelLoadError(
            f"ONNX Runtime cannot load {graph} onto {device.provider}: {_first_line(error)}"
        ) from error
    if session.get_providers()[0] != device.provider:
        raise ModelLoadError(
            f"ONNX Runtime could not start {device.provider} and would compute {graph} on "
            f"{session.get_providers()[0]}; install what it misses (nvidia-smi should list a GPU), "
            "or set MEMORY_PRECISION to that of another variant"
        )
    outputs = [output.name for output in session.get_outputs()]
    inputs = {value.name for value in session.get_inputs()}
    if manifest.output not in outputs or inputs != set(INPUTS):
        raise ModelLoadError(
            f"{graph} should map {' and '.join(INPUTS)} to {manifest.output}, "
            f"but maps {', '.join(sorted(inputs))} to {', '.join(outputs)}"
        )
    return session


def _session_options(device: Device) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False  # a pattern would be kept for each shape seen
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if device.captures:
        # A node on the processor would copy to and fro, and no graph with one can be captured.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _provider_options(gpu_bytes: int, device: Device) -> dict[str, str]:
    if not device.captures:
        return {}
    options = {
        "device_id": "0",
        "enable_cuda_graph": "1",
        "use_tf32": "0",  # what is float32 in the graph is to be float32
        "arena_extend_strategy": "kSameAsRequested",
    }
    return options | ({"gpu_mem_limit": str(gpu_bytes)} if gpu_bytes else {})


@contextmanager
def _captured_log() -> Iterator[IO[bytes]]:
    """What ONNX Runtime says at its most talkative: it only ever says it to standard error."""
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        onnxruntime.set_default_logger_severity(_LOG_VERBOSE)
        try:
            yield log
        finally:
            onnxruntime.set_default_logger_severity(_LOG_WARNINGS)
            os.dup2(kept, 2)
            os.close(kept)


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0]
