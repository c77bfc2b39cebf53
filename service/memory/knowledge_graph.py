"""The graph of MCP's reference memory server, kept in memories: what its tools do."""

from collections.abc import Iterable, Sequence

from service.errors import InvalidInput, MemoryNotFound, RelationNotFound
from service.memory.entities import (
    ENTITY,
    ENTITY_TYPE,
    NAME,
    OBSERVATION,
    POSITION,
    Added,
    Additions,
    Deletions,
    Entity,
    Graph,
    Link,
    entity_id,
    memories_of,
    observation_id,
    observations_of,
    relation_of,
)
from service.memory.filters import All, Filter, MetadataIn, TextIn
from service.memory.memories import Memories
from service.memory.model import Memory
from service.memory.new_memory import NewMemory
from service.memory.search import embed_query, search
from service.memory.store import MAX_DRAFTS, Order
from service.memory.words import query_words_of

# How many memories are looked at for a search by meaning and by words.
CONSIDERED = 50

_PAGE = 1_000


async def create_entities(memories: Memories, tenant: str, given: Sequence[Entity]) -> list[Entity]:
    """Keep the entities that are not there, in one transaction; gives those.

    Raises:
        InvalidInput: they are too many at once.
    """
    there = await _names_there(memories, tenant, [entity.name for entity in given])
    new: dict[str, Entity] = {}
    for entity in given:
        if entity.name not in there:
            new.setdefault(entity.name, entity)
    await _remember(
        memories,
        tenant,
        [
            memory
            for position, entity in enumerate(new.values())
            for memory in memories_of(entity, position)
        ],
    )
    return list(new.values())


async def add_observations(
    memories: Memories, tenant: str, given: Sequence[Additions]
) -> list[Added]:
    """Keep what was observed of entities, in one transaction; gives what is new.

    Raises:
        MemoryNotFound: there is no such entity; nothing was written.
        InvalidInput: they are too many at once.
    """
    await _require(memories, tenant, [each.entity_name for each in given])
    together: dict[str, list[str]] = {}
    for each in given:
        together.setdefault(each.entity_name, []).extend(each.contents)
    drafts = [
        draft for name, contents in together.items() for draft in observations_of(name, contents)
    ]
    created = await _remember(memories, tenant, drafts)
    return [
        Added(
            entity_name=name,
            added_observations=[
                content
                for content in dict.fromkeys(contents)
                if observation_id(name, content) in created
            ],
        )
        for name, contents in together.items()
    ]


async def create_relations(memories: Memories, tenant: str, given: Sequence[Link]) -> list[Link]:
    """Relate entities, in one transaction; gives the relations that were not there.

    Raises:
        MemoryNotFound: an entity is not there; nothing was written.
        InvalidInput: one leads from an entity to itself, or is of type SUPERSEDES.
    """
    names = [name for link in given for name in (link.source, link.target)]
    await _require(memories, tenant, names)
    there = set(await _relations(memories, tenant, names))
    new = [link for link in dict.fromkeys(given) if link not in there]
    if new:
        await memories.relate(tenant, [relation_of(link) for link in new])
    return new


async def delete_entities(memories: Memories, tenant: str, names: Sequence[str]) -> None:
    """Delete entities with their observations and relations.

    Those that are not there do not matter.
    """
    if names:
        await memories.delete(tenant, _of((ENTITY, OBSERVATION), names))


async def delete_observations(memories: Memories, tenant: str, given: Sequence[Deletions]) -> None:
    """Delete observations; those that are not there do not matter."""
    unwanted = {(each.entity_name, content) for each in given for content in each.observations}
    if not unwanted:
        return
    names = [each.entity_name for each in given]
    found = await _all(memories, tenant, _of((OBSERVATION,), names))
    ids = [memory.id for memory in found if (_name(memory), memory.content) in unwanted]
    if ids:
        await memories.delete(tenant, TextIn("id", tuple(ids)))


async def delete_relations(memories: Memories, tenant: str, given: Sequence[Link]) -> None:
    """Delete relations; those that are not there do not matter."""
    for relation in map(relation_of, given):
        try:
            await memories.unrelate(
                tenant, relation.source, relation.target, relation.relation_type
            )
        except RelationNotFound:
            continue


async def read_graph(memories: Memories, tenant: str) -> Graph:
    """All of it."""
    entities = await _entities(memories, tenant, TextIn("memory_type", (ENTITY, OBSERVATION)))
    return await _graph(memories, tenant, entities)


async def open_nodes(memories: Memories, tenant: str, names: Sequence[str]) -> Graph:
    """The entities of these names that are there."""
    entities = await _entities(memories, tenant, _of((ENTITY, OBSERVATION), names))
    return await _graph(memories, tenant, entities)


