"""The request that is being answered: what its headers, its log line and its trace say of it."""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:  # the log needs this module, and not ONNX Runtime
    from service.embedding.embedder import EmbeddedTexts

Stage = Literal["tokenization", "queue", "inference", "store"]


class Span(Protocol):
    """A request in a trace that is exported."""

    trace_id: str

    def add_stage(self, name: str, *, seconds: float, ended_ago: float) -> None:
        """Note a stage that took so long and ended so many seconds ago."""

    def end(self, name: str, attributes: dict[str, str | int], *, failed: bool) -> None:
        """Note what the request was, and that it is over."""


@dataclass(slots=True)
class RunningRequest:
    """What is known of a request so far."""

    id: str
    trace_id: str | None = None
    span: Span | None = None
    seconds: dict[Stage, float] = field(default_factory=dict)
    """How long its stages took, each summed up."""
    texts: int = 0
    tokens: int = 0
    problem: str | None = None
    """The code of the problem that it is answered with."""

    def server_timing(self) -> str:
        """The value of the header Server-Timing, in milliseconds; empty where nothing was timed."""
        parts = [f"{stage};dur={spent * 1000:.2f}" for stage, spent in self.seconds.items()]
        if self.tokens:
            parts.append(f'tokens;desc="{self.tokens}"')
        return ", ".join(parts)

    def add_stage(
        self, stage: Stage, seconds: float, *, ended_ago: float = 0.0, name: str | None = None
    ) -> None:
        """Count a stage, which the trace may call by a closer name."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        if self.span:
            self.span.add_stage(name or stage, seconds=seconds, ended_ago=ended_ago)


running_request: ContextVar[RunningRequest | None] = ContextVar("running_request", default=None)


def note_embedded(embedded: "EmbeddedTexts") -> None:
    """Count texts among those of the running request, if there is one."""
    if request := running_request.get():
        request.texts += len(embedded.tokens)
        request.tokens += sum(embedded.tokens)
        timings = embedded.timings
        since_tokenized = timings.queue + timings.inference
        request.add_stage("tokenization", timings.tokenization, ended_ago=since_tokenized)
        request.add_stage("queue", timings.queue, ended_ago=timings.inference)
        request.add_stage("inference", timings.inference)


def note_store_call(operation: str, seconds: float) -> None:
    """Count an operation of the store among those of the running request, if there is one."""
    if request := running_request.get():
        request.add_stage("store", seconds, name=f"store {operation}")


def note_problem(code: str) -> None:
    """Remember with which problem the running request, if there is one, is answered."""
    if request := running_request.get():
        request.problem = code
