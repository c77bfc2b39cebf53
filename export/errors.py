"""Every error that an export ends with on purpose.

ExportError
├── CheckpointError  not found, damaged, or not what its own configuration says
├── RecipeMismatch   it contradicts what is known about this model
└── ParityError      the graph does not compute what the checkpoint computes

A message says what was expected, what came, and what to do. An export that raises has
written nothing.
"""


class ExportError(Exception):
    """Base of all errors that an export ends with on purpose."""


class CheckpointError(ExportError):
    """The checkpoint cannot be found, read or understood."""


class RecipeMismatch(ExportError):
    """The checkpoint contradicts what is known about this model."""


class ParityError(ExportError):
    """The built graph does not agree with its reference."""
