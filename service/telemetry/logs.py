"""How log lines look: for people, or as JSON for machines. Both name the request they are of."""

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

from service.settings import LogFormat, LogLevel
from service.telemetry.running_request import running_request

# What needs no quotation marks to be one word in a line, and cannot begin another line.
_WORD = re.compile(r"[!-~]+")


def configure_logs(level: LogLevel, format: LogFormat) -> None:
    """Write log lines from this level on to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper())
    if level == "info":
        # MCP's SDK has a line for each request, and uvicorn for each start and stop, as we have.
        for name in ("mcp", "uvicorn.error"):
            logging.getLogger(name).setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """Time, level and message, and what is known besides as name=value."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The first line of an entry; a traceback follows it."""
        values = " ".join(f"{name}={_word(value)}" for name, value in _fields(record).items())
        return f"{super().formatMessage(record)} {values}".rstrip()


class JsonFormatter(logging.Formatter):
    """An object in a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole entry."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        } | _fields(record)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given: dict[str, Any] = getattr(record, "fields", {})
    fields = {name: value for name, value in given.items() if value is not None}
    if request := running_request.get():
        fields["request_id"] = request.id
        if request.trace_id:
            fields["trace_id"] = request.trace_id
    return fields


def _word(value: Any) -> str:
    text = str(value)
    return text if _WORD.fullmatch(text) else json.dumps(text)
