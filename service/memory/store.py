"""What a store of memories promises; its prose is the contract that the tests hold each store to.

SqliteStore and Neo4jStore are the stores. Texts become embeddings before they get here, and the
clock is the caller's: the same calls on two stores give the same answers.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from service.errors import InvalidInput
from service.memory.filters import EVERYTHING, Filter
from service.memory.model import (
    Count,
    Deleted,
    Draft,
    Embedding,
    Memory,
    Receipt,
    Record,
    Relation,
    Remembered,
    Stats,
)
from service.memory.words import WordMatch

# Similarities are compared to this many decimals: closer ones are equal, whatever a store's
# arithmetic makes of them.
SIMILARITY_DECIMALS = 6

# How many texts a store finds for the words of a query before they are put in order.
WORD_CANDIDATES = 200

# What one call writes at most.
MAX_DRAFTS = 1_000

UNIT_LENGTH_TOLERANCE = 1e-3

OrderField = Literal["created_at", "updated_at", "importance"]


class EmbeddingModel(msgspec.Struct, frozen=True):
    """The model whose embeddings fill a store.

    `digest` is the SHA-256 of the checkpoint's weights and of the prompt that documents are read
    behind; variants of one checkpoint in other precisions are the same model.
    """

    name: str
    digest: str
    dimensions: int


class StoreInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a store is, for people: where it lies, its version, and how it searches."""

    kind: Literal["sqlite", "neo4j"]
    address: str
    """Path or URL, without credentials."""
    version: str
    vector_search: str
    embedding_model: EmbeddingModel


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which memories a call is about: those of one tenant that are visible and pass the filter.

    A memory is visible unless it is forgotten (`expires_at` <= `now`), and, where `as_of` is given,
    only if it was valid then: `valid_from` <= `as_of`, `as_of` < `valid_to` where that is set, and
    `as_of` < `expires_at` where that is set.
    """

    tenant: str
    now: datetime
    as_of: datetime | None
    filter: Filter = EVERYTHING


class Order(msgspec.Struct, frozen=True):
    """The order of a list: by one field, and then by id, in the same direction."""

    field: OrderField = "created_at"
    descending: bool = True


class Position(msgspec.Struct, frozen=True):
    """A place in a list: behind the memory of this id, which has this value in the order's field.

    Times are microseconds.
    """

    value: float | int
    id: str


class Match(msgspec.Struct, frozen=True):
    """A memory that was found, and the cosine of its embedding and the query's, in [-1, 1]."""

    id: str
    similarity: float


