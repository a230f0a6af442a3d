"""Signals ⇄ files: the container around a codec's streams, and the weights that a file asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from neuralcodec.codecs import WEIGHTS
from neuralcodec.codecs.base import Codec, CodecError, Decompressed, load_weights
from neuralcodec.entropy import container
from neuralcodec.entropy.rans import CorruptStream

MAX_PIXELS = 2**26  # a header of 24 bytes can ask for any picture; more than this needs the caller's word
UNSAVED = bytes(4)  # fingerprint of a codec whose weights are in no file


class Coded(NamedTuple):
    data: bytes  # the whole file
    symbols: dict[str, Tensor]


def encode_signal(codec: Codec, x: Tensor, level: float, channels: int = 3) -> Coded:
    """A signal (1, C, …) to the bytes of a file.

    Args:
        level: rounded to the nearest that a file can name.
        channels: of the original signal, kept in the header.
    """
    level = codec.nearest_level(level)
    compressed = codec.compress(x, level)
    size = (*x.shape[-2:], channels)
    data = container.write(codec.modality, codec.fingerprint or UNSAVED, level, size, compressed.streams)
    return Coded(data, compressed.symbols)


def decode_signal(codec: Codec, data: bytes | container.Content, max_pixels: int = MAX_PIXELS) -> Decompressed:
    """The bytes of a file to a signal, by the codec that wrote it.

    Raises:
        CodecError: a damaged file, one that another codec wrote, or one that asks for more pixels than allowed.
    """
    try:
        content = data if isinstance(data, container.Content) else container.read(data)
        check_content(codec, content, max_pixels)
        return codec.decompress(content.streams, content.size[:2], content.level)
    except (container.ContainerError, CorruptStream) as error:
        raise CodecError(str(error)) from None


def check_content(codec: Codec, content: container.Content, max_pixels: int) -> None:
    if content.fingerprint != (codec.fingerprint or UNSAVED):
        raise CodecError(f"the file was written by other weights ({content.fingerprint.hex()}) than {codec.name or 'these'}")
    height, width, channels = content.size
    if not height or not width or channels not in (1, 3) or len(content.streams) != len(codec.streams) or content.level > codec.levels - 1:
        raise container.ContainerError("the file's header makes no sense")
    if height * width > max_pixels:
        raise CodecError(f"the file asks for {width}×{height} pixels, more than the limit of {max_pixels}; --max-pixels raises it")


@cache
def load(name: str | Path) -> Codec:
    """A codec by the name of shipped weights, or from a weights file.

    Raises:
        CodecError: neither exists, or it is not readable.
    """
    if str(name) in WEIGHTS:
        return load_weights(WEIGHTS[str(name)])
    if Path(name).exists():
        return load_weights(name)
    raise CodecError(f"there is no model {str(name)!r}: neither a weights file nor one of {', '.join(WEIGHTS) or 'no shipped weights'}")


def codec_for(content: container.Content, candidates: Sequence[str | Path] = ()) -> Codec:
    """The codec whose fingerprint a file carries, among ``candidates`` if given, else among the shipped weights.

    Raises:
        CodecError: none of them.
    """
    for name in candidates or WEIGHTS:
        codec = load(name)
        if codec.fingerprint == content.fingerprint:
            return codec
    where = ", ".join(map(str, candidates)) if candidates else "the shipped models"
    written_by = content.fingerprint.hex()
    raise CodecError(f"the file was written by weights {written_by}, which are not among {where}; pass them with --model FILE")
