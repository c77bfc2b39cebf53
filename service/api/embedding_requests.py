"""What the routes that embed have in common, whichever protocol they speak."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

import numpy.typing as npt
import orjson
from litestar import Request
from litestar.params import HeaderParameter
from litestar.types import Receive, Scope, Send
from msgspec import Meta, Raw

from service.api.problems import ClientDisconnected
from service.embedding.embedder import EmbeddedTexts
from service.embedding.onnx_model import Embeddings
from service.errors import InvalidInput

T = TypeVar("T")

RequestTimeout = Annotated[
    int | None,
    HeaderParameter(
        name="X-Request-Timeout-Ms",
        ge=1,
        le=86_400_000,
        description="Milliseconds from the arrival of the request, after which it is answered 504 "
        "and what of it is still queued is dropped. Not set: none.",
    ),
]

# What is empty is refused by the embedder, which says it in the words of each protocol.
Text = Annotated[str, Meta(extra_json_schema={"minLength": 1})]
NOT_EMPTY = Meta(extra_json_schema={"minItems": 1})

# As other services take them: tokens are refused with the reason, and not documented.
TextOrTokens = Annotated[Text | int | list[int], Meta(extra_json_schema={"type": "string"})]
TextOrTexts = Text | Annotated[list[TextOrTokens], NOT_EMPTY]

# What takes no longer than this is not watched for clients that leave: most single texts, whose
# requests then need no second task.
UNWATCHED_SECONDS = 0.05

# Writing this many embeddings takes about a millisecond; more would hold up the event loop.
WRITTEN_ON_THE_LOOP = 32


def timeout_seconds(timeout_ms: int | None) -> float | None:
    """The time that a request allows, as the embedder takes it."""
    return None if timeout_ms is None else timeout_ms / 1000


def texts_of(given: str | Sequence[str | int | list[int]], *, parameter: str) -> list[str]:
    """The texts in a field that other services allow token ids in, too.

    Raises:
        InvalidInput: there are token ids.
    """
    if isinstance(given, str):
        return [given]
    texts = [text for text in given if isinstance(text, str)]
    if len(texts) != len(given):
        raise InvalidInput(
            "expected text, got token ids: they are those of another model's tokenizer and would "
            "give wrong embeddings; send the text itself (langchain-openai does with "
            "check_embedding_ctx_length=False)",
            parameter=parameter,
        )
    return texts


async def unless_disconnected(request: Request[Any, Any, Any], work: Awaitable[T]) -> T:
    """The result of the work, which is cancelled when the client goes away before it is done.

    Raises:
        ClientDisconnected: it has gone away.
    """
    working = asyncio.current_task()
    assert working is not None
    watching: asyncio.Task[None] | None = None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await request.receive())["type"] != "http.disconnect":
            pass
        left = True
        working.cancel()

    def begin_to_watch() -> None:
        nonlocal watching
        watching = asyncio.create_task(watch())

    beginning = asyncio.get_running_loop().call_later(UNWATCHED_SECONDS, begin_to_watch)
    try:
        return await work
    except asyncio.CancelledError:
        if left and not working.uncancel():  # nobody else has cancelled it
            raise ClientDisconnected from None
        raise
    finally:
        beginning.cancel()
        if watching:
            watching.cancel()


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """An answer of JSON, with status 200: an ASGI application.

    For what is written already: Litestar's responses take nine times as long to send it.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            *((name.lower().encode(), value.encode()) for name, value in self.headers.items()),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})


async def written(embedded: EmbeddedTexts, write: Callable[[EmbeddedTexts], bytes]) -> bytes:
    """What `write` makes of the embeddings, in a thread where there are many."""
    if len(embedded.tokens) <= WRITTEN_ON_THE_LOOP:
        return write(embedded)
    return await asyncio.to_thread(write, embedded)


def as_numbers(rows: npt.NDArray[Any]) -> list[Raw]:
    """Each row as JSON, made without a Python object for each number."""
    # orjson writes the shortest digits that read back as the same float32. It writes NaN as null:
    # the embedder gives finite numbers only.
    return [Raw(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in rows]


def as_float32_bytes(embeddings: Embeddings) -> list[bytes]:
    """Each embedding as little-endian 32-bit floats, which JSON has in base64."""
    return [row.tobytes() for row in embeddings.astype("<f4", copy=False)]
