"""What a client is told of a memory that it sent."""

import msgspec

from service.errors import Conflict, InvalidInput, MemoryNotFound, ServiceError
from service.memory.memories import Kept
from service.memory.model import Memory, Remembered


class RememberedMemory(Memory, frozen=True, kw_only=True):
    """The memory that is there now."""

    duplicate: bool = False
    """The same content was there in the same scope: nothing was written."""
    truncated: bool = False
    """Its embedding is of the beginning of its content only."""


def remembered_memory(kept: Kept) -> RememberedMemory | None:
    """The memory that is there now, if there is one."""
    memory = kept.remembered.memory
    if memory is None:
        return None
    return RememberedMemory(
        **msgspec.structs.asdict(memory),
        duplicate=kept.remembered.outcome == "duplicate",
        truncated=kept.truncated,
    )


def refusal(remembered: Remembered) -> ServiceError | None:
    """Why a memory was not kept, where it was not."""
    there = remembered.memory
    missing = ", ".join(map(repr, remembered.missing))
    match remembered.outcome:
        case "conflict":
            assert there is not None
            return Conflict(
                f"other content is kept under the id {there.id!r}; send another id, or "
                '"on_conflict": "replace" to put this in its place'
            )
        case "already_superseded":
            assert there is not None
            return Conflict(f"it is superseded already; supersede its successor, {there.id!r}")
        case "missing_superseded":
            return MemoryNotFound(f"there is no memory {missing} to supersede")
        case "missing_target":
            return InvalidInput(
                f"expected relations to memories that are there, got {missing}; remember those "
                "first",
                parameter="relations",
            )
        case _:
            return None
