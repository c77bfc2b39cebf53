"""How far a long command is: a bar where a person watches, and else a log line now and then."""

import io
import logging
import sys
from typing import Never

from tqdm import tqdm

logger = logging.getLogger(__name__)

# Often enough to see that a command lives, and seldom enough for a log that is kept.
SECONDS_BETWEEN_LINES = 10.0


def show_progress(unit: str, total: int | None, *, done: int = 0) -> "tqdm[Never]":
    """Shows how many of a total are done; None where that is not known. To be closed at the end."""
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, unit=f" {unit}")
    of_total = "{n_fmt} of {total_fmt}" if total else "{n_fmt}"
    left = ", {remaining} left" if total else ""
    return tqdm(
        total=total,
        initial=done,
        unit=f" {unit}",
        file=_LogLines(),
        mininterval=SECONDS_BETWEEN_LINES,
        maxinterval=SECONDS_BETWEEN_LINES,
        bar_format=f"{of_total} {unit}, {{rate_fmt}}{left}",
    )


class _LogLines(io.StringIO):
    """Where tqdm draws over what it has drawn, each drawing is a line of its own."""

    def write(self, text: str) -> int:
        if line := text.strip():
            logger.info(line)
        return len(text)
