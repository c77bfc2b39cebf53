"""A memory as properties of a node, and back."""

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from service.memory.model import (
    NEVER,
    SUPERSEDES,
    Memory,
    Relation,
    content_hash,
    from_microseconds,
    to_microseconds,
)
from service.memory.neo4j_filters import metadata_entry
from service.memory.words import indexed_words

# What is read of the node `m`: all of a memory, without its embedding.
MEMORY = (
    "m {.id, .content, .title, .memory_type, .tags, .metadata, .importance, .context, .user_id, "
    ".agent_id, .session_id, .created_at, .updated_at, .valid_from, .valid_to, .expires_at, "
    ".supersedes, .superseded_by, .version}"
)

# Relationship types stay in a database for ever, so only these are types of their own; those that
# clients make up are relationships of type RELATION. SUPERSEDES is kept by supersession alone.
_KNOWN_TYPES = ("RELATED_TO", "SUPPORTS", "CONTRADICTS", "CAUSES", "REFERS_TO")
OTHER_TYPE = "RELATION"
RELATION_TYPES = (*_KNOWN_TYPES, OTHER_TYPE)
RELATIONS = "|".join(RELATION_TYPES)
RELATIONS_AND_SUPERSESSION = f"{RELATIONS}|{SUPERSEDES}"

# From memories to the nodes that they share, which are there as long as a memory has them.
SHARED = "TAGGED|IN_CONTEXT|OF_USER|IN_SESSION"


def properties_of(tenant: str, memory: Memory) -> dict[str, Any]:
    """All properties of a memory's node but its embedding."""
    entries, numbers, keys = [], {}, []
    for key, value in memory.metadata.items():
        if value is not None:
            keys.append(key)
        if isinstance(value, bool | str | int | float):
            entries.append(metadata_entry(key, value))
            if not isinstance(value, bool | str):
                numbers[key] = float(value)
    return {
        "id": memory.id,
        "sort_key": sort_key(memory.id),
        "content": memory.content,
        "title": memory.title,
        "memory_type": memory.memory_type,
        "tags": list(memory.tags),
        "metadata": json.dumps(memory.metadata),
        "metadata_keys": keys,
        "metadata_entries": entries,
        "metadata_number_keys": list(numbers),
        "metadata_numbers": list(numbers.values()),
        "importance": float(memory.importance),
        "context": memory.context,
        "user_id": memory.user_id,
        "agent_id": memory.agent_id,
        "session_id": memory.session_id,
        "created_at": to_microseconds(memory.created_at),
        "updated_at": to_microseconds(memory.updated_at),
        "valid_from": to_microseconds(memory.valid_from),
        "valid_to": _kept_time(memory.valid_to),
        "expires_at": _kept_time(memory.expires_at),
        "supersedes": memory.supersedes,
        "superseded_by": memory.superseded_by,
        "version": memory.version,
        "content_hash": content_hash(memory),
        "words": indexed_words(memory.title, memory.content),
        "tenant_word": tenant_word(tenant),
    }


def shared_of(memory: Memory) -> dict[str, list[str]]:
    """The names of the nodes that a memory shares with others, by kind."""
    return {
        "tags": list(memory.tags),
        "contexts": _given(memory.context),
        "users": _given(memory.user_id),
        "sessions": _given(memory.session_id),
    }


def links_of(memory: Memory) -> dict[str, Any]:
    """The properties that supersession changes."""
    return {
        "supersedes": memory.supersedes,
        "superseded_by": memory.superseded_by,
        "valid_to": _kept_time(memory.valid_to),
    }


def memory_of(row: Mapping[str, Any]) -> Memory:
    """The memory that MEMORY has read."""
    return Memory(
        **{
            **row,
            "tags": tuple(row["tags"]),
            "metadata": json.loads(row["metadata"]),
            "created_at": from_microseconds(row["created_at"]),
            "updated_at": from_microseconds(row["updated_at"]),
            "valid_from": from_microseconds(row["valid_from"]),
            "valid_to": _time(row["valid_to"]),
            "expires_at": _time(row["expires_at"]),
        }
    )


def relation_of(row: Mapping[str, Any]) -> Relation:
    """The relation that has these columns, `created_at` in microseconds."""
    return Relation(**{**row, "created_at": from_microseconds(row["created_at"])})


def relationship_type(relation_type: str) -> str:
    """The type of the relationships that are relations of this type."""
    return relation_type if relation_type in _KNOWN_TYPES else OTHER_TYPE


def sort_key(text: str) -> str | None:
    """What stands for a text where it is compared with a parameter; None where it is the text.

    Neo4j sorts the strings that it keeps by code points, but compares them with parameters by
    UTF-16 code units, where U+E000 to U+FFFF come behind what is beyond. Here they come before.
    """
    key = _AFTER_SURROGATES.sub(_before_surrogates, text)
    return None if key == text else key


def tenant_word(tenant: str) -> str:
    """One word for the tenant in the full-text index, which splits at spaces."""
    return hashlib.sha256(tenant.encode()).hexdigest()


_AFTER_SURROGATES = re.compile("[\ud7ff\ue000-\uffff]")


def _before_surrogates(found: re.Match[str]) -> str:
    return "\ud7ff" + chr(max(0, ord(found[0]) - 0xE000 + 1))


def _given(name: str | None) -> list[str]:
    return [] if name is None else [name]


def _kept_time(time: datetime | None) -> int:
    return NEVER if time is None else to_microseconds(time)


def _time(microseconds: int) -> datetime | None:
    return None if microseconds == NEVER else from_microseconds(microseconds)
