"""The file of MCP's reference memory server, memory.json or memory.jsonl, as lines of a dump."""

from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime

import msgspec

from service.errors import InvalidInput
from service.memory.entities import Entity, Link, memories_of, relation_of
from service.memory.memories import MICROSECOND
from service.memory.model import new_id
from service.memory.new_memory import RelateRequest, begin_memory
from service.memory.transfer import MemoryLine, RelationLine, line_of


class EntityLine(Entity, frozen=True, kw_only=True, tag_field="type", tag="entity"):
    """A line of an entity; an observation may be empty there."""

    observations: list[str]


class LinkLine(Link, frozen=True, kw_only=True, tag_field="type", tag="relation"):
    """A line of a relation between entities."""


_DECODER: msgspec.json.Decoder[EntityLine | LinkLine] = msgspec.json.Decoder(EntityLine | LinkLine)


async def as_dump(lines: AsyncIterable[bytes], *, at: datetime) -> AsyncIterator[bytes]:
    """The lines of a dump as they are, and those of the reference server's file as lines of one.

    All that such a file says is taken to have been remembered `at` a time: read again with the same
    time, it is the same again.

    Raises:
        InvalidInput: the file is the reference server's, and a line of it is not valid.
    """
    is_dump: bool | None = None
    relations: list[RelateRequest] = []
    number = 0
    async for text in lines:
        number += 1
        if is_dump is None and text.strip():
            is_dump = not _is_of_reference_server(text)
        if is_dump or not text.strip():
            yield text
            continue
        line = _decode(text, number)
        if isinstance(line, Link):
            relations.append(relation_of(line))
            continue
        for new in memories_of(line, number):
            memory = begin_memory(new, id=new_id(at), now=at)
            yield line_of(MemoryLine(**msgspec.structs.asdict(memory)))
            relations += [
                RelateRequest(
                    source=memory.id, target=given.target, relation_type=given.relation_type
                )
                for given in new.relations
            ]
    # Behind all memories, as both ends have to be there, and in order.
    for index, relation in enumerate(relations):
        fields = msgspec.structs.asdict(relation)
        yield line_of(RelationLine(**fields, created_at=at + index * MICROSECOND))


def _is_of_reference_server(text: bytes) -> bool:
    try:
        _DECODER.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _decode(text: bytes, number: int) -> Entity | Link:
    try:
        line = _DECODER.decode(text)
        if isinstance(line, LinkLine):
            return line
        observations = [content for content in line.observations if content.strip()]
        fields = {"name": line.name, "entityType": line.entity_type, "observations": observations}
        return msgspec.convert(fields, Entity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"line {number}: {error}", parameter="line") from None
