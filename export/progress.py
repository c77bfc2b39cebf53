"""Shows how far a long step is."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from tqdm import tqdm


class Progress(Protocol):
    """Passes the steps of a piece of work through, and shows how many are done."""

    def __call__(self, steps: Sequence[int], description: str) -> Iterable[int]: ...


def progress_bar(steps: Sequence[int], description: str) -> Iterable[int]:
    """A bar on standard error where a person sees it."""
    bar: Iterable[int] = tqdm(steps, desc=description, unit="", leave=False, disable=None)
    return bar


def silent(steps: Sequence[int], description: str) -> Iterable[int]:
    """Shows nothing."""
    return steps
