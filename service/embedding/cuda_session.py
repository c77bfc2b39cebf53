"""One ONNX Runtime session on a GPU: padded batches in, embeddings out.

What small batches read and write stays on the device, and their shapes are captured as CUDA graphs.
"""

import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from service.embedding.buckets import Bucket
from service.embedding.manifest import Manifest, Precision
from service.errors import ModelLoadError

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

INPUTS = ("input_ids", "token_counts")

_NOT_CAPTURED = "-1"

_WAYS_OUT = (
    "nvidia-smi should list a GPU, and a driver for CUDA 13; without one set MEMORY_PRECISION to "
    "that of a variant for the processor, or install onnxruntime in place of onnxruntime-gpu"
)

# Which attention may be taken; where neither can be, it is done in steps. FlashAttention needs 16
# bits and no window. With one the steps take a quarter less than the memory-efficient kernel at
# 2,048 tokens; and cuDNN plans for a second when it meets a shape (H200, 2026-11-26).
_FLASH, _EFFICIENT = 1, 2

_LOG_VERBOSE, _LOG_ERRORS_ONLY = 0, 3


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


@dataclass(slots=True)
class CudaSession:
    """A session for texts of more than `above` tokens, and of up to `longest`.

    It computes for one thread alone: a captured graph belongs to the one that captured it.
    """

    session: onnxruntime.InferenceSession
    output: str
    dimensions: int
    device: Device
    above: int
    longest: int
    host_memory: Any  # ONNX Runtime's description of it, None for pageable memory
    buffers: "dict[int, _Buffers]" = field(default_factory=dict)

    @property
    def execution_providers(self) -> tuple[str, ...]:
        """What computes its nodes, in order of preference."""
        return tuple(self.session.get_providers())

    @property
    def nodes(self) -> dict[str, int]:
        """How many nodes each execution provider computes."""
        counted: Counter[str] = Counter()
        for part in self.session.get_provider_graph_assignment_info():
            counted[part.ep_name] += len(part.get_nodes())
        return dict(counted)

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


def open_cuda_session(
    graph: Path,
    manifest: Manifest,
    precision: Precision,
    *,
    above: int,
    longest: int,
    gpu_bytes: int,
    device: Device,
) -> CudaSession:
    """The session of a graph; 0 `gpu_bytes` do not bound it.

    Raises:
        ModelLoadError: it is not the expected graph, the device cannot be used, or a node would not
            run there.
    """
    if device.captures:
        onnxruntime.preload_dlls()  # the libraries of CUDA that are installed as packages
    # It warns that CUDA is no plugin, each time that it is taken.
    onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)
    try:
        session = onnxruntime.InferenceSession(
            graph,
            _session_options(device),
            providers=[(device.provider, _provider_options(precision, gpu_bytes, device))],
        )
    except Exception as error:  # the runtime's exceptions share no other base
        raise ModelLoadError(
            f"ONNX Runtime cannot load {graph} onto {device.provider}; {_WAYS_OUT} "
            f"({first_line(error)})"
        ) from error
    if session.get_providers()[0] != device.provider:
        raise ModelLoadError(
            f"ONNX Runtime would compute {graph} on {session.get_providers()[0]} in place of "
            f"{device.provider}; {_WAYS_OUT}"
        )
    outputs = [output.name for output in session.get_outputs()]
    inputs = {value.name for value in session.get_inputs()}
    if manifest.output not in outputs or inputs != set(INPUTS):
        raise ModelLoadError(
            f"{graph} should map {' and '.join(INPUTS)} to {manifest.output}, "
            f"but maps {', '.join(sorted(inputs))} to {', '.join(outputs)}"
        )
    return CudaSession(
        session,
        manifest.output,
        manifest.dimensions,
        device,
        above,
        longest,
        _pinned_memory(device),
    )


@contextmanager
def captured_log() -> Iterator[IO[bytes]]:
    """What ONNX Runtime says at its most talkative: it only ever says it to standard error."""
    with tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        onnxruntime.set_default_logger_severity(_LOG_VERBOSE)
        try:
            yield log
        finally:
            onnxruntime.set_default_logger_severity(_LOG_ERRORS_ONLY)
            os.dup2(kept, 2)
            os.close(kept)


def first_line(error: BaseException) -> str:
    """What went wrong, without the stack that ONNX Runtime puts behind it."""
    return str(error).split("\n", 1)[0]


@dataclass(slots=True)
class _Buffers:
    """What a captured graph reads and writes, on the device and, to copy it, beside it."""

    binding: onnxruntime.IOBinding
    on_device: tuple[onnxruntime.OrtValue, ...]
    on_host: tuple[onnxruntime.OrtValue, ...]

    @classmethod
    def allocate(cls, graph: CudaSession, bucket: Bucket) -> "_Buffers":
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
            on_host.append(_host_value(shape, dtype, graph.host_memory))
        return cls(binding, tuple(on_device), tuple(on_host))

    def write(self, *inputs: Array) -> None:
        for values, host, device in zip(inputs, self.on_host, self.on_device, strict=False):
            host.numpy()[:] = values
            device.update_inplace(host)

    def read(self) -> Array:
        self.on_host[-1].update_inplace(self.on_device[-1])
        return np.array(self.on_host[-1].numpy(), np.float32)


def _pinned_memory(device: Device) -> Any:
    """Memory of the processor that the device reads and writes by itself; None if there is none."""
    for found in onnxruntime.get_ep_devices():
        memory = found.memory_info(onnxruntime.OrtDeviceMemoryType.HOST_ACCESSIBLE)
        if found.ep_name != device.provider or memory is None:
            continue
        try:
            _host_value([1], np.int32, memory)
        except Exception as error:  # noqa: BLE001 - the runtime's exceptions share no other base
            logger.info("batches are copied through pageable memory: %s", first_line(error))
            return None
        return memory
    return None


def _host_value(shape: list[int], dtype: npt.DTypeLike, host_memory: Any) -> onnxruntime.OrtValue:
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, memory_info=host_memory)


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


def _provider_options(precision: Precision, gpu_bytes: int, device: Device) -> dict[str, str]:
    if not device.captures:
        return {}
    options = {
        "device_id": "0",
        "enable_cuda_graph": "1",
        "use_tf32": "0",  # what is float32 in the graph is to be float32
        "arena_extend_strategy": "kSameAsRequested",
        "sdpa_kernel": str(_EFFICIENT if precision == "fp32" else _FLASH),
    }
    return options | ({"gpu_mem_limit": str(gpu_bytes)} if gpu_bytes else {})
