"""What bench_http.py asks of a server in its turns."""

import asyncio
import itertools
import json
import math
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.http_load import (
    Answer,
    Request,
    Turn,
    closed_loop,
    open_loop,
    poisson_arrivals,
    summarise,
)
from benchmarks.synthetic_texts import SyntheticTexts

LOADS = {
    "single": "one text of 16 tokens at a time",
    "short": "32 clients, each with one text of 16 tokens at a time",
    "mixed": "32 clients, each with one text of mixed length at a time",
    "batches": "4 clients, each with 32 texts of 128 tokens at a time",
    "open": "texts of mixed length that arrive at random, at rates that are shares of what the "
    "first server embeds at `mixed`; latency counts from a text's arrival",
    "bulk": "texts of 16 tokens that arrive at random, five a second: alone, then beside 2,048 "
    "texts of mixed length at once; a server of others gets these in requests of 32 texts, which "
    "all of them take, four at a time",
}
OPEN_SHARES = (0.25, 0.5, 0.75, 0.9, 1.1)  # the last saturates the first server
SINGLES_PER_SECOND = 5
BULK_TEXTS, BULK_TEXTS_OF_OTHERS, BULK_CLIENTS_OF_OTHERS = 2048, 32, 4
BULK_TURNS = 3  # 99 in 100 of the rare singles are to be seen
BULK_READY = 4

# A server that answers the last text later than this after it, as a share of the time that texts
# arrived in, did not keep up, and is not tried at higher rates.
KEEPS_UP = 0.5

# A turn in which the client did not run for so many seconds, since the machine stood still, says
# nothing about the server, and is taken again.
STANDSTILL = 1.0
ATTEMPTS = 3


@dataclass(slots=True)
class Server:
    """A server, and how it is asked."""

    name: str
    url: str
    ours: bool
    prompt: str  # which it expects in the text
    fields: dict[str, str]  # of a request, beside its texts
    reported_tokens: int  # of a text of 16

    def requests(
        self, texts: SyntheticTexts, count: int, lengths: Iterable[int]
    ) -> Iterator[Request]:
        """Requests of so many texts, of these lengths in tokens."""
        lengths = iter(lengths)
        while True:
            of_request = list(itertools.islice(lengths, count))
            made = [self.prompt + texts.text(tokens) for tokens in of_request]
            body = msgspec.json.encode({"input": made, **self.fields})
            yield Request(body, count, sum(of_request))


