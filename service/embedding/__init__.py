"""Text to vectors: the bundle's manifest, prompts, tokens and the ONNX Runtime session."""
