"""Turns a sentence-transformers checkpoint into a bundle that the service runs."""

import service.embedding  # noqa: F401  # before ONNX Runtime is loaded, as it says
