"""A written scenario, in scenario.json: what a person and an assistant remember, and questions.

Nothing of it is used to build or calibrate a bundle.
"""

from pathlib import Path

import msgspec

_PATH = Path(__file__).with_suffix(".json")


class ScenarioMemory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory under a name of its own; what it supersedes stands before it."""

    key: str
    content: str
    memory_type: str
    tags: tuple[str, ...]
    context: str
    session_id: str
    supersedes: str | None = None


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody asks, and the keys of every current memory that answers it."""

    query: str
    relevant: tuple[str, ...]


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memories in the order in which they were made, and what is asked of them.

    Nothing remembered answers a question of `off_topic`.
    """

    memories: tuple[ScenarioMemory, ...]
    questions: tuple[Question, ...]
    off_topic: tuple[str, ...]

    def current(self) -> tuple[ScenarioMemory, ...]:
        """The memories that no other one supersedes, in their order."""
        superseded = {memory.supersedes for memory in self.memories}
        return tuple(memory for memory in self.memories if memory.key not in superseded)


def load_scenario() -> Scenario:
    """The committed scenario."""
    return msgspec.json.decode(_PATH.read_bytes(), type=Scenario)
