"""Text to vectors: the bundle's manifest, prompts, tokens and the ONNX Runtime session."""

import os

# Since 1.29 ONNX Runtime's packages for Linux and macOS report to their maker what they run, and
# keep an id of the machine in the home folder, unless this is set before they are loaded.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
