"""Clients that write as fast as they can while something breaks, and what must be there later.

They note what was acknowledged, and what they sent in batches, of which either all or nothing may
be there.
"""

import json
import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

CLIENTS = 4
BATCH = 20


@dataclass
class Written:
    """What clients have sent, and what they were told."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # id: content
    related: list[tuple[str, str]] = field(default_factory=list)
    superseded: dict[str, str] = field(default_factory=dict)  # old id: new id
    batches: list[list[str]] = field(default_factory=list)  # ids, acknowledged or not
    refused: list[httpx.Response] = field(default_factory=list)


def content_of(id: str) -> str:
    return f"{id} is kept by the ferry town at the lake"


def write(client: httpx.Client, name: str, written: Written, stop: threading.Event) -> None:
    """Write until told to stop, or until nobody answers any more."""
    previous: str | None = None
    for number in range(10**9):
        if stop.is_set():
            return
        id = f"{name}-{number}"
        try:
            if number % 7 == 3:
                ids = [f"{id}-{index}" for index in range(BATCH)]
                written.batches.append(ids)
                memories = [new_memory(each) for each in ids]
                response = client.post("/memories/batch", json={"memories": memories})
                kept = ids
            elif number % 5 == 2 and previous:
                body = {"id": id, "content": content_of(id)}
                response = client.post(f"/memories/{previous}/supersede", json=body)
                if response.is_success:
                    written.superseded[previous] = id
                kept = [id]
            else:
                relations = [{"target": previous}] if previous else []
                response = client.post("/memories", json=new_memory(id, relations))
                if response.is_success and previous:
                    written.related.append((id, previous))
                kept = [id]
        except httpx.TransportError:
            return
        if response.is_success:
            written.acknowledged |= {each: content_of(each) for each in kept}
            previous = kept[-1]
        else:
            written.refused.append(response)


def new_memory(id: str, relations: list[dict[str, str]] | None = None) -> dict[str, object]:
    return {
        "id": id,
        "content": content_of(id),
        "tags": [f"tag-{id[-1]}", f"only-{id}"],
        "session_id": f"session-{id}",
        "relations": relations or [],
    }


@contextmanager
def writing(url: str, name: str, written: Written) -> Iterator[None]:
    """Clients that write until the block is left."""
    stop = threading.Event()
    with httpx.Client(base_url=url, timeout=60) as client:
        threads = [
            threading.Thread(target=write, args=(client, f"{name}-{number}", written, stop))
            for number in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def wait_for_writes(written: Written, count: int) -> None:
    """Return when so many more memories were acknowledged."""
    wanted = len(written.acknowledged) + count
    pause = threading.Event()
    while len(written.acknowledged) < wanted:
        pause.wait(0.01)


def check_everything(url: str, written: Written) -> None:
    """All that was acknowledged is there, batches are whole, and it can be found."""
    lines = httpx.get(f"{url}/export", timeout=60).text.splitlines()
    objects = [json.loads(line) for line in lines]
    memories = {each["id"]: each for each in objects if each["type"] == "memory"}
    missing = set(written.acknowledged) - set(memories)
    assert not missing
    assert {id: memories[id]["content"] for id in written.acknowledged} == written.acknowledged
    for ids in written.batches:
        assert sum(id in memories for id in ids) in (0, len(ids))
    links: dict[str, set[tuple[str, str]]] = {"RELATED_TO": set(), "SUPERSEDES": set()}
    for each in objects:
        if each["type"] == "relation":
            links[each["relation_type"]].add((each["source"], each["target"]))
    assert set(written.related) <= links["RELATED_TO"]
    assert {(new, old) for old, new in written.superseded.items()} <= links["SUPERSEDES"]
    for new, old in links["SUPERSEDES"]:
        assert memories[old]["valid_to"] == memories[new]["valid_from"]
        assert memories[old]["superseded_by"] == new
        assert memories[new]["supersedes"] == old
    for source, target in links["RELATED_TO"]:
        assert {source, target} <= set(memories)
    current = [id for id, memory in memories.items() if memory["valid_to"] is None]
    for id in random.Random(len(current)).sample(current, min(20, len(current))):
        for mode in ("text", "vector"):
            found = httpx.post(
                f"{url}/memories/search",
                json={"query": content_of(id), "mode": mode, "limit": 50, "filter": {"id": id}},
            ).json()["results"]
            assert [each["memory"]["id"] for each in found] == [id], (mode, id)


def check_sqlite(path: Path) -> None:
    """No orphans, and a full-text index that has every memory."""
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        connection.execute("INSERT INTO fts (fts, rank) VALUES ('integrity-check', 1)")
        for part in ("text", "embedding", "code"):
            (apart,) = connection.execute(
                f"SELECT count(*) FROM memory FULL JOIN {part} USING (n) "
                f"WHERE memory.id IS NULL OR {part}.n IS NULL"
            ).fetchone()
            assert apart == 0, part