async def search_nodes(memories: Memories, tenant: str, query: str) -> Graph:
    """The entities that have the query in them, and then those that are relevant to it.

    In them is in the name, the type or an observation, in capitals or not. Relevant is what has all
    words of the query, or is as near in meaning as recall wants it.
    """
    everything = TextIn("memory_type", (ENTITY, OBSERVATION))
    entities = await _entities(memories, tenant, everything)
    wanted = query.lower()
    found = {
        name: entity
        for name, entity in entities.items()
        if any(wanted in text.lower() for text in (name, entity.entity_type, *entity.observations))
    }
    for name in await _relevant(memories, tenant, everything, query) if query.strip() else ():
        if name in entities:
            found.setdefault(name, entities[name])
    return await _graph(memories, tenant, found)


async def _relevant(
    memories: Memories, tenant: str, filter_: Filter, query: str
) -> list[str | None]:
    words = len(query_words_of(query))
    hits = await search(
        memories.store,
        memories.select(tenant, filter_),
        query=query,
        embedding=await embed_query(memories.embedder, query),
        limit=CONSIDERED,
    )
    return [
        _name(hit.memory)
        for hit in hits
        if hit.similarity >= memories.relevance_cutoff or 0 < words == len(hit.words)
    ]


async def _graph(memories: Memories, tenant: str, entities: dict[str, Entity]) -> Graph:
    return Graph(
        entities=list(entities.values()), relations=await _relations(memories, tenant, entities)
    )


async def _entities(memories: Memories, tenant: str, filter_: Filter) -> dict[str, Entity]:
    found = await _all(memories, tenant, filter_)
    observations: dict[str | None, list[str]] = {}
    for memory in found:
        if memory.memory_type == OBSERVATION:
            observations.setdefault(_name(memory), []).append(memory.content)
    return {
        name: Entity(
            name=name,
            entity_type=str(memory.metadata.get(ENTITY_TYPE, "")),
            observations=observations.get(name, []),
        )
        for memory in found
        if memory.memory_type == ENTITY and (name := _name(memory)) is not None
    }


async def _relations(memories: Memories, tenant: str, names: Iterable[str]) -> list[Link]:
    ids = [entity_id(name) for name in dict.fromkeys(names)]
    if not ids:
        return []
    entities = memories.select(tenant, TextIn("memory_type", (ENTITY,)))
    relations = await memories.store.relations(entities, ids, relation_types=None)
    relations.sort(key=lambda relation: relation.created_at)
    ends = list({end for each in relations for end in (each.source, each.target)})
    found = await memories.store.get(entities, ends)
    name_of = {memory.id: _name(memory) for memory in found if memory is not None}
    return [
        Link(source=source, target=target, relation_type=each.relation_type)
        for each in relations
        if (source := name_of.get(each.source)) and (target := name_of.get(each.target))
    ]


async def _all(memories: Memories, tenant: str, filter_: Filter) -> list[Memory]:
    """All that pass the filter and are valid now, in the order in which they were given."""
    selection = memories.select(tenant, filter_)
    order = Order("created_at", descending=False)
    found: list[Memory] = []
    page = await memories.page(selection, order=order, after=None, limit=_PAGE)
    found += page.memories
    while page.next:
        page = await memories.page(selection, order=order, after=page.next, limit=_PAGE)
        found += page.memories
    # What was written at once has the same time.
    return sorted(found, key=lambda memory: (memory.created_at, memory.metadata.get(POSITION, 0)))


async def _names_there(memories: Memories, tenant: str, names: Sequence[str]) -> set[str | None]:
    found = await memories.store.get(memories.select(tenant), [entity_id(name) for name in names])
    return {_name(memory) for memory in found if memory is not None}


async def _require(memories: Memories, tenant: str, names: Sequence[str]) -> None:
    there = await _names_there(memories, tenant, names)
    if missing := [repr(name) for name in dict.fromkeys(names) if name not in there]:
        raise MemoryNotFound(
            f"there is no entity {' and no entity '.join(missing)}; create it first"
        )


async def _remember(memories: Memories, tenant: str, drafts: Sequence[NewMemory]) -> set[str]:
    """Keep memories in one transaction; the ids of those that were not there."""
    if len(drafts) > MAX_DRAFTS:
        raise InvalidInput(
            f"expected at most {MAX_DRAFTS:,} entities and observations at once, got "
            f"{len(drafts):,}; send them in several calls"
        )
    kept, _ = await memories.remember(tenant, drafts)
    return {
        each.remembered.memory.id
        for each in kept
        if each.remembered.outcome == "created" and each.remembered.memory is not None
    }


def _of(memory_types: tuple[str, ...], names: Sequence[str]) -> Filter:
    return All((TextIn("memory_type", memory_types), MetadataIn(NAME, tuple(names))))


def _name(memory: Memory) -> str | None:
    name = memory.metadata.get(NAME)
    return name if isinstance(name, str) else None
