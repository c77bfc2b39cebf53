"""Requests that schemathesis makes up from the OpenAPI document, sent to a running service.

They are valid and invalid ones, alone and in sequences where one uses what another has made. An
answer is wrong if it is an error of the server, or is not what the document says.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from tests.service_process import clean_environment

Phase = Literal["examples", "coverage", "fuzzing", "stateful"]

# All that schemathesis checks, as far as it holds here.
CONFIGURATION = """
# What needs a language model is not served, and 504 is for who allows a request a millisecond.
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "501", "504"]

# No schema says which models, prompts and dimensions there are, what a filter or a cursor is, that
# an idempotency key has not been used, that a memory is not related to itself, that it expires
# later, or that 3.0 is not taken for a whole number.
[checks.positive_data_acceptance]
enabled = false

# What one request has made may be gone by another one, which forgets a user or resets all.
[checks.ensure_resource_availability]
enabled = false

# GET leads to the documentation, which is no part of the API.
[[operations]]
include-path = "/"
checks.unsupported_method.enabled = false
checks.allow_header_conformance.enabled = false
"""


class Fuzzed(NamedTuple):
    """How many requests were made up, and what was wrong with their answers, in words."""

    cases: int
    untested: int  # operations
    failures: str


class _Cases(msgspec.Struct):
    generated: int


class _Operations(msgspec.Struct):
    total: int
    tested: int


class _Report(msgspec.Struct):
    test_cases: _Cases
    operations: _Operations
    complete: bool


def fuzz(url: str, folder: Path, phases: Sequence[Phase], *, examples: int, seed: int) -> Fuzzed:
    """Send requests to every operation, at most so many examples to each in a phase.

    Coverage sends a request for each way in which one can be on the border of its schema, whatever
    the number of examples.
    """
    chosen = ("--phases", ",".join(phases), "--max-examples", str(examples))
    return _schemathesis("run", url, folder, chosen, seed)


def fuzz_in_chains(url: str, folder: Path, *, seconds: int, seed: int) -> Fuzzed:
    """Send chains of requests for so long, which go from one operation to others.

    It makes up twice as many requests a second as `fuzz`, which searches for those that an
    operation accepts, and sets every operation up anew.
    """
    return _schemathesis("fuzz", url, folder, ("--max-time", str(seconds)), seed)


def _schemathesis(
    command: Literal["run", "fuzz"], url: str, folder: Path, options: Sequence[str], seed: int
) -> Fuzzed:
    configuration, report = folder / "schemathesis.toml", folder / "report.json"
    configuration.write_text(CONFIGURATION)
    arguments = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(configuration)),
        *(command, f"{url}/docs/openapi.json"),
        *("--seed", str(seed), "--request-timeout", "60", *options),
        *("--report", "json", "--report-json-path", str(report)),
    ]
    done = subprocess.run(
        arguments, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False
    )
    found = msgspec.json.decode(report.read_bytes(), type=_Report)
    assert found.complete, done.stdout
    return Fuzzed(
        cases=found.test_cases.generated,
        untested=found.operations.total - found.operations.tested,
        failures=done.stdout if done.returncode else "",
    )
