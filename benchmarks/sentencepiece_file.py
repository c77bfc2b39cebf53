"""Writes the SentencePiece file, tokenizer.model, of a checkpoint that has tokenizer.json alone.

    build/peers/convert/bin/python -m benchmarks.sentencepiece_file CHECKPOINT

llama.cpp's conversion reads it. google/embeddinggemma-300m has one, those of tests.checkpoints have
not. The pieces, their ids and which of two merges goes first are those of tokenizer.json.
"""

import json
import sys
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2 as sentencepiece

KINDS = sentencepiece.ModelProto.SentencePiece.Type


def write_sentencepiece_file(checkpoint: Path) -> None:
    """Add tokenizer.model to the checkpoint, in place of one that is there."""
    read = json.loads((checkpoint / "tokenizer.json").read_bytes())
    kinds = {read["model"]["unk_token"]: KINDS.UNKNOWN}
    for token in read["added_tokens"]:
        kinds.setdefault(
            token["content"], KINDS.CONTROL if token["special"] else KINDS.USER_DEFINED
        )
    model = sentencepiece.ModelProto()
    model.trainer_spec.model_type = sentencepiece.TrainerSpec.BPE
    model.trainer_spec.byte_fallback = read["model"]["byte_fallback"]
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    for piece, index in sorted(read["model"]["vocab"].items(), key=lambda item: item[1]):
        kind = KINDS.BYTE if piece.startswith("<0x") else kinds.get(piece, KINDS.NORMAL)
        model.pieces.add(piece=piece, score=-index, type=kind)
    (checkpoint / "tokenizer.model").write_bytes(model.SerializeToString())


if __name__ == "__main__":
    write_sentencepiece_file(Path(sys.argv[1]))
