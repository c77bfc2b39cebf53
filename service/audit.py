"""The audit log: a line for all that deletes, imports, or changes keys."""

import logging
import os
from typing import Literal

logger = logging.getLogger("service.audit")

# Whatever the least severe events are that are logged otherwise.
logger.setLevel(logging.INFO)

# What a client sent can be as long as a request.
MAX_WHAT = 500

Action = Literal["delete", "import", "add key", "revoke key"]


def command_line_user() -> str:
    """Who gave this command."""
    return f"command line, user {os.getuid()}"


def audit(action: Action, *, by: str, tenant: str, what: str, count: int) -> None:
    """Log who did what to how much of a tenant; the log says when.

    `what` may hold anything that a client sent.
    """
    if len(what) > MAX_WHAT:
        what = f"{what[:MAX_WHAT]}…"
    fields = {"action": action, "by": by, "tenant": tenant, "what": what, "count": count}
    logger.info("audit", extra={"fields": fields})
