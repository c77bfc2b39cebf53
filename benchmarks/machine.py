"""Records a benchmark's figures with what they depend on: the machine, versions, commit."""

import importlib.metadata
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "neo4j",
    "numkong",
    "torch",
    "transformers",
    "sentence-transformers",
    "optimum",
)
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")


def save_report(path: Path, question: str, results: Any) -> None:
    """Write the figures, the question they answer, and where they were measured."""
    report = {
        "question": question,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "results": results,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


def describe_machine() -> dict[str, object]:
    """The processor and its relevant instruction sets, cores, versions and commit."""
    cpu, flags = platform.processor(), set[str]()
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        cpu = f"{named.get('model name', cpu)} (family {named.get('cpu family')})"
        flags = set(named.get("flags", "").split())
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "cpu": cpu,
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
        "commit": commit,
    }
