"""Entities, what was observed of them, and how they relate, and the memories that these are.

An entity is a memory of type `entity`, an observation one of type `observation`, from which a
relation of type OBSERVATION_OF leads to the entity; `metadata.entity` of both is the entity's name.
Their ids are made of what they say, so that the store itself keeps names unique, and what was
observed of one entity. A link between entities is a relation between their memories.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from service.memory.new_memory import Content, GivenRelation, NewMemory, RelateRequest

ENTITY = "entity"
OBSERVATION = "observation"
OBSERVATION_OF = "OBSERVATION_OF"

# Metadata of both: the name of the entity; of an entity: its type; and the place in what was given.
NAME = "entity"
ENTITY_TYPE = "entity_type"
POSITION = "position"

_ONE_LINE = r"^[^\x00-\x1f\x7f]*\Z"

EntityName = Annotated[
    str, Meta(min_length=1, max_length=256, pattern=_ONE_LINE, description="The entity's name.")
]


class Entity(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Something that has a name, and what is known of it."""

    name: EntityName
    entity_type: Annotated[
        str, Meta(max_length=256, pattern=_ONE_LINE, description="What kind of thing it is.")
    ]
    observations: Annotated[
        list[Content], Meta(description="What is known of it, one fact each, in plain words.")
    ]


class Link(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename={"source": "from", "target": "to", "relation_type": "relationType"},
):
    """That two entities relate, in active voice."""

    source: Annotated[EntityName, Meta(description="The entity where the relation starts.")]
    target: Annotated[EntityName, Meta(description="The entity where the relation ends.")]
    relation_type: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=256,
            pattern=_ONE_LINE,
            description="How they relate, such as works_at.",
        ),
    ]


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Entities, and the relations from or to them, in the order in which they were made."""

    entities: list[Entity]
    relations: list[Link]


class Additions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What else is known of an entity."""

    entity_name: EntityName
    contents: Annotated[list[Content], Meta(description="One fact each, in plain words.")]


class Added(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What was not known of the entity before."""

    entity_name: str
    added_observations: list[str]


class Deletions(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is to be known of an entity no more."""

    entity_name: EntityName
    observations: Annotated[list[str], Meta(description="As they were written.")]


def entity_id(name: str) -> str:
    """The id of an entity's memory."""
    return f"{ENTITY}:{_digest(name)}"


def memories_of(entity: Entity, position: int = 0) -> Iterator[NewMemory]:
    """The entity's memory, and then those of its observations."""
    kind = f" ({entity.entity_type})" if entity.entity_type else ""
    yield NewMemory(
        id=entity_id(entity.name),
        content=entity.name + kind,
        memory_type=ENTITY,
        metadata={NAME: entity.name, ENTITY_TYPE: entity.entity_type, POSITION: position},
    )
    yield from observations_of(entity.name, entity.observations)


def relation_of(link: Link) -> RelateRequest:
    """The relation between the memories of two entities."""
    return RelateRequest(
        source=entity_id(link.source),
        target=entity_id(link.target),
        relation_type=link.relation_type,
    )


def observations_of(name: str, contents: Iterable[str]) -> Iterator[NewMemory]:
    """The memories of what was observed of an entity."""
    for position, content in enumerate(dict.fromkeys(contents)):
        yield NewMemory(
            id=observation_id(name, content),
            content=content,
            title=name,
            memory_type=OBSERVATION,
            metadata={NAME: name, POSITION: position},
            relations=[GivenRelation(target=entity_id(name), relation_type=OBSERVATION_OF)],
            truncate=True,
        )


def observation_id(name: str, content: str) -> str:
    """The id of the memory of what was observed of an entity."""
    return f"{OBSERVATION}:{_digest(name, content)}"


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:40]