class MemoryStore(Protocol):
    """What every store does.

    Memories, embeddings and relations of several tenants, kept durably.

    - A call that returned has been written: it survives kill -9 of the service and of the database,
      and the next read of any client sees it. A call that raised has changed nothing, except that
      a call that raised StoreUnavailable may have been carried out; repeating it is safe.
    - No call reads, changes or counts anything of another tenant. Ids belong to their tenant;
      they are ASCII and sort by their characters' codes.
    - Calls may run at the same time; each sees the others' writes whole or not at all, and
      concurrent writes of the same content, id or supersession have one winner.
    - An embedding is of the store's dimensions, finite and of unit length (to 1e-3); another one is
      refused with InvalidInput before anything is written.

    Every method raises StoreUnavailable when the database does not answer.
    """

    async def remember(
        self, tenant: str, drafts: Sequence[Draft], *, now: datetime, receipt: Receipt | None = None
    ) -> list[Remembered]:
        """Write drafts in one transaction, in order, as if one call were made for each.

        Drafts come with unique ids. A draft with its own id:
        is `unchanged` where a memory of this id has the same content, and the draft does not
        replace; is a `conflict` where it has other content and the draft does not replace; is
        `replaced` where it does: every field of the draft is taken, but `created_at` and what it
        supersedes or is superseded by (with the `valid_to` that follows from it) remain, and
        `version` is one more. A memory that is forgotten counts as not there: a draft with its id
        takes its place as a new one.

        A draft without its own id is a `duplicate` where a memory with the same content_hash is
        there that is neither forgotten nor superseded; the answer is the newest of them, and
        nothing of the draft is written.

        A draft that supersedes closes the other memory: its `valid_to` becomes the draft's
        `valid_from`. It is `missing_superseded` where there is no such memory and
        `already_superseded`, with that one's successor, where it has one. It is never a duplicate.

        A relation's target must be there, before or through an earlier draft; otherwise the draft
        is `missing_target`. Relations of `created`, `replaced` and `unchanged` drafts are written,
        as `relate` does. A refused draft leaves no trace and does not hold up the others.

        With a receipt, its key is kept with the results in the same transaction. A key that is
        there already with the same fingerprint writes nothing and gives the kept results.

        Raises:
            IdempotencyKeyReused: the key is there with another fingerprint.
        """
        ...

    async def receipt(self, tenant: str, key: str) -> Receipt | None:
        """What a request with this idempotency key did, if there was one."""
        ...

    async def update(
        self, tenant: str, memory: Memory, embedding: Embedding | None, *, expected_version: int
    ) -> Memory | None:
        """Put the fields of a memory in the place of those it has; None where it is not there.

        Its scope, `created_at`, `valid_from`, `valid_to` and supersession stay what they are; the
        caller sets `updated_at`. `version` becomes one more. Without an embedding the old one
        stays.

        Raises:
            Conflict: its version is not the expected one.
        """
        ...

    async def delete(
        self, tenant: str, filter_: Filter, *, now: datetime, dry_run: bool = False
    ) -> Deleted:
        """Delete the memories that pass the filter, whenever they are valid, with their relations.

        What remains is what would be there had they never been: the predecessor of a deleted memory
        is superseded by its successor (its `valid_to` becomes the successor's `valid_from`), or is
        open again where there is none. Tags and contexts that no memory has any more are gone.
        `relations` counts those of `relate`, not supersession. Memories that are forgotten are
        deleted too but do not count. A dry run counts only.
        """
        ...

    async def purge(self, *, now: datetime, receipts_before: datetime) -> int:
        """Delete what is forgotten, of every tenant, as `delete` does, and old receipts.

        Gives the number of memories.
        """
        ...

    async def get(self, selection: Selection, ids: Sequence[str]) -> list[Memory | None]:
        """The selected memory of each id, in order; None where there is none."""
        ...

    async def page(
        self, selection: Selection, *, order: Order, after: Position | None, limit: int
    ) -> list[Memory]:
        """The first selected memories in this order, or those behind a position.

        Following the positions of the last memory of each page finds each memory exactly once that
        is there, unchanged in the order's field, from the first page to the last.
        """
        ...

    async def count(self, selection: Selection) -> int:
        """How many memories are selected."""
        ...

    async def search_embedding(
        self, selection: Selection, embedding: Embedding, *, limit: int
    ) -> list[Match]:
        """The selected memories nearest to the embedding: min(limit, selected) of them.

        `similarity` is the cosine, to SIMILARITY_DECIMALS; the highest first, of equals the newer
        by `created_at`, then by id.
        """
        ...

    async def search_words(
        self, selection: Selection, words: Sequence[str], *, limit: int
    ) -> list[WordMatch]:
        """Selected memories that have any of the words, the most relevant first, and which words.

        A memory's words are those of indexed_words, and `words` are as query_words_of gives them.
        Of at most max(limit, WORD_CANDIDATES) candidates, which the database finds by its own BM25,
        the order is rank_by_words'. Gives min(limit, matching); nothing for no words.
        """
        ...

    async def embeddings(self, tenant: str, ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """The embeddings of memories, in order: (ids, dimensions); zeros where there is none."""
        ...

    async def relate(self, tenant: str, relations: Sequence[Relation]) -> list[str]:
        """Write relations in one transaction; the ids that are not there, and then nothing is.

        A relation that is there with the same source, type and target gets the weight, and keeps
        its `created_at`.
        """
        ...

    async def unrelate(
        self, tenant: str, source: str, target: str, relation_type: str | None
    ) -> int:
        """Delete the relations from source to target, of one type or of all; gives how many."""
        ...

    async def relations(
        self, selection: Selection, ids: Sequence[str], *, relation_types: Sequence[str] | None
    ) -> list[Relation]:
        """Relations, of these types, that lead from or to these memories, which may be any.

        The memory on the other side is selected, or one of `ids`. Ordered by source, type, target.
        """
        ...

    async def history(self, selection: Selection, id: str) -> list[Memory]:
        """The selected memories among those that supersede one another, oldest first, through `id`.

        Empty where there is no such memory; one without supersession is its own history.
        """
        ...

    async def tags(self, selection: Selection) -> list[Count]:
        """The tags of the selected memories, the most frequent first, then by name."""
        ...

    async def contexts(self, selection: Selection) -> list[Count]:
        """The contexts of the selected memories, the most frequent first, then by name."""
        ...

    async def stats(self, tenant: str, *, now: datetime) -> Stats:
        """What the tenant has, without what is forgotten."""
        ...

    async def tenants(self) -> list[str]:
        """The tenants that have memories, in order."""
        ...

    async def records(
        self, tenant: str, *, now: datetime, after: str | None, limit: int
    ) -> list[Record]:
        """Memories that are not forgotten with their embeddings, by id, those behind `after`."""
        ...

    async def relations_after(
        self, tenant: str, after: tuple[str, str, str] | None, *, limit: int
    ) -> list[Relation]:
        """Relations by source, type and target, those behind `after`.

        Supersession is among them: from the newer to the older, of type SUPERSEDES, of weight 1,
        created when the newer was.
        """
        ...

    async def load(self, tenant: str, records: Sequence[Record]) -> list["Loaded"]:
        """Write records as they are, in one transaction, but for their supersession.

        A memory that is there with the same fields is `unchanged` (and keeps its supersession). One
        that differs is `replaced` where the record's (`version`, `updated_at`) is not older, and
        otherwise `kept`.
        """
        ...

    async def load_relations(self, tenant: str, relations: Sequence[Relation]) -> int:
        """Write relations as they are, supersession too; how many had both memories there.

        Supersession sets only the links of the two, as their times are already right.
        """
        ...

    async def replace_embeddings(
        self, tenant: str, ids: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> None:
        """Give memories, the next by id of this tenant, embeddings of the model to come.

        Only between start_re_embedding and finish_re_embedding; (ids, dimensions). The place that
        re-embedding has come to is kept in the same transaction.
        """
        ...

    async def start_re_embedding(self, model: EmbeddingModel) -> tuple[str, str] | None:
        """Begin to exchange all embeddings for those of another model, or go on with it.

        Gives the place to go on behind, a tenant and an id, or None to begin with the first. Until
        it is finished the store cannot be opened for anything else: EmbeddingModelMismatch says so.

        Raises:
            EmbeddingModelMismatch: re-embedding with a third model has begun and is not finished.
        """
        ...

    async def finish_re_embedding(self) -> None:
        """The store is one of the new model's now; search finds its embeddings."""
        ...

    async def ping(self) -> None:
        """Return if the store can be read and written, and is still of our embedding model."""
        ...

    async def info(self) -> StoreInfo:
        """What this store is."""
        ...


Loaded = Literal["created", "replaced", "unchanged", "kept"]


def checked_embeddings(
    embeddings: Sequence[Embedding] | npt.NDArray[np.float32], dimensions: int
) -> npt.NDArray[np.float32]:
    """The embeddings as one array, (embeddings, dimensions), fit to be kept.

    Databases keep vectors of any size, and NaN, without a word, and then do not find them.

    Raises:
        InvalidInput: one is of another size, not finite, or not of unit length.
    """
    for embedding in embeddings:
        if embedding.shape != (dimensions,):
            raise InvalidInput(
                f"expected embeddings of {dimensions} numbers, got one of shape {embedding.shape}",
                parameter="embedding",
            )
    checked = np.ascontiguousarray(embeddings, np.float32).reshape(-1, dimensions)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(checked, axis=1)
    if not (np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE).all():
        raise InvalidInput(
            "expected embeddings of unit length, got one of length "
            f"{lengths[np.argmax(~(np.abs(lengths - 1) <= UNIT_LENGTH_TOLERANCE))]:.3g}",
            parameter="embedding",
        )
    return checked
