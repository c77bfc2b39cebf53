"""Embed text and remember it: an HTTP service on ONNX Runtime, with no PyTorch."""

__version__ = "0.1.0"
