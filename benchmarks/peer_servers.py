"""Starts embedding servers, this project's and others', each as a process on a free port.

How the others are installed is in README.md, under bench_http.py: each in a folder of its own in
build/peers, since their packages do not go together. What is not installed is left out.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ROOT / "build" / "peers"

SECONDS_TO_START = 300

# What fits into llama.cpp's context at once, for each of the texts that it computes together.
_SLOTS, _TOKENS_PER_SLOT = 8, 2048


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A server, and the command that starts it on a port."""

    name: str
    arguments: Callable[[int], Sequence[str | Path]]


def service(name: str, bundle: Path, folder: Path) -> ServerCommand:
    """This project's service over a bundle, with a new store in that folder."""
    options = ("--model", bundle.resolve(), "--store", f"sqlite:///{folder}/{name}.db")
    return ServerCommand(
        name, lambda port: (sys.executable, "-m", "service", *options, "--port", str(port))
    )


def installed_peers(checkpoint: Path) -> list[ServerCommand]:
    """The servers of others that are installed here, over this checkpoint."""
    peers = []
    for precision, dtype in (("fp32", "float32"), ("bf16", "bfloat16")):
        peers += _llama_cpp(checkpoint, precision)
        peers += _infinity(checkpoint, precision, dtype)
        peers += _sentence_transformers(checkpoint, precision)
    return peers


def _llama_cpp(checkpoint: Path, precision: str) -> list[ServerCommand]:
    program = INSTALLED / "llama.cpp" / "bin" / "llama-server"
    converted = INSTALLED / f"{checkpoint.name}-{precision}.gguf"
    options = (
        *("--model", converted, "--embedding"),
        *("--parallel", str(_SLOTS), "--ctx-size", str(_SLOTS * _TOKENS_PER_SLOT)),
        *("--batch-size", str(_TOKENS_PER_SLOT), "--ubatch-size", str(_TOKENS_PER_SLOT)),
    )
    if not (program.is_file() and converted.is_file()):
        return []
    return [
        ServerCommand(
            f"llama.cpp {precision}", lambda port: (program, *options, "--port", str(port))
        )
    ]


def _infinity(checkpoint: Path, precision: str, dtype: str) -> list[ServerCommand]:
    program = INSTALLED / "infinity" / "bin" / "infinity_emb"
    options = (
        *("v2", "--model-id", checkpoint.resolve(), "--engine", "torch", "--device", "cpu"),
        *("--dtype", dtype, "--url-prefix", "/v1", "--host", "127.0.0.1"),
        # It pads a batch to its longest text, so that 32 together are slower at mixed lengths;
        # compiled, it is no faster.
        *("--batch-size", "8", "--no-compile", "--no-model-warmup"),
    )
    if not program.is_file():
        return []
    return [
        ServerCommand(
            f"infinity {precision}", lambda port: (program, *options, "--port", str(port))
        )
    ]


def _sentence_transformers(checkpoint: Path, precision: str) -> list[ServerCommand]:
    module = "benchmarks.sentence_transformers_server"
    if importlib.util.find_spec("sentence_transformers") is None:
        return []
    return [
        ServerCommand(
            f"sentence-transformers {precision}",
            lambda port: (sys.executable, "-m", module, checkpoint.resolve(), precision, str(port)),
        )
    ]


@contextmanager
def running(command: ServerCommand) -> Iterator[str]:
    """The server's URL, up to /v1, once it embeds a text; it is stopped at the end.

    Raises:
        SystemExit: it ended, or embedded nothing in time; with the end of what it logged.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v1"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command.arguments(port),
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={k: v for k, v in os.environ.items() if not k.startswith("MEMORY_")}
            | {"DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        )
        try:
            deadline = time.monotonic() + SECONDS_TO_START
            while not _embeds(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise SystemExit(f"{command.name} did not start:\n{log.read()[-2000:]}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _embeds(url: str) -> bool:
    body = json.dumps({"input": ["Does it embed?"]}).encode()
    request = urllib.request.Request(
        f"{url}/embeddings", body, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS_TO_START) as response:
            embeds: bool = response.status == 200
    except OSError:  # it does not listen, or answers an error while it loads
        return False
    return embeds