def meet(name: str, url: str, texts: SyntheticTexts, prompt: str, *, ours: bool) -> Server:
    """A server at a URL that ends before /embeddings, and how it is asked.

    Raises:
        SystemExit: it embeds no text.
    """
    server = Server(name, f"{url}/embeddings", ours, "" if ours else prompt, {}, 0)
    try:
        with urllib.request.urlopen(f"{url}/models") as response:
            server.fields["model"] = json.load(response)["data"][0]["id"]
    except (OSError, LookupError, ValueError):
        pass  # it has no list of models, and so asks for none
    refused = ""
    for encoding in ({"encoding_format": "base64"}, {}):
        request = next(server.requests(texts, 1, [16]))
        body = msgspec.json.encode(msgspec.json.decode(request.body) | encoding)
        headers = {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(urllib.request.Request(server.url, body, headers)) as sent:
                answer = msgspec.json.decode(sent.read(), type=Answer)
        except (OSError, msgspec.DecodeError) as error:
            refused = str(error)
            continue
        server.fields |= encoding
        server.reported_tokens = answer.usage.prompt_tokens
        return server
    raise SystemExit(f"{name} at {url} embeds no text: {refused}")


class Turns:
    """What each server did in its turns, by load; a load may have several parts."""

    def __init__(self, texts: SyntheticTexts, seconds: float) -> None:
        self._texts = texts
        self._seconds = seconds
        self._lagging: set[str] = set()
        self._texts_per_second = 0.0  # of the first server, of mixed length
        self.taken: defaultdict[str, dict[str, list[Turn]]] = defaultdict(dict)

    async def take(self, load: str, server: Server, number: int) -> None:
        """Put a load on a server for the number-th time."""
        self._texts.start_again(f"{load} {number}")
        if load == "open":
            await self._open(server, number)
        elif load == "bulk":
            await self._bulk(server, number)
        else:
            await self._closed(load, server)

    async def _closed(self, load: str, server: Server) -> None:
        clients, count, lengths = {
            "single": (1, 1, itertools.repeat(16)),
            "short": (32, 1, itertools.repeat(16)),
            "mixed": (32, 1, self._texts.mixed_lengths()),
            "batches": (4, 32, itertools.repeat(128)),
        }[load]
        requests = server.requests(self._texts, count, lengths)

        async def take() -> dict[str, Turn]:
            seconds = self._seconds
            return {load: await closed_loop(server.url, requests, clients=clients, seconds=seconds)}

        await self._record(server, take)

    async def _open(self, server: Server, number: int) -> None:
        if not self._texts_per_second:
            first = next(iter(self.taken["mixed"].values()))
            self._texts_per_second = summarise(first)["texts_per_second"]
        for share in OPEN_SHARES:
            if server.name not in self._lagging:
                await self._open_at(share, server, number)

    async def _open_at(self, share: float, server: Server, number: int) -> None:
        requests = server.requests(self._texts, 1, self._texts.mixed_lengths())
        part = f"open {share:.0%}"

        async def take() -> dict[str, Turn]:
            rate = share * self._texts_per_second
            arrivals = poisson_arrivals(rate, self._seconds, number)
            return {part: await open_loop(server.url, requests, arrivals)}

        turn = (await self._record(server, take))[part]
        last = max((outcome.answered for outcome in turn.outcomes), default=turn.started)
        if last > turn.started + (1 + KEEPS_UP) * self._seconds:
            self._lagging.add(server.name)

    async def _bulk(self, server: Server, number: int) -> None:
        seconds = BULK_TURNS * self._seconds
        count, clients = (
            (BULK_TEXTS, 1) if server.ours else (BULK_TEXTS_OF_OTHERS, BULK_CLIENTS_OF_OTHERS)
        )
        singles = server.requests(self._texts, 1, itertools.repeat(16))
        drawn = server.requests(self._texts, count, self._texts.mixed_lengths())
        # Making one of 2,048 texts takes as long as some singles do.
        requests = itertools.chain(list(itertools.islice(drawn, BULK_READY)), drawn)

        def bulk() -> Coroutine[Any, Any, Turn]:
            return closed_loop(server.url, requests, clients=clients, seconds=seconds)

        async def interactive_alone() -> dict[str, Turn]:
            arrivals = poisson_arrivals(SINGLES_PER_SECOND, seconds, number)
            return {"interactive alone": await open_loop(server.url, singles, arrivals)}

        async def bulk_alone() -> dict[str, Turn]:
            return {"bulk alone": await bulk()}

        async def together() -> dict[str, Turn]:
            working = asyncio.create_task(bulk())
            arrivals = poisson_arrivals(SINGLES_PER_SECOND, math.inf, number)
            meanwhile = itertools.takewhile(lambda _: not working.done(), arrivals)
            beside = await open_loop(server.url, singles, meanwhile)
            return {"interactive beside bulk": beside, "bulk beside interactive": await working}

        for take in (interactive_alone, bulk_alone, together):
            await self._record(server, take)

    async def _record(
        self, server: Server, take: Callable[[], Coroutine[Any, Any, dict[str, Turn]]]
    ) -> dict[str, Turn]:
        """The parts of a turn that is taken again while the machine stands still in it."""
        for _ in range(ATTEMPTS - 1):
            parts = await take()
            if all(turn.longest_pause < STANDSTILL for turn in parts.values()):
                break
        else:
            parts = await take()
        for part, turn in parts.items():
            self.taken[part].setdefault(server.name, []).append(turn)
        return parts
