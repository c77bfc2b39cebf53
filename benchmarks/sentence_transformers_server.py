"""The server that people write around sentence-transformers: the baseline of bench_http.py.

    python -m benchmarks.sentence_transformers_server CHECKPOINT fp32|bf16 PORT

A request's texts are computed together, and one request at a time: threads that all compute at
once are slower.
"""

import base64
import sys
import threading

import msgspec
import torch
import uvicorn
from litestar import Litestar, post
from sentence_transformers import SentenceTransformer


class Texts(msgspec.Struct):
    """What to embed."""

    input: list[str]


def create_app(checkpoint: str, precision: str) -> Litestar:
    """POST /v1/embeddings over this checkpoint; embeddings are base64, as OpenAI's clients ask."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model = SentenceTransformer(
        checkpoint, device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    ).to(dtype)
    one_at_a_time = threading.Lock()

    @post("/v1/embeddings", sync_to_thread=True, status_code=200)
    def embed(data: Texts) -> dict[str, object]:
        with one_at_a_time:
            embeddings = model.encode(data.input, show_progress_bar=False)
        encoded = (base64.b64encode(row.tobytes()).decode() for row in embeddings)
        return {"data": [{"index": i, "embedding": text} for i, text in enumerate(encoded)]}

    return Litestar([embed])


def main() -> None:
    checkpoint, precision, port = sys.argv[1:]
    app = create_app(checkpoint, precision)
    uvicorn.run(app, port=int(port), log_level="warning")


if __name__ == "__main__":
    main()
