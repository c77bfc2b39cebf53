"""Memories: what they are, what can be done with them, and where they are kept."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from service.errors import InvalidSettings
from service.memory.store import EmbeddingModel, MemoryStore

NEO4J_SCHEMES = ("neo4j", "neo4j+s", "neo4j+ssc", "bolt", "bolt+s", "bolt+ssc")

EXPECTED = "expected sqlite:///path/to/file.db, or neo4j://host:7687"


class StoreAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the memories are, and as whom to log in there."""

    url: str
    neo4j_username: str | None = None
    neo4j_password: str | None = None
    neo4j_database: str = "neo4j"

    def __repr__(self) -> str:
        return f"StoreAddress(url={self.url!r})"


def open_store(
    address: StoreAddress, model: EmbeddingModel | None, *, re_embedding: bool = False
) -> AbstractAsyncContextManager[MemoryStore]:
    """The store at an address, for embeddings of a model; None takes the one that it has.

    `re_embedding` opens it for exchanging its embeddings: whichever model it has.

    Raises:
        InvalidSettings: the address is not one of a store.
        StoreLoadError: on entering; the store is damaged, in use, or cannot be reached.
        EmbeddingModelMismatch: on entering; it has the embeddings of another model.
    """
    try:
        scheme = urlsplit(address.url).scheme
    except ValueError:
        scheme = ""
    if scheme == "sqlite":
        from service.memory.sqlite_store import open_sqlite_store

        return open_sqlite_store(_sqlite_path(address.url), model, re_embedding=re_embedding)
    if scheme in NEO4J_SCHEMES:
        from service.memory.neo4j_store import open_neo4j_store

        if urlsplit(address.url).password or urlsplit(address.url).username:
            raise InvalidSettings(
                "the store's URL has a login in it; set NEO4J_USERNAME and NEO4J_PASSWORD instead"
            )
        return open_neo4j_store(
            address.url,
            model,
            username=address.neo4j_username,
            password=address.neo4j_password,
            database=address.neo4j_database,
            re_embedding=re_embedding,
        )
    raise InvalidSettings(f"the store {address.url!r}: {EXPECTED}")


def _sqlite_path(url: str) -> Path:
    # As SQLAlchemy writes it: three slashes before a relative path, four before an absolute one.
    beginning = "sqlite:///"
    if not url.startswith(beginning) or url == beginning:
        raise InvalidSettings(f"the store {url!r}: {EXPECTED}")
    return Path(url.removeprefix(beginning))
