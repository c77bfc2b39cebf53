"""Log lines as they are written."""

import io
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.telemetry.logs import JsonFormatter


@contextmanager
def logged(name: str, formatter: logging.Formatter | None = None) -> Iterator[Callable[[], str]]:
    """What a logger and those below it write until the end, from INFO on; as JSON by default."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter or JsonFormatter())
    logger = logging.getLogger(name)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield stream.getvalue
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
