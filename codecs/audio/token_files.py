"""Tokens as files that other programs read: NumPy's .npy (the array alone) and .npz, and JSON."""

from __future__ import annotations

import io
import json

import numpy as np

from neuralcodec.codecs.audio.files import to_tensor
from neuralcodec.codecs.audio.tokens import TokenCodec, Tokens
from neuralcodec.codecs.base import Codec, CodecError
from neuralcodec.datasets.audio import Sound

SUFFIXES = (".npz", ".npy", ".json")


def tokens_of(codec: Codec, sound: Sound, codebooks: int | None = None) -> Tokens:
    """The tokens of a sound at any rate.

    Args:
        codebooks: in use; all if omitted.

    Raises:
        CodecError: a codec that has no tokens, or not so many codebooks, or cannot code this sound.
    """
    if not isinstance(codec, TokenCodec):
        raise CodecError(f"{codec.name or 'the codec'} has no tokens: it is no codec of codebooks")
    offered = [codec.codebooks(level) for level in range(codec.levels)]
    if codebooks is not None and codebooks not in offered:
        raise CodecError(f"{codec.name or 'the codec'} codes with {', '.join(map(str, offered))} codebooks, not {codebooks}")
    try:
        x = to_tensor(sound, codec.sampling_rate).to(codec.device)
    except ValueError as error:
        raise CodecError(str(error)) from None
    return codec.tokens(x[0], None if codebooks is None else offered.index(codebooks))


def to_bytes(tokens: Tokens, suffix: str) -> bytes:
    """The content of a file by its suffix.

    Raises:
        CodecError: none of :data:`SUFFIXES`.
    """
    file = io.BytesIO()
    if suffix == ".npy":
        np.save(file, tokens.indexes)
    elif suffix == ".npz":
        np.savez_compressed(file, tokens=tokens.indexes, frame_rate=tokens.frame_rate, codebook_sizes=np.array(tokens.codebook_sizes))
    elif suffix == ".json":
        file.write((json.dumps(as_json(tokens)) + "\n").encode())
    else:
        raise CodecError(f"tokens go into {', '.join(SUFFIXES)} files, not {suffix or 'files without a suffix'}")
    return file.getvalue()


def as_json(tokens: Tokens) -> dict:
    return {"frame_rate": tokens.frame_rate, "codebook_sizes": list(tokens.codebook_sizes), "tokens": tokens.indexes.tolist()}


__all__ = ["SUFFIXES", "as_json", "to_bytes", "tokens_of"]
